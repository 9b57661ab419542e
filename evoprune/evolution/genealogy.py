"""Genealogy: where every individual of a search came from, as a tidy frame, enough to make any mask of it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evoprune.errors import InputError
from evoprune.evolution.individual import has_failed
from evoprune.evolution.operators import replay
from evoprune.evolution.operators.lineage import lineage_of
from evoprune.masks.mask import Mask, common_space
from evoprune.masks.space import MaskSpace

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Genealogy", "diversity", "row_of"]


class Genealogy:
    """Every evaluated individual, in the order of evaluation, with its parents, operator, operator seed and fitness.

    objectives: names of the fitness values.
    """

    def __init__(self, objectives: Sequence[str]) -> None:
        self.objectives = tuple(objectives)
        self._rows: list[dict[str, Any]] = []
        self._lineages: dict[str, Mapping[str, Any]] = {}
        self._diversity: dict[int, float] = {}

    def add(self, generation: int, evaluated: Iterable[Any], population: Sequence[Any]) -> None:
        """Note who was evaluated in a generation, and the population that came out of it."""
        self._diversity[generation] = diversity([individual.mask for individual in population])
        for individual in evaluated:
            lineage = dict(lineage_of(individual))
            self._rows.append({"generation": generation, **row_of(individual, self.objectives), "lineage": lineage})
            self._lineages.setdefault(individual.mask.hash, lineage)

    def frame(self) -> pd.DataFrame:
        """Columns generation, mask, parents, operator, operator_seed, survivors, the objectives, count, failed, lineage.

        parents: tuple of mask hashes. And diversity: of the population of that generation (see `diversity`).
        """
        import pandas as pd

        frame = pd.DataFrame(self._rows)
        if not frame.empty:
            frame["diversity"] = frame["generation"].map(self._diversity)
        return frame

    def ancestors(self, mask_hash: str) -> list[str]:
        """Hashes of a mask and all it came from, parents before children. Raises `InputError` for an unknown one."""
        if mask_hash not in self._lineages:
            raise InputError(f"no individual with mask {mask_hash!r} was evaluated: choose one of the frame's column `mask`")
        order: dict[str, None] = {}
        stack = [(mask_hash, False)]
        while stack:
            current, grown = stack.pop()
            if grown:
                order[current] = None
            elif current not in order:
                stack.append((current, True))
                stack += [(parent, False) for parent in self._lineages.get(current, {}).get("parents", ())]
        return list(order)

    def replay(self, mask_hash: str, space: MaskSpace, known: Mapping[str, Mask] | None = None) -> Mask:
        """Make a mask again from operators and their seeds alone, generation by generation, and check its hash.

        known: masks by hash that were given to the first population and so have no lineage. Raises `InputError` when one of
        them is missing, or another mask comes out.
        """
        masks = dict(known or {})
        for current in self.ancestors(mask_hash):
            if current in masks:
                continue
            lineage = self._lineages.get(current) or {}
            if not lineage:
                raise InputError(f"the mask {current} was given to the search, not made by an operator: give it in known=")
            masks[current] = replay(lineage, masks, space=space)
            if masks[current].hash != current:
                raise InputError(f"the lineage of {current} makes another mask: use the space it was made in, and this version")
        return masks[mask_hash]


def row_of(individual: Any, objectives: Sequence[str]) -> dict[str, Any]:
    """One individual as a row of a frame."""
    lineage = lineage_of(individual)
    values = individual.fitness.values if individual.fitness.valid else (None,) * len(objectives)
    return {
        "mask": individual.mask.hash,
        "parents": tuple(lineage.get("parents", ())),
        "operator": lineage.get("operator"),
        "operator_seed": lineage.get("seed"),
        "survivors": individual.mask.count,
        **dict(zip(objectives, values, strict=True)),
        "count": len(getattr(individual, "scores", ())) or 1,
        "failed": has_failed(individual),
    }


def diversity(masks: Sequence[Mask]) -> float:
    """Mean share of its survivors that a mask does not have in common with another: 0 for clones, about 1 - d for strangers.

    Counted through how many masks keep each weight, so the cost follows the survivors, not the pairs.
    """
    number = len(masks)
    if number < 2:
        return 0.0
    space, common = common_space(*masks), 0.0
    for layer in range(len(space)):
        every = np.sort(np.concatenate([mask.survivors[layer] for mask in masks]), kind="stable")
        first = np.ones(len(every), dtype=bool)
        np.not_equal(every[1:], every[:-1], out=first[1:])
        votes = np.diff(np.flatnonzero(first), append=len(every)).astype(np.float64)
        common += float((votes * (votes - 1)).sum())
    total = sum(mask.count for mask in masks)
    return 1 - common / (number - 1) / total if total else 0.0
