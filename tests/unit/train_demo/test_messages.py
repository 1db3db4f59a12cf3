from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("babel")
messages = pytest.importorskip("scripts.train_demo.messages")
pytest.importorskip("sentencepiece")
prepare = pytest.importorskip("scripts.train_demo.prepare")

CATALOGUE = """\
msgid ""
msgstr "Content-Type: text/plain; charset=utf-8\\n"

msgid "The disk %(name)s is full."
msgstr "磁盘 %(name)s 已满。"

msgid "one server"
msgid_plural "%d servers"
msgstr[0] "%d 台服务器"

#, fuzzy
msgid "Not sure"
msgstr "不确定"

msgid "Not translated"
msgstr ""
"""
DOCS = """
add_english_doc("Splitter", '''\\
Splits a document.

Args:
    size (int): The largest size of a part.
''')
add_chinese_doc("Splitter", '''\\
切分文档。

Args:
    size (int): 每个分块的最大长度。
''')
add_rag_english_doc("Store", '''\\
Keeps the vectors.
It needs a folder.
path (str): The folder.
''')
add_rag_chinese_doc("Store", '''\\
保存向量。
path (str): 文件夹。
''')
"""
LABELS = """
LOCALES = {"rate": {"en": {"label": "Learning rate"}, "zh": {"label": "学习率"}, **more}}
"""
SOURCE = (
    "x = { A_0: diag(1, 1 /* Error */, 'A_0', 'x'), "
    'B_1: diag(2, 1 /* Error */, "B_1", "Cannot find file \\"{0}\\"."), }'
)


def wheel(folder: Path, name: str, files: dict[str, str]) -> None:
    with zipfile.ZipFile(folder / f"{name}.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


def npm(folder: Path, name: str, files: dict[str, str]) -> None:
    with tarfile.open(folder / f"{name}.tgz", "w:gz") as archive:
        for path, text in files.items():
            data = text.encode()
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_a_gettext_catalogue(tmp_path: Path) -> None:
    wheel(tmp_path, "a", {"a/locale/zh_CN/LC_MESSAGES/a.po": CATALOGUE})
    assert messages.pairs(tmp_path) == [
        ("The disk is full.", "磁盘 已满。"),
        ("one server", "台服务器"),
    ]


def test_documentation_in_both_languages(tmp_path: Path) -> None:
    wheel(tmp_path, "a", {"a/docs/rag.py": DOCS})
    assert messages.pairs(tmp_path) == [
        ("Splits a document.", "切分文档。"),
        ("The largest size of a part.", "每个分块的最大长度。"),
        # The lines do not match; the names of the parameters do.
        ("The folder.", "文件夹。"),
    ]


def test_labels_of_a_user_interface(tmp_path: Path) -> None:
    wheel(tmp_path, "a", {"a/webui/locales.py": LABELS})
    assert messages.pairs(tmp_path) == [("Learning rate", "学习率")]


def test_tables_are_joined_by_their_keys(tmp_path: Path) -> None:
    english = {"menu": {"open": "Open {{file}}", "close": "Close"}, "only": "Only here"}
    chinese = {"menu": {"open": "打开 {{file}}", "close": "Close"}, "other": "别处"}
    files = {
        "package/locales/en-US/editor.json": json.dumps(english),
        "package/locales/zh-CN/editor.json": json.dumps(chinese),
    }
    npm(tmp_path, "a", files)
    assert messages.pairs(tmp_path) == [("Open", "打开")]


def test_diagnostics_of_a_compiler(tmp_path: Path) -> None:
    files = {
        "package/lib/zh-cn/diagnosticMessages.generated.json": json.dumps(
            {"B_1": "找不到文件“{0}”。"}
        ),
        "package/lib/typescript.js": SOURCE,
    }
    npm(tmp_path, "a", files)
    assert messages.pairs(tmp_path) == [('Cannot find file " ".', "找不到文件“ ”。")]


def test_an_empty_folder_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.whl and \.tgz"):
        messages.pairs(tmp_path)


def test_words_that_messages_use_often_become_pieces() -> None:
    often = [("Delete the file.", "删除文件缓存。")] * 20
    rows = [*often, ("A rare word.", "罕见")]
    heads = {"删除", "文件", "罕见"}
    assert prepare.technical_words(rows, "en", heads) == ["delete", "file", "the"]
    assert prepare.technical_words(rows, "zh", heads) == ["删除", "文件"]
