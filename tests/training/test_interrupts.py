"""Training that was interrupted anywhere goes on as if nothing had happened."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from evoprune.masks.sampling import random_masks
from evoprune.training.interrupts import interrupted_between
from evoprune.training.population import Population
from tests.tiny import Residual, mlp, own

EPOCHS, SIZE = 3, 20
STEPS = 3
"""An epoch, of 72 samples."""


class Stopping:
    """A loss that is interrupted once, at its call number `at` from when that was set."""

    def __init__(self) -> None:
        self._at = 0

    def stop(self, at: int) -> None:
        self._at = at

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self._at -= 1
        if self._at == 0:
            raise KeyboardInterrupt
        return functional.cross_entropy(outputs, targets, reduction="none")


def population(loss: Any = None, **options: Any) -> Population:
    problem = own(Residual, loss=loss)
    masks = random_masks(problem.space, 3, sparsity=0.5)
    generation = Population(problem, masks, **{"horizon": EPOCHS, "batch_size": SIZE, "device": "cpu", **options})
    if generation.engine.name == "dense":
        generation.engine.limit = 1
        generation._cut()
    return generation


def train(generation: Population) -> int:
    """To the end, whatever comes; how often it was interrupted."""
    came = 0
    while generation.steps < EPOCHS * STEPS or generation.trace.lacks(EPOCHS):
        try:
            generation.train_steps(EPOCHS * STEPS - generation.steps)
        except KeyboardInterrupt:
            came += 1
            assert all(not leaf.grad.any() for leaf in generation.parameters.leaves().values() if leaf.grad is not None)
    return came


def assert_same(found: Population, expected: Population) -> None:
    assert found.trace.frame().equals(expected.trace.frame())
    assert found.trace.failed.tolist() == expected.trace.failed.tolist()
    values, others = ({**each.parameters.leaves(), **each.parameters.buffers} for each in (found, expected))
    assert all(torch.equal(value, others[name]) for name, value in values.items())
    one, other = ({**each.ledger.as_dict(), "wall_s": 0.0} for each in (found, expected))
    assert one == pytest.approx(other)


@pytest.mark.parametrize("call", [2, 5, 8, 10, 11, 12], ids=lambda call: f"call {call}")
@pytest.mark.parametrize(
    ("engine", "options"),
    [("dense", {}), ("loop", {}), ("dense", {"optimizer": "adam"}), ("dense", {"drop_rate": 0.3})],
    ids=str,
)
def test_an_error_in_the_loss_of_a_step_or_of_the_validation(engine: str, options: dict[str, Any], call: int) -> None:
    """Three chunks, three steps and a validation of one batch: the tenth call is the first of the validation."""
    expected, loss = population(Stopping(), engine=engine, **options), Stopping()
    found = population(loss, engine=engine, **options)
    loss.stop(call)
    assert (train(expected), train(found)) == (0, 1)
    assert_same(found, expected)


@pytest.mark.parametrize("step", [0, 1, STEPS - 1, EPOCHS * STEPS - 1])
@pytest.mark.parametrize("engine", ["loop", "dense", "sparse"])
def test_an_interrupt_from_the_keyboard_comes_after_the_step(engine: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = population(engine=engine)
    train(expected)
    take: Callable[..., None] = Population._step

    def interrupted(self: Population, *args: Any, **options: Any) -> None:
        take(self, *args, **options)
        if self.steps == step:  # the update is made, and not counted yet
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Population, "_step", interrupted)
    found = population(engine=engine)
    with pytest.raises(KeyboardInterrupt):
        found.train(EPOCHS)
    assert (found.steps, found.ledger.samples) == (step + 1, 3 * SIZE * (step + 1))
    train(found)
    assert_same(found, expected)


ASKED: dict[str, Callable[[Population], object]] = {
    "ticket": lambda generation: generation.ticket(0),
    "select": lambda generation: generation.select([0, 1, 2]),
    "train": lambda generation: generation.train(0),
}


@pytest.mark.parametrize("asked", ASKED)
def test_an_epoch_whose_validation_was_interrupted_has_its_row_at_the_next_call(asked: str) -> None:
    loss = Stopping()
    found, expected = population(loss, engine="loop"), population(Stopping(), engine="loop").train(1)
    loss.stop(3 * STEPS + 1)
    with pytest.raises(KeyboardInterrupt):
        found.train(1)
    assert found.trace.frame().empty
    again = Population(found.problem, found.masks, horizon=EPOCHS, batch_size=SIZE, engine="loop").restore(found.state())
    for generation in (found, again):
        ASKED[asked](generation)
        assert_same(generation, expected)


def test_steps_that_were_taken_elsewhere_are_not_judged() -> None:
    generation = Population(mlp(), random_masks(mlp().space, 2, sparsity=0.5), horizon=2, engine="loop")
    generation.steps = generation.batches.per_epoch
    assert generation.train(1).trace.frame()["epoch"].tolist() == [2, 2]


@pytest.mark.parametrize(("interrupts", "seen"), [(1, ["one", "two"]), (2, ["one"])])
def test_an_interrupt_waits_for_the_place_that_is_given_and_a_second_one_does_not(interrupts: int, seen: list[str]) -> None:
    came: list[str] = []

    def steps() -> None:
        with interrupted_between() as let_through:
            let_through()
            signal.raise_signal(signal.SIGINT)
            came.append("one")
            for _ in range(interrupts - 1):
                signal.raise_signal(signal.SIGINT)
            came.append("two")
            let_through()
            came.append("three")

    with pytest.raises(KeyboardInterrupt):
        steps()
    assert came == seen
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_and_an_interrupt_are_both_told() -> None:
    def fails() -> None:
        with interrupted_between():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("first")

    with pytest.raises(KeyboardInterrupt) as caught:
        fails()
    assert isinstance(caught.value.__context__, ValueError)
