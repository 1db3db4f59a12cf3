"""What an open index has of the system, and how it is given back."""

from __future__ import annotations

from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge.folder.disk_space import check_flush
from bge_m3_integrations.stores.edge.folder.folder import Folder
from bge_m3_integrations.stores.edge.folder.open_handles import close_handles
from bge_m3_integrations.stores.edge.shard.checked import WatchedShard as Shard


class Held:
    """What an open index has of the system.

    Args:
        folder: Its folder.
        shard: The shard of now.
    """

    def __init__(self, folder: Folder, shard: Shard) -> None:
        self.folder, self.shard = folder, shard
        self.in_log = 0

    def close(self) -> None:
        """Give all of it back.

        Nothing is written to a folder that others changed meanwhile, nor to a full disk: what was
        acknowledged is in the engine's log.
        """
        try:
            if self.folder.read_only or (self.folder.change() is None and self._has_room()):
                self.shard.close()
            else:
                self.shard.abandon(self.folder.log_lock())
        finally:
            self.folder.release()

    def _has_room(self) -> bool:
        try:
            check_flush(self.folder.path, self.in_log)
        except StoreError:
            return not self.in_log
        return True

    def leave(self) -> None:
        """In a forked child, leave it to the parent, with the lock that the engine has."""
        close_handles(self.folder.log_lock())
