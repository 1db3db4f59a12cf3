"""A user's own text files as records: any common encoding, long files in chunks."""

from __future__ import annotations

import codecs
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath

from bge_m3_integrations.core.display import counted, shortened
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import InputError

CHUNK_CHARACTERS = 1_200
SUFFIXES = (".md", ".txt")

_NAMED_KINDS = 6
_NAMED_FILES = 3

Note = Callable[[str], None]

# UTF-32's mark starts with UTF-16's, so it comes first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Among all encodings, short Chinese files are taken for Korean ones.
_GUESSES = ["gb18030", "big5", "utf_16_le", "utf_16_be", "cp1252"]
_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n\s*")
_SENTENCE_END = re.compile(r"(?<=[。！？；])|(?<=[.!?])\s+|\n")


def read_folder(folder: str | Path, *, note: Note | None = None) -> list[Record]:
    """Read every .md and .txt file under a folder, in order of path.

    Files of other kinds, such as .html and .pdf, are passed over, and one note names them. Files
    and folders whose name starts with a dot are left out; links are followed, each folder once. A
    file becomes chunks of whole paragraphs, see `chunks`.

    Args:
        folder: Where to look.
        note: Called with one sentence for each file that is empty or whose encoding was guessed,
            and one for all those of other kinds; None warns.

    Returns:
        One record per chunk: id "path#1", "path#2", ... relative to the folder; metadata "title",
        "source" and "chunk".

    Raises:
        InputError: There is no such folder, no text in it, or a file's encoding is unknown.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InputError(f"{root} {what}; pass a folder with .md or .txt files")
    note = _warn if note is None else note
    found = sorted(_files(root), key=lambda path: path.relative_to(root).as_posix())
    paths = [path for path in found if path.suffix.lower() in SUFFIXES]
    others = [path.relative_to(root) for path in found if path.suffix.lower() not in SUFFIXES]
    records = [record for path in paths for record in _records(root, path, note)]
    if not records:
        raise InputError(
            f"no text in {root}: {len(paths)} files end in .md or .txt (folders inside were "
            "searched, hidden ones not); put UTF-8 text files there or pass another folder. "
            f"{_passed_over(others)}".rstrip()
        )
    if others:
        note(_passed_over(others))
    return records


def read_text(path: str | Path, *, note: Note | None = None) -> str:
    r"""Read a text file in UTF-8, UTF-16 or UTF-32, or in an encoding guessed from its bytes.

    The guess chooses among GB18030, Big5, UTF-16 without mark and Windows-1252. From a dozen
    Chinese characters on it is hardly ever wrong; save shorter files as UTF-8.

    Args:
        path: The file.
        note: Called if the encoding was guessed; None warns.

    Returns:
        The text, without byte order mark, its lines ended by "\n".

    Raises:
        InputError: The file cannot be read, or is no text in a known encoding.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return decoded(data, path, _warn if note is None else note)


def decoded(data: bytes, name: str | Path, note: Note) -> str:
    """Decode bytes; see `read_text`.

    Args:
        data: All of the text.
        name: What it is called in an error or a note.
        note: Called if the encoding was guessed.

    Returns:
        The text.

    Raises:
        InputError: It is no text in a known encoding.
    """
    text = _decoded(data)
    if text is None:
        text = _guessed(data, name, note)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def chunks(text: str, *, limit: int = CHUNK_CHARACTERS) -> list[str]:
    """Split a text at the borders of paragraphs.

    Paragraphs (blank lines between them) are put together while they fit. One that is too long
    is cut at the ends of its sentences, and a sentence that is too long at the limit.

    Args:
        text: Any text.
        limit: Most characters of a chunk.

    Returns:
        The chunks, in order, none of them empty.
    """
    done: list[str] = []
    for paragraph in _PARAGRAPH_END.split(text.strip()):
        pieces = [paragraph] if len(paragraph) <= limit else _pieces(paragraph, limit)
        joint = "\n\n"
        for piece in filter(None, pieces):
            if done and len(done[-1]) + len(joint) + len(piece) <= limit:
                done[-1] += joint + piece
            else:
                done.append(piece)
            joint = " " if piece.isascii() else ""
    return done


def _pieces(paragraph: str, limit: int) -> list[str]:
    sentences = [part.strip() for part in _SENTENCE_END.split(paragraph)]
    return [
        sentence[start : start + limit]
        for sentence in sentences
        for start in range(0, len(sentence), limit)
    ]


def _files(root: Path) -> Iterator[Path]:
    seen: set[Path] = set()
    for name, folders, files in os.walk(root, followlinks=True):
        here = Path(name)
        if here.resolve() in seen:
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        yield from (here / file for file in files if not file.startswith("."))


def _passed_over(paths: Sequence[PurePath]) -> str:
    """Which files are not read, and why: those of the commonest kinds first."""
    if not paths:
        return ""
    kinds: dict[str, list[str]] = {}
    for path in paths:
        kinds.setdefault(path.suffix.lower() or "without a suffix", []).append(path.as_posix())
    shown = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    told = [f"{len(names)} {kind} ({_named(names)})" for kind, names in shown[:_NAMED_KINDS]]
    if len(shown) > _NAMED_KINDS:
        told.append(f"{counted(len(shown) - _NAMED_KINDS, 'more kind')}")
    return (
        f"{counted(len(paths), 'file')} passed over, since only .md and .txt files are read: "
        f"{', '.join(told)}; save them as text to have them found"
    )


def _named(names: Sequence[str]) -> str:
    first = ", ".join(shortened(name) for name in names[:_NAMED_FILES])
    return first if len(names) <= _NAMED_FILES else f"{first}, ..."


def _records(root: Path, path: Path, note: Note) -> Iterator[Record]:
    source = path.relative_to(root).as_posix()
    text = read_text(path, note=note)
    parts = chunks(text)
    if not parts:
        note(f"{source} is empty and was skipped")
    title = _title(text) or path.stem
    for i, part in enumerate(parts, start=1):
        shown = title if len(parts) == 1 else f"{title} ({i}/{len(parts)})"
        yield Record(f"{source}#{i}", part, {"title": shown, "source": source, "chunk": i})


def _title(text: str) -> str:
    """The first line, if it is a Markdown heading of the first level."""
    first = text.lstrip().partition("\n")[0]
    return first[2:].strip() if first.startswith("# ") else ""


def _decoded(data: bytes) -> str | None:
    """The text, if a mark or valid UTF-8 says what it is."""
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    # English in UTF-16 is valid UTF-8 with a zero byte beside each letter.
    if marked is None and b"\0" in data:
        return None
    try:
        return data.decode(marked or "utf-8")
    except UnicodeDecodeError:
        return None


def _guessed(data: bytes, name: str | Path, note: Note) -> str:
    from charset_normalizer import from_bytes

    match = from_bytes(data, cp_isolation=_GUESSES).best()
    text = "" if match is None else str(match)
    if match is None or "\0" in text:
        raise InputError(
            f"{name} is no text in UTF-8, UTF-16, GB18030, Big5 or Windows-1252; save it as UTF-8 "
            "in your editor, or move it out of the folder"
        )
    shown = name.name if isinstance(name, Path) else name
    note(f"{shown} has no encoding mark and was read as {match.encoding}")
    return text


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=3)
