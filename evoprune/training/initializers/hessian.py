"""The Hessian norm of each layer, and the scale that brings it to 1.  [Skorski 2020, arXiv:2004.09506]

A layer whose loss has a Hessian far below 1 learns slowly, one far above 1 diverges at the usual learning rates. Pruning
moves the norms: `hessian_report` shows by how much, `hessian_scales` undoes it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import functional_call

from evoprune import seeds
from evoprune.masks.mask import Mask
from evoprune.problems.gradients import trainable
from evoprune.problems.problem import Problem
from evoprune.training.initializers.table import INITIALIZERS, Weights
from evoprune.training.ledger import Ledger
from evoprune.values import whole

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["hessian_norms", "hessian_report", "hessian_scales"]

log = logging.getLogger("evoprune")

SEEN, BLIND = 32, 0.3
"""Samples on which outputs are compared, and the share of their size by which they may change at twice the weights."""
LARGEST_STEP = 1.0
"""Largest change of a log scale in one round."""


@trainable()
def hessian_norms(
    problem: Problem,
    mask: Mask | None = None,
    weights: Mapping[str, Tensor] | None = None,
    *,
    samples: int = 100,
    iterations: int = 20,
    seed: int = 0,
    ledger: Ledger | None = None,
) -> dict[str, float]:
    """Spectral norm of the loss's Hessian with respect to each layer's survivors alone, by name.

    By power iteration in float64 on `samples` training samples, in training mode. mask: all weights when None. weights: in
    place of the problem's initial ones. Cost: one gradient and `iterations` second-order ones a layer, added to `ledger`.
    """
    for name, value in (("samples", samples), ("iterations", iterations)):
        whole(name, value, 1)
    kept = (Mask.full(problem.space) if mask is None else mask).dense()
    given = {**problem.initial_weights(), **(weights or {})}
    values = {name: value.double() if value.is_floating_point() else value.clone() for name, value in given.items()}
    layers = {name: (values[name] * kept[name]).requires_grad_() for name in problem.space.names}
    split, rng = problem.split("train"), seeds.generator(seed, "hessian")
    rows = torch.from_numpy(rng.choice(len(split), min(samples, len(split)), replace=False))
    inputs, targets = (value[rows] for value in (split.inputs, split.goals))
    with seeds.isolated(seed, "hessian"):
        outputs = functional_call(problem.module().train(), {**values, **layers}, (_double(inputs),))
        loss = problem.loss.per_sample(outputs.unsqueeze(0), _double(targets)).mean()
        gradients = torch.autograd.grad(loss, list(layers.values()), create_graph=True, allow_unused=True, materialize_grads=True)
    if ledger is not None:
        for products in range(1 + iterations * len(layers)):
            ledger.score(len(rows), problem.prunable, len(split), seen=not products)
    norms = {}
    for (name, weight), gradient in zip(layers.items(), gradients, strict=True):
        start = torch.randn(weight.shape, dtype=torch.float64, generator=seeds.torch_generator(seed, "hessian", name))
        norms[name] = _largest(gradient, weight, kept[name], start, iterations)
    return norms


def hessian_scales(
    problem: Problem,
    mask: Mask | None = None,
    weights: Mapping[str, Tensor] | None = None,
    *,
    rounds: int = 10,
    seed: int = 0,
    ledger: Ledger | None = None,
) -> dict[str, float]:
    """One factor a layer, with which every layer's Hessian norm is as near to 1 as `rounds` rounds bring it.

    In a network of L homogeneous layers (ReLU) the norm of layer k grows with the squared scales of all the others, so
    log s_k = S + log(h_k)/2 with S = -sum log(h) / (2(L - 1)). Where a norm layer makes the output blind to the scale of a
    weight, h_k falls with the square of its own; the layers that none follows are homogeneous among themselves, and a single
    one, such as the head of a convolutional network, is left alone. Either is a step of a fixed-point iteration; the best point
    seen is returned, with a warning where it is more than a factor of 2 off. ledger: to which every pass is added, the dense
    network's.
    """
    space = problem.space
    given = {**problem.initial_weights(), **(weights or {})}
    blind = _blind_to_scale(problem, mask, given, seed, ledger)
    logs = best = np.zeros(len(space))
    distance = np.inf
    for _ in range(rounds):
        scaled = {name: given[name] * float(np.exp(log)) for name, log in zip(space.names, logs, strict=True)}
        measured = hessian_norms(problem, mask, {**given, **scaled}, seed=seed, ledger=ledger)
        height = np.log(np.maximum(np.array(list(measured.values())), 1e-300))
        told = height > -600  # others are flat: empty, or no gradient reaches them
        if not np.isfinite(height).all() or not told.any():
            break  # or overflown: no scale is read off from it
        step, moves = _step(height, told & blind, told & ~blind)
        off = float(np.abs(height[moves if moves.any() else told]).max())
        if off < distance:
            best, distance = logs, off
        if distance < 0.01 or not moves.any():
            break
        logs = logs + np.clip(step, -LARGEST_STEP, LARGEST_STEP)
    if np.log(2) < distance < np.inf:
        log.warning("Hessian norms of layers stay up to a factor of %.3g from 1: see hessian_report", np.exp(distance))
    return {name: float(np.exp(log)) for name, log in zip(space.names, best, strict=True)}


def hessian_report(problem: Problem, mask: Mask, *, seed: int = 0) -> pd.DataFrame:
    """One row a layer: layer, dense (norm before masking), masked (after), scale (that brings it to 1), scaled (norm with it)."""
    import pandas as pd

    scales = hessian_scales(problem, mask, seed=seed)
    start = problem.initial_weights()
    scaled = {name: start[name] * factor for name, factor in scales.items()}
    columns = {
        "dense": hessian_norms(problem, seed=seed),
        "masked": hessian_norms(problem, mask, seed=seed),
        "scale": scales,
        "scaled": hessian_norms(problem, mask, scaled, seed=seed),
    }
    return pd.DataFrame({"layer": list(scales), **{name: list(values.values()) for name, values in columns.items()}})


@INITIALIZERS.register("hessian")
def initialize(problem: Problem, mask: Mask, weights: Weights, ledger: Ledger) -> Weights:
    """The problem's weights, each layer scaled so that its Hessian norm under the mask is near 1."""
    scales = hessian_scales(problem, mask, weights, seed=problem.seed, ledger=ledger)
    return {**weights, **{name: weights[name] * factor for name, factor in scales.items()}}


