"""cxSetUniform: uniform crossover of sets."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from evoprune.evolution.operators.lineage import mate
from evoprune.evolution.operators.registry import operator
from evoprune.evolution.operators.sets import count_common, exchanged
from evoprune.masks.mask import Indices, Mask
from evoprune.masks.sampling import random_flags
from evoprune.values import probability

__all__ = ["cxSetUniform"]


def set_uniform(draw: np.random.Generator, first: Mask, second: Mask, *, indpb: float) -> tuple[Mask, Mask]:
    """The rule of `cxSetUniform`."""
    layers = [_exchange(a, b, indpb, draw) for a, b in zip(first.survivors, second.survivors, strict=True)]
    return Mask._trusted(first.space, [a for a, _ in layers]), Mask._trusted(first.space, [b for _, b in layers])


def _exchange(a: Indices, b: Indices, indpb: float, draw: np.random.Generator) -> tuple[Indices, Indices]:
    common = count_common(a, b)
    only_a, only_b = len(a) - common, len(b) - common
    number = int(draw.binomial(min(only_a, only_b), indpb))
    return exchanged(a, b, random_flags(draw, only_a, number), random_flags(draw, only_b, number))


@operator("mate", set_uniform)
def cxSetUniform(ind1: Any, ind2: Any, *, indpb: float = 0.5, rng: random.Random | None = None) -> tuple[Any, Any]:
    """Keep the common survivors and exchange equal numbers of the others, each pair with probability `indpb`.

    Layer by layer, so each child has the layer counts of its own parent, also where the parents' differ. It respects (what
    both keep stays, what neither keeps stays out).  [Radcliffe 1993, Genetic set recombination]
    """
    return mate("cxSetUniform", ind1, ind2, rng, indpb=probability("indpb", indpb))
