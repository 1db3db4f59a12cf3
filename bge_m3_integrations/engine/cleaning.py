"""Optional repair of text before encoding: broken encodings, control characters, white space."""

from __future__ import annotations

import re
from typing import Any

from bge_m3_integrations._internal.extras import require

_SPACES = re.compile(r"[^\S\n]+")
_EMPTY_LINES = re.compile(r"\n[\n ]*\n")
_LINE_ENDS = re.compile(r" ?\n ?")
# Only damage is mended: quotes, ligatures, full-width forms and HTML entities are the author's.
_REPAIRS: dict[str, Any] = {
    "unescape_html": False,
    "fix_latin_ligatures": False,
    "fix_character_width": False,
    "uncurl_quotes": False,
    "normalization": None,
}


def clean_text(text: str) -> str:
    """Repair broken encodings, control characters and repeated spaces; nothing else changes.

    Broken encodings ("sÃ³" to "só"), control characters, lone surrogates and odd line breaks are
    mended by the library ftfy; runs of spaces become one, runs of empty lines one.

    Args:
        text: Any string.

    Returns:
        The repaired text, without white space at its ends.

    Raises:
        MissingExtraError: ftfy is not installed.
    """
    ftfy = require("ftfy", extra="clean")
    mended = _SPACES.sub(" ", ftfy.fix_text(text, **_REPAIRS))
    return _LINE_ENDS.sub("\n", _EMPTY_LINES.sub("\n\n", mended)).strip()
