"""Rivals that prune while they train: exact counts on the way, what leaves, what enters, and what it costs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import evoprune as ep
from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_mask, random_masks
from evoprune.methods.dissipate_regrow import dissipate, regrow
from evoprune.methods.gradual_magnitude import prune_gradually
from evoprune.methods.imp import prune_and_rewind, rounds
from evoprune.methods.regrow_average import averaged_epochs
from evoprune.methods.rewiring import annealed, magnitudes, rewire, steepest
from evoprune.methods.rigl import rewire_by_gradient
from evoprune.methods.set_ import rewire_at_random
from evoprune.testing import tiny_problem
from tests.methods.test_scorers import SIX

RIVALS: dict[str, dict[str, object]] = {
    "imp": {"rate": 0.9},
    "gradual_magnitude": {},
    "set": {},
    "rigl": {"every": 2},
    "dissipate_regrow": {},
    "regrow_average": {"every": 2},
}
OPTIONS = {"engine": "loop", "batch_size": 9}


@pytest.fixture(scope="module")
def tiny() -> ep.Problem:
    return tiny_problem()


def population(problem: ep.Problem, k: int = 1, *, sparsity: float = 0.8, horizon: int = 4, **options: object) -> ep.Population:
    masks = random_masks(problem.space, k, sparsity=sparsity, seed=1) if sparsity else [Mask.full(problem.space)] * k
    return ep.Population(problem, masks, horizon=horizon, **{**OPTIONS, **options})


def values(generation: ep.Population, row: int = 0) -> dict[str, np.ndarray]:
    return {name: generation.parameters.row(row)[name].numpy().ravel() for name in generation.problem.space.names}


# ---- populations in steps ---------------------------------------------------------------------------------------------


def test_steps_and_epochs_are_the_same_training(tiny: ep.Problem) -> None:
    whole, steps, resumed = (population(tiny, 2) for _ in range(3))
    whole.train(4)
    steps.train_steps(whole.batches.per_epoch + 3)
    resumed.restore(steps.state()).train_steps(whole.steps - steps.steps)
    steps.train_steps(2).train_steps(whole.steps - steps.steps)
    for other in (steps, resumed):
        assert other.trace.frame().equals(whole.trace.frame())
        assert all(torch.equal(leaf, other.parameters.leaves()[name]) for name, leaf in whole.parameters.leaves().items())
        assert other.ledger.survivor_updates == whole.ledger.survivor_updates


def test_an_epoch_is_not_begun_within_another(tiny: ep.Problem) -> None:
    generation = population(tiny).train_steps(1)
    with pytest.raises(InputError, match="train_steps"):
        generation.train(1)
    with pytest.raises(InputError, match="beyond the horizon"):
        generation.train_steps(1000)
    with pytest.raises(InputError, match="whole number"):
        generation.train_steps(1.5)  # type: ignore[arg-type]


# ---- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RIVALS)
def test_counts_are_exact_on_six_models(name: str) -> None:
    for model, data in SIX.items():
        problem = ep.Problem(model, data)
        options = {"engine": "loop", "device": "cpu", "epochs": 2, "batch_size": 20, "lr": 0.001, **RIVALS[name]}
        mask = ep.methods[name](problem, sparsity=0.9, **options).mask
        assert mask.count == problem.space.budget(0.9), model
        if name in ("set", "rigl"):
            assert mask.counts == ep.random_mask(problem.space, sparsity=0.9).counts, model
            assert mask != ep.random_mask(problem.space, sparsity=0.9), model


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("name", ["imp", "gradual_magnitude"])
def test_scopes(name: str, scope: str, tiny: ep.Problem) -> None:
    options = {**OPTIONS, **RIVALS[name], "epochs": 3, "scope": scope, "allocation": "uniform"}
    mask = ep.methods[name](tiny, sparsity=0.8, **options).mask
    uniform = ep.random_mask(tiny.space, sparsity=0.8, allocation="uniform").counts
    assert (mask.counts == uniform) is (scope == "layer")
    assert mask.count == sum(uniform)


def test_rows_do_not_know_of_each_other(tiny: ep.Problem) -> None:
    """Networks that train together end as they would alone, where the rule draws nothing."""
    starts = [tiny.with_seed(seed).initial_weights() for seed in (0, 1)]
    for rule, sparsity in ((rewire_by_gradient, 0.8), (lambda g: prune_gradually(g, 0.8), 0.0)):
        masks = [population(tiny, 2, sparsity=sparsity).masks[row] for row in (0, 1)]
        both = rule(ep.Population(tiny, masks, horizon=3, weights=starts, **OPTIONS))  # type: ignore[operator]
        for row in (0, 1):
            alone = rule(ep.Population(tiny, [masks[row]], horizon=3, weights=[starts[row]], **OPTIONS))  # type: ignore[operator]
            assert alone.masks[0] == both.masks[row]
            assert all(np.allclose(v, values(both, row)[name], atol=1e-6) for name, v in values(alone).items())


def test_a_row_that_turned_nan_does_not_end_the_others(tiny: ep.Problem) -> None:
    broken = {name: value * float("nan") for name, value in tiny.initial_weights().items()}
    for rule, sparsity in ((rewire_by_gradient, 0.8), (rewire_at_random, 0.8), (lambda g: prune_gradually(g, 0.8), 0.0)):
        masks = population(tiny, 2, sparsity=sparsity).masks
        both = ep.Population(tiny, masks, horizon=2, weights=[tiny.initial_weights(), broken], **OPTIONS)
        rule(both)  # type: ignore[operator]
        assert both.trace.failed.tolist() == [False, True]
        assert [mask.count for mask in both.masks] == [tiny.space.budget(0.8)] * 2


# ---- set and rigl -----------------------------------------------------------------------------------------------------


def one_rewiring(generation: ep.Population, rule: object, **options: object) -> tuple[Mask, dict[str, np.ndarray], Mask]:
    """Mask and values just before the first change of the mask, and the mask just after it."""
    seen: list[tuple[Mask, dict[str, np.ndarray], Mask]] = []
    grow = generation.grow

    def spy(masks: list[Mask]) -> ep.Population:
        seen.append((generation.masks[0], values(generation), masks[0]))
        return grow(masks)

    generation.grow = spy  # type: ignore[method-assign, assignment]
    rule(generation, **options)  # type: ignore[operator]
    return seen[0]


@pytest.mark.parametrize("rule", [rewire_at_random, rewire_by_gradient])
def test_the_smallest_leave_and_as_many_enter(rule: object, tiny: ep.Problem) -> None:
    options = {"every": 4} if rule is rewire_by_gradient else {}
    generation = population(tiny, horizon=3)
    before, weights, after = one_rewiring(generation, rule, **options)
    end = int(0.75 * 3 * generation.batches.per_epoch)
    share = 0.15 * (1 + math.cos(math.pi * 4 / end)) if options else 0.3
    for name, old, new in zip(before.space.names, before.survivors, after.survivors, strict=True):
        size = np.abs(weights[name])
        gone, kept, come = np.setdiff1d(old, new), np.intersect1d(old, new), np.setdiff1d(new, old)
        expected = min(int(share * len(old)), len(weights[name]) - len(old))
        assert len(gone) == len(come) <= expected
        assert len(gone) == expected or options  # a weight that leaves may have the largest gradient and come back
        assert not len(gone) or size[gone].max() <= size[kept].min() or options
        assert generation.masks[0].counts == before.counts


def test_rigl_grows_where_the_gradient_is_largest(tiny: ep.Problem) -> None:
    generation = population(tiny, horizon=3)
    gradients: list[dict[str, torch.Tensor]] = []
    ask = generation.dense_gradient
    generation.dense_gradient = lambda: gradients.append(ask()) or gradients[-1]  # type: ignore[method-assign, assignment, func-returns-value]
    before, weights, after = one_rewiring(generation, rewire_by_gradient, every=4)
    for name, old, new in zip(before.space.names, before.survivors, after.survivors, strict=True):
        count = int(0.15 * (1 + math.cos(math.pi * 4 / int(0.75 * generation.steps))) * len(old))
        count = min(count, len(weights[name]) - len(old))
        slope = gradients[0][name][0].abs().flatten().numpy()
        stay = old[np.sort(np.argsort(-np.abs(weights[name][old]), kind="stable")[: len(old) - count])]
        free = np.setdiff1d(np.arange(len(slope)), stay)
        best = free[np.argsort(-slope[free], kind="stable")[:count]]
        assert (new == np.union1d(stay, best)).all()


def test_new_weights_start_at_zero_without_momentum(tiny: ep.Problem) -> None:
    generation = population(tiny).train(1)
    free = [
        np.setdiff1d(np.arange(size), own)[:1] for size, own in zip(tiny.space.sizes, generation.masks[0].survivors, strict=True)
    ]
    generation.grow(
        [Mask(tiny.space, [np.union1d(own, new) for own, new in zip(generation.masks[0].survivors, free, strict=True)])]
    )
    for name, leaf in generation.parameters.survivors.items():
        layer = tiny.space.index[name]
        at = int(np.searchsorted(generation.masks[0].survivors[layer], free[layer][0]))
        assert leaf[at] == 0
        assert generation.optimizer.state[leaf]["momentum_buffer"][at] == 0
        assert (generation.optimizer.state[leaf]["momentum_buffer"] != 0).any()


def test_a_period_counts_steps_not_epochs(tiny: ep.Problem) -> None:
    """Every rival with a period changes its masks after exactly so many steps, and set's default is an epoch."""
    for rule in (rewire_at_random, rewire_by_gradient):
        generation, changed = population(tiny, horizon=3), []
        grow = generation.grow
        generation.grow = lambda masks, g=generation, grow=grow, at=changed: at.append(g.steps) or grow(masks)  # type: ignore[method-assign, misc]
        rule(generation, 5)
        end = generation.steps if rule is rewire_at_random else int(0.75 * generation.steps)
        assert changed == list(range(5, end, 5))
    epoch = population(tiny).batches.per_epoch
    by_default, by_step = rewire_at_random(population(tiny)), rewire_at_random(population(tiny), epoch)
    assert by_default.masks == by_step.masks


