"""cxLayers: whole layers from either parent."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from evoprune.errors import InputError
from evoprune.evolution.operators.lineage import mate
from evoprune.evolution.operators.numbers import counts_of, deal
from evoprune.evolution.operators.registry import operator
from evoprune.evolution.operators.sets import count_common, exchanged
from evoprune.masks.mask import Indices, Mask
from evoprune.masks.sampling import Flags, random_flags
from evoprune.values import probability

__all__ = ["cxLayers"]


def exchange_layers(draw: np.random.Generator, first: Mask, second: Mask, *, indpb: float) -> tuple[Mask, Mask]:
    """The rule of `cxLayers`."""
    if len(first.space) == 1:
        return first, second
    swapped = _some_but_not_all(draw, len(first.space), indpb)
    children = [
        [b if swap else a for a, b, swap in zip(first.survivors, second.survivors, swapped, strict=True)],
        [a if swap else b for a, b, swap in zip(first.survivors, second.survivors, swapped, strict=True)],
    ]
    surplus = sum(map(len, children[0])) - first.count
    if surplus:
        giver = 0 if surplus > 0 else 1
        _hand_over(draw, children[giver], children[1 - giver], abs(surplus), swapped)
    return Mask._trusted(first.space, children[0]), Mask._trusted(first.space, children[1])


def _some_but_not_all(draw: np.random.Generator, layers: int, indpb: float) -> Flags:
    """Layers that are exchanged, each with probability `indpb`, given that it is neither none of them nor all."""
    while (flags := draw.random(layers) < indpb).all() or not flags.any():
        pass
    return flags


def _hand_over(draw: np.random.Generator, giver: list[Indices], taker: list[Indices], number: int, swapped: Flags) -> None:
    """Move `number` random survivors of the giver, which the taker has not, to the same layers of the taker, in place.

    From exchanged layers where the giver has more, and at most the excess: the excesses sum to `number` or more.
    """
    given, taken = counts_of([len(layer) for layer in giver]), counts_of([len(layer) for layer in taker])
    moved = deal(draw, number, np.where(swapped, np.maximum(given - taken, 0), 0))
    for layer in np.flatnonzero(moved):
        common = count_common(giver[layer], taker[layer])
        leaving = random_flags(draw, len(giver[layer]) - common, int(moved[layer]))
        none = np.zeros(len(taker[layer]) - common, dtype=bool)
        giver[layer], taker[layer] = exchanged(giver[layer], taker[layer], leaving, none)


@operator("mate", exchange_layers)
def cxLayers(ind1: Any, ind2: Any, *, indpb: float = 0.5, rng: random.Random | None = None) -> tuple[Any, Any]:
    """Exchange whole layers, each with probability `indpb`, at least one and not all; each child keeps its parent's total.

    Where the exchange changes the totals, the child with too many survivors hands as many random ones over to the same
    layers of the other, out of exchanged layers where it has more. So every survivor of a child comes from one of its
    parents, what both parents keep both children keep, and every layer count lies between the parents' two. Between parents of
    equal layer counts nothing is handed over. One layer alone is not exchanged.
    """
    if not 0 < probability("indpb", indpb) < 1:
        raise InputError(f"indpb={indpb!r} exchanges no layer or all of them: give a probability above 0 and below 1")
    return mate("cxLayers", ind1, ind2, rng, indpb=float(indpb))
