"""The Hessian norm of each layer, and the scale that brings it to 1.  [Skorski 2020, arXiv:2004.09506]

A layer whose loss has a Hessian far below 1 learns slowly, one far above 1 diverges at the usual learning rates. Pruning
moves the norms: `hessian_report` shows by how much, `hessian_scales` undoes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.problems.problem import Problem
from evoprune.training.initializers.table import INITIALIZERS, Weights
from evoprune.training.ledger import Ledger

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["hessian_norms", "hessian_report", "hessian_scales"]

NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.LayerNorm, nn.GroupNorm)
LARGEST_STEP = 1.0
"""Largest change of a log scale in one round."""


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
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name}={value!r} is not usable: give a whole number >= 1")
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
    log s_k = S + log(h_k)/2 with S = -sum log(h) / (2(L - 1)). Where norm layers make the output blind to the scale of a
    weight, h_k falls with the square of its own; the last layer, which none follows, is left alone there. Either is a step of
    a fixed-point iteration; the best point seen is returned. ledger: to which every gradient is added, the dense network's.
    """
    space = problem.space
    given = {**problem.initial_weights(), **(weights or {})}
    normed = any(isinstance(layer, NORMS) for layer in problem.module().modules())
    logs = best = np.zeros(len(space))
    distance = np.inf
    for _ in range(rounds):
        scaled = {name: given[name] * float(np.exp(log)) for name, log in zip(space.names, logs, strict=True)}
        measured = hessian_norms(problem, mask, {**given, **scaled}, seed=seed, ledger=ledger)
        height = np.log(np.maximum(np.array(list(measured.values())), 1e-300))
        told = height > -600  # others are flat: empty, or no gradient reaches them
        if not np.isfinite(height).all() or not told.any():
            break  # or overflown: no scale is read off from it
        height = height[told]
        off = np.abs(height[:-1] if normed and len(height) > 1 else height).max()
        if off < distance:
            best, distance = logs, float(off)
        if distance < 0.01:
            break
        logs = logs.copy()
        logs[told] += np.clip(_step(height, normed), -LARGEST_STEP, LARGEST_STEP)
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


def _step(height: npt.NDArray[np.float64], normed: bool) -> npt.NDArray[np.float64]:
    """Change of the log scales that takes the log norms `height` to 0, if the network were homogeneous, or blind to scale."""
    if len(height) == 1 and not normed:
        return np.zeros(1)  # one linear layer: its Hessian does not depend on its scale
    step: npt.NDArray[np.float64] = height / 2
    if not normed:
        return step - float(step.sum()) / (len(step) - 1)
    if len(step) > 1:
        step[-1] = 0.0  # the head: no norm follows it
    return step


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value
