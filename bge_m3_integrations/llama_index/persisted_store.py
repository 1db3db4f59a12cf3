"""A vector store as a file or a dict that leads to its index."""

# no postponed annotations: pydantic reads them
from pathlib import Path
from typing import Any, Self, cast

from llama_index.core.vector_stores.types import (
    DEFAULT_PERSIST_DIR,
    DEFAULT_PERSIST_FNAME,
    BasePydanticVectorStore,
)
from pydantic import (
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.index.config import for_reading
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.llama_index.storage import Pointer, kept_in_folder, local, opened


class PersistedStore(BasePydanticVectorStore):
    """Writes and reads the place of a store's index, never the index itself."""

    _index: HybridIndex = PrivateAttr()
    _ours: bool = PrivateAttr(default=False)

    def persist(self, persist_path: str, fs: object | None = None) -> None:
        """Write a file that points to the index, for `from_persist_path`.

        An index in a folder stays where it is. One in memory is copied to a new folder beside the
        file, exactly, and nothing is encoded; the file then names the new folder. What an earlier
        call copied is left there, for somebody may be reading it: delete it when nobody does.

        Args:
            persist_path: As a `StorageContext` gives it; its folder is made if it is missing.
            fs: None, or that of the local disk.

        Raises:
            InputError: It is another file system.
            StoreError: The folder cannot be written, or the store cannot be copied.
        """
        path = local(persist_path, fs)
        path.parent.mkdir(parents=True, exist_ok=True)
        options = self.to_dict()
        del options["class_name"], options["path"]
        Pointer(kept_in_folder(self._index, path), options).write(path)

    @classmethod
    def from_persist_path(
        cls,
        persist_path: str | Path,
        fs: object | None = None,
        *,
        engine: BGEM3 | None = None,
    ) -> Self:
        """Open an index that `persist` wrote, as an index in a folder.

        Args:
            persist_path: The file.
            fs: None, or that of the local disk.
            engine: Encodes; None is the model that made the index.

        Returns:
            A store; `close` gives the folder free.

        Raises:
            StoreError: The file is not ours, its folder is gone, or another engine made it.
        """
        index, options = opened(local(persist_path, fs), engine)
        made: Any = cls  # its subclass takes an index
        store: Self = made(index, **options)
        store._ours = True
        return store

    @classmethod
    def from_persist_dir(
        cls,
        persist_dir: str | Path = DEFAULT_PERSIST_DIR,
        namespace: str = "default",
        fs: object | None = None,
        *,
        engine: BGEM3 | None = None,
    ) -> Self:
        """Open an index that `StorageContext.persist` wrote; see `from_persist_path`."""
        path = local(persist_dir, None) / f"{namespace}__{DEFAULT_PERSIST_FNAME}"
        return cls.from_persist_path(path, fs, engine=engine)

    @model_serializer(mode="wrap")
    def custom_model_dump(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """The fields, and the index's folder; None for one in memory."""
        folder = self._index.path
        data = super().custom_model_dump(handler, info)
        return {**data, "path": None if folder is None else str(folder)}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Rebuild the store from the result of `to_dict`.

        Args:
            data: Its fields and its folder.
            **kwargs: `index`, where it is open already or in memory; `engine` to open the folder
                with; fields to change.

        Returns:
            A store.

        Raises:
            StoreError: The index was in memory and is not given.
        """
        fields = {**data, **kwargs}
        fields.pop("class_name", None)
        path, engine = fields.pop("path", None), fields.pop("engine", None)
        index = fields.pop("index", None)
        if index is None and path is None:
            raise StoreError(
                "this store was over an index in memory, which fields cannot bring back; give it: "
                "from_dict(data, index=...), or persist it"
            )
        made: Any = cls  # its subclass takes an index
        if index is not None:
            return cast(Self, made(index, **fields))
        usual = {"create": False, "read_only": for_reading(Path(path)).read_only}
        return cast(Self, made(path=path, engine=engine, **{**usual, **fields}))

    def __getstate__(self) -> dict[str, Any]:
        raise InputError(
            "a BGEM3VectorStore cannot be pickled: one process at a time holds an index; take "
            "to_dict() and from_dict(), or persist()"
        )