def _largest(gradient: Tensor, weight: Tensor, kept: Tensor, start: Tensor, iterations: int) -> float:
    """Largest eigenvalue in size of the Hessian's block of one layer, on the survivors."""
    direction, norm = start * kept, 0.0
    if not gradient.requires_grad:  # no gradient reaches the layer
        return norm
    for _ in range(iterations):
        size = float(direction.norm())
        if not size or not np.isfinite(size):
            return size
        [product] = torch.autograd.grad(
            gradient, weight, direction / size, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        direction = product * kept
        norm = float(direction.norm())
    return norm


def _blind_to_scale(
    problem: Problem, mask: Mask | None, weights: Mapping[str, Tensor], seed: int, ledger: Ledger | None
) -> npt.NDArray[np.bool_]:
    """For which layers twice the weights give about the same outputs, in training mode and without biases: a norm follows."""
    kept = (Mask.full(problem.space) if mask is None else mask).dense()
    values = {name: torch.zeros_like(value) if name.endswith("bias") else value for name, value in weights.items()}
    values |= {name: weights[name] * kept[name] for name in kept}
    split, module = problem.split("train"), problem.module().train()
    inputs = split.inputs[: min(SEEN, len(split))]

    def outputs(moved: Mapping[str, Tensor]) -> Tensor:
        if ledger is not None:
            ledger.score(len(inputs), problem.prunable, len(split), seen=False)
        own = {name: value.clone() for name, value in {**values, **moved}.items()}  # running statistics move
        with seeds.isolated(seed, "scale"), torch.no_grad():
            out: Tensor = functional_call(module, own, (inputs.clone(),))
        return out

    before = outputs({})
    changes = [outputs({name: 2 * values[name]}) - before for name in problem.space.names]
    size = float(before.norm())
    return np.array([float(change.norm()) < BLIND * size for change in changes])


def _step(
    height: npt.NDArray[np.float64], blind: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Change of the log scales that takes the log norms `height` to 0, and of which layers.

    blind: those whose own scale alone counts. others: those that are homogeneous; of one alone the Hessian does not depend on
    its scale.
    """
    step = np.where(blind, height / 2, 0.0)
    if others.sum() < 2:
        return step, blind
    step[others] = height[others] / 2 - height[others].sum() / 2 / (others.sum() - 1)
    return step, blind | others


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value
