"""Exact orthogonal initialization: orthogonal to float precision, at the density asked for, and what it is good for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evoprune as ep
from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.masks.space import MaskSpace
from evoprune.training.initializers import eoi, eoi_weights
from evoprune.training.initializers.exact_orthogonal import gain_of
from tests.tiny import table

SHAPES = {
    "tall": (40, 24),
    "square": (32, 32),
    "wide": (24, 40),
    "conv": (12, 8, 3, 3),
    "narrowing": (8, 12, 3, 3),
    "line": (10, 6, 5),
}


def space_of(*shapes: tuple[int, ...]) -> MaskSpace:
    return MaskSpace(tuple(f"{i}.weight" for i in range(len(shapes))), shapes)


def matrix_of(weight: Tensor) -> Tensor:
    """The matrix of a weight: its kernel's centre, which holds all there is."""
    if weight.ndim == 2:
        return weight.double()
    flat = weight.double().flatten(2)
    centre = flat.shape[2] // 2
    others = torch.cat([flat[:, :, :centre], flat[:, :, centre + 1 :]], 2)
    assert not others.any(), "a delta-orthogonal kernel is 0 off its centre"
    return flat[:, :, centre]


def off_identity(matrix: Tensor, gain: float) -> float:
    """Largest entry of WᵀW - gain²I, of the shorter side."""
    gram = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
    return float((gram - gain**2 * torch.eye(len(gram), dtype=torch.float64)).abs().max())


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8, 0.9])
@pytest.mark.parametrize("kind", SHAPES)
def test_it_is_exactly_orthogonal_and_has_the_count(kind: str, sparsity: float) -> None:
    shape = SHAPES[kind]
    space = space_of(shape)
    mask, weights = eoi(space, sparsity, "uniform", seed=3, gain=1.5)
    [weight] = weights.values()
    assert mask.count == space.budget(sparsity)
    matrix = matrix_of(weight)
    assert off_identity(matrix, 1.5) < 1e-6
    alive = np.flatnonzero(weight.numpy())
    assert np.isin(alive, mask.survivors[0]).all()
    if weight.ndim == 2:  # within one rotation of the target: it would at most double a row for each of two
        assert mask.count - len(alive) <= 2 * min(shape)


def test_half_and_less_is_reached_almost_to_the_weight() -> None:
    space = space_of((300, 784), (100, 300), (10, 100))
    mask, weights = eoi(space, 0.95, "erk", seed=0)
    missing = [count - int((weights[name] != 0).sum()) for name, count in zip(space.names, mask.counts, strict=True)]
    assert max(missing) <= 2, missing
    assert mask.counts == ep.random_mask(space, sparsity=0.95).counts


def test_seeds_and_allocations() -> None:
    space = space_of((20, 30), (10, 20))
    first, again, other = (eoi(space, 0.7, "erk", seed) for seed in (1, 1, 2))
    assert first[0] == again[0] != other[0]
    assert all(torch.equal(value, again[1][name]) for name, value in first[1].items())
    chosen = ep.random_mask(space, sparsity=0.7, allocation="uniform")
    assert eoi(space, 0.7, chosen)[0].counts == chosen.counts


def test_too_few_survivors_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="evoprune"):
        mask, weights = eoi(space_of((40, 30)), 0.99)
    assert "0.weight (12 of 30 units)" in caplog.text
    values = torch.linalg.svdvals(weights["0.weight"].double())
    assert torch.allclose(values[:12], torch.ones(12, dtype=torch.float64))
    assert mask.count == 12


@pytest.mark.parametrize("kind", SHAPES)
def test_a_mask_that_is_chosen_already(kind: str) -> None:
    """Exactly orthogonal where its survivors match every unit; never outside the mask."""
    shape = SHAPES[kind]
    space = space_of(shape)
    for sparsity in (0.0, 0.6):
        mask = ep.random_mask(space, sparsity=sparsity, seed=5)
        [weight] = eoi_weights(mask, seed=1, gain=2.0).values()
        assert not weight[~mask.dense()["0.weight"]].any()
        assert off_identity(matrix_of(weight), 2.0) < 1e-6
        assert torch.equal(weight, eoi_weights(mask, seed=1, gain=2.0)["0.weight"])


def test_a_mask_without_a_match_is_orthogonal_on_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    space = space_of((6, 6))
    kept = np.ones((6, 6), dtype=bool)
    kept[2] = False
    kept[:, 4] = kept[:, 5]
    mask = Mask(space, [np.flatnonzero(kept)])
    with caplog.at_level(logging.WARNING, logger="evoprune"):
        [weight] = eoi_weights(mask).values()
    assert "5 of 6 units" in caplog.text
    values = torch.linalg.svdvals(weight.double())
    assert torch.allclose(values, torch.tensor([1.0] * 5 + [0.0], dtype=torch.float64), atol=1e-6)


