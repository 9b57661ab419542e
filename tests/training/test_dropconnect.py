"""DropConnect drops weights in every step, and what is kept is the mean network."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_masks
from evoprune.training.options import OPTIMIZERS, Training
from evoprune.training.population import Population
from tests.tiny import mlp


@pytest.mark.parametrize(
    "options", [{"momentum": 0.9}, {"momentum": 0.0}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}]
)
def test_training_is_that_of_the_paper(options: dict[str, Any]) -> None:
    """W trains with W·M in each step; evaluation uses the mean (1 - rate)·W.  [Wan 2013]"""
    rate, lr = 0.4, 0.1
    generation = Population(
        mlp(),
        [Mask.full(mlp().space)],
        horizon=2,
        drop_rate=rate,
        lr=lr,
        dtype="float64",
        batch_size=20,
        engine="loop",
        **options,
    )
    module = mlp().module().double()
    weights = {name: module.get_parameter(name) for name in mlp().space.names}
    optimizer = torch.optim.SGD(module.parameters(), lr=lr, **options)
    total = 2 * generation.batches.per_epoch
    for step in range(total):
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / total))
        inputs, targets = generation.batches.at(step)
        rng = seeds.torch_generator(0, "dropconnect", step)
        kept = {name: (torch.rand(value.numel(), generator=rng) >= rate).view(value.shape) for name, value in weights.items()}
        optimizer.zero_grad()
        dropped = {name: value * kept[name] for name, value in weights.items()}
        functional.cross_entropy(torch.func.functional_call(module, dropped, (inputs,)), targets).backward()
        optimizer.step()
    generation.train(2)
    trained = generation.parameters.row(0)
    for name, value in module.named_parameters():
        expected = value * (1 - rate) if name in weights else value
        torch.testing.assert_close(trained[name], expected.detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("engine", ["loop", "dense"])
def test_every_network_drops_the_same_weights_and_rows_stay_independent(engine: str) -> None:
    masks = random_masks(mlp().space, 3, sparsity=0.5)
    options = {"horizon": 1, "drop_rate": 0.5, "batch_size": 20, "engine": engine}
    three, one = Population(mlp(), masks, **options).train(1), Population(mlp(), masks[1:2], **options).train(1)
    for name, value in one.parameters.row(0).items():
        assert torch.equal(value, three.parameters.row(1)[name])


def test_about_the_asked_share_is_dropped_and_others_every_step() -> None:
    generation = Population(mlp("mlp:100-100"), [Mask.full(mlp("mlp:100-100").space)], horizon=1, drop_rate=0.3, engine="loop")
    gradients = []
    for step in (0, 1):
        inputs, targets = generation.batches.at(step)
        with generation._dropped.at(step):
            generation._gradients(inputs, targets)
        name = generation.problem.space.names[1]
        gradients.append(generation.parameters.survivors[name].grad.clone())  # type: ignore[union-attr]
    dropped = gradients[0] == 0
    assert float(dropped.float().mean()) > 0.3  # and those behind a silent unit
    assert not torch.equal(dropped, gradients[1] - gradients[0] == 0)


@pytest.mark.parametrize("rate", [1.0, -0.1, "half", True, float("nan")])
def test_a_rate_outside_zero_to_one_is_refused(rate: object) -> None:
    with pytest.raises(InputError, match="drop_rate"):
        Population(mlp(), [Mask.full(mlp().space)], horizon=1, drop_rate=rate)


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "sgd"])
def test_an_optimizer_that_divides_the_scale_out_is_refused(optimizer: str) -> None:
    """A step on W is (1 - rate) times one on the mean; these would take it whole."""
    with pytest.raises(InputError, match=f"drop_rate=0.9 needs optimizer='sgd', not '{optimizer}'"):
        Training.of(drop_rate=0.9, optimizer=optimizer)
    Training.of(optimizer=optimizer)


def test_an_interrupted_step_leaves_no_weight_dropped() -> None:
    generation = Population(mlp(), random_masks(mlp().space, 2, sparsity=0.5), horizon=1, drop_rate=0.5, batch_size=20)
    before = generation.parameters.row(0)
    dropped: dict[str, torch.Tensor] = {}

    def interrupted() -> None:
        with generation._dropped.at(0):
            dropped.update(generation.parameters.row(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert any(not torch.equal(dropped[name], value) for name, value in before.items())
    assert all(torch.equal(generation.parameters.row(0)[name], value) for name, value in before.items())
