"""Files of people: their lines with numbers; what cannot be read is an error with its place."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from bge_m3_integrations.errors import InputError


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers.

    Args:
        path: UTF-8, with or without a byte order mark; compressed where it ends in .gz.

    Yields:
        Number, from 1, and line.

    Raises:
        InputError: The file cannot be opened, is not UTF-8, or its compression is damaged.
    """
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield number, line


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file, with the numbers of their lines.

    Args:
        path: See `read_lines`.

    Yields:
        Number and object.

    Raises:
        InputError: As `read_lines` does; or a line is no JSON object.
    """
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}, line {number} is no JSON: {error}; a .jsonl file has one object per line"
            ) from error
        if not isinstance(row, dict):
            raise InputError(
                f"{path}, line {number}: expected an object such as {{...}}, not {line[:60]!r}; a "
                ".jsonl file has one object per line, and no list around them"
            )
        yield number, row


def read_table(path: Path, separator: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a file with a header, by the names of its columns in lower case.

    Args:
        path: See `read_lines`.
        separator: Between cells; cells in double quotes may hold it.

    Yields:
        The number of the row's last line, and its cells.

    Raises:
        InputError: As `read_lines` does; a name comes twice; or a row has other cells than names.
    """
    reader = csv.reader(_lines(path), delimiter=separator, strict=True)
    names: list[str] = []
    try:
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = [cell.strip().lower() for cell in cells]
                if twice := sorted({name for name in names if name and names.count(name) > 1}):
                    raise InputError(f"{where}: the columns {twice} come twice; rename one of them")
                if len(names) == 1:
                    raise InputError(
                        f"{where}: expected the names of columns with {separator!r} between them, "
                        f"not {cells[0][:80]!r}"
                    )
                continue
            if len(cells) != len(names):
                raise InputError(
                    f"{where}: {len(cells)} cells under {len(names)} names, {names}; put cells "
                    f'that hold {separator!r} or line ends in double quotes: "..."'
                )
            yield reader.line_num, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: {error}; a cell that holds quotes is put in double "
            "quotes, with each of its own twice, or take a .jsonl file, which has no limits"
        ) from error


def _lines(path: Path) -> Iterator[str]:
    number = 0
    try:
        with _opened(path) as lines:
            for number, line in enumerate(lines, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number} is not UTF-8 ({error.reason}, byte "
            f"{error.object[error.start]:#04x}); save the file as UTF-8"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: the compressed file is damaged after {number} lines ({error}); fetch it or "
            "compress it again"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _opened(path: Path) -> BufferedIOBase:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def kind_of(path: Path) -> str:
    """The ending that tells a file's format, in lower case and without .gz: ".csv"."""
    return Path(re.sub(r"\.gz$", "", path.name.lower())).suffix


def write_file(path: str | Path, text: str) -> None:
    """Write a text as UTF-8; the folder is made if it is not there."""
    place = Path(path).expanduser()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, "utf-8")
    except OSError as error:
        raise InputError(f"{place} cannot be written: {error.strerror or error}") from error
