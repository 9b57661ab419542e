"""Random numbers of survivors: how many, and from which layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evoprune.masks.sampling import random_subset

__all__ = ["counts_of", "deal", "deal_shares", "heavy_tailed", "pick"]

Counts = npt.NDArray[np.int64]


def heavy_tailed(draw: np.random.Generator, limit: int) -> int:
    """A number with P(s) proportional to s^-1.5 on 1 … limit, by rejection, which is exact.  [Doerr 2017, arXiv:1703.03334]"""
    while (number := int(draw.zipf(1.5))) > limit:
        pass
    return number


def pick(draw: np.random.Generator, weights: Counts) -> int:
    """A position drawn in proportion to whole-number `weights`, of which one at least is above 0."""
    ends = np.cumsum(weights)
    return int(np.searchsorted(ends, draw.integers(ends[-1]), side="right"))


def deal(draw: np.random.Generator, number: int, room: Counts) -> Counts:
    """`number` things taken at random, without replacement, from urns of `room` things: how many came from each."""
    ends = np.cumsum(room)
    taken = np.searchsorted(random_subset(draw, int(ends[-1]), number), ends)
    return np.diff(taken, prepend=0)


def deal_shares(draw: np.random.Generator, number: int, weights: Counts, room: Counts) -> Counts:
    """`number` things put into urns in proportion to `weights`, no urn above its `room`: how many went into each."""
    dealt = np.zeros(len(room), dtype=np.int64)
    while (left := number - int(dealt.sum())) > 0:
        open_ = np.where(dealt < room, weights, 0).astype(np.float64)
        if not open_.any():
            open_ = (room - dealt).astype(np.float64)  # only urns without a weight have room
        dealt = np.minimum(dealt + draw.multinomial(left, open_ / open_.sum()), room)
    return dealt


def counts_of(values: Sequence[int]) -> Counts:
    return np.array(values, dtype=np.int64)
