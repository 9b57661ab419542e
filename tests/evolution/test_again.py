"""Individuals that are evaluated again, that come from elsewhere, or that were evaluated before the search began."""

from __future__ import annotations

import functools
import pickle
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deap import algorithms, base, tools

import evoprune as ep
from evoprune.errors import InputError, TrainingFailed
from evoprune.evolution.jobs import Finished, Job
from evoprune.evolution.operators import mutSwap
from evoprune.evolution.trainer import Trainer
from tests.tiny import mlp


def made(**options: Any) -> base.Toolbox:
    return ep.make_toolbox(mlp(), **{"sparsity": 0.8, "epochs": 1, "batch_size": 24, "engine": "dense", "seed": 1, **options})


def evaluated(toolbox: base.Toolbox, n: int = 4) -> list[Any]:
    population: list[Any] = toolbox.population(n=n)
    for one, values in zip(population, toolbox.map(toolbox.evaluate, population), strict=True):
        one.fitness.values = values
    return population


def child_of(toolbox: base.Toolbox, parent: Any) -> Any:
    child = toolbox.clone(parent)
    (child,) = mutSwap(child, rng=random.Random(5))
    del child.fitness.values
    return child


# ---- inherited weights ----------------------------------------------------------------------------------------------


def test_evaluated_again_an_individual_starts_where_it_started() -> None:
    toolbox = made(inherit="weights")
    parent = evaluated(toolbox)[0]
    child = child_of(toolbox, parent)
    first = toolbox.evaluate(child)
    assert child.inherited == parent.evaluation
    assert toolbox.evaluate(child) == toolbox.evaluate(child) == first
    child.fitness.values = first
    hall = tools.HallOfFame(1)
    hall.update([child])
    assert toolbox.evaluate(hall[0]) == first, "a copy that is valid"
    twin = toolbox.clone(child)
    del twin.fitness.values
    assert toolbox.evaluate(twin) != first, "a child whose mask is its parent's trains on"
    assert twin.inherited == child.evaluation


@pytest.mark.parametrize("journal", [False, True], ids=["in memory", "with a journal"])
@pytest.mark.parametrize("fresh", [True, False], ids=["another toolbox", "the same toolbox"])
def test_a_population_from_a_pickle_hands_its_weights_on(fresh: bool, journal: bool, tmp_path: Path) -> None:
    toolbox = made(inherit="weights", journal=tmp_path / "run.jsonl" if journal else None)
    population = evaluated(toolbox)
    heir = child_of(toolbox, population[0])
    expected = heir.fitness.values = toolbox.evaluate(heir)
    text = pickle.dumps([*population, heir])
    del population, heir
    toolbox = made(inherit="weights") if fresh else toolbox
    parent, *_, heir = pickle.loads(text)
    assert toolbox.evaluate(heir) == expected, "evaluated again it starts where it started"
    child = child_of(toolbox, parent)
    assert toolbox.evaluate(child) == expected
    assert child.inherited == parent.evaluation
    assert toolbox.evaluate(parent) == parent.fitness.values


def test_a_migrant_hands_its_weights_on() -> None:
    islands = [made(inherit="weights", seed=seed) for seed in (1, 2)]
    populations = [evaluated(toolbox) for toolbox in islands]
    tools.migRing(populations, 1, tools.selBest)
    [migrant] = [one for one in populations[1] if one.evaluation not in islands[1].map._records]
    child = child_of(islands[1], migrant)
    islands[1].evaluate(child)
    assert child.inherited not in (None, migrant.evaluation), "islands name their own evaluation of the same mask so"
    handed = islands[1].map.store.get(child.inherited)
    assert all(np.array_equal(value, migrant.trained.values[name]) for name, value in handed.values.items())


def test_a_migrant_hands_its_own_weights_on_where_the_island_has_trained_the_same_mask() -> None:
    here, there = made(inherit="weights"), made(inherit="weights", epochs=6)
    migrant = evaluated(there)[0]
    [child] = [child_of(here, migrant)]
    expected = here.evaluate(child)
    later = made(inherit="weights")
    twin = later.from_mask(migrant.mask)
    later.evaluate(twin)
    child = child_of(later, migrant)
    assert later.evaluate(child) == expected
    assert later.evaluate(child) == expected, "evaluated again it starts where it started"


def test_weights_that_nobody_holds_are_missed_aloud(caplog: pytest.LogCaptureFixture) -> None:
    parent = evaluated(made())[0]  # which keeps no weights
    toolbox = made(inherit="weights")
    child = child_of(toolbox, parent)
    toolbox.evaluate(child)
    assert child.inherited is None
    assert "it starts from the initial ones" in caplog.text


