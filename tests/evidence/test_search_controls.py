"""A search is repeated without selection, without a search, without anything to learn; and the check says what that means."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

import evoprune as ep
from evoprune import seeds
from evoprune.errors import InputError
from evoprune.evidence.check import check
from evoprune.evidence.controls import reference_counts
from evoprune.evidence.search_controls import SEARCH_CONTROLS, rivals_at_equal_cost, search_controls_of
from evoprune.masks.sampling import random_masks, random_of_counts
from evoprune.training.ticket import Ticket
from tests.tiny import global_state, mlp, table

SEARCHES = {
    "kstarts": {"k": 4, "selection_epochs": 1},
    "evolve": {"form": "plain", "mu": 3, "lambda_": 3, "ngen": 1, "fitness_epochs": 1},
    "halving": {"k": 4, "rungs": (1,), "finalists": 1},
}


def found_by(method: str, **options: object) -> Ticket:
    given = {"sparsity": 0.7, "epochs": 3, "engine": "loop", "batch_size": 18, "seed": 1}
    return ep.methods[method](mlp("mlp:40-20"), **{**given, **SEARCHES.get(method, {}), **options})


@pytest.mark.parametrize("method", SEARCHES)
@pytest.mark.parametrize("name", SEARCH_CONTROLS)
def test_a_control_searches_again_purely_and_by_its_seed(name: str, method: str) -> None:
    ticket = found_by(method)
    before = copy.deepcopy(ticket.weights), ticket.mask.hash
    with global_state(5):
        first, again, other = (SEARCH_CONTROLS[name](ticket, seed) for seed in (0, 0, 1))
    assert first.mask == again.mask
    assert first.mask != other.mask
    assert first.mask != ticket.mask
    assert first.mask.count == ticket.mask.count
    assert ticket.mask.hash == before[1]
    assert all(torch.equal(value, before[0][key]) for key, value in ticket.weights.items())
    kept = first.mask.dense()
    start = ticket.problem.initial_weights()
    assert all(torch.equal(first.weights[key], start[key] * kept[key]) for key in kept), "the ticket's own initial weights"


@pytest.mark.parametrize("seed", range(3))
def test_nothing_but_the_lot_selects_the_finalist_either(seed: int) -> None:
    ticket = found_by("halving", finalists=4)
    masks = random_masks(ticket.mask.space, 4, sparsity=0.7, seed=seeds.derive(seed, "search"))
    lots = [seeds.generator(int(mask.hash[:15], 16), "random criterion").random() for mask in masks]
    assert SEARCH_CONTROLS["random_selection"](ticket, seed).mask == masks[int(np.argmax(lots))]


def test_of_several_objectives_those_that_training_tells_become_a_lot() -> None:
    several = {"mu": 4, "lambda_": 4, "ngen": 1, "fitness_epochs": 1, "objectives": ("loss", "accuracy", "macs")}
    ticket = found_by("evolve", **several)
    for seed in range(3):
        chosen = found_by("evolve", **{**several, "objectives": ("random", "macs"), "seed": seeds.derive(seed, "search")})
        assert SEARCH_CONTROLS["random_selection"](ticket, seed).mask == chosen.mask


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("evolve", {"sparsity": (0.6, 0.8), "objectives": ("loss", "survivors"), "mu": 4, "lambda_": 4}),
        ("dissipating", {"sparsity": None, "rule": "fraction", "delta": 0.2}),
    ],
)
def test_a_search_that_finds_its_own_size_has_no_control_of_the_same_size(method: str, options: dict[str, object]) -> None:
    ticket = found_by(method, **options)
    assert search_controls_of(ticket) == ["best_of_k"]
    with pytest.raises(InputError, match="another size"):
        SEARCH_CONTROLS["shuffled_labels"](ticket, 0)


def test_a_search_is_repeated_with_the_sequences_it_was_given(tmp_path: Path) -> None:
    ticket = found_by("halving", rungs=(1, 2), criterion=("grad", "loss"))
    told = ticket.provenance["options"]
    assert (told["rungs"], told["criterion"]) == ([1, 2], ["grad", "loss"]), "as the file gives them back"
    loaded = Ticket.load(ticket.save(tmp_path / "ticket.safetensors"), problem=ticket.problem)
    assert loaded.provenance == ticket.provenance
    first, again = (SEARCH_CONTROLS["shuffled_labels"](one, 0) for one in (ticket, loaded))
    assert first.mask == again.mask


def test_k_is_what_the_search_could_have_paid_for() -> None:
    assert rivals_at_equal_cost(found_by("kstarts")) == (4, 1)
    assert rivals_at_equal_cost(found_by("kstarts", k=9, selection_epochs=2, epochs=4)) == (9, 2)
    assert rivals_at_equal_cost(found_by("random", epochs=4)) == (1, 2)
    k, epochs = rivals_at_equal_cost(found_by("evolve"))
    assert epochs == 1
    assert 5 <= k <= 7, "three and at most three more, some of them the same"
    short = {"form": None, "fitness_epochs": None, "ngen": 1, "mu": None, "lambda_": 2}
    assert rivals_at_equal_cost(found_by("evolve", **short))[1] == 1, "what the form says, where nobody asks"


def test_the_best_of_k_is_random_but_chosen() -> None:
    ticket = found_by("kstarts")
    assert SEARCH_CONTROLS["best_of_k"](ticket, 3).mask.counts == reference_counts(ticket)


def test_shuffled_labels_keep_the_counts_of_each_class_and_the_test_split() -> None:
    problem = mlp("mlp:40-20")
    shuffled = problem.with_shuffled_labels(4)
    for name in ("train", "validation"):
        old, new = problem.split(name).targets, shuffled.split(name).targets
        assert sorted(old.tolist()) == sorted(new.tolist())
        assert torch.equal(problem.split(name).inputs, shuffled.split(name).inputs)
    assert not torch.equal(problem.split("train").targets, shuffled.split("train").targets)
    assert torch.equal(problem._data.test.targets, shuffled._data.test.targets)
    assert problem.fingerprint != shuffled.fingerprint != problem.with_shuffled_labels(5).fingerprint


def test_what_does_not_apply_is_refused_or_left_out() -> None:
    assert search_controls_of(found_by("dissipating", sparsity=0.7)) == ["best_of_k", "shuffled_labels"]
    with pytest.raises(InputError, match="selects by no criterion"):
        SEARCH_CONTROLS["random_selection"](found_by("random"), 0)
    pictures = ep.Problem("mlp:8", table(classes=None))
    ticket = ep.kstarts(pictures, sparsity=0.5, epochs=1, k=2, selection_epochs=0, criterion="live_paths", engine="loop")
    assert search_controls_of(ticket) == ["random_selection", "best_of_k"]
    with pytest.raises(InputError, match="no class labels"):
        SEARCH_CONTROLS["shuffled_labels"](ticket, 0)
    ticket.provenance.pop("method")
    with pytest.raises(InputError, match="cannot be repeated"):
        search_controls_of(ticket)


def test_a_check_shows_them_and_says_what_they_mean() -> None:
    told = check(found_by("kstarts"), seeds=2, epochs=1, controls=[], search=True, draws=1)
    assert list(told.table["control"]) == ["fresh_counts", "fresh_random", *SEARCH_CONTROLS]
    for part in ("survivors drawn by lot", "as many random masks as it cost", "on shuffled labels"):
        assert part in told.verdict.because
    assert np.isfinite(told.frame["score"]).all()
    only = check(found_by("kstarts"), seeds=1, epochs=1, controls=["best_of_k"], draws=1)
    assert list(only.table["control"]) == ["fresh_counts", "fresh_random", "best_of_k"]


def test_the_search_on_shuffled_labels_sees_no_others() -> None:
    ticket = found_by("kstarts", criterion="loss")
    asked = {"sparsity": 0.7, "epochs": 3, "engine": "loop", "batch_size": 18, "criterion": "loss", **SEARCHES["kstarts"]}
    for seed in range(4):
        chosen = ep.methods["kstarts"](ticket.problem.with_shuffled_labels(seed), seed=seeds.derive(seed, "search"), **asked)
        assert SEARCH_CONTROLS["shuffled_labels"](ticket, seed).mask == chosen.mask


def test_the_best_of_k_has_the_least_loss() -> None:
    ticket = found_by("kstarts")
    k, epochs = rivals_at_equal_cost(ticket)
    counts, space = reference_counts(ticket), ticket.mask.space
    masks = [random_of_counts(space, counts, seeds.generator(3, "best_of_k", number)) for number in range(k)]
    generation = ep.Population(ticket.problem, masks, horizon=3, seed=seeds.derive(3, "best_of_k"), engine="loop", batch_size=18)
    losses = generation.train(epochs).trace.last("val_loss")
    assert SEARCH_CONTROLS["best_of_k"](ticket, 3).mask == masks[int(np.argmin(losses))]
