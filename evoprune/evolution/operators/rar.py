"""cxRAR: random assorting recombination of sets."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from evoprune.errors import InputError
from evoprune.evolution.operators.lineage import mate
from evoprune.evolution.operators.registry import operator
from evoprune.evolution.operators.sets import NONE, changed, outside, union
from evoprune.masks.mask import Indices, Mask
from evoprune.masks.sampling import Flags, random_subset

__all__ = ["cxRAR"]


def assort(draw: np.random.Generator, first: Mask, second: Mask, *, weight: float) -> tuple[Mask, Mask]:
    """The rule of `cxRAR`."""
    layers = [
        _assorted(a, b, size, weight, draw)
        for a, b, size in zip(first.survivors, second.survivors, first.space.sizes, strict=True)
    ]
    return Mask._trusted(first.space, [a for a, _ in layers]), Mask._trusted(first.space, [b for _, b in layers])


def _assorted(a: Indices, b: Indices, size: int, weight: float, draw: np.random.Generator) -> tuple[Indices, Indices]:
    either, one = union(a, b)
    return _child(either, one, size, len(a), weight, draw), _child(either, one, size, len(b), weight, draw)


def _child(either: Indices, one: Flags, size: int, count: int, weight: float, draw: np.random.Generator) -> Indices:
    """Decide every element as if the bag were emptied, then undo what was decided after the child was complete.

    Copies leave the bag in random order, so an element with c copies is decided at the least of c uniform times, and one that
    only one parent has (a copy for, a copy against) goes either way with equal chances. Only the last few decisions matter, and
    elements of one kind are alike: it is enough to know how many of each kind were late.
    """
    inside = ~one
    inside[one] = draw.integers(2, size=int(np.count_nonzero(one)), dtype=np.bool_)
    surplus = int(np.count_nonzero(inside)) - count
    if surplus > 0:  # it was full before: the latest to enter do not
        both = np.flatnonzero(~one)
        single = np.flatnonzero(one & inside)
        late = _latest(draw, surplus, (len(both), weight), (len(single), 2.0))
        for positions, number in zip((both, single), late, strict=True):
            inside[positions[random_subset(draw, len(positions), number)]] = False
        return changed(either, np.flatnonzero(~inside), NONE)
    neither, single = size - len(either), np.flatnonzero(~inside)
    late = _latest(draw, -surplus, (neither, weight), (len(single), 2.0))  # the latest to be shut out are not
    inside[single[random_subset(draw, len(single), late[1])]] = True
    return changed(either, np.flatnonzero(~inside), outside(either, random_subset(draw, neither, late[0])))


def _latest(draw: np.random.Generator, number: int, *kinds: tuple[int, float]) -> list[int]:
    """Of the `number` elements decided last, how many are of each kind; a kind is (how many there are, copies of each).

    1 - (the least of c uniform times) is V^(1/c) with V uniform, and the i-th smallest of m uniform V follows from the one
    before: log(1 - V_i) = log(1 - V_(i-1)) + log(U) / (m - i + 1). So only `number` values a kind are drawn.
    """
    times, owners = [], []
    for kind, (size, copies) in enumerate(kinds):
        k = min(number, size)
        v = -np.expm1(np.cumsum(np.log1p(-draw.random(k)) / np.arange(size, size - k, -1)))
        times.append(v ** (1 / copies))
        owners.append(np.full(k, kind))
    last = np.concatenate(owners)[np.argsort(np.concatenate(times), kind="stable")[:number]]
    return np.bincount(last, minlength=len(kinds)).tolist()  # type: ignore[no-any-return]


@operator("mate", assort)
def cxRAR(ind1: Any, ind2: Any, *, weight: float = 3.0, rng: random.Random | None = None) -> tuple[Any, Any]:
    """Random assorting recombination, layer by layer: a bag decides which weights a child keeps.

    The bag holds `weight` copies of each weight that both parents keep, and of the bar on each that neither keeps; of each
    that one keeps, one copy and one bar. Copies are drawn until the layer's count is full, or so many are barred that the rest
    must enter. A small weight mixes more: a common survivor may be lost and a new one enter; a large one (infinity is
    allowed) respects what both parents agree on. The children are drawn independently, each with its own parent's layer counts.
    [Radcliffe 1993, Genetic set recombination; the bag is simulated exactly in time proportional to survivors]
    """
    if isinstance(weight, bool) or not isinstance(weight, (int, float, np.number)) or not weight > 0:
        raise InputError(f"weight={weight!r} is not usable: give a number > 0, infinity allowed")
    return mate("cxRAR", ind1, ind2, rng, weight=float(weight))
