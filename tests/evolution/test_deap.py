"""DEAP's own loops run unmodified, on batches, and a bad search is found out."""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deap import algorithms, base, creator, tools

from evoprune.criteria import CRITERIA
from evoprune.errors import InputError, UnknownName
from evoprune.evolution import batchmap
from evoprune.evolution.individual import Individual, fitness_class
from evoprune.evolution.toolbox import make_toolbox
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_mask
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.values import native
from tests.tiny import Residual, global_state, mlp, own, table


def toolbox(**options: Any) -> base.Toolbox:
    return make_toolbox(
        mlp(), **{"sparsity": 0.7, "epochs": 1, "criterion": "loss", "batch_size": 18, "engine": "loop", **options}
    )


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    state = random.getstate()
    random.seed(5)
    yield
    random.setstate(state)


def well_formed(mask: Mask) -> None:
    assert Mask(mask.space, mask.survivors) == mask
    assert mask.count == mask.space.budget(0.7)


SIZES = {"mu": 6, "lambda_": 8, "cxpb": 0.4, "mutpb": 0.5}
LOOPS: dict[str, Any] = {
    "eaSimple": partial(algorithms.eaSimple, cxpb=0.5, mutpb=0.5, ngen=4, verbose=False),
    "eaMuPlusLambda": partial(algorithms.eaMuPlusLambda, **SIZES, ngen=4, verbose=False),
    "eaMuCommaLambda": partial(algorithms.eaMuCommaLambda, **SIZES, ngen=4, verbose=False),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_unmodified_loops_keep_every_mask_exact_and_report(loop: str) -> None:
    box, hall, stats = toolbox(), tools.HallOfFame(3), tools.Statistics(lambda one: one.fitness.values[0])
    stats.register("best", min)
    population, log = LOOPS[loop](box.population(n=6), box, halloffame=hall, stats=stats)
    assert len(log) == 5
    for one in [*population, *hall]:
        well_formed(one.mask)
        assert one.fitness.valid
        assert not one.failed
    assert hall[0].fitness >= hall[1].fitness >= hall[2].fitness
    assert hall[0] != hall[1]
    assert hall[0].fitness.values[0] <= min(log.select("best"))


def test_a_fitness_is_the_criterion_after_the_epochs_of_training() -> None:
    box = toolbox(epochs=2, criterion="grad")
    population = box.population(n=4)
    values = box.map(box.evaluate, population)
    alone = Population(mlp(), population, horizon=2, batch_size=18, engine="loop").train(2, record=("grad",))
    assert [value for (value,) in values] == CRITERIA["grad"](alone.trace, alone.masks).tolist()


@pytest.mark.parametrize("criterion", ["random", "live_paths"])
def test_who_leaves_trained_weights_trains_though_the_criterion_needs_none(criterion: str) -> None:
    box = toolbox(criterion=criterion, inherit="weights", mutate="mutGuided")
    (one,) = box.population(n=1)
    box.evaluate(one)
    assert all(layer.any() for layer in one.told.movement), "a guided mutation has something to read"
    assert box.map.ledger.samples > 18
    bare = toolbox(criterion=criterion)
    bare.evaluate(bare.population(n=1)[0])
    assert bare.map.ledger.samples == 0


@pytest.mark.parametrize("criterion", [name for name, rule in CRITERIA.items() if not rule.relative])
def test_selection_favours_the_best_whatever_the_direction(criterion: str) -> None:
    box = toolbox(criterion=criterion)
    population = box.population(n=8)
    for one, value in zip(population, box.map(box.evaluate, population), strict=True):
        one.fitness.values = value
    values = [one.fitness.values[0] for one in population]
    best = min(values) if criterion == "loss" else max(values)
    assert tools.selBest(population, 1)[0].fitness.values[0] == best
    mean = np.mean([one.fitness.values[0] for one in box.select(population, 200)])
    assert mean < np.mean(values) if criterion == "loss" else mean > np.mean(values)


def test_an_individual_of_the_wrong_direction_is_refused() -> None:
    box = toolbox(criterion="accuracy")
    mask = box.individual().mask
    with pytest.raises(
        InputError, match=r"fitness weights \(-1.0,\) .* select the worst by 'accuracy': make it with the toolbox"
    ):
        algorithms.eaSimple([Individual(mask)] * 4, box, 0.5, 0.5, 1, verbose=False)
    assert box.map.trained == 0
    right = [box.from_mask(mask), Individual(mask, fitness_class((0.5,))())]
    assert len(set(box.map(box.evaluate, right))) == 1
    several = make_toolbox(mlp(), sparsity=0.7, epochs=1, objectives=("loss", "accuracy"), batch_size=18, engine="loop")
    with pytest.raises(InputError, match=r"by 'accuracy'.*weights=\(-1.0, 1.0\)"):
        several.map(several.evaluate, [Individual(mask, fitness_class((-1.0, -1.0))())])


def test_a_decorated_evaluate_decides_its_own_direction() -> None:
    box = toolbox()

    def negated(evaluate: Any) -> Any:
        @functools.wraps(evaluate)
        def value(individual: Any) -> tuple[float]:
            return (-evaluate(individual)[0],)

        return value

    box.decorate("evaluate", negated)
    one = Individual(box.individual().mask, fitness_class((1.0,))())
    [(value,)] = box.map(box.evaluate, [one])
    assert value < 0


def test_a_search_finds_better_than_its_start() -> None:
    box = toolbox(seed=1)
    _, log = LOOPS["eaMuPlusLambda"](box.population(n=6), box, halloffame=(hall := tools.HallOfFame(1)))
    start = min(value for (value,) in box.map(box.evaluate, toolbox(seed=1).population(n=6)))
    assert hall[0].fitness.values[0] <= start
    assert log[0]["nevals"] == 6


def test_a_fitness_is_never_a_test_value() -> None:
    problem = own(Residual)
    box = make_toolbox(problem, sparsity=0.5, epochs=1, criterion="accuracy", batch_size=18)
    box.map(box.evaluate, box.population(n=3))
    assert problem.test_openings == []


def test_identical_masks_are_trained_once_and_known_ones_not_again() -> None:
    box = toolbox()
    a, b = box.population(n=2)
    values = box.map(box.evaluate, [a, b, box.clone(a), box.clone(b), box.clone(a)])
    assert box.map.trained == 2
    assert values == [values[0], values[1], values[0], values[1], values[0]]
    assert values[0] != values[1]


def test_a_value_does_not_depend_on_who_is_evaluated_with_it() -> None:
    population = toolbox().population(n=5)
    box, again = toolbox(), toolbox()
    together = box.map(box.evaluate, population)
    for position in (0, 3):
        assert toolbox().evaluate(population[position]) == together[position]
    assert again.map(again.evaluate, population[::-1]) == together[::-1]


def test_nobody_to_evaluate_is_no_error() -> None:
    box = toolbox()
    assert list(box.map(box.evaluate, [])) == []
    assert box.map.trained == 0


def test_a_replaced_evaluate_is_called_one_by_one_and_the_map_says_so(caplog: pytest.LogCaptureFixture) -> None:
    box, calls = toolbox(), []

    def mine(one: Any) -> tuple[float]:
        calls.append(one)
        return (float(one.mask.survivors[0].sum()),)

    box.register("evaluate", mine)
    with caplog.at_level(logging.WARNING, "evoprune"):
        population, _ = algorithms.eaSimple(box.population(n=4), box, cxpb=0.0, mutpb=1.0, ngen=1, verbose=False)
    assert len(calls) == 8
    assert all(one.fitness.values[0] == one.mask.survivors[0].sum() for one in population)
    assert box.map.trained == 0
    assert sum("one individual after the other" in record.message for record in caplog.records) == 1


def test_cloning_through_the_map_is_the_ordinary_map(caplog: pytest.LogCaptureFixture) -> None:
    box = toolbox()
    population = box.population(n=3)
    clones = list(box.map(box.clone, population))
    assert clones == population
    assert all(a is not b for a, b in zip(clones, population, strict=True))
    assert not caplog.records


def test_individuals_of_a_users_creator_class_are_evaluated_and_varied() -> None:
    creator.create("MineFitness", base.Fitness, weights=(-1.0,))
    creator.create("Mine", Individual, fitness=creator.MineFitness)
    try:
        box = toolbox()
        box.register("individual", lambda: creator.Mine(random_mask(mlp().space, sparsity=0.7, seed=random.randrange(10**6))))
        box.register("population", tools.initRepeat, list, box.individual)
        population, _ = algorithms.eaSimple(box.population(n=4), box, cxpb=0.5, mutpb=0.5, ngen=2, verbose=False)
        assert all(type(one) is creator.Mine and type(one.fitness) is creator.MineFitness for one in population)
    finally:
        del creator.Mine, creator.MineFitness


def test_the_first_population_is_not_one_mask_copied() -> None:
    assert len({one.mask.hash for one in toolbox().population(n=30)}) == 30


def test_random_seed_rules_a_users_script_and_a_seed_of_its_own_is_private() -> None:
    def masks(**options: Any) -> list[str]:
        box = toolbox(**options)
        population = box.population(n=4)
        return [one.mask.hash for one in population] + [box.mutate(box.clone(one))[0].mask.hash for one in population]

    random.seed(1)
    first = masks()
    random.seed(1)
    second = masks()
    third = masks()
    assert first == second != third
    random.seed(1)
    before = random.getstate()
    private = masks(seed=3)
    assert random.getstate() == before
    assert private == masks(seed=3) != masks(seed=4)


def test_evaluating_leaves_the_global_generators_alone() -> None:
    box = toolbox()
    population = box.population(n=3)
    with global_state(8):
        box.map(box.evaluate, population)
    with global_state(9):
        box.evaluate(population[0])


def test_failed_individuals_get_the_worst_value_and_are_marked() -> None:
    weights = mlp().initial_weights()
    module = mlp().module()
    with torch.no_grad():
        first = module.get_parameter(mlp().space.names[0])
        first.copy_(weights[mlp().space.names[0]])
        first[0, 0] = 1e30  # whoever keeps this weight may diverge, nobody else
    problem = Problem(module, table())
    for criterion, worst in (("loss", float("inf")), ("grad", -float("inf"))):
        box = make_toolbox(problem, sparsity=0.5, epochs=1, criterion=criterion, batch_size=18, seed=0)
        population = box.population(n=12)
        values = [value for (value,) in box.map(box.evaluate, population)]
        failed = [one.failed for one in population]
        assert {True, False} == set(failed)
        assert [value == worst for value in values] == failed
        assert all(0 in one.mask.survivors[0] for one in population if one.failed)


@pytest.mark.parametrize(
    "wrong", [{"criterion": "both"}, {"epochs": 0}, {"epochs": 1.5}, {"sparsity": 0.99}, {"sparsity": 1}, {"lr": -1}]
)
def test_options_that_cannot_work_are_refused_when_the_toolbox_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        toolbox(**wrong)
    assert "\n" not in str(caught.value)


NUMBERS = {"lr": np.float32(0.125), "batch_size": np.int64(18), "epochs": np.int64(2), "seed": np.int64(3), "chunk": np.int64(2)}


@pytest.mark.parametrize(
    "options",
    [
        {"mutate": "mutGuided", "inherit": "weights"},
        {"rungs": (np.int64(1), np.int64(2)), "eta": np.int64(2)},
        {"sparsity": np.float32(0.75), "retries": np.int64(1)},
    ],
    ids=["guided", "tournament", "plain"],
)
def test_numbers_of_numpy_are_the_same_search(options: dict[str, Any], tmp_path: Path) -> None:
    first = toolbox(journal=tmp_path / "run.jsonl", **NUMBERS, **options)
    people = first.population(n=np.int64(3))
    values = list(first.map(first.evaluate, people))
    assert all(first.map.knows(one) for one in people), "each learns what guides and inherits"
    first.map.close()
    again = toolbox(journal=tmp_path / "run.jsonl", **{name: native(value) for name, value in {**NUMBERS, **options}.items()})
    assert list(again.map(again.evaluate, again.population(n=3))) == values
    assert again.map.trained == 0
    again.map.close()


def test_a_configuration_that_cannot_be_told_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(parts: Any) -> str:
        raise TypeError("not JSON serializable")

    monkeypatch.setattr(batchmap, "digest_of", fails)
    box = toolbox()
    with pytest.raises(TypeError, match="not JSON"):
        box.evaluate(box.population(n=1)[0])


def test_an_unknown_criterion_or_option_is_named() -> None:
    with pytest.raises(UnknownName, match="did you mean 'loss'"):
        toolbox(criterion="losss")
    with pytest.raises(UnknownName, match="did you mean 'momentum'"):
        toolbox(momentun=0.5)


def test_individuals_of_another_model_are_refused() -> None:
    box = toolbox()
    with pytest.raises(InputError, match="another model"):
        box.evaluate(Individual(random_mask(mlp("mlp:5").space, sparsity=0.5)))