def test_in_another_process_a_child_inherits_too() -> None:
    toolbox = made(inherit="weights")
    child = child_of(toolbox, evaluated(toolbox)[0])
    away = pickle.loads(pickle.dumps(toolbox.evaluate))
    assert away(pickle.loads(pickle.dumps(child))) == toolbox.evaluate(child)


def test_the_hall_of_fame_has_the_best_of_equal_masks() -> None:
    random.seed(3)
    toolbox, best = made(inherit="weights"), []
    for state in ep.generations(toolbox.population(n=6), toolbox, 0.9, 0.0, 8, repetitions=1):
        best.append(min(one.fitness.values[0] for one in state.offspring))
    assert best[-1] < best[0], "twins that are crossed train on"
    assert state.best.fitness.values[0] == min(best)


# ---- before the search ----------------------------------------------------------------------------------------------


def test_an_elite_that_was_evaluated_before_keeps_no_lucky_score() -> None:
    random.seed(2)
    toolbox = made()
    population = evaluated(toolbox)
    before = {one.mask.hash for one in population}
    for state in ep.generations(population, toolbox, 0.0, 1.0, 2, mu=4, lambda_=2, repetitions=3):
        old = [one for one in state.population if one.mask.hash in before]
        assert old, "nobody stayed"
        for one in old if state.generation else ():
            assert len(one.scores) == 1 + state.generation
            assert one.fitness.values == (pytest.approx(np.mean(one.scores)),)
    assert state.logbook[0]["nevals"] == 0
    assert set(state.genealogy.frame()["mask"]) >= {one.mask.hash for one in population}


def test_children_made_between_two_searches_keep_their_own_value() -> None:
    random.seed(2)
    toolbox = made()
    *_, state = ep.generations(toolbox.population(n=4), toolbox, 0.0, 1.0, 4, mu=4, lambda_=2)
    children = [child_of(toolbox, one) for one in state.population]
    for one, values in zip(children, toolbox.map(toolbox.evaluate, children), strict=True):
        one.fitness.values = values
    before = {one.mask.hash: one.fitness.values for one in children}
    [later] = ep.generations(children, toolbox, 0.0, 1.0, 0)
    assert {one.mask.hash: one.fitness.values for one in later.population} == before


@pytest.mark.parametrize("epochs", [1, 2], ids=["of the same configuration", "of another"])
def test_a_population_that_came_evaluated_is_resumed_to_the_same_search(epochs: int, tmp_path: Path) -> None:
    """Crossed twins are evaluated as their parents are: the journal then knows parents that the search did not meet."""

    def search() -> Any:
        random.seed(1)
        population = evaluated(made(epochs=epochs))
        twins = [made().clone(one) for one in population for _ in range(2)]
        toolbox = made(seed=2, journal=tmp_path / "run.jsonl") if epochs == 2 else made(journal=tmp_path / "run.jsonl")
        *_, state = ep.generations(twins, toolbox, 0.9, 0.0, 2)
        toolbox.map.close()
        told = [(one.mask.hash, one.fitness.values, one.scores) for one in state.population]
        return told, state.ledger.samples, [(row["nevals"], row["again"]) for row in state.logbook]

    assert search() == search()


def test_what_another_toolbox_scored_is_no_repetition() -> None:
    population = evaluated(made())
    before = [one.fitness.values for one in population]
    toolbox = made(epochs=5)
    for state in ep.generations(population, toolbox, 0.0, 1.0, 2, mu=8, lambda_=2):
        old = [one for one in state.population if any(one.mask == first.mask for first in population)]
        assert {one.fitness.values for one in old} <= set(before)


def test_under_a_replaced_evaluate_the_best_is_kept() -> None:
    random.seed(2)
    toolbox = made(sparsity=(0.5, 0.9))
    population = evaluated(toolbox)
    toolbox.register("evaluate", lambda individual: (float(individual.mask.count),))
    for one in population:
        one.fitness.values = toolbox.evaluate(one)
    seen = [one.fitness.values[0] for one in population]
    for state in ep.generations(population, toolbox, 0.0, 1.0, 6):
        seen += [one.fitness.values[0] for one in state.population]
    assert state.best.fitness.values[0] == min(seen)


def test_a_search_that_goes_on_knows_what_was_scored() -> None:
    random.seed(2)
    toolbox = made()
    *_, state = ep.generations(toolbox.population(n=4), toolbox, 0.0, 1.0, 2, mu=4, lambda_=2)
    before = {one.mask.hash: one.scores for one in state.population}
    for later in ep.generations(state.population, toolbox, 0.0, 1.0, 3, mu=4, lambda_=2):
        for one in later.population:
            scores = before.get(one.mask.hash, ())
            assert one.scores[: len(scores)] == scores
    assert all(len(one.scores) > 1 for one in later.population if one.mask.hash in before)


