"""Networks that train together are the networks that would train alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evoprune import seeds
from evoprune.errors import InputError, NotEnoughMemory, TestSplitLocked, TrainingFailed, UnknownName
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_mask, random_masks
from evoprune.problems.problem import Problem
from evoprune.training.options import OPTIMIZERS
from evoprune.training.population import Population
from tests.tiny import Residual, Tied, dropped, global_state, images, mlp, own, small_conv, table

ENGINES = ["loop", "dense", "sparse"]
ROWS = 5


def population(problem: Problem | None = None, k: int = ROWS, *, masks: list[Mask] | None = None, **options: Any) -> Population:
    problem = problem or mlp()
    options = {"horizon": 4, "batch_size": 20, "engine": "loop", **options}
    return Population(problem, masks or random_masks(problem.space, k, sparsity=0.7), **options)


def values(generation: Population, row: int) -> dict[str, Tensor]:
    return generation.parameters.row(row)


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def assert_close(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-4, atol=1e-6)


# ---- training is what it says -------------------------------------------------------------------------------------


def by_hand(
    problem: Problem, mask: Mask, batches: list[tuple[Tensor, Tensor]], make: Callable[..., Any], rates: list[float]
) -> Any:
    """Plain torch: a dense module whose pruned weights, gradients and optimizer steps are multiplied by the mask."""
    module = problem.module().double().train()
    kept = mask.dense()
    own_parameters = dict(module.named_parameters())
    optimizer = make(module.parameters())

    def clear() -> None:
        with torch.no_grad():
            for name, keep in kept.items():
                own_parameters[name].mul_(keep)

    clear()
    for (inputs, targets), rate in zip(batches, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        problem.loss.per_sample(module(inputs)[None], targets).mean().backward()
        optimizer.step()
        clear()
    return module


@pytest.mark.parametrize("engine", ["loop", "dense"])
@pytest.mark.parametrize("build", [Residual, Tied, small_conv], ids=lambda build: build.__name__)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_equals_plain_torch_with_masked_weights(engine: str, build: Callable[[], Any], optimizer: str) -> None:
    problem = own(build, (1, 8, 8) if build is small_conv else (6,))
    masks = random_masks(problem.space, 3, sparsity=0.6)
    options = {"lr": 0.03, "weight_decay": 0.01}
    generation = population(problem, masks=masks, horizon=2, engine=engine, dtype="float64", optimizer=optimizer, **options)
    batches = [generation.batches.rows(indices) for epoch in range(2) for indices in generation.batches.order(epoch)]
    rates = [0.03 * 0.5 * (1 + math.cos(math.pi * step / len(batches))) for step in range(len(batches))]
    generation.train(2)
    more = {"momentum": 0.9} if optimizer == "sgd" else {}
    for row, mask in enumerate(masks):
        module = by_hand(
            problem, mask, batches, lambda own: OPTIMIZERS[optimizer](own, lr=0.03, weight_decay=0.01, **more), rates
        )
        got = values(generation, row)
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            expected = value * mask.dense()[name] if name in problem.space.index else value
            torch.testing.assert_close(got[name], expected.detach(), rtol=0, atol=1e-10, msg=name)


def test_pure_sgd_decay_shrinks_every_weight_by_the_published_factor() -> None:
    generation = population(lr=0.1, weight_decay=0.02, momentum=0.0, schedule="constant", dtype="float64", horizon=3)
    before = {name: value.detach().clone() for name, value in generation.parameters.survivors.items()}
    generation.train(3, gradients=False)
    shrunk = (1 - 0.1 * 0.02) ** generation.steps
    assert generation.steps == 9
    for name, value in generation.parameters.survivors.items():
        torch.testing.assert_close(value.detach(), before[name] * shrunk, rtol=1e-12, atol=0)
        moved = torch.from_numpy(np.abs(before[name].numpy()) * (1 - shrunk))
        torch.testing.assert_close(generation.trace.per_weight("movement", name).abs(), moved, rtol=1e-9, atol=0)


def test_the_first_layer_weights_of_unlit_pixels_never_move(mnist_root: Any) -> None:
    problem = Problem("lenet-300-100", "mnist", data_root=mnist_root, standardize=False)
    lit = problem.split("train").inputs.flatten(1).amax(0) > 0
    assert 60 <= int((~lit).sum()) <= 80  # 67 on all 60,000 images
    generation = population(problem, masks=[Mask.full(problem.space)], horizon=1, batch_size=3000, momentum=0.9, lr=0.1).train(1)
    name = problem.space.names[0]
    moved = (values(generation, 0)[name] != problem.initial_weights()[name]).view(300, 784)
    assert not moved[:, ~lit].any()
    assert moved[:, lit].float().mean() > 0.9


def test_standardised_the_same_weights_do_move(mnist_root: Any) -> None:
    problem = Problem("lenet-300-100", "mnist", data_root=mnist_root)
    inputs = problem.split("train").inputs.flatten(1)
    unlit = inputs.amax(0) == inputs.amin(0)
    generation = population(problem, masks=[Mask.full(problem.space)], horizon=1, batch_size=3000, lr=0.1).train(1)
    name = problem.space.names[0]
    moved = (values(generation, 0)[name] != problem.initial_weights()[name]).view(300, 784)
    assert 60 <= int(unlit.sum()) <= 80
    assert moved[:, unlit].float().mean() > 0.9


# ---- time ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_the_schedule_is_a_function_of_the_global_step(schedule: str) -> None:
    whole = population(schedule=schedule).train(4)
    pieces = population(schedule=schedule).train(1).train(0).train(2).train(1)
    steps = population(schedule=schedule).train_steps(2).train_steps(6).train_steps(4)
    for row in range(ROWS):
        assert_same(values(whole, row), values(pieces, row))
        assert_same(values(whole, row), values(steps, row))
    assert whole.trace.frame().equals(pieces.trace.frame())
    assert whole.trace.frame().equals(steps.trace.frame())


def test_the_learning_rate_follows_a_cosine_to_zero_over_the_horizon() -> None:
    generation = population(lr=0.2, horizon=2)
    rates = []
    for _ in range(6):
        generation.train_steps(1)
        rates.append(generation.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * step / 6)) for step in range(6)])


def test_every_epoch_sees_each_sample_at_most_once_in_another_order() -> None:
    batches = population(batch_size=30).batches
    first, second = batches.order(0), batches.order(1)
    assert first.shape == (2, 30)  # 72 training samples: the last partial batch is dropped
    assert len(first.unique()) == 60
    assert not torch.equal(first, second)
    assert torch.equal(first, population(batch_size=30).batches.order(0))
    assert not torch.equal(first, population(batch_size=30, seed=1).batches.order(0))


@pytest.mark.parametrize("epochs", [-1, 1.0, True, "2", None, 5])
def test_training_beyond_the_horizon_or_by_no_number_is_refused(epochs: Any) -> None:
    with pytest.raises(InputError):
        population().train(epochs)


def test_an_epoch_that_was_begun_must_be_finished_in_steps() -> None:
    generation = population().train_steps(1)
    with pytest.raises(InputError, match="train_steps"):
        generation.train(1)
    with pytest.raises(InputError, match="beyond the horizon"):
        generation.train_steps(16)


# ---- rows do not touch each other -----------------------------------------------------------------------------------


def makers() -> list[Any]:
    return [
        pytest.param(lambda: mlp("mlp:13-7"), id="mlp"),
        pytest.param(lambda: own(small_conv, (1, 8, 8)), id="conv"),
        pytest.param(lambda: own(dropped), id="dropout"),
    ]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", makers())
def test_a_row_is_bitwise_the_same_whoever_trains_with_it(make: Callable[[], Problem], engine: str, optimizer: str) -> None:
    problem = make()
    masks = random_masks(problem.space, ROWS, sparsity=0.7)
    options = {"engine": engine, "optimizer": optimizer, "weight_decay": 1e-3, "horizon": 2}
    together = population(problem, masks=masks, **options).train(2)
    companies = [[3, 1, 4], [4, 3, 2, 1, 0], [0, 1]]
    if not (engine == "dense" and problem.input_shape == (1, 8, 8)):  # one row alone: see the test below
        companies.append([3])
    for rows in companies:
        some = population(problem, masks=[masks[row] for row in rows], **options).train(2)
        for position, row in enumerate(rows):
            assert_same(values(together, row), values(some, position))
            assert together.trace.last("train_loss")[row] == some.trace.last("train_loss")[position]
            assert together.trace.last("val_loss")[row] == some.trace.last("val_loss")[position]


@pytest.mark.parametrize(("engine", "same"), [("loop", assert_same), ("sparse", assert_same), ("dense", assert_close)])
def test_a_row_behind_batch_norm_of_features_is_the_same_whoever_trains_with_it(engine: str, same: Callable[..., None]) -> None:
    """Bit for bit but for `dense`: torch adds up the last columns of (batch, rows · features) in another order."""
    problem = own(Residual)
    masks = random_masks(problem.space, ROWS, sparsity=0.7)
    together = population(problem, masks=masks, engine=engine, horizon=2).train(2)
    some = population(problem, masks=masks[1:4], engine=engine, horizon=2).train(2)
    for row in (1, 2, 3):
        same(values(together, row), values(some, row - 1))


def test_a_convolutional_row_alone_is_the_row_in_company() -> None:
    """Not bit for bit: torch runs a convolution of one network through another kernel than that of several."""
    problem = images("lenet5")
    masks = random_masks(problem.space, 2, sparsity=0.7)
    both = population(problem, masks=masks, engine="dense", horizon=1).train(1)
    alone = population(problem, masks=masks[:1], engine="dense", horizon=1).train(1)
    assert_close(values(both, 0), values(alone, 0))


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name not in ("sgd", "adam")])
def test_no_optimizer_couples_rows(optimizer: str) -> None:
    masks = random_masks(mlp().space, ROWS, sparsity=0.7)
    together = population(masks=masks, optimizer=optimizer, horizon=2).train(2)
    for row in (1, 4):
        assert_same(values(together, row), values(population(masks=[masks[row]], optimizer=optimizer, horizon=2).train(2), 0))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_row_that_turns_nan_disturbs_no_other(engine: str, poison: float) -> None:
    healthy, sick = population(engine=engine), population(engine=engine)
    for layer in (0, 1):
        name = sick.problem.space.names[layer]
        with torch.no_grad():
            sick.parameters.survivors[name][sick.parameters.span(name, 2, 3)] = poison
    healthy.train(2)
    sick.train(2)
    assert sick.trace.failed.tolist() == [False, False, True, False, False]
    for row in (0, 1, 3, 4):
        assert_same(values(healthy, row), values(sick, row))
        assert healthy.trace.last("val_loss")[row] == sick.trace.last("val_loss")[row]


def test_a_bias_that_turns_nan_marks_its_row_too() -> None:
    generation = population()
    with torch.no_grad():
        generation.parameters.stacked["1.bias"][4, 0] = float("nan")
    assert generation.train(1).trace.failed.tolist() == [False] * 4 + [True]


def test_a_failed_row_is_no_ticket() -> None:
    generation = population(k=2)
    with torch.no_grad():
        generation.parameters.stacked["1.bias"][1] = float("nan")
    generation.train(1)
    with pytest.raises(TrainingFailed):
        generation.ticket(1)
    assert generation.ticket(0).mask == generation.masks[0]


def test_when_every_row_fails_training_says_so() -> None:
    generation = population()
    with torch.no_grad():
        for value in generation.parameters.stacked.values():
            value.fill_(float("nan"))
    with pytest.raises(TrainingFailed, match="lower lr="):
        generation.train(1)


def test_failure_is_remembered_through_select() -> None:
    generation = population()
    with torch.no_grad():
        generation.parameters.stacked["1.bias"][1] = float("nan")
    generation.train(1).select([0, 1])
    assert generation.trace.failed.tolist() == [False, True]
    assert generation.train(1).trace.failed.tolist() == [False, True]


# ---- asking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "validation"])
def test_evaluate_is_loss_and_accuracy_of_each_network_on_the_split(split: str) -> None:
    generation = population(dtype="float64").train(2)
    frame = generation.evaluate(split)
    data = generation.problem.split(split)
    assert list(frame.columns) == ["individual", "loss", "accuracy", "failed"]
    for row in range(ROWS):
        module = generation.problem.module().double().eval()
        module.load_state_dict(values(generation, row))
        outputs = module(data.inputs.double()).detach()
        assert frame["loss"][row] == pytest.approx(float(torch.nn.functional.cross_entropy(outputs, data.targets)), abs=1e-9)
        assert frame["accuracy"][row] == int((outputs.argmax(1) == data.targets).sum()) / len(data)


def test_the_test_split_cannot_be_evaluated() -> None:
    generation = population()
    with pytest.raises(TestSplitLocked):
        generation.evaluate("test")
    with pytest.raises(UnknownName, match="split"):
        generation.evaluate("valid")
    assert generation.problem.test_openings == []


def test_evaluation_does_not_change_what_follows() -> None:
    plain, curious = population(own(Residual)), population(own(Residual))
    plain.train(3)
    for _ in range(3):
        curious.train(1)
        curious.evaluate("train")
        curious.dense_gradient()
    for row in range(ROWS):
        assert_same(values(plain, row), values(curious, row))


def test_the_dense_gradient_reaches_pruned_weights() -> None:
    generation = population(dtype="float64", k=2).train(1)
    inputs, targets = generation.batches.at(generation.steps)
    found = generation.dense_gradient()
    for row in range(2):
        module = generation.problem.module().double()
        module.load_state_dict(values(generation, row))
        torch.nn.functional.cross_entropy(module(inputs), targets).backward()
        for name in generation.problem.space.names:
            torch.testing.assert_close(found[name][row], module.get_parameter(name).grad, rtol=0, atol=1e-12)
            assert found[name][row][~generation.masks[row].dense()[name]].abs().sum() > 0


def test_the_ledger_counts_samples_and_survivors_of_losers_too() -> None:
    generation = population(batch_size=30)
    counts = [mask.count for mask in generation.masks]
    generation.train(2).select([1]).train(1)
    ledger, problem = generation.ledger, generation.problem
    assert ledger.samples == 2 * 60 * ROWS + 60
    assert ledger.survivor_updates == 3 * 60 * (2 * sum(counts) + counts[1])
    assert ledger.dense_equivalent_epochs == pytest.approx(ledger.survivor_updates / (3 * problem.prunable * 72))
    assert ledger.evaluation_samples == 8 * (2 * ROWS + 1)
    generation.dense_gradient()
    assert ledger.survivor_updates == 3 * 60 * (2 * sum(counts) + counts[1]) + 3 * 30 * problem.prunable
    assert (ledger.engine, ledger.device) == ("loop", generation.device.type)


# ---- where it starts ------------------------------------------------------------------------------------------------


def test_common_initial_weights_are_those_of_the_problem() -> None:
    generation, initial = population(), mlp().initial_weights()
    for row, mask in enumerate(generation.masks):
        kept = mask.dense()
        assert_same(values(generation, row), {n: v * kept[n] if n in kept else v for n, v in initial.items()})


def test_own_weights_differ_between_rows_and_do_not_depend_on_the_company() -> None:
    masks = [random_mask(mlp().space, sparsity=0.7)] * 3
    three, two = population(masks=masks, own_weights=True), population(masks=masks[:2], own_weights=True)
    name = mlp().space.names[0]
    drawn = [values(three, row)[name] for row in range(3)]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert torch.equal(drawn[1], values(two, 1)[name])


def test_rescaled_survivors_are_divided_by_the_root_of_the_layer_density() -> None:
    plain, rescaled = population(k=1), population(k=1, rescale=True)
    for name, count, size in zip(mlp().space.names, plain.masks[0].counts, mlp().space.sizes, strict=True):
        expected = plain.parameters.survivors[name].detach() / (count / size) ** 0.5
        torch.testing.assert_close(rescaled.parameters.survivors[name].detach(), expected)


def test_given_weights_take_the_place_of_the_initial_ones() -> None:
    problem = mlp()
    weights = [{name: value + 1 + row for name, value in problem.initial_weights().items()} for row in range(2)]
    generation = population(k=2, weights=weights)
    name = problem.space.names[1]
    kept = generation.masks[1].dense()[name]
    assert torch.equal(values(generation, 1)[name], weights[1][name] * kept)


@pytest.mark.parametrize("horizon", [0, -1, 2.0, True, None])
def test_a_bad_horizon_is_refused(horizon: Any) -> None:
    with pytest.raises(InputError, match="horizon"):
        population(horizon=horizon)


def test_nobody_is_no_population_and_a_batch_cannot_be_larger_than_the_data() -> None:
    with pytest.raises(InputError, match="at least one individual"):
        Population(mlp(), [], horizon=1)
    with pytest.raises(InputError, match="batch_size=73"):
        population(batch_size=73)


@pytest.mark.parametrize("engine", ENGINES)
def test_results_do_not_depend_on_the_global_generators_which_stay_as_they_were(engine: str) -> None:
    problem = mlp() if engine == "sparse" else own(dropped)
    trained = []
    for state in (1, 2):
        with global_state(state):
            generation = population(problem, engine=engine).train(2)
            trained.append(values(generation, 1))
    assert_same(*trained)
    name, other = problem.space.names[0], population(problem, engine=engine, seed=1).train(2)
    assert not torch.equal(trained[0][name], values(other, 1)[name])


def test_the_problem_is_never_changed() -> None:
    problem = own(Residual)
    before = problem.initial_weights()
    population(problem).train(2)
    assert_same(before, problem.initial_weights())


def test_reconstruction_has_a_loss_and_no_accuracy() -> None:
    problem = Problem("autoencoder", table((6,), None))
    frame = population(problem, k=2, horizon=1).train(1).trace.frame()
    assert frame["val_accuracy"].isna().all()
    assert (frame["val_loss"] > 0).all()


def test_more_networks_than_memory_holds_are_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evoprune.training.memory.available_memory", lambda device: 5000)  # what two of these take
    masks = random_masks(mlp().space, 3, sparsity=0.5)
    Population(mlp(), masks[:2], horizon=1)
    with pytest.raises(NotEnoughMemory, match=r"3 networks need at least .* are free: train fewer"):
        Population(mlp(), masks, horizon=1)


def test_dropout_drops_others_every_step() -> None:
    generation, drawn = population(own(dropped), k=1), []
    for _ in range(3):
        with seeds.isolated():
            generation.seed_dropout()
            drawn.append(torch.rand(4))
        generation.train_steps(1)
    assert len({one.numpy().tobytes() for one in drawn}) == 3


@pytest.mark.parametrize("engine", ["loop", "dense", "sparse"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_has_gradients_where_the_caller_has_none(engine: str, optimizer: str) -> None:
    masks, options = random_masks(mlp().space, 2, sparsity=0.5), {"horizon": 1, "engine": engine, "optimizer": optimizer}
    expected = Population(mlp(), masks, **options).train(1)  # type: ignore[arg-type]
    with torch.no_grad():
        found = Population(mlp(), masks, **options)  # type: ignore[arg-type]
        found.train(1)
        assert found.dense_gradient().keys() == set(mlp().space.names)
        assert not torch.is_grad_enabled()
    for name, value in expected.parameters.leaves().items():
        assert torch.equal(value, found.parameters.leaves()[name])


def test_individuals_that_are_no_list_of_masks_are_refused() -> None:
    [mask] = random_masks(mlp().space, 1, sparsity=0.5)
    generation = Population(mlp(), [mask], horizon=1)
    for individuals, message in (
        (mask, "one Mask: give a list"),
        (generation.ticket(), "one Ticket: give a list"),
        ([mask, 5], "individual 1 has no mask"),
        ("ab", "individual 0 has no mask"),
    ):
        with pytest.raises(InputError, match=message):
            Population(mlp(), individuals, horizon=1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give at least one"):
        generation.branch([], [])
