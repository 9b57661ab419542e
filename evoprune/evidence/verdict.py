"""Words for numbers: what a comparison shows, and what a search found.

Paired t tests decide, with Holm's correction over everything that is compared at once; a percentile bootstrap would raise
false alarms in 17% of comparisons of 5 seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from evoprune.evidence.statistics import ROUNDING, Interval, holm, seeds_needed
from evoprune.words import counted

__all__ = [
    "ALPHA",
    "BETTER",
    "DIFFERENCE",
    "LAYERS",
    "NOTHING",
    "RANDOM",
    "RELATIVE",
    "SEEDS",
    "WEIGHTS",
    "WIRING",
    "WORSE",
    "Verdict",
    "judge",
    "need",
    "said",
    "smallest_of_interest",
    "table",
    "wording",
]

ALPHA = 0.05
"""Share of false alarms over a whole table."""
DIFFERENCE = 0.002
"""The smallest difference of interest in a score that is a share: 0.2 points of accuracy."""
RELATIVE = 0.02
"""The same in a loss, as a share of it."""
POWER = 0.8

BETTER, WORSE, NOTHING = "better", "worse", "no difference shown"
WEIGHTS, WIRING = "tied to the weights", "tied to the wiring"
LAYERS, RANDOM, SEEDS = "layer counts only", "no better than random", "not enough seeds"


def smallest_of_interest(scores: Iterable[float], *, accuracy: bool) -> float:
    """The smallest difference of interest: 0.2 points of an accuracy, 2% of the size of a loss.

    Of a loss the median of `scores` counts, which networks that diverged do not move. NaN are left out.
    """
    sizes = [abs(float(score)) for score in scores if not math.isnan(score)]
    size = RELATIVE * median(sizes) if sizes and not accuracy else 0.0
    return size if 0 < size < math.inf else DIFFERENCE


def said(interval: Interval, p: float | None = None) -> str:
    """`better`, `worse` or `no difference shown` for differences of which larger is better.

    p: corrected for the other comparisons of the same table; None takes the interval's own.
    """
    decides = interval.p if p is None else p
    if not decides < ALPHA:  # NaN too
        return NOTHING
    return BETTER if interval.mean > 0 else WORSE


def need(interval: Interval, difference: float = DIFFERENCE, *, alpha: float = ALPHA) -> int | None:
    """About how many seeds would show a difference of that size, judged by the spread seen; None when it cannot be told.

    alpha: what its p-value must stay below.
    """
    spread = interval.n > 1 and interval.sd > difference * ROUNDING
    return seeds_needed(interval.sd, difference, power=POWER, level=1 - alpha) if spread else None


def wording(
    interval: Interval,
    p: float | None = None,
    *,
    difference: float = DIFFERENCE,
    accuracy: bool = True,
    alpha: float = ALPHA,
) -> str:
    """For a table: `better`, `worse`, or `no difference shown (5 seeds; need about 18 for 0.2 points)`.

    Where there are as many seeds as that, it ends in `, enough for 0.2 points`: a difference of that size would have been shown
    in four of five repetitions. p: as of `said`. alpha: what the interval's own p-value had to stay below.
    """
    word = said(interval, p)
    if word != NOTHING:
        return word
    if not interval.n:
        return "not compared (no common seed)"
    count = counted(interval.n, "seed")
    wanted = need(interval, difference, alpha=alpha)
    size = f"{difference * 100:.3g} points" if accuracy else f"{difference:.2g}"
    if wanted is not None and wanted <= interval.n:
        return f"{word} ({count}, enough for {size})"
    return f"{word} ({count}; need {'several' if wanted is None else f'about {wanted:,}'} for {size})"


def table(intervals: Sequence[Interval], *, difference: float = DIFFERENCE, accuracy: bool = True) -> list[tuple[float, str]]:
    """Holm's p and the words for differences that are judged together."""
    corrected, alpha = _together(intervals)
    return [
        (p, wording(interval, p, difference=difference, accuracy=accuracy, alpha=alpha))
        for interval, p in zip(intervals, corrected, strict=True)
    ]


def _together(intervals: Sequence[Interval]) -> tuple[list[float], float]:
    """Holm's p, and what the next one had to stay below where his procedure stopped."""
    corrected = holm([interval.p for interval in intervals])
    return corrected, ALPHA / max(1, sum(p >= ALPHA for p in corrected))