# ---- tournaments, failures, several objectives ----------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["eaSimple", "eaMuCommaLambda", "eaMuPlusLambda"])
def test_deaps_loops_select_among_those_that_competed(loop: str) -> None:
    random.seed(1)
    toolbox = made(rungs=(1, 2), epochs=2)
    select, seen = toolbox.select, []

    def watched(individuals: Sequence[Any], k: int) -> list[Any]:
        chosen = select(individuals, k)
        seen.append({toolbox.map._records[one.evaluation].key.cohort for one in individuals})
        return list(chosen)

    toolbox.register("select", watched)
    population, sizes = toolbox.population(n=8), () if loop == "eaSimple" else (8, 8)
    getattr(algorithms, loop)(population, toolbox, *sizes, 0.4, 0.2, 4, verbose=False)
    assert len(seen) == 4
    assert all(len(cohorts) == 1 for cohorts in seen)


def test_a_replaced_evaluate_is_called_as_often_as_deap_asks() -> None:
    random.seed(1)
    toolbox, calls = made(rungs=(1, 2), epochs=2), []

    def evaluate(individual: Any) -> tuple[float, float]:
        calls.append(individual)
        return 1.0, float(individual.mask.survivors[0].sum())

    toolbox.register("evaluate", evaluate)
    _, logbook = algorithms.eaSimple(toolbox.population(n=6), toolbox, 0.4, 0.4, 3, verbose=False)
    assert len(calls) == sum(logbook.select("nevals"))


def test_a_decorated_tournament_is_one_all_the_same() -> None:
    toolbox = made(rungs=(1, 2), epochs=2)

    def decoration(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @functools.wraps(function)
        def call(individual: Any) -> Any:
            return function(individual)

        return call

    toolbox.decorate("evaluate", decoration)
    with pytest.raises(InputError, match="within one generation only"):
        next(ep.generations(toolbox.population(n=4), toolbox, 0.0, 0.5, 1, lambda_=4))
    *_, state = ep.generations(toolbox.population(n=4), toolbox, 0.0, 0.5, 2)
    assert len({toolbox.map._records[one.evaluation].key.cohort for one in state.population}) == 1


def test_a_decoration_may_handle_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Trainer, jobs: Sequence[Job]) -> list[Finished]:
        raise TrainingFailed("on purpose")

    def handled(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @functools.wraps(function)
        def call(individual: Any) -> Any:
            try:
                return function(individual)
            except TrainingFailed:
                return (99.0,)

        return call

    monkeypatch.setattr(Trainer, "train", fails)
    toolbox = made(retries=0)
    toolbox.decorate("evaluate", handled)
    population = toolbox.population(n=3)
    assert list(toolbox.map(toolbox.evaluate, population)) == [(99.0,)] * 3


def test_four_objectives_follow_the_seed_and_a_journal_goes_on(tmp_path: Path) -> None:
    def search() -> tuple[list[str], int]:
        random.seed(7)
        toolbox = made(objectives=("loss", "survivors", "macs", "movement"), sparsity=(0.5, 0.9), journal=tmp_path / "run.jsonl")
        population, _ = algorithms.eaMuPlusLambda(toolbox.population(n=6), toolbox, 6, 8, 0.3, 0.6, 3, verbose=False)
        toolbox.map.close()
        return sorted(one.mask.hash for one in population), toolbox.map.trained

    first, trained = search()
    assert trained > 6
    np.random.seed(99)  # noqa: NPY002 (DEAP's NSGA-III draws from it)
    assert search() == (first, 0)
    assert np.random.random() == np.random.RandomState(99).random(), "numpy's generator was advanced"  # noqa: NPY002


def test_the_journal_has_the_lineage_of_the_first_who_asked(tmp_path: Path) -> None:
    toolbox = made(journal=tmp_path / "run.jsonl")
    one = toolbox.individual()
    twin = toolbox.clone(one)
    one.lineage, twin.lineage = {"operator": "first"}, {"operator": "second"}
    toolbox.map(toolbox.evaluate, [one, twin])
    assert '"operator": "first"' in (tmp_path / "run.jsonl").read_text()


@pytest.mark.parametrize("extra", [{"steps": np.int64(3)}, {"rates": np.array([0.5, np.nan])}, {"tool": object}], ids=str)
def test_a_lineage_of_the_users_own_never_costs_an_evaluation(extra: dict[str, Any], tmp_path: Path) -> None:
    toolbox = made(journal=tmp_path / "run.jsonl")
    one = toolbox.individual()
    one.lineage = {"operator": "mine", **extra}
    assert toolbox.evaluate(one)
    toolbox.map.close()
    assert '"operator": "mine"' in (tmp_path / "run.jsonl").read_text()
    assert len(ep.read_journal(tmp_path / "run.jsonl")) == 1
