"""A rule that chooses weights by the look of a query."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from bge_m3_integrations.core.scores import PRESETS, Weights
from bge_m3_integrations.core.scripts import script_of
from bge_m3_integrations.core.weighting import WeightProfile

_CODE: Final = re.compile(
    r"""
    \b(?=[\w.\-]*\d)(?=[\w.\-]*[A-Za-z])[A-Za-z0-9][\w.\-/#:]*[A-Za-z0-9]\b  # E4021, X200-B, sha256
    | \b\w+_\w+\b                                                       # snake_case
    | \b[a-z]+[A-Z]\w*\b                                                # camelCase
    | \b[A-Za-z]\w*(?:\.[A-Za-z]\w*){2,}\b                            # a.dotted.name
    """,
    re.VERBOSE | re.ASCII,
)
_ORDINAL: Final = re.compile(r"\b\d+(?:st|nd|rd|th|s|e|er)\b", re.IGNORECASE)
"""Names that people mean letter by letter. Ordinals such as 3rd, and years, are none."""


@dataclass(frozen=True)
class QueryRouter:
    """Chooses weights for each query, as `weights=` of a search: `index.router()` makes one.

    A query with a code or the name of a program means it letter by letter: its lexical score counts
    more. Another query in a script that the collection does not hold shares no token with it: its
    lexical score counts nothing. All others have the usual weights.

    Attributes:
        scripts: Of the collection, as `script_of` names them; empty is not known.
        usual: For all other queries.
        keyword: For queries with codes.
    """

    scripts: Collection[str] = ()
    usual: Weights = field(default=Weights())
    keyword: Weights = field(default=PRESETS["keyword"])

    def __call__(self, query: str) -> WeightProfile:
        """The weights for a query, under the name "router:" and the reason."""
        if _CODE.search(_ORDINAL.sub(" ", query)):
            return WeightProfile("router:code", self.keyword)
        script = script_of(query)
        foreign = script is not None and bool(self.scripts) and script not in self.scripts
        if foreign and self.usual.dense + self.usual.colbert > 0:
            other = Weights(self.usual.dense, 0.0, self.usual.colbert)
            return WeightProfile("router:other-script", other)
        return WeightProfile("router:usual", self.usual)