def test_a_convolution_keeps_the_length_of_its_input() -> None:
    [weight] = eoi(space_of((16, 8, 3, 3)), 0.9)[1].values()
    image = torch.randn(2, 8, 9, 9)
    output = nn.functional.conv2d(image, weight, padding=1)
    torch.testing.assert_close(output.square().sum(1), image.square().sum(1), rtol=1e-5, atol=1e-5)


def test_gains() -> None:
    class Functional(nn.Module):
        def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.first, self.last, self.activation = nn.Linear(6, 5), nn.Linear(5, 3), activation

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.activation(self.first(x)))
            return out

    halving = (nn.ReLU(), nn.GELU(), nn.functional.relu, torch.relu, Tensor.relu_, nn.functional.leaky_relu, nn.functional.silu)
    for activation in halving:
        assert gain_of(ep.Problem(Functional(activation), table((6,)))) == 2**0.5, activation
    for other in (nn.Tanh(), torch.tanh, nn.Identity()):
        assert gain_of(ep.Problem(Functional(other), table((6,)))) == 1.0, other


def deep_tanh() -> nn.Module:
    """100 layers of 24 tanh units, orthogonal as they are drawn."""
    widths = [64, *[24] * 99, 10]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
        nn.init.orthogonal_(layers[-2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(layers[-2].bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers[:-1])


def test_a_hundred_tanh_layers_train_at_an_eighth_where_plain_masking_fails() -> None:
    problem = ep.Problem(deep_tanh, "digits")
    options = {"sparsity": 0.875, "allocation": "uniform", "epochs": 3, "lr": 0.01, "engine": "dense"}
    exact, plain = (ep.methods[name](problem, **options) for name in ("eoi", "random"))
    assert exact.val_accuracy > 0.4
    assert plain.val_accuracy < 0.2


@pytest.mark.parametrize("init", ["eoi", "hessian"])
def test_every_method_takes_init(init: str) -> None:
    problem = ep.Problem("mlp:20-15", "digits")
    for name in ("random", "snip"):
        ticket = ep.methods[name](problem, sparsity=0.8, epochs=2, init=init, engine="loop")
        plain = ep.methods[name](problem, sparsity=0.8, epochs=2, engine="loop")
        assert ticket.mask == plain.mask
        assert any(not torch.equal(value, plain.initial[key]) for key, value in ticket.initial.items())
        assert ticket.provenance["training"]["init"] == init


def test_every_individual_may_have_its_own() -> None:
    problem = ep.Problem("mlp:20-15", "digits")
    mask = ep.random_mask(problem.space, sparsity=0.8, seed=1)
    first, second = (
        ep.Population(problem, [mask, mask], horizon=1, own_weights=True, init="eoi").parameters.row(row) for row in (0, 1)
    )
    assert not any(torch.equal(first[name], second[name]) for name in problem.space.names)


def test_weights_of_a_mask_do_not_depend_on_who_inherits_beside_it() -> None:
    problem = ep.Problem("mlp:20-15", "digits")
    toolbox = ep.make_toolbox(problem, sparsity=0.8, epochs=1, inherit="weights", init="eoi", engine="loop")
    parent, fresh = toolbox.population(n=2)
    list(toolbox.map(toolbox.evaluate, [parent]))
    child = toolbox.clone(parent)
    del child.fitness.values
    toolbox.mutate(child)
    beside, alone = list(toolbox.map(toolbox.evaluate, [child, fresh]))[1], problem
    other = ep.make_toolbox(alone, sparsity=0.8, epochs=1, inherit="weights", init="eoi", engine="loop")
    assert list(other.map(other.evaluate, [other.from_mask(fresh.mask)])) == [beside]


def test_bad_options_are_refused() -> None:
    problem = ep.Problem("mlp:20-15", "digits")
    with pytest.raises(InputError, match="did you mean 'eoi'"):
        ep.methods["random"](problem, epochs=1, init="eoii")
    with pytest.raises(InputError, match="rescale=True would undo"):
        ep.methods["random"](problem, epochs=1, init="eoi", rescale=True)
    with pytest.raises(InputError, match="init= would undo"):
        ep.methods["eoi"](problem, epochs=1, init="hessian")
    with pytest.raises(InputError, match="gain=0 is not usable"):
        ep.methods["eoi"](problem, epochs=1, gain=0)
