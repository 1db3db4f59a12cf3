from __future__ import annotations

import pytest

from bge_m3_integrations import clean_text


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("sÃ³lo", "sólo"),
        ("a\x00b\x07c", "abc"),
        ("half \ud800 pair", "half � pair"),
        ("many   \t spaces", "many spaces"),
        ("  ends  ", "ends"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("a \n \n\n \n b", "a\n\nb"),
        ("", ""),
    ],
)
def test_damage_is_mended(dirty: str, clean: str) -> None:
    assert clean_text(dirty) == clean


@pytest.mark.parametrize(
    "text",
    [
        "“quoted” text",
        "全角ＡＢ，标点。",
        "ﬁne &amp; good",
        "line one\nline two",
        "naïve café 🙂",
        "١٢٣",
    ],
)
def test_what_the_author_wrote_stays(text: str) -> None:
    assert clean_text(text) == text


def test_cleaning_twice_changes_nothing_more() -> None:
    once = clean_text("sÃ³lo  \x00 \n\n\n b ")
    assert clean_text(once) == once
