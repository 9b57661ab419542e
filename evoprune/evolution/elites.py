"""Elites are evaluated again, so that none keeps a lucky score for ever: the fitness is the mean over repetitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evoprune.evolution.batchmap import BatchMap
from evoprune.evolution.individual import has_failed

__all__ = ["Elites", "similar"]

Scores = tuple[tuple[float, ...], ...]


def similar(one: Any, other: Any) -> bool:
    """Whether a hall of fame needs only one of two individuals: equal masks, from the same evaluation.

    With inherited weights equal masks start from several networks, and a later one may be the better.
    """
    found = getattr(one, "evaluation", None)
    return bool(one == other) and (found is None or found == getattr(other, "evaluation", None))


class Elites:
    """The values of every repetition, by evaluation.

    batch_map: evaluates; None leaves every fitness as it is. limit: repetitions at most.
    """

    def __init__(self, batch_map: BatchMap | None, limit: int) -> None:
        self.map, self.limit = batch_map, limit
        self._scores: dict[str, Scores] = {}
        self._new: set[str] = set()
        self._failed: set[str] = set()

    def meet(self, individuals: Sequence[Any]) -> None:
        """Note what is known of individuals that this map evaluated before this search began."""
        for individual in individuals:
            if self.map is not None and self.map.knows(individual):
                known: Scores = getattr(individual, "scores", None) or (tuple(individual.fitness.values),)
                self._scores.setdefault(individual.evaluation, known)

    def welcome(self, individuals: Sequence[Any]) -> None:
        """Note the first value of those just evaluated; a twin of one evaluated before takes over what is known of it."""
        if self.map is None:
            return
        self._new = {individual.evaluation for individual in individuals} - self._scores.keys()
        for individual in individuals:
            self._scores.setdefault(individual.evaluation, (tuple(individual.fitness.values),))
            self._show(individual)

    def evaluate_again(self, staying: Sequence[Any], hall: Any, offspring: Sequence[Any]) -> int:
        """Evaluate once more who stays or stands in the hall of fame, but not whom `welcome` saw for the first time; how many.

        Their copies, among the offspring too, are brought up to date, and the hall of fame is put in order again: who fails
        leaves it, for the best of those that stay.
        """
        if self.map is None or self.limit == 1:
            return 0
        known = [one for one in (*staying, *hall) if getattr(one, "evaluation", None) in self._scores]
        due = {one.evaluation: one for one in known if one.evaluation not in self._new and self._open(one)}
        numbers = [len(self._scores[evaluation]) for evaluation in due]
        for (evaluation, individual), values in zip(due.items(), self.map.batch(list(due.values()), numbers), strict=True):
            self._scores[evaluation] += (values,)
            if individual.failed:
                self._failed.add(evaluation)
        for individual in (*known, *(one for one in offspring if getattr(one, "evaluation", None) in self._scores)):
            self._show(individual)
        members = list(hall)
        if members:
            sound = [one for one in members if not has_failed(one)]
            hall.clear()
            hall.update(sound if len(sound) == len(members) else [*sound, *(one for one in staying if not has_failed(one))])
        return len(due)

    def _open(self, individual: Any) -> bool:
        return len(self._scores[individual.evaluation]) < self.limit and not has_failed(individual)

    def _show(self, individual: Any) -> None:
        """Put the mean on the individual, and whether a repetition failed; the map knows of the first alone."""
        scores = self._scores[individual.evaluation]
        individual.scores = scores
        individual.failed = individual.failed or individual.evaluation in self._failed
        mean = tuple(float(value) for value in np.mean(np.array(scores), axis=0))
        if mean != tuple(individual.fitness.values):
            individual.fitness.values = mean