def test_rigl_counts_its_dense_gradients(tiny: ep.Problem) -> None:
    options = {"sparsity": 0.8, "epochs": 4, **OPTIONS}
    plain = ep.methods["random"](tiny, **options).ledger
    ledger = ep.methods["rigl"](tiny, every=5, **options).ledger
    steps = 4 * (len(tiny.split("train")) // 9)
    updates = len(range(5, int(0.75 * steps), 5))
    assert ledger.samples - plain.samples == updates * 9
    assert ledger.survivor_updates - plain.survivor_updates == updates * 9 * 3 * tiny.prunable


@pytest.mark.parametrize(
    ("name", "options", "warned"),
    [
        ("rigl", {"every": 1000}, True),
        ("set", {"every": 1000}, True),
        ("set", {"every": 4 * 8}, True),
        ("set", {"every": 4 * 8 - 1}, False),
        ("set", {"epochs": 1}, True),
        ("set", {"epochs": 2}, False),
        ("dissipate_regrow", {"epochs": 2}, True),
        ("dissipate_regrow", {"epochs": 3}, False),
        ("regrow_average", {"epochs": 2, "checks": 1, "average": 0.5}, True),
    ],
    ids=str,
)
def test_a_period_that_never_comes_is_said(
    name: str, options: dict[str, Any], warned: bool, tiny: ep.Problem, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {"sparsity": 0.8, "epochs": 4, **OPTIONS, **options}
    ticket = ep.methods[name](tiny, **asked)
    assert ("nothing moves" in caplog.text) is warned
    if warned and name in ("rigl", "set"):
        start = {option: value for option, value in asked.items() if option != "every"}
        assert ticket.mask == ep.methods["random"](tiny, **start).mask


# ---- dissipation and regrowth -------------------------------------------------------------------------------------------


def test_it_dissipates_and_then_moves_what_it_has_kept(tiny: ep.Problem) -> None:
    generation = dissipate(population(tiny, sparsity=0.4, horizon=8), tiny.space.budget(0.8), 2)
    assert generation.epoch == 2
    first = generation.masks[0]
    regrow(generation, 0.3, 0.75)
    assert generation.epoch == 6
    last = generation.masks[0]
    assert first.count == tiny.space.budget(0.8)
    assert last.counts == first.counts, "regrowth keeps what dissipation has given each layer"
    assert last != first
    assert (first & last).count > first.count // 2


@pytest.mark.parametrize("reference", ["zero", "init"])
def test_those_nearest_their_reference_leave(reference: str, tiny: ep.Problem) -> None:
    generation, twin = (population(tiny, sparsity=0.4, weight_decay=0.01, horizon=3) for _ in range(2))
    twin.train(1)
    dissipate(generation, tiny.space.budget(0.8), 1, reference)
    start = twin.parameters.initial if reference == "init" else None
    moved = [
        (twin.parameters.survivors[name].detach() - (0 if start is None else start[name])).abs().numpy()
        for name in tiny.space.names
    ]
    kept = [np.isin(*pair) for pair in zip(twin.masks[0].survivors, generation.masks[0].survivors, strict=True)]
    left, gone = (np.concatenate([m[k == side] for m, k in zip(moved, kept, strict=True)]) for side in (True, False))
    assert left.min() >= gone.max()


def test_regrowth_follows_gradients_but_not_only_the_very_largest(tiny: ep.Problem) -> None:
    """The mean dense gradient of who enters lies above that of who could, and other noise lets others enter."""
    generation = population(tiny, horizon=3).train(1)
    gradients = generation.dense_gradient()
    chosen, others = [], []
    for noise in ("one", "two"):
        enter = steepest(generation, noise=noise)
        stay = generation.masks[0].survivors[0]
        size = gradients[tiny.space.names[0]][0].abs().flatten().numpy()
        free = np.setdiff1d(np.arange(len(size)), stay)
        entered = enter(0, 0, stay, stay, 10)
        assert len(entered) == 10
        assert not np.isin(entered, stay).any()
        chosen.append(entered)
        others.append(size[entered].mean() - size[free].mean())
    assert min(others) > 0
    assert set(chosen[0]) != set(chosen[1])


def test_regrowth_does_not_depend_on_who_trains_beside(tiny: ep.Problem) -> None:
    both = population(tiny, 2, horizon=4)
    alone = population(tiny, 2, horizon=4).select([1])
    assert regrow(alone).masks[0] == regrow(both).masks[1]


def test_regrowth_moves_the_annealed_share_of_every_layer_each_period(tiny: ep.Problem) -> None:
    generation = population(tiny, sparsity=0.4, horizon=8)
    twin = population(tiny, sparsity=0.4, horizon=8)
    regrow(generation, 0.4, 0.5, every=3)
    end = 4 * twin.batches.per_epoch
    for step in range(0, end, 3):
        twin.train_steps(step - twin.steps)
        rewire(twin, annealed(0.4, step, end), steepest(twin, noise="regrow"))
    twin.train_steps(end - twin.steps)
    assert generation.masks == twin.masks
    assert generation.ledger.survivor_updates == twin.ledger.survivor_updates


@pytest.mark.parametrize("horizon", [7, 10, 29, 100])
def test_regrowth_ends_with_the_epoch_that_its_share_names(horizon: int) -> None:
    for end in range(1, horizon):
        assert int((1 - (horizon - end) / horizon) * horizon + 1e-6) == end


def test_regrow_average_is_dissipation_regrowth_and_the_mean(tiny: ep.Problem) -> None:
    options = {"lr": 0.1, "weight_decay": 1e-3, **OPTIONS}
    ticket = ep.methods["regrow_average"](tiny, sparsity=0.8, epochs=8, every=4, seed=3, **options)
    start = random_mask(tiny.space, sparsity=0.4, seed=3)
    twin = ep.Population(tiny, [start], horizon=8, seed=3, schedule="constant", **options)
    regrow(dissipate(twin, tiny.space.budget(0.8), 2), 0.2, 0.75, every=4)
    assert twin.epoch == 6
    means: dict[str, list[torch.Tensor]] = {}
    for _ in range(2):
        twin.train(1)
        for name, value in twin.parameters.row(0).items():
            means.setdefault(name, []).append(value)
    assert ticket.mask == twin.masks[0]
    for name, value in ticket.weights.items():
        torch.testing.assert_close(value, torch.stack(means[name]).mean(0), rtol=1e-5, atol=1e-8)
    assert ticket.ledger.survivor_updates == twin.ledger.survivor_updates, "a mean costs nothing"
    assert ticket.provenance["training"]["schedule"] == "constant"


@pytest.mark.parametrize(("epochs", "average", "expected"), [(100, 0.25, 25), (10, 0.25, 2), (2, 0.25, 1), (7, 0.5, 4)])
def test_how_many_epochs_are_averaged_over(epochs: int, average: float, expected: int) -> None:
    assert averaged_epochs(epochs, average) == expected


# ---- gradual magnitude and imp ----------------------------------------------------------------------------------------


def test_gradual_pruning_follows_the_cubic_schedule(tiny: ep.Problem) -> None:
    generation = population(tiny, sparsity=0.0, horizon=8)
    prune_gradually(generation, 0.8)
    n, N = tiny.space.budget(0.8), tiny.prunable
    expected = [N] + [n + round((N - n) * (1 - t / 6) ** 3) for t in range(1, 7)] + [n]
    assert generation.trace.frame()["survivors"].tolist() == expected


def test_gradual_pruning_removes_the_smallest(tiny: ep.Problem) -> None:
    generation = population(tiny, sparsity=0.0, horizon=2)
    twin = population(tiny, sparsity=0.0, horizon=2).train(1)
    prune_gradually(generation, 0.5, every=generation.batches.per_epoch, until=0.5)
    size = np.concatenate(magnitudes(twin, 0))
    kept = np.concatenate(
        [np.isin(np.arange(s), own) for s, own in zip(tiny.space.sizes, generation.masks[0].survivors, strict=True)]
    )
    assert size[kept].min() >= size[~kept].max()


def test_imp_rounds() -> None:
    assert rounds(1000, 500, 0.2) == [800, 640, 512, 500]
    assert rounds(1000, 1000, 0.2) == []
    assert rounds(1000, 3, 1.0) == [3]


@pytest.mark.parametrize("rewind", [0, 2])
def test_imp_rewinds_the_survivors_of_the_trained_network(rewind: int, tiny: ep.Problem) -> None:
    ticket = ep.methods["imp"](tiny, sparsity=0.4, epochs=4, rate=0.5, rewind=rewind, **OPTIONS)
    dense = population(tiny, sparsity=0.0)
    then = values(dense.train(rewind))
    size = np.concatenate(magnitudes(dense.train(4 - rewind), 0))
    kept = np.concatenate([np.isin(np.arange(s), own) for s, own in zip(tiny.space.sizes, ticket.mask.survivors, strict=True)])
    assert size[kept].min() >= size[~kept].max()  # one round is enough for 40%
    for name, own in zip(tiny.space.names, ticket.mask.survivors, strict=True):
        assert (ticket.initial[name].numpy().ravel()[own] == then[name][own]).all()
        assert ticket.start is None if not rewind else (ticket.start[name].numpy().ravel() == then[name]).all()
    assert ticket.history["epoch"].tolist() == [1, 2, 3, 4], "the path of the returned network begins before the rewind"
    assert ticket.history["survivors"].tolist() == [tiny.prunable] * rewind + [ticket.mask.count] * (4 - rewind)
    per_epoch = 9 * dense.batches.per_epoch
    assert ticket.ledger.samples == per_epoch * (8 - rewind)


def test_imp_keeps_to_its_options(tiny: ep.Problem) -> None:
    generation, _ = prune_and_rewind(population(tiny, 2, sparsity=0.0, weight_decay=0.1, lr=0.01), 0.8, rate=0.9)
    assert generation.training.weight_decay == 0.1
    assert [mask.count for mask in generation.masks] == [tiny.space.budget(0.8)] * 2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("set", {"fraction": 0}),
        ("set", {"fraction": 1.5}),
        ("set", {"every": 0}),
        ("rigl", {"every": 0}),
        ("rigl", {"every": 2.5}),
        ("rigl", {"until": 2}),
        ("rigl", {"fraction": -1}),
        ("gradual_magnitude", {"every": 0}),
        ("gradual_magnitude", {"start": 0.9}),
        ("gradual_magnitude", {"start": "0.1"}),
        ("gradual_magnitude", {"start": None}),
        ("eoi", {"gain": "1"}),
        ("gradual_magnitude", {"scope": "unit"}),
        ("dissipate_regrow", {"fraction": 0}),
        ("dissipate_regrow", {"until": 1.5}),
        ("dissipate_regrow", {"reference": "unit"}),
        ("dissipate_regrow", {"start_sparsity": 0.9}),
        ("regrow_average", {"average": 0}),
        ("regrow_average", {"average": 1.0, "checks": 1}),
        ("regrow_average", {"every": 0}),
        ("regrow_average", {"fraction": 2}),
        ("imp", {"rate": 0}),
        ("imp", {"rewind": 3}),
        ("imp", {"rewind": -1}),
        ("imp", {"scope": "unit"}),
        ("ntk_sap", {"epsilon": 0}),
    ],
    ids=str,
)
def test_bad_options_are_refused(name: str, options: dict[str, object], tiny: ep.Problem) -> None:
    with pytest.raises(InputError, match=r"usable|unknown (scope|reference)|smaller start_sparsity|do not fit"):
        ep.methods[name](tiny, sparsity=0.8, epochs=3, **OPTIONS, **options)


@pytest.mark.parametrize("name", ["imp", "gradual_magnitude"])
def test_a_full_network_is_not_rescaled(name: str, tiny: ep.Problem) -> None:
    with pytest.raises(InputError, match="rescale=True would do nothing"):
        ep.methods[name](tiny, sparsity=0.8, epochs=3, rescale=True, **OPTIONS)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dissipating", {}),
        ("dissipate_regrow", {}),
        ("regrow_average", {}),
        ("combined", {"k": 2}),
        ("combined", {"k": 2, "order": "dissipate-first"}),
    ],
    ids=str,
)
def test_a_budget_below_one_weight_a_layer_is_refused_before_training(
    name: str, options: dict[str, Any], tiny: ep.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ep.Population, "train", lambda *_, **__: pytest.fail("trained before"))
    with pytest.raises(InputError, match=r"choose a sparsity of at most 0\.\d+"):
        ep.methods[name](tiny, sparsity=0.9999, epochs=6, **options, **OPTIONS)
