"""Tournaments: exact cost, nobody trained twice, a winner that is the best of those that were looked at, and honest pilots."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import evoprune as ep
from evoprune import seeds
from evoprune.errors import InputError, TrainingFailed
from evoprune.evolution.assess import assess, initial_population
from evoprune.evolution.pilot import intraclass, pilot
from evoprune.evolution.tournament import default_rungs, tournament
from evoprune.training.population import Population
from tests.tiny import mlp

OPTIONS: dict[str, Any] = {"batch_size": 24, "engine": "dense"}
halving = ep.methods["halving"]


def raced(k: int = 8, rungs: tuple[int, ...] = (1, 2, 4), criterion: Any = "loss", **options: Any) -> Any:
    individuals = initial_population(mlp().space, k, sparsity=0.8, seed=1)
    generation = ep.Population(mlp(), individuals, horizon=6, **OPTIONS)
    winner = tournament(generation, individuals, rungs, criterion, **options)
    return winner, individuals, generation


def test_each_rung_keeps_the_fittest_share() -> None:
    winner, individuals, generation = raced()
    reached = sorted(one.fitness.values[0] for one in individuals)
    assert reached == [1] * 4 + [2] * 2 + [4] * 2
    assert winner is max(individuals, key=lambda one: one.fitness)
    assert len(generation) == 1
    full = ep.Population(mlp(), [one.mask for one in individuals], horizon=6, **OPTIONS).train(1)
    early = full.trace.last("val_loss")
    stayed = {place for place, one in enumerate(individuals) if one.fitness.values[0] > 1}
    assert stayed == set(np.argsort(early, kind="stable")[:4].tolist())


def test_winner_trains_on_as_if_it_had_trained_alone_and_no_step_is_repeated() -> None:
    winner, _, generation = raced()
    generation.train(2)
    alone = ep.Population(mlp(), [winner], horizon=6, **OPTIONS).train(6)
    assert generation.trace.last("val_loss")[0] == alone.trace.last("val_loss")[0]
    steps = 8 * 1 + 4 * 1 + 2 * 2 + 1 * 2
    assert generation.ledger.samples == steps * alone.ledger.samples // 6


def test_criterion_can_change_from_rung_to_rung() -> None:
    _, individuals, generation = raced(criterion=("grad", "loss"))
    frame = generation.trace.frame().set_index(["individual", "epoch"])
    grads = frame.xs(1, level="epoch")["grad"]
    stayed = {place for place, one in enumerate(individuals) if one.fitness.values[0] > 1}
    assert stayed == set(grads.sort_values(ascending=False).index[:4])


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("increasing whole numbers", {"rungs": (2, 2)}),
        ("increasing whole numbers", {"rungs": (0, 2)}),
        ("increasing whole numbers", {"rungs": ()}),
        ("increasing whole numbers", {"rungs": (1.5,)}),
        ("in a sequence", {"rungs": 2}),
        ("in a sequence", {"rungs": "24"}),
        ("leaves no epoch", {"rungs": (2, 6)}),
        ("too many for 4 networks", {"rungs": (1, 2, 3, 4), "k": 4}),
        ("eta=1", {"eta": 1}),
        ("3 criteria for 2 rungs", {"rungs": (1, 2), "criterion": ("loss", "grad", "loss")}),
        ("unknown criterion", {"criterion": "los"}),
        ("finalists=0", {"finalists": 0}),
        ("judges=-1", {"judges": -1}),
    ],
)
def test_impossible_rungs_are_refused_before_training(said: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=said):
        halving(mlp(), sparsity=0.8, epochs=6, **{"k": 8, **options})


def test_default_rungs_leave_room_for_epochs_and_networks() -> None:
    assert default_rungs(10, 32) == (2, 4, 8)
    assert default_rungs(10, 4) == (2, 4)
    assert default_rungs(2, 8) == (1,)
    assert default_rungs(40, 64, eta=4) == (2, 8, 32)


def test_halving_costs_what_its_rungs_cost_and_judges_on_fresh_seeds() -> None:
    plain = halving(mlp(), sparsity=0.8, k=8, epochs=6, rungs=(1, 2), finalists=2, **OPTIONS)
    per_epoch = ep.Population(mlp(), [plain.mask], horizon=1, **OPTIONS).train(1).ledger.samples
    assert plain.ledger.samples == per_epoch * (8 + 4 + 2 * 4)
    judged = halving(mlp(), sparsity=0.8, k=8, epochs=6, rungs=(1, 2), finalists=2, judges=2, **OPTIONS)
    assert judged.ledger.samples == plain.ledger.samples + per_epoch * 2 * 2 * 6
    rows = judged.provenance["finalists"]
    assert len(rows) == 2
    assert all(len(set(row["fresh_losses"])) == 2 and row["selecting_loss"] not in row["fresh_losses"] for row in rows)
    best = min(rows, key=lambda row: np.mean(row["fresh_losses"]))
    assert judged.mask.hash == best["mask"]


def test_rungs_of_kstarts_and_evolve() -> None:
    ticket = ep.kstarts(mlp(), sparsity=0.8, k=8, rungs=(1, 2), epochs=4, criterion="loss", **OPTIONS)
    per_epoch = ep.Population(mlp(), [ticket.mask], horizon=1, **OPTIONS).train(1).ledger.samples
    assert ticket.ledger.samples == per_epoch * (8 + 4 + 2)
    sizes = {"mu": 4, "lambda_": 6, "ngen": 2, "epochs": 3, "fitness_epochs": 2}
    ticket = ep.evolve(mlp(), sparsity=0.8, rungs=(1, 2), criterion=("grad", "loss"), **sizes, **OPTIONS)
    assert ticket.ledger.samples == per_epoch * ((4 + 2) + 2 * (6 + 3) + 3)


def test_finalists_that_turn_nan_leave_the_others_their_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    through = ep.Population.train

    def train(self: ep.Population, epochs: int, **options: Any) -> ep.Population:
        through(self, epochs, **options)
        if self.epoch > 1:
            self.trace.failed[:] = True
            raise TrainingFailed("all 2 networks turned NaN")
        return self

    monkeypatch.setattr(ep.Population, "train", train)
    toolbox = ep.make_toolbox(mlp(), sparsity=0.8, epochs=2, rungs=(1, 2), **OPTIONS)
    population = toolbox.population(n=4)
    fitness = list(toolbox.map(toolbox.evaluate, population))
    assert sorted(rung for rung, _ in fitness) == [-np.inf, -np.inf, 1, 1]
    assert [one.failed for one in population] == [rung == -np.inf for rung, _ in fitness]
    monkeypatch.undo()
    whole = ep.Population(mlp(), [population[0].mask], horizon=2, **OPTIONS).train(1)
    assert toolbox.map.ledger.samples == (4 + 2) * whole.ledger.samples
    with pytest.raises(TrainingFailed):
        ep.methods["halving"](mlp(), sparsity=0.8, k=4, epochs=3, rungs=(1, 2), finalists=2, lr=1e30, **OPTIONS)


def test_judges_do_not_choose_a_network_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, list[bool]] = {}

    def spoiled(individuals: Any, trace: Any, criterion: str) -> None:
        assess(individuals, trace, criterion)
        individuals[0].failed, individuals[0].fitness.values = True, (np.inf,)
        trace.failed[0] = True
        said["failed"] = [one.failed for one in individuals]

    monkeypatch.setattr("evoprune.methods.halving.assess", spoiled)
    options: dict[str, Any] = {"k": 4, "epochs": 4, "rungs": (1,), "finalists": 2, "judges": 2, **OPTIONS}
    for seed in range(3):  # whichever the judges prefer
        ticket = halving(mlp(), sparsity=0.8, seed=seed, **options)
        assert said["failed"] == [True, False]
        assert ticket.mask.hash == ticket.provenance["finalists"][1]["mask"]


def test_tournament_fitness_is_journaled_with_its_cohort(tmp_path: Any) -> None:
    def run(path: Any) -> Any:
        toolbox = ep.make_toolbox(mlp(), sparsity=0.8, epochs=2, rungs=(1, 2), journal=path, **OPTIONS)
        random.seed(0)
        states = ep.generations(toolbox.population(n=6), toolbox, 0.3, 0.7, 2, mu=4, lambda_=6, comma=True)
        return [[(one.mask.hash, one.fitness.values) for one in state.population] for state in states], toolbox.map

    found, first = run(tmp_path / "run.jsonl")
    again, second = run(tmp_path / "run.jsonl")
    assert again == found
    assert second.trained == 0 < first.trained
    assert second.ledger == first.ledger
    frame = ep.read_journal(tmp_path / "run.jsonl")
    assert frame["cohort"].nunique() == 3
    assert set(frame["rung"]) == {1, 2}
    toolbox = ep.make_toolbox(mlp(), sparsity=0.8, epochs=2, rungs=(1, 2))
    with pytest.raises(InputError, match="within one generation only"):
        next(ep.generations(toolbox.population(n=4), toolbox, 0.3, 0.7, 2, mu=4, lambda_=6))


def test_intraclass_correlation_matches_its_definition() -> None:
    rng = np.random.default_rng(0)
    masks, noise = rng.normal(size=(4000, 1)), rng.normal(size=(4000, 3))
    icc, p = intraclass(2 * masks + noise)
    assert icc == pytest.approx(0.8, abs=0.02)
    assert p < 1e-9
    icc, p = intraclass(noise)
    assert abs(icc) < 0.03
    assert p > 0.01


def test_pilot_says_when_the_choice_is_noise() -> None:
    found = pilot(mlp(), sparsity=0.8, k=6, runs=2, epochs=3, **OPTIONS)
    assert set(found.correlations["criterion"]) == {"grad", "loss"}
    assert found.correlations["same"].between(-1, 1).all()
    final = found.correlations[(found.correlations["criterion"] == "loss") & (found.correlations["epoch"] == 3)]
    assert final["same"].item() == pytest.approx(1)
    assert len(found.frame) == 6 * 2 * 3
    noise = replace(found, icc=0.1, p=0.4)
    assert noise.verdict.startswith("the choice is noise")
    assert "due to the mask" in found.verdict
    for low in ({"icc": 0.3, "spread": 0.4}, {"icc": 0.9, "spread": 0.02}):
        assert replace(found, p=0.001, **low).verdict.startswith("the signal is low")
    assert replace(found, p=0.001, icc=0.9, spread=0.4).verdict.startswith("the masks differ")
    with pytest.raises(InputError, match="runs=1"):
        pilot(mlp(), runs=1)


def test_a_pilot_leaves_out_masks_that_turn_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Population.train

    def train(self: Population, epochs: int, **options: Any) -> Population:
        if self.seed == seeds.derive(0, "pilot", 1) and not self.epoch:
            self.parameters.leaves()[self.problem.space.names[0]].data[: self.masks[0].counts[0]] = torch.nan
        return first(self, epochs, **options)

    monkeypatch.setattr(Population, "train", train)
    found = pilot(mlp(), sparsity=0.8, k=5, runs=2, epochs=2, **OPTIONS)
    assert found.lost == (0,)
    assert "(1 that turned NaN are left out)" in found.verdict
    assert np.isfinite([found.icc, found.p, found.spread, *found.correlations["other"]]).all()
    with pytest.raises(TrainingFailed, match="1 of 3 masks turned NaN, and fewer than 3 are left"):
        pilot(mlp(), sparsity=0.8, k=3, runs=2, epochs=2, **OPTIONS)
    with pytest.raises(InputError, match="own_weights"):
        pilot(mlp(), sparsity=0.8, own_weights=True)


def test_a_pilot_is_what_it_says() -> None:
    found = pilot(mlp(), sparsity=0.8, k=6, runs=3, epochs=2, **OPTIONS)
    last, first = found.frame.query("epoch == 2"), found.frame.query("epoch == 1")
    final = last.pivot(index="individual", columns="seed", values="val_loss").to_numpy()
    early = -first.pivot(index="individual", columns="seed", values="loss").to_numpy()
    assert len({column.tobytes() for column in final.T.copy()}) == 3, "each run has batches of its own"
    others = [stats.spearmanr(early[:, run], np.delete(final, run, axis=1).mean(1)).statistic for run in range(3)]
    row = found.correlations.query("criterion == 'loss' and epoch == 1").iloc[0]
    assert row["other"] == pytest.approx(np.mean(others))
    assert (found.icc, found.p) == intraclass(final)
    assert found.spread == pytest.approx(math.sqrt(max(0.0, found.icc) * final.var(ddof=1)) / final.mean())


def test_the_first_rung_of_halving_ranks_by_the_gradient() -> None:
    ticket = ep.methods["halving"](mlp(), sparsity=0.8, k=8, epochs=6, rungs=(1, 2), **OPTIONS)
    frame = ticket.trace
    grads = frame[frame["epoch"] == 1].set_index("individual")["grad"]
    assert set(frame[frame["epoch"] == 2]["individual"]) == set(grads.sort_values(ascending=False).index[:4])
