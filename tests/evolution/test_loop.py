"""Our loop, and DEAP's own loops on the toolbox."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deap import algorithms, base, creator, tools

import evoprune as ep
from evoprune.errors import DamagedFile, InputError
from evoprune.evolution.jobs import Finished, Job
from evoprune.evolution.operators import UMDA
from evoprune.evolution.several import front
from evoprune.evolution.trainer import Trainer
from tests.tiny import global_state, mlp


def made(**options: Any) -> base.Toolbox:
    return ep.make_toolbox(mlp(), **{"sparsity": 0.8, "epochs": 1, "batch_size": 24, "engine": "dense", **options})


def search(toolbox: base.Toolbox, n: int = 6, ngen: int = 3, **options: Any) -> Any:
    random.seed(2)
    *_, state = ep.generations(toolbox.population(n=n), toolbox, 0.3, 0.5, ngen, **options)
    return state


# ---- DEAP's own ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["eaSimple", "eaMuPlusLambda", "eaMuCommaLambda"])
def test_deaps_loops_run_unmodified(loop: str) -> None:
    toolbox = made()
    random.seed(0)
    sizes = {} if loop == "eaSimple" else {"mu": 6, "lambda_": 8}
    hall, stats, history = tools.HallOfFame(2), ep.statistics(), tools.History()
    toolbox.decorate("mate", history.decorator)
    toolbox.decorate("mutate", history.decorator)
    population = toolbox.population(n=6)
    history.update(population)
    population, log = getattr(algorithms, loop)(
        population, toolbox, cxpb=0.3, mutpb=0.6, ngen=3, halloffame=hall, stats=stats, verbose=False, **sizes
    )
    assert len(log) == 4
    assert log[-1]["min"] <= log[-1]["mean"]
    assert hall[0].fitness >= hall[1].fitness
    assert {one.mask.count for one in [*population, *hall]} == {mlp().space.budget(0.8)}
    assert len(history.genealogy_tree) > 6


def test_generate_update_runs_unmodified() -> None:
    toolbox = made(criterion="accuracy")
    strategy = UMDA(mlp().space, sparsity=0.8, lambda_=8)
    toolbox.register("generate", strategy.generate, toolbox.from_mask)
    toolbox.register("update", strategy.update)
    random.seed(0)
    population, _ = algorithms.eaGenerateUpdate(toolbox, ngen=3, verbose=False)
    assert len(population) == 8
    assert population[0].fitness.weights == (1.0,)


def test_creators_class_works() -> None:
    creator.create("LoopMin", base.Fitness, weights=(-1.0,))
    creator.create("LoopIndividual", ep.Individual, fitness=creator.LoopMin)
    try:
        toolbox = made()
        toolbox.register("individual", ep.initSparse, creator.LoopIndividual, mlp().space, sparsity=0.8)
        toolbox.register("population", tools.initRepeat, list, toolbox.individual)
        random.seed(0)
        population, _ = algorithms.eaSimple(toolbox.population(n=4), toolbox, 0.5, 0.5, 2, verbose=False)
        assert {type(one) for one in population} == {creator.LoopIndividual}
    finally:
        del creator.LoopMin, creator.LoopIndividual


def test_nevals_counts_what_deap_asked_for_and_trained_what_was_trained() -> None:
    toolbox = made()
    one = toolbox.individual()
    _, log = algorithms.eaSimple([toolbox.clone(one) for _ in range(5)], toolbox, 0.0, 0.0, 1, verbose=False)
    assert [row["nevals"] for row in log] == [5, 0]
    assert toolbox.map.trained == 1


# ---- ours ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [{}, {"mu": 4, "lambda_": 6}, {"mu": 4, "lambda_": 6, "comma": True}])
def test_states_tell_what_stands_after_each_generation(sizes: dict[str, Any]) -> None:
    toolbox = made()
    hall, stats = tools.HallOfFame(2), ep.statistics()
    random.seed(2)
    states = list(ep.generations(toolbox.population(n=6), toolbox, 0.3, 0.5, 3, halloffame=hall, stats=stats, **sizes))
    assert [state.generation for state in states] == [0, 1, 2, 3]
    assert all(len(state.population) == (sizes.get("mu", 6) if state.generation else 6) for state in states)
    last = states[-1]
    assert last.halloffame is hall
    assert last.best is hall[0]
    assert last.nevals == sum(row["nevals"] + row["again"] for row in last.logbook) >= toolbox.map.trained
    frame = last.frame()
    assert list(frame["mask"]) == [one.mask.hash for one in last.population]
    assert set(frame["generation"]) == {3}
    assert list(last.statistics()["gen"]) == [0, 1, 2, 3]
    assert last.statistics()["min"].notna().all()


def test_the_caller_stops_when_it_likes() -> None:
    toolbox = made()
    states = list(itertools.islice(ep.generations(toolbox.population(n=4), toolbox, 0.2, 0.5), 3))
    assert [state.generation for state in states] == [0, 1, 2]


def test_elites_are_evaluated_again_on_other_seeds() -> None:
    toolbox = made()
    state = search(toolbox, ngen=6, mu=4, lambda_=4, repetitions=3)
    old = [one for one in state.population if len(one.scores) == 3]
    assert old, "nobody stayed for three generations"
    for one in old:
        assert one.fitness.values == (pytest.approx(np.mean(one.scores)),)
        assert len(set(one.scores)) == 3, "the repetitions had one seed"
        by_hand = [made().map.batch([toolbox.clone(one)], number)[0] for number in range(3)]
        assert list(one.scores) == by_hand
    best = state.halloffame[0]
    twins = [one for one in state.population if one.mask == best.mask]
    assert all(one.fitness.values == best.fitness.values for one in twins), "the hall of fame kept a lucky score"
    assert all(len(one.scores) == 1 for one in search(made(), ngen=4, mu=4, lambda_=4, repetitions=1).population)


def test_an_elite_that_is_crossed_with_its_twin_keeps_its_mean_and_is_evaluated_again() -> None:
    for seed in range(3):
        toolbox = made(seed=seed)
        random.seed(seed)
        for state in ep.generations(toolbox.population(n=5), toolbox, 0.5, 0.0, 7, repetitions=3):
            for one in state.population:
                assert one.fitness.values == (pytest.approx(np.mean(one.scores)),)
        assert len({one.mask for one in state.population}) == 1, "crossing alone has converged"
        assert len(state.best.scores) == 3


def test_a_repetition_that_fails_takes_every_copy_out(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Trainer.train

    def train(self: Trainer, jobs: Sequence[Job]) -> list[Finished]:
        finished = first(self, jobs)
        for one in finished if jobs[0].key.repetition else ():
            one.record = replace(one.record, failed=True, values=dict.fromkeys(one.record.values))
        return finished

    monkeypatch.setattr(Trainer, "train", train)
    random.seed(0)
    toolbox = made()
    *_, state = ep.generations(toolbox.population(n=4), toolbox, 0.0, 0.7, 1, mu=12, lambda_=8, stats=ep.statistics())
    old = [one for one in state.population if len(one.scores) == 2]
    assert any(one in state.offspring for one in old), "no child was a clone of its parent"
    assert all(one.failed and one.fitness.values == (np.inf,) for one in old)
    assert not state.best.failed
    assert np.isfinite(state.logbook[-1]["max"]), "statistics are of those that have not failed"


def test_repetitions_of_an_heir_start_from_the_same_weights(tmp_path: Path) -> None:
    found = [
        [one.scores for one in search(made(inherit="weights", journal=journal), ngen=5, mu=3, lambda_=3).population]
        for journal in (None, tmp_path / "run.jsonl", tmp_path / "run.jsonl")
    ]
    assert found[0] == found[1] == found[2]
    assert any(len(scores) > 1 for scores in found[0])


def test_lost_weights_are_trained_again_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    expected, lines = search(made(inherit="weights", journal=path)).frame(), path.read_bytes()
    stored = sorted((tmp_path / "run.jsonl.weights").rglob("*.safetensors"))
    stored[0].unlink()
    toolbox = made(inherit="weights", journal=path)
    assert search(toolbox).frame().equals(expected)
    assert toolbox.map.trained == 1
    assert path.read_bytes() == lines
    stored[1].write_bytes(stored[1].read_bytes()[:-9])
    with pytest.raises(DamagedFile, match="it is trained again"):
        search(made(inherit="weights", journal=path))


def test_chapters_of_statistics_become_columns() -> None:
    stats = tools.MultiStatistics(fit=ep.statistics(), size=tools.Statistics(len))
    stats.register("mean", np.mean)
    frame = search(made(), stats=stats).statistics()
    assert {"gen", "nevals", "fit.mean", "size.mean"} <= set(frame.columns)
    assert frame["size.mean"].iloc[-1] == mlp().space.budget(0.8)


def test_same_seed_same_search_and_private_streams_need_no_global_seed() -> None:
    assert search(made()).frame().equals(search(made()).frame())
    first, second = (made(seed=7).population(n=3) for _ in range(2))
    assert [one.mask for one in first] == [one.mask for one in second]
    with global_state(1):
        toolbox = made(seed=7)
        toolbox.mutate(toolbox.population(n=1)[0])


def test_failed_individuals_are_left_out_of_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    toolbox = made()
    individuals = toolbox.population(n=4)
    list(toolbox.map(toolbox.evaluate, individuals))
    for one, value in zip(individuals, (1.0, 2.0, float("inf"), 3.0), strict=True):
        one.fitness.values = (value,)
    individuals[2].failed = True
    found = ep.statistics().compile(individuals)
    assert found["max"] == 3.0
    assert found["mean"] == 2.0
    assert np.isnan(ep.statistics().compile(individuals[2:3])["min"])


def test_wrong_arguments_are_refused() -> None:
    toolbox = made()
    population = toolbox.population(n=2)
    for said, options in {
        "cxpb=0.8": {"cxpb": 0.8, "mutpb": 0.5, "lambda_": 2},
        "ngen=-1": {"ngen": -1},
        "need lambda_": {"comma": True},
        "mu=5 cannot be selected": {"mu": 5, "lambda_": 3, "comma": True},
        "repetitions=0": {"repetitions": 0},
    }.items():
        with pytest.raises(InputError, match=said):
            next(ep.generations(population, toolbox, **{"cxpb": 0.1, "mutpb": 0.1, "ngen": 1, **options}))


# ---- inheritance and guidance ----------------------------------------------------------------------------------------------


def test_children_start_from_their_parents_weights() -> None:
    toolbox = made(inherit="weights", epochs=2)
    (parent,) = toolbox.population(n=1)
    parent.fitness.values = toolbox.evaluate(parent)
    child = toolbox.clone(parent)
    del child.fitness.values
    ((second),) = toolbox.map(toolbox.evaluate, [child])
    assert child.inherited == parent.evaluation != child.evaluation
    trained = toolbox.map.store.get(parent.evaluation)
    weights = dict(mlp().initial_weights())
    for layer, name in enumerate(mlp().space.names):
        flat = weights[name].reshape(-1)
        flat[torch.from_numpy(parent.mask.survivors[layer].copy())] = torch.from_numpy(trained.values[name].copy())
    weights |= {name: torch.from_numpy(value.copy()) for name, value in trained.others.items()}
    by_hand = ep.Population(mlp(), [parent], horizon=2, weights=[weights], batch_size=24, engine="dense").train(2)
    assert by_hand.trace.last("val_loss")[0] == second[0]


def test_new_survivors_of_a_child_start_from_the_initial_weights() -> None:
    from evoprune.evolution.store import Start

    toolbox = made(inherit="weights")
    (parent,) = toolbox.population(n=1)
    parent.fitness.values = toolbox.evaluate(parent)
    child = toolbox.mutate(toolbox.clone(parent))[0]
    initial, trained = mlp().initial_weights(), toolbox.map.store.get(parent.evaluation)
    start = Start(child.mask, initial, trained, rescale=False)
    for layer, name in enumerate(mlp().space.names):
        mine, theirs = set(child.mask.survivors[layer].tolist()), set(parent.mask.survivors[layer].tolist())
        new = sorted(mine - theirs)
        assert (start[name].reshape(-1)[new] == initial[name].reshape(-1)[new]).all()
        kept = sorted(mine & theirs)
        values = dict(zip(parent.mask.survivors[layer].tolist(), trained.values[name].tolist(), strict=True))
        assert start[name].reshape(-1)[kept].tolist() == [values[index] for index in kept]


def test_with_comma_the_next_population_comes_from_the_children_alone() -> None:
    toolbox = made()
    random.seed(2)
    states = ep.generations(toolbox.population(n=4), toolbox, 0.0, 1.0, 4, mu=4, lambda_=4, comma=True, repetitions=1)
    for state in states:
        children = {id(one) for one in state.offspring}
        assert all(id(one) in children for one in state.population)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nobody_is_famous_while_everybody_failed() -> None:
    toolbox = made(lr=1e18, epochs=3, seed=0)
    [state] = ep.generations(toolbox.population(n=3), toolbox, 0.0, 0.5, 0)
    assert all(one.failed for one in state.population)
    assert state.best is None


def test_a_child_of_a_failed_parent_counts_once_it_has_a_value_of_its_own() -> None:
    """A penalty answers in place of the map, which would have taken the parent's mark away."""
    toolbox = made(lr=1e18, epochs=3, seed=0)
    parents = toolbox.population(n=4)
    list(toolbox.map(toolbox.evaluate, parents))
    children = [toolbox.mutate(toolbox.clone(one))[0] for one in parents]
    assert all(one.failed for one in children)
    toolbox.decorate("evaluate", tools.DeltaPenalty(lambda one: False, 5.0))
    [state] = ep.generations(children, toolbox, 0.0, 0.5, 0, stats=ep.statistics())
    assert state.best.fitness.values == (5.0,)
    assert state.statistics()["max"].tolist() == [5.0]
    assert not state.frame()["failed"].any()
    assert len(front(state.population, ["loss"]))
    model = UMDA(mlp().space, mu=2, sparsity=0.8)
    model.update([*parents, *state.population[:2]])
    assert model.parents == [one.mask.hash for one in state.population[:2]]
