"""Arithmetic of sorted index sets, in time proportional to the sets and never to the layer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evoprune.masks.mask import Indices, Mask
from evoprune.masks.sampling import Flags, random_flags, random_subset

__all__ = ["Pair", "added", "lost", "membership", "outside", "swapped", "with_layers"]


class Pair:
    """Two sorted sets merged into one array that remembers which set every entry came from.

    tagged: 2·index for an entry of `a`, 2·index + 1 for one of `b`, sorted, so that an index of both stands twice in a row.
    Flipping the last bit hands an entry to the other set and keeps the order.
    """

    def __init__(self, a: Indices, b: Indices) -> None:
        self.tagged = np.empty(len(a) + len(b), dtype=np.int64)
        np.left_shift(a, 1, out=self.tagged[: len(a)])
        np.left_shift(b, 1, out=self.tagged[len(a) :])
        self.tagged[len(a) :] |= 1
        self.tagged.sort(kind="stable")  # merges the two runs
        first = (self.tagged[1:] ^ self.tagged[:-1]) == 1
        self.alone = np.ones(len(self.tagged), dtype=bool)  # entries of one set only
        self.alone[1:] &= ~first
        self.alone[:-1] &= ~first

    @property
    def of_b(self) -> Flags:
        """Which entries belong to `b`."""
        return (self.tagged & 1).astype(bool)

    def only(self) -> tuple[Indices, Indices]:
        """Positions in `tagged` of the entries of `a` only, and of those of `b` only."""
        of_b = self.of_b
        return np.flatnonzero(self.alone & ~of_b), np.flatnonzero(self.alone & of_b)

    def hand_over(self, positions: Indices) -> None:
        """Give the entries at `positions` to the other set."""
        self.tagged[positions] ^= 1

    def split(self) -> tuple[Indices, Indices]:
        """The two sets as they stand now."""
        of_b = self.of_b
        sets = self.tagged[~of_b], self.tagged[of_b]
        for each in sets:
            each >>= 1
        return sets


def swapped(survivors: Indices, size: int, number: int, draw: np.random.Generator) -> Indices:
    """`survivors` with `number` random ones exchanged for indices that were not among them, sorted."""
    staying = lost(survivors, number, draw)
    return merged(staying, outside(survivors, random_subset(draw, size - len(survivors), number)))


def lost(survivors: Indices, number: int, draw: np.random.Generator) -> Indices:
    """`survivors` without `number` random ones."""
    kept: Indices = survivors[~random_flags(draw, len(survivors), number)]
    return kept


def added(survivors: Indices, size: int, number: int, draw: np.random.Generator) -> Indices:
    """`survivors` with `number` random indices more."""
    return merged(survivors, outside(survivors, random_subset(draw, size - len(survivors), number)))


def merged(a: Indices, b: Indices) -> Indices:
    """The sorted union of two sorted sets without a common index."""
    both = np.concatenate([a, b])
    both.sort(kind="stable")  # merges the two runs
    return both


def outside(survivors: Indices, ranks: Indices) -> Indices:
    """The indices that stand at `ranks` among those not in `survivors` (both sorted).

    Survivor j has survivors[j] - j smaller non-survivors, so the number of survivors to step over is found by bisection:
    for a few ranks without reading all survivors.
    """
    if 32 * len(ranks) > len(survivors):
        gaps = survivors - np.arange(len(survivors))
        return ranks + np.searchsorted(gaps, ranks, side="right")
    low, high = np.zeros(len(ranks), dtype=np.int64), np.full(len(ranks), len(survivors), dtype=np.int64)
    while (open_ := low < high).any():
        middle = (low + high) >> 1
        step_over = np.zeros(len(ranks), dtype=bool)
        step_over[open_] = survivors[middle[open_]] - middle[open_] <= ranks[open_]
        low, high = np.where(open_ & step_over, middle + 1, low), np.where(open_ & ~step_over, middle, high)
    return ranks + low


def membership(a: npt.NDArray[np.int64], b: Indices) -> tuple[Flags, Indices]:
    """Whether each entry of `a` is in `b`, and where it stands there; `b` sorted and distinct."""
    places = np.searchsorted(b, a)
    if not len(b):
        return np.zeros(len(a), dtype=bool), places
    places = places.clip(max=len(b) - 1)
    found: Flags = b[places] == a
    return found, places


def with_layers(mask: Mask, layers: dict[int, Indices]) -> Mask:
    """`mask` with other survivors in some layers."""
    return Mask._trusted(mask.space, [layers.get(layer, old) for layer, old in enumerate(mask.survivors)])
