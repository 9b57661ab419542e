"""What a page is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Material"]


@dataclass(frozen=True)
class Material:
    """What a page is made of.

    runs: as of `load_runs`. results: the contents of the `result.json` files, in the same order. histories: each run's
    `history.csv`, None where there is none. checks: (name, content of check.json, frame of check.csv). commands: that repeat
    the whole; the runs' own when empty. missing: what the page should say is not there. title: None for one made of the runs.
    pairs: (method, rival) that are also compared with each other. searches: (place of a run in `runs`, its `trace.csv`),
    of which those with several networks are drawn.
    """

    runs: pd.DataFrame
    results: Sequence[Mapping[str, Any]]
    histories: Sequence[pd.DataFrame | None] = ()
    checks: Sequence[tuple[str, Mapping[str, Any], pd.DataFrame]] = ()
    commands: Sequence[str] = ()
    missing: Sequence[str] = ()
    title: str | None = None
    pairs: Sequence[tuple[str, str]] = ()
    searches: Sequence[tuple[int, pd.DataFrame]] = ()
