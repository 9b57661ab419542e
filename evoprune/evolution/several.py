"""Several objectives: selection and variation when size is one of them, and the front as a data frame."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from deap import tools

from evoprune.evolution.individual import has_failed
from evoprune.evolution.operators import mutResize, mutSwap

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["front", "mutate_with_size", "select_several"]

DIVISIONS = {4: 6, 5: 4}
"""Divisions of an axis for the reference points of NSGA-III, by number of objectives; 3 above."""


def select_several(objectives: int) -> Callable[..., list[Any]]:
    """selNSGA2 for two or three objectives, selNSGA3 above.  [Deb 2002; Deb 2014]"""
    if objectives <= 3:
        return tools.selNSGA2  # type: ignore[no-any-return]
    points = tools.uniform_reference_points(objectives, DIVISIONS.get(objectives, 3))

    def selNSGA3(individuals: Sequence[Any], k: int) -> list[Any]:
        sound = [one for one in individuals if np.isfinite(one.fitness.wvalues).all()]
        failed = [one for one in individuals if not np.isfinite(one.fitness.wvalues).all()]  # have no place among the others
        with _numpy_seeded(random.getrandbits(32)):
            chosen = tools.selNSGA3(sound, k, ref_points=points) if len(sound) > k else sound
        return [*chosen, *failed[: k - len(chosen)]]

    return selNSGA3


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """numpy's global generator, with which DEAP shuffles niches: one seed of `random` rules all of a DEAP script."""
    before = np.random.get_state()  # noqa: NPY002 (what DEAP uses)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def mutate_with_size(individual: Any, *, low: int, high: int, rng: random.Random | None = None) -> tuple[Any]:
    """`mutResize` or `mutSwap`, with equal chances."""
    if (rng or random).random() < 0.5:
        return mutResize(individual, low=low, high=high, rng=rng)
    return mutSwap(individual, rng=rng)


def front(individuals: Sequence[Any], names: Sequence[str]) -> pd.DataFrame:
    """The individuals that no other dominates, best first in the first objective: mask, survivors, the objectives.

    names: of the objectives, in the order of the fitness. Failed and unevaluated individuals are left out.
    """
    import pandas as pd

    sound = [one for one in individuals if one.fitness.valid and not has_failed(one)]
    unique = list({one.mask.hash: one for one in sound}.values())
    best = tools.sortNondominated(unique, len(unique), first_front_only=True)[0] if unique else []
    rows = [
        {"mask": one.mask.hash, "survivors": one.mask.count, **dict(zip(names, one.fitness.values, strict=True))} for one in best
    ]
    frame = pd.DataFrame(rows, columns=list(dict.fromkeys(["mask", "survivors", *names])))
    smaller = not best or best[0].fitness.weights[0] < 0
    return frame.sort_values(names[0], ascending=smaller, ignore_index=True, kind="stable")
