"""English and Chinese messages of free programs: parallel texts about technical matters."""

from __future__ import annotations

import ast
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po

from scripts.train_demo.bilingual import HAN

LONGEST = 300

Read = Callable[[str], bytes]
Pairs = Iterator[tuple[str, str]]

_CATALOG = re.compile(r"/(zh|zh_CN|zh_Hans|zh_Hans_CN)/LC_MESSAGES/[\w.-]+\.(mo|po)$")
_TABLE = re.compile(r"locales/zh-CN(/\w+)?\.json$")
_DIAGNOSTICS = "package/lib/zh-cn/diagnosticMessages.generated.json"
_DIAGNOSTIC = re.compile(r'diag\(\d+, \d /\* \w+ \*/, ("[^"]+"), ("(?:[^"\\]|\\.)*")')
_SOURCE = re.compile(r"(/docs/[\w/]+|/ui/[\w/]+|/webui/locales)\.py$")
_DESCRIBES = re.compile(r"add_(?:\w+_)?(english|chinese)_doc$")
_PARAMETER = re.compile(r"^[-*` ]*[A-Za-z_][\w.]*[*` ]*(\([^:]*\))?[*` ]*[:\uff1a](?!:)\s*")
_PLACE = re.compile(r"<[^>]*>|%\(\w+\)[a-z]|%[sdr]|\$?\{\{?[^{}]*\}?\}|&\w+;|[`*_]")
_SPACE = re.compile(r"\s+")
_WORD = re.compile("[A-Za-z]{2}")


def archives(folder: Path) -> Iterator[tuple[list[str], Read]]:
    """Opens the packages one after the other.

    Args:
        folder: A folder with wheels (`.whl`) and npm packages (`.tgz`).

    Yields:
        The names in a package and a function that reads one of them.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                yield wheel.namelist(), wheel.read
        elif path.suffix == ".tgz":
            with tarfile.open(path) as package:

                def read(name: str, package: tarfile.TarFile = package) -> bytes:
                    member = package.extractfile(name)
                    return member.read() if member else b""

                yield package.getnames(), read


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}/{name}")
    elif isinstance(value, str):
        yield key, value


def _joined(english: Any, chinese: Any) -> Pairs:
    """Joins two tables of messages, nested or not, by the keys."""
    known = dict(_flat(english))
    yield from ((known[key], text) for key, text in _flat(chinese) if key in known)


def _tables(names: list[str], read: Read, name: str) -> Pairs:
    """Joins a Chinese table of messages with its English twin."""
    for folder in ("en", "en-US"):
        twin = name.replace("locales/zh-CN", f"locales/{folder}")
        if twin in names:
            yield from _joined(json.loads(read(twin)), json.loads(read(name)))


def _catalog(names: list[str], read: Read, name: str) -> Pairs:
    """Reads a gettext catalogue, compiled or not; of plural forms the first."""
    if name.endswith(".po") and name[:-2] + "mo" in names:
        return
    parse = read_mo if name.endswith(".mo") else read_po
    for message in parse(io.BytesIO(read(name))):
        left, right = message.id, message.string
        if left and right and not message.fuzzy:
            yield (
                left if isinstance(left, str) else left[0],
                right if isinstance(right, str) else right[0],
            )


def _diagnostics(read: Read) -> Pairs:
    """Joins TypeScript's Chinese diagnostics with the English ones in its source."""
    chinese = json.loads(read(_DIAGNOSTICS))
    source = read("package/lib/typescript.js").decode()
    for key, text in _DIAGNOSTIC.findall(source):
        if json.loads(key) in chinese:
            yield json.loads(text), chinese[json.loads(key)]


def _parameters(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        match = _PARAMETER.match(line)
        if match:
            name = re.search(r"\w+", match.group())
            found[name.group() if name else ""] = line[match.end() :]
    return found


def _described(english: str, chinese: str) -> Pairs:
    """Splits two descriptions into lines; where their numbers differ only parameters match."""
    left, right = (
        [_PARAMETER.sub("", line) for line in text.splitlines() if line.strip()]
        for text in (english, chinese)
    )
    if len(left) == len(right):
        yield from zip(left, right, strict=True)
    else:
        yield from _joined(_parameters(english), _parameters(chinese))


def _constant(node: ast.expr) -> Any:
    """Evaluates a literal; anything else counts as empty."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ""


def _source(text: str) -> Pairs:
    """Reads tables with the keys `en` and `zh` and documentation in both languages."""
    english: dict[str, str] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Dict):
            values = {
                _constant(key): value for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant)
            }  # fmt: skip
            if "en" in values and "zh" in values:
                yield from _joined(_constant(values["en"]), _constant(values["zh"]))
    chinese: dict[str, str] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
            language = _DESCRIBES.match(node.func.id)
            name, described = (_constant(value) for value in node.args[:2])
            if language and isinstance(described, str):
                (english if language[1] == "english" else chinese)[name] = described
    for name, described in english.items():
        yield from _described(described, chinese.get(name, ""))


def raw(folder: Path) -> Pairs:
    """Reads the messages of all packages.

    Args:
        folder: A folder with wheels and npm packages.

    Yields:
        English and Chinese messages as they are.
    """
    for names, read in archives(folder):
        for name in sorted(names):
            if _CATALOG.search(name):
                yield from _catalog(names, read, name)
            elif _TABLE.search(name):
                yield from _tables(names, read, name)
            elif name == _DIAGNOSTICS:
                yield from _diagnostics(read)
            elif _SOURCE.search(name):
                yield from _source(read(name).decode())


def clean(text: str) -> str:
    """Removes placeholders, markup and repeated white space.

    Args:
        text: A message.

    Returns:
        Its words.
    """
    return _SPACE.sub(" ", _PLACE.sub(" ", text)).strip()


def pairs(folder: Path) -> list[tuple[str, str]]:
    """Reads the messages that have words in both languages, each English one once.

    Args:
        folder: A folder with wheels and npm packages.

    Returns:
        English and Chinese messages; those of one program stay side by side.

    Raises:
        ValueError: If the folder holds no message.
    """
    found: dict[str, str] = {}
    for english, chinese in raw(folder):
        left, right = clean(english), clean(chinese)
        fits = 2 * len(right) > len(left) / 4 and len(left) <= LONGEST
        if fits and _WORD.search(left) and HAN.search(right) and not HAN.search(left):
            found.setdefault(left, right)
    if not found:
        raise ValueError(f"no translated messages in {folder}: it needs .whl and .tgz packages")
    return list(found.items())