@dataclass(frozen=True)
class Verdict:
    """What a search found.

    kind: one of `WEIGHTS`, `WIRING`, `LAYERS`, `RANDOM`, `SEEDS`. because: one sentence. seeds: about how many it takes to
    say more; None when nothing is missing, or it cannot be told.
    """

    kind: str
    because: str
    seeds: int | None = None

    def __str__(self) -> str:
        if self.kind != SEEDS:
            return self.kind
        return f"{self.kind} (need {'more' if self.seeds is None else f'about {self.seeds:,}'})"


def judge(gains: Mapping[str, Interval], *, counts_chosen: bool, difference: float = DIFFERENCE) -> Verdict:
    """The verdict from the ticket's gains over its controls (score of the ticket minus the control's, larger is better).

    gains: by name of the control; `fresh_counts` and `fresh_random` are needed, `permute_weights` and `reinitialise` tell
    wiring from weights. counts_chosen: whether the ticket's layer counts differ from those of a random mask; where they do
    not, `fresh_counts` is a random mask already. difference: what is too small to matter; "no better" is only said when the
    interval excludes a gain of that size.
    """
    corrected, alpha = _together(list(gains.values()))
    word = {name: said(interval, p) for (name, interval), p in zip(gains.items(), corrected, strict=True)}
    own = gains["fresh_counts"]
    if word["fresh_counts"] == BETTER:
        return _what_was_found(word)
    if not _excludes(own, difference):
        wanted = _more(own, difference, alpha)
        lacks = "too few seeds" if _equal(own, difference) else "too wide"
        return Verdict(SEEDS, f"the gain over fresh masks with its layer counts is {_shown(own)}: {lacks} to tell", wanted)
    same = f"it is no better than fresh masks with its layer counts (gain {_shown(own)})"
    if not counts_chosen:
        return Verdict(RANDOM, f"{same}, and these are the counts of any random mask")
    random = gains["fresh_random"]
    if word["fresh_random"] == BETTER and random.mean > own.mean:
        return Verdict(LAYERS, f"{same}, but it beats random masks with other counts (gain {_shown(random)})")
    if _excludes(random, difference):
        return Verdict(RANDOM, f"{same}, nor than random masks with other counts (gain {_shown(random)})")
    wanted = _more(random, difference, alpha)
    return Verdict(SEEDS, f"{same}; whether its counts help cannot be told (gain {_shown(random)})", wanted)


def _more(gain: Interval, difference: float, alpha: float) -> int | None:
    """About how many seeds it takes; None where the spread seen says that there are enough, and they were not."""
    wanted = need(gain, difference, alpha=alpha)
    return None if wanted is None or wanted <= gain.n else wanted


def _what_was_found(word: Mapping[str, str]) -> Verdict:
    beaten = [name for name in ("permute_weights", "reinitialise") if word.get(name) == BETTER]
    fan_in = "" if word.get("shuffle_units", BETTER) == BETTER else "; the fan-in of its units may explain it"
    if beaten:
        told = " and ".join(name.replace("_", " ") for name in beaten)
        return Verdict(WEIGHTS, f"it beats fresh masks with its layer counts, and does worse with other weights ({told}){fan_in}")
    return Verdict(WIRING, f"it beats fresh masks with its layer counts; that its own weights matter is not shown{fan_in}")


def _excludes(gain: Interval, difference: float) -> bool:
    """Whether the interval rules out a gain of `difference`; one value rules out nothing.

    Equal gains have an interval without a width, and no spread is no certainty: the sign test decides, to which two seeds say
    little.
    """
    if _equal(gain, difference):
        return gain.mean < difference and 2.0 ** (1 - gain.n) < ALPHA
    return not math.isnan(gain.high) and gain.high < difference


def _equal(gain: Interval, difference: float) -> bool:
    """Whether the gains of all seeds are the same, but for rounding."""
    return gain.n > 1 and gain.sd <= ROUNDING * max(abs(gain.mean), difference)


def _shown(gain: Interval) -> str:
    if not gain.n:
        return "unknown, no seed has both"
    if gain.n < 2:
        return f"{gain.mean:+.4f} in {counted(gain.n, 'seed')}"
    return f"{gain.mean:+.4f}, {gain.level:.0%} interval {gain.low:+.4f} to {gain.high:+.4f}, {gain.n} seeds"
