"""The evolved ticket is the best that was evaluated, trained afresh, within its budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evoprune.errors import InputError
from evoprune.evolution.journal import read_journal
from evoprune.evolution.toolbox import make_toolbox
from evoprune.masks.sampling import random_mask
from evoprune.methods import METHODS
from evoprune.methods.scorers import Scorer
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from tests.tiny import mlp

OPTIONS: dict[str, Any] = {
    "form": "plain", "sparsity": 0.7, "epochs": 3, "fitness_epochs": 1, "mu": 4, "lambda_": 4, "ngen": 3, "batch_size": 18,
}  # fmt: skip


def evolve(**options: Any) -> Ticket:
    return METHODS["evolve"](mlp(), **{**OPTIONS, **options})


def fitness(ticket: Ticket) -> float:
    toolbox = make_toolbox(mlp(), sparsity=0.7, epochs=1, criterion="loss", seed=0, batch_size=18)
    return toolbox.evaluate(toolbox.from_mask(ticket.mask))[0]


def test_the_winner_is_trained_afresh_for_all_epochs() -> None:
    ticket = evolve()
    again = Population(mlp(), [ticket.mask], horizon=3, batch_size=18).train(3)
    for name, value in again.parameters.row(0).items():
        assert torch.equal(ticket.weights[name], value)
    assert ticket.history["epoch"].tolist() == [1, 2, 3]


def test_more_generations_never_lose_the_best() -> None:
    values = [fitness(evolve(ngen=ngen)) for ngen in (0, 2, 6)]
    assert values[0] >= values[1] >= values[2]
    assert values[0] > values[2]


def test_the_guided_form_goes_on_from_weights_and_trains_the_winner_afresh(tmp_path: Any) -> None:
    ticket = METHODS["evolve"](mlp(), sparsity=0.7, epochs=3, ngen=3, batch_size=18, journal=tmp_path / "run.jsonl")
    frame = read_journal(tmp_path / "run.jsonl")
    assert len(frame) == 1 + 3 * 4
    assert frame["inherits"].notna().sum() == 3 * 4
    assert ticket.provenance["search"]["lineage"]["operator"] in ("mutGuided", "initSparse")
    again = Population(mlp(), [ticket.mask], horizon=3, batch_size=18).train(3)
    assert all(torch.equal(ticket.weights[name], value) for name, value in again.parameters.row(0).items())


def test_a_range_of_sparsities_is_searched(tmp_path: Any) -> None:
    options: dict[str, Any] = {"epochs": 1, "fitness_epochs": 1, "mu": 4, "lambda_": 4, "ngen": 2, "batch_size": 18}
    METHODS["evolve"](mlp(), sparsity=(0.5, 0.9), journal=tmp_path / "run.jsonl", **options)
    survivors = set(read_journal(tmp_path / "run.jsonl")["survivors"])
    assert {mlp().space.budget(0.5), mlp().space.budget(0.9)} <= survivors
    assert len(survivors) > 4, "children have other sizes than the first masks"


def test_scorers_in_the_first_population_are_reported_and_paid_for() -> None:
    ticket = evolve(ngen=0, first=("random", "snip"))
    assert ticket.provenance["first"] == {"initSparse": 2, "snip": 2}
    assert ticket.ledger.samples > evolve(ngen=0).ledger.samples


def test_the_ledger_counts_the_search_and_the_winner() -> None:
    ticket = evolve(ngen=0)
    assert ticket.ledger.samples == 72 * 4 + 72 * 3
    assert evolve(ngen=2).ledger.samples > ticket.ledger.samples


@pytest.mark.parametrize("budget", [1, 72 * 4, 72 * 8, 72 * 9, 72 * 1000])
def test_the_search_ends_before_the_generation_that_would_exceed_the_budget(budget: int) -> None:
    ticket = evolve(budget=budget, ngen=4)
    searched = ticket.ledger.samples - 72 * 3
    assert searched <= max(budget, 72 * 4)  # the first generation is always trained
    if budget < 72 * 8:
        assert searched == 72 * 4
    if budget >= 72 * 8:
        assert searched > 72 * 4, "a generation more fits"
    if budget > 72 * 100:
        assert searched == evolve(ngen=4).ledger.samples - 72 * 3


def test_the_repetitions_of_elites_are_within_the_budget() -> None:
    counts, whole = [], evolve(repetitions=3, ngen=4, cxpb=0.0, mutpb=1.0)
    for evaluations in range(4, 26):
        ticket = evolve(repetitions=3, ngen=4, cxpb=0.0, mutpb=1.0, budget=72 * evaluations)
        searched = ticket.ledger.samples - 72 * 3
        assert searched <= 72 * evaluations
        counts.append((ticket.provenance["search"]["generations"], searched))
    assert counts == sorted(counts)
    assert counts[0] == (0, 72 * 4)
    assert counts[-1][0] > 1
    assert whole.ledger.samples - 72 * 3 > 72 * 4 * 5, "elites were evaluated again"


def test_without_variation_nothing_new_is_found() -> None:
    assert evolve(cxpb=0.0, mutpb=0.0).mask == evolve(ngen=0).mask


def test_the_first_population_follows_the_seed() -> None:
    hashes = {evolve(ngen=0, seed=seed).mask.hash for seed in range(4)}
    assert len(hashes) == 4
    assert random_mask(mlp().space, sparsity=0.7).count == evolve(ngen=0).mask.count


@pytest.mark.parametrize(
    "wrong",
    [
        {"mu": 0}, {"lambda_": 0}, {"ngen": -1}, {"mu": 2.5}, {"fitness_epochs": 0}, {"cxpb": 0.7, "mutpb": 0.7}, {"cxpb": -0.1},
        {"mu": 1}, {"criterion": "both"}, {"form": "planned"}, {"first": ()}, {"first": ("snop",)}, {"first": "snip"},
        {"first": ("random", "snip", "synflow", "grasp", "magnitude")},
        {"form": "guided", "mu": 1, "cxpb": 0, "first": ("random", "snip")},
        {"mu": 6, "comma": True}, {"repetitions": 0}, {"budget": 0}, {"inherit": "genes"}, {"rungs": (2, 1)}, {"rungs": 2},
        {"rungs": (1,), "comma": False}, {"budget": "100"}, {"cxpb": "0"}, {"comma": "yes"},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        evolve(**wrong)
    assert "\n" not in str(caught.value)


def test_scorers_of_the_first_population_score_where_and_as_precisely_as_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, select = [], Scorer.select

    def spy(scorer: Scorer, problem: Problem, **options: Any) -> Any:
        asked.append((options.get("device"), options.get("dtype")))
        return select(scorer, problem, **options)

    monkeypatch.setattr(Scorer, "select", spy)
    evolve(ngen=0, first=("snip",), device="cpu", dtype="float64")
    assert set(asked) == {("cpu", "float64")}
