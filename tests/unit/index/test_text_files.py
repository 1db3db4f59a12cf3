"""Reading a user's own files: encodings, chunks, and folders that are not as they should be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.text_files import CHUNK_CHARACTERS, chunks, read_folder, read_text

CHINESE = "混合检索把稠密向量和词汇权重放在一起，再按权重相加。"
TRADITIONAL = "繁體中文的檔案常常用舊的編碼儲存，沒有任何標記。"
FRENCH = "Voilà un café très élégant, naïve façade."


def silent(message: str) -> None:
    """A note that nobody reads."""


def write(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def link(path: Path, target: Path) -> None:
    try:
        path.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        pytest.skip("this system does not let us make links")


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030"]
)
@pytest.mark.parametrize("text", [CHINESE, "BGE-M3 的稀疏权重", "Plain English text."])
def test_every_promised_encoding_gives_the_same_text(
    tmp_path: Path, encoding: str, text: str
) -> None:
    assert read_text(write(tmp_path, "a.txt", text, encoding), note=silent) == text


@pytest.mark.parametrize(("encoding", "text"), [("big5", TRADITIONAL), ("cp1252", FRENCH)])
def test_old_encodings_of_other_languages_are_read_too(
    tmp_path: Path, encoding: str, text: str
) -> None:
    assert read_text(write(tmp_path, "a.txt", text, encoding), note=silent) == text


def test_a_guessed_encoding_is_said(tmp_path: Path) -> None:
    notes: list[str] = []
    read_text(write(tmp_path, "old.txt", CHINESE, "gb18030"), note=notes.append)
    assert notes == ["old.txt has no encoding mark and was read as gb18030"]


def test_a_stated_encoding_needs_no_note(tmp_path: Path) -> None:
    notes: list[str] = []
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        read_text(write(tmp_path, "a.txt", CHINESE, encoding), note=notes.append)
    assert notes == []


def test_a_guess_that_nobody_listens_to_is_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="gb18030"):
        read_text(write(tmp_path, "old.txt", CHINESE, "gb18030"))


def test_bytes_that_are_no_text_are_an_error_with_name_and_fix(tmp_path: Path) -> None:
    path = tmp_path / "photo.txt"
    path.write_bytes(bytes(range(256)) * 8)
    with pytest.raises(InputError, match=r"photo\.txt is no text .* save it as UTF-8"):
        read_folder(tmp_path)


def test_windows_line_ends_become_plain_ones(tmp_path: Path) -> None:
    assert read_text(write(tmp_path, "a.txt", "one\r\ntwo\rthree")) == "one\ntwo\nthree"


def test_a_short_file_is_one_record(tmp_path: Path) -> None:
    write(tmp_path, "notes/a.md", "# A title\n\nThe body.")
    (record,) = read_folder(tmp_path)
    assert record.id == "notes/a.md#1"
    assert record.text == "# A title\n\nThe body."
    assert record.metadata == {"title": "A title", "source": "notes/a.md", "chunk": 1}


def test_a_file_without_heading_is_called_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, "plan.txt", "#tag is no heading")
    assert read_folder(tmp_path)[0].metadata["title"] == "plan"


def test_the_chunks_of_a_long_file_have_running_ids_and_titles(tmp_path: Path) -> None:
    write(
        tmp_path, "long.md", "# Long\n\n" + "\n\n".join(f"{n} " + "word " * 150 for n in range(3))
    )
    records = read_folder(tmp_path)
    assert [record.id for record in records] == ["long.md#1", "long.md#2", "long.md#3"]
    assert [r.metadata["title"] for r in records] == ["Long (1/3)", "Long (2/3)", "Long (3/3)"]


def test_paragraphs_stay_whole_and_together_while_they_fit() -> None:
    assert chunks("aa\n\nbb\n \ncc", limit=6) == ["aa\n\nbb", "cc"]


def test_no_chunk_is_longer_than_the_limit_and_no_character_is_lost() -> None:
    text = "\n\n".join([CHINESE * 90, "One sentence. " * 200, "x" * 3000, "short"])
    parts = chunks(text)
    assert max(map(len, parts)) <= CHUNK_CHARACTERS
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_a_long_paragraph_is_cut_at_the_ends_of_sentences() -> None:
    assert chunks("第一句。第二句！第三句。", limit=8) == ["第一句。第二句！", "第三句。"]
    assert chunks("One here. Two here. Three.", limit=20) == ["One here. Two here.", "Three."]


def test_a_text_of_spaces_has_no_chunks() -> None:
    assert chunks(" \n\n\t\n") == []


def test_an_empty_file_is_skipped_with_a_note(tmp_path: Path) -> None:
    write(tmp_path, "empty.txt", "")
    write(tmp_path, "full.txt", "text")
    notes: list[str] = []
    assert [record.id for record in read_folder(tmp_path, note=notes.append)] == ["full.txt#1"]
    assert notes == ["empty.txt is empty and was skipped"]


def test_records_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/b/c.TXT"):
        write(tmp_path, name, "text")
    assert [r.id for r in read_folder(tmp_path)] == ["a/b/c.TXT#1", "a/z.md#1", "b.txt#1"]


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    for name in (".secret.txt", ".git/notes.md", "code.py", "page.html", "seen.txt"):
        write(tmp_path, name, "text")
    assert [record.id for record in read_folder(tmp_path)] == ["seen.txt#1"]


def test_a_link_back_to_the_folder_is_not_followed_for_ever(tmp_path: Path) -> None:
    write(tmp_path, "sub/a.txt", "text")
    link(tmp_path / "sub" / "loop", tmp_path)
    assert [record.id for record in read_folder(tmp_path)] == ["sub/a.txt#1"]


def test_a_link_to_another_folder_is_followed(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/a.txt", "text")
    (tmp_path / "docs").mkdir()
    link(tmp_path / "docs" / "linked", tmp_path / "elsewhere")
    assert [record.id for record in read_folder(tmp_path / "docs")] == ["linked/a.txt#1"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; pass a folder"):
        read_folder(tmp_path / "nowhere")


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a file; pass a folder"):
        read_folder(write(tmp_path, "a.txt", "text"))


def test_a_folder_without_text_says_what_was_looked_for(tmp_path: Path) -> None:
    write(tmp_path, "page.html", "text")
    with pytest.raises(InputError, match=r"no text in .*: 0 files end in \.md or \.txt"):
        read_folder(tmp_path)


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid"), reason="POSIX links")
def test_a_broken_link_is_an_error_that_names_it(tmp_path: Path) -> None:
    link(tmp_path / "gone.txt", tmp_path / "missing.txt")
    with pytest.raises(InputError, match=r"cannot read .*gone\.txt"):
        read_folder(tmp_path)


def test_files_of_other_kinds_are_counted_and_named_in_one_note(tmp_path: Path) -> None:
    for name in ("a.md", "b.html", "sub/c.HTML", "d.pdf", "README", ".hidden"):
        write(tmp_path, name, "text")
    notes: list[str] = []
    assert [record.id for record in read_folder(tmp_path, note=notes.append)] == ["a.md#1"]
    (note,) = notes
    assert note.startswith("4 files passed over, since only .md and .txt files are read")
    for words in ("2 .html (b.html, sub/c.HTML)", "1 .pdf (d.pdf)", "1 without a suffix (README)"):
        assert words in note
    assert "hidden" not in note


def test_a_folder_of_other_kinds_only_is_an_error_that_names_them(tmp_path: Path) -> None:
    write(tmp_path, "page.html", "text")
    with pytest.raises(InputError, match=r"1 file passed over.*1 \.html \(page\.html\)"):
        read_folder(tmp_path)


def test_many_files_of_many_kinds_make_a_short_note(tmp_path: Path) -> None:
    write(tmp_path, "a.md", "text")
    for i in range(40):
        write(tmp_path, f"{'n' * 100}{i}.x{i % 20}", "text")
    notes: list[str] = []
    read_folder(tmp_path, note=notes.append)
    assert len(notes) == 1
    assert "40 files" in notes[0]
    assert "14 more kinds" in notes[0]
    assert len(notes[0]) < 1200
