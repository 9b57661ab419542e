"""UMDA: a model of the best masks, for `algorithms.eaGenerateUpdate`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
from deap import tools

from evoprune.errors import InputError, MaskMismatch
from evoprune.evolution.individual import has_failed
from evoprune.evolution.operators.init import fresh
from evoprune.evolution.operators.lineage import draw_seed, generator, record
from evoprune.evolution.operators.registry import operator
from evoprune.evolution.operators.sets import outside
from evoprune.masks.allocation import Allocation, allocate
from evoprune.masks.mask import Indices, Mask, common_space
from evoprune.masks.sampling import random_subset
from evoprune.masks.space import MaskSpace
from evoprune.values import probability, whole

__all__ = ["UMDA", "Layer", "learn", "sample"]


@dataclass(frozen=True)
class Layer:
    """The model of one layer.

    union: indices that at least one selected mask keeps. votes: the same indices grouped by how many keep them, each with its
    inclusion probability. background: inclusion probability of every other index. size: weights of the layer.
    """

    union: Indices
    votes: tuple[tuple[Indices, Fraction], ...]
    background: Fraction
    size: int


def learn(masks: Sequence[Mask], smoothing: float) -> tuple[Layer, ...]:
    """The layers of the model of `masks`, which share a space."""
    space = common_space(*masks)
    return tuple(
        _layer([mask.survivors[layer] for mask in masks], size, Fraction(smoothing)) for layer, size in enumerate(space.sizes)
    )


def _layer(sets: list[Indices], size: int, smoothing: Fraction) -> Layer:
    every = np.concatenate(sets)
    every.sort(kind="stable")  # merges the runs
    starts = np.flatnonzero(np.concatenate([[True], every[1:] != every[:-1]])) if len(every) else np.zeros(0, dtype=np.int64)
    union, votes = every[starts], np.diff(starts, append=len(every))
    background = smoothing * Fraction(len(every), len(sets) * size)
    groups = ((count, union[votes == count]) for count in range(1, len(sets) + 1))
    learnt = tuple((group, (1 - smoothing) * Fraction(count, len(sets)) + background) for count, group in groups if len(group))
    return Layer(union, learnt, background, size)


def sample(draw: np.random.Generator, layers: Sequence[Layer]) -> list[Indices]:
    """Survivors drawn from the model, with exactly its inclusion probabilities and an exact total.

    Systematic sampling: the probabilities are laid end to end on one line over all layers, and the weights under the points
    u, u + 1, u + 2, … (u uniform in [0, 1)) survive. Weights of one group have one probability and lie in random order, so it
    is enough to know how many points fall on the group, and that many of it are drawn at random. Done in fractions: nothing
    is lost to rounding.
    """
    u, line = Fraction(int(draw.integers(2**53)), 2**53), Fraction(0)
    drawn = []
    for layer in layers:
        parts = []
        for group, chance in layer.votes:
            line, number = _points(line, len(group) * chance, u)
            parts.append(group[random_subset(draw, len(group), number)])
        others = layer.size - len(layer.union)
        line, number = _points(line, others * layer.background, u)
        parts.append(outside(layer.union, random_subset(draw, others, number)))
        drawn.append(np.sort(np.concatenate(parts), kind="stable"))
    return drawn


def _points(line: Fraction, mass: Fraction, u: Fraction) -> tuple[Fraction, int]:
    """The end of a stretch that begins at `line`, and how many points u + k lie on it."""
    end = line + mass
    return end, ceil(end - u) - ceil(line - u)


def model(draw: np.random.Generator, *masks: Mask, smoothing: float) -> tuple[Mask]:
    """The rule of `UMDA`: the model of the selected masks, learnt again, and one mask from it."""
    return (Mask._trusted(masks[0].space, sample(draw, learn(masks, smoothing))),)


@operator("model", model)
class UMDA:
    """Univariate marginal distribution algorithm on masks: select, count who keeps what, draw anew; for `eaGenerateUpdate`.

    Of the `mu` fittest, weight i is kept by a share p_i, and a child keeps it with probability (1 - smoothing)·p_i +
    smoothing·(mean layer density). Weights that none of them keeps share one background value a layer, so the model holds their
    union and never a layer. A child has as many survivors as the selected, in all and, where they agree, in every layer (where
    they do not, the mean rounded up or down); where their totals differ, the mean total rounded up or down.

    source: a space (the first generation is random, of `sparsity` and `allocation`), or individuals, from all of which the
    first model is learnt. lambda_: children a generation. mu: how many are selected, by default a quarter. smoothing: in
    [0, 1]; 0 never turns on what no selected mask keeps. select: `select(population, mu)`, of DEAP's form.
    [Mühlenbein 1996, From recombination of genes to the estimation of distributions; Madow 1949 for systematic sampling]

        strategy = UMDA(problem.space, sparsity=0.95, lambda_=16)
        toolbox.register("generate", strategy.generate, Individual)
        toolbox.register("update", strategy.update)
        algorithms.eaGenerateUpdate(toolbox, ngen=10)
    """

    def __init__(
        self,
        source: MaskSpace | Sequence[Any],
        *,
        lambda_: int = 16,
        mu: int | None = None,
        sparsity: float = 0.95,
        allocation: Allocation = "erk",
        smoothing: float = 0.1,
        select: Callable[[Sequence[Any], int], Sequence[Any]] = tools.selBest,
        rng: random.Random | None = None,
    ) -> None:
        self.lambda_ = whole("lambda_", lambda_, 1)
        self.mu = max(1, self.lambda_ // 4) if mu is None else whole("mu", mu, 1)
        self.smoothing, self.select, self.rng = probability("smoothing", smoothing), select, rng
        self.parents: list[str] = []
        self.layers: tuple[Layer, ...] = ()
        self.space: MaskSpace | None = None
        if isinstance(source, MaskSpace):
            self.space, self.counts = source, allocate(source, sparsity, allocation)
        else:
            self._learn(list(source))

    def generate(self, ind_init: Callable[[Mask], Any]) -> list[Any]:
        """`lambda_` new individuals, made by `ind_init(mask)`. Draws one 64-bit seed, from which those of the children follow."""
        seeds = np.random.SeedSequence(draw_seed(self.rng)).generate_state(self.lambda_, np.uint64)
        return [self._child(ind_init, int(seed)) for seed in seeds]

    def update(self, population: Sequence[Any]) -> None:
        """Learn from the `mu` fittest of `population`; failed individuals are left out while others remain."""
        sound = [individual for individual in population if not has_failed(individual)]
        self._learn(list(self.select(sound or population, self.mu)))

    def _learn(self, individuals: list[Any]) -> None:
        if not individuals:
            raise InputError("there is no individual to learn from: give at least one, or a MaskSpace")
        masks = [individual.mask for individual in individuals]
        space = common_space(*masks)
        if self.space is not None and space != self.space:
            raise MaskMismatch("the population belongs to another model than this UMDA: make one for its own space")
        self.space, self.layers, self.parents = space, learn(masks, self.smoothing), [mask.hash for mask in masks]

    def _child(self, ind_init: Callable[[Mask], Any], seed: int) -> Any:
        draw, space = generator(seed), self.space
        assert space is not None
        if self.layers:
            individual = ind_init(Mask._trusted(space, sample(draw, self.layers)))
            record(individual, individual.mask, "UMDA", seed, list(self.parents), {"smoothing": self.smoothing})
        else:
            individual = ind_init(*fresh(draw, space, counts=self.counts))
            record(individual, individual.mask, "initSparse", seed, [], {"counts": list(self.counts)})
        return individual
