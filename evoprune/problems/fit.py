"""Do model, data and loss belong together? Asked once, when a problem is made."""

from __future__ import annotations

import copy
import logging
import pickle
import random
import warnings
from math import prod

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.masks.space import MaskSpace
from evoprune.problems.data import Data
from evoprune.problems.files import first_line
from evoprune.problems.losses import LOSSES, Loss
from evoprune.problems.models import find_model

__all__ = ["check_batch", "check_fit", "check_training", "outputs_of", "task_of"]

log = logging.getLogger("evoprune")

CLASSIFICATION, RECONSTRUCTION, REGRESSION = "classification", "reconstruction", "regression"


def task_of(model: object, data: Data, loss: object) -> str:
    """`classification`, `reconstruction` or `regression`.

    Class labels mean classification, unless the model is an autoencoder by name or a module is asked for `mse`, which class
    numbers have none of. Raises `InputError` when the loss cannot be meant.
    """
    named = find_model(model) if isinstance(model, str) else None
    values_loss = loss == "mse" or loss is LOSSES["mse"]
    autoencodes = named.task == RECONSTRUCTION if named else values_loss and data.labels == "classes"
    task = {"none": RECONSTRUCTION, "values": REGRESSION, "classes": CLASSIFICATION}[data.labels]
    if autoencodes:
        task = RECONSTRUCTION
    if values_loss and task == CLASSIFICATION:
        raise InputError(
            "loss 'mse' compares values, the labels are class numbers: use 'cross_entropy' or the model 'autoencoder'"
        )
    if (loss == "cross_entropy" or loss is LOSSES["cross_entropy"]) and task != CLASSIFICATION:
        raise InputError(f"loss 'cross_entropy' needs class numbers, this is {task}: use 'mse', or give whole-number labels")
    if task == REGRESSION and not values_loss and _look_like_classes(data.train.goals):
        log.warning(
            "the labels are whole numbers of a float type, so this is a regression: give integers to classify, loss='mse' if so"
        )
    return task


def _look_like_classes(goals: Tensor) -> bool:
    """Whether numbers of a float type are 0, 1, …, n without a gap."""
    present = torch.unique(goals)
    return len(present) > 1 and torch.equal(present, torch.arange(len(present), dtype=present.dtype))


def outputs_of(name: str, data: Data, task: str) -> int:
    """Outputs that a named model gets: classes, values of a label, or features of a sample. Raises `InputError` on a gap."""
    if task == RECONSTRUCTION:
        return prod(data.train.inputs.shape[1:])
    if task == REGRESSION or data.classes is None:
        return prod(data.train.goals.shape[1:])
    present = torch.unique(torch.cat([data.train.goals, data.validation.goals]))
    if len(present) < data.classes:
        # a single wrong label would otherwise add classes that nothing belongs to
        gap = int((present != torch.arange(len(present))).nonzero()[0])
        raise InputError(
            f"labels go up to {data.classes - 1}, but no sample has class {gap}: {name} needs class numbers 0, 1, 2, …"
        )
    return data.classes


def check_fit(module: nn.Module, data: Data, task: str, loss: Loss) -> int:
    """Number of outputs of `module`, seen on two samples in evaluation mode; module and random states stay untouched.

    Raises `InputError` when it fails, or when its outputs do not fit the labels.
    """
    inputs, goals = data.train.inputs[:2], data.train.goals[:2]
    outputs = _outputs(module, inputs)
    shape = tuple(outputs.shape)
    if task == CLASSIFICATION:
        if len(shape) != 2 or shape[0] != len(inputs):
            raise InputError(f"the model gives shape {shape} for {len(inputs)} samples: a classifier gives (samples, classes)")
        _check_labels(data, shape[1])
    elif shape[:1] != (len(inputs),) or outputs.numel() != goals.numel():
        whole = "inputs" if task == RECONSTRUCTION else "labels"
        raise InputError(f"the model gives shape {shape} for {whole} of shape {tuple(goals.shape)}: for {task} they must agree")
    with seeds.isolated():
        loss.per_sample(outputs[None], goals)
        loss.check_mean(outputs, goals)
    return prod(shape[1:])


def _outputs(module: nn.Module, inputs: Tensor) -> Tensor:
    probe = copy.deepcopy(module).eval()
    try:
        with seeds.isolated(), torch.no_grad():
            outputs = probe(inputs.clone())  # it may change them
    except Exception as error:
        hint = "" if inputs.is_floating_point() else ", and integers stay as they are: give floats where no token ids are meant"
        what = f"the model fails on inputs of shape {tuple(inputs.shape)} ({first_line(error)})"
        raise InputError(f"{what}: give data of the shape it takes{hint}") from error
    if not isinstance(outputs, Tensor):
        raise InputError(f"the model gives {type(outputs).__name__}: its forward must return one tensor")
    if not outputs.isfinite().all():
        raise InputError("the model gives NaN or infinity on the first samples: check its initial weights")
    return outputs


def check_batch(module: nn.Module, inputs: Tensor) -> None:
    """Raise `InputError` when `module` fails in training mode on these inputs; it stays untouched."""
    probe = copy.deepcopy(module).train()
    before = _own_generators(probe)
    try:
        with seeds.isolated(), torch.no_grad():
            outputs = probe(inputs.clone())
    except Exception as error:
        hint = "choose a larger batch_size=" if len(inputs) == 1 else "let its forward take what it takes in evaluation mode"
        raise InputError(f"the model fails on a batch of {len(inputs)} in training ({first_line(error)}): {hint}") from error
    if not isinstance(outputs, Tensor):
        raise InputError(f"the model gives {type(outputs).__name__} in training: its forward must return one tensor")
    for name, state in _own_generators(probe).items():
        if before.get(name) != state:  # nothing seeds it, so that a result would depend on what was trained before
            raise InputError(f"the model draws from its own generator {name!r}: draw from torch's global one, which steps seed")


def _own_generators(module: nn.Module) -> dict[str, object]:
    """States of the random generators that layers hold as attributes, by name."""
    states: dict[str, object] = {}
    for prefix, layer in module.named_modules():
        for name, value in vars(layer).items():
            if isinstance(value, torch.Generator):
                state: object = bytes(value.get_state().numpy())
            elif isinstance(value, np.random.Generator | np.random.RandomState | random.Random):
                state = pickle.dumps(value)
            else:
                continue
            states[f"{prefix}.{name}".removeprefix(".")] = state
    return states


def check_training(module: nn.Module, data: Data, loss: Loss) -> None:
    """Raise `InputError` when `module` cannot train with the weights of many networks, which engines call one module with.

    A layer that runs again in the backward pass (activation checkpointing), or a weight that is reached by another way than
    its name, would take what the module holds instead, in silence.
    """
    inputs, goals = data.train.inputs[:2], data.train.goals[:2]
    check_batch(module, inputs)
    first, again, moved = (_gradients(module, inputs, goals, loss, held) for held in (1.0, 1.0, -0.5))
    if _same(first, again) and not _same(first, moved):
        raise InputError(
            "the model computes with other weights than those it is called with: turn activation checkpointing off, and reach "
            "every weight by its layer"
        )
    missed = [name for name in MaskSpace.of(module).names if first[name] is None]
    if missed:
        log.warning("no gradient reaches %s: they keep their initial weights, but for weight decay", ", ".join(missed))


def _gradients(module: nn.Module, inputs: Tensor, goals: Tensor, loss: Loss, held: float) -> dict[str, Tensor | None]:
    """Of the loss in training mode, by the weights of `module`, while it holds these times `held`."""
    leaves = {name: p.detach().clone().requires_grad_(p.requires_grad) for name, p in module.named_parameters()}
    probe = copy.deepcopy(module).train()
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.mul_(held)
    with seeds.isolated(), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch has to say it says in training
        try:
            outputs = functional_call(probe, leaves, (inputs.clone(),))
            mean = loss.per_sample(outputs[None], goals).mean()
            if mean.requires_grad:
                mean.backward()
        except Exception as error:
            what = f"the model or the loss {loss.name} fails where gradients are wanted ({first_line(error)})"
            raise InputError(f"{what}: let both be differentiable") from error
        if not mean.requires_grad:
            raise InputError(f"no gradient reaches the model from the loss {loss.name}: let both be differentiable")
    for name, leaf in leaves.items():
        if leaf.grad is not None and leaf.grad.layout is not torch.strided:
            raise InputError(f"the gradient of {name} is a sparse tensor: make its layer without sparse=True")
    return {name: leaf.grad for name, leaf in leaves.items()}


def _same(one: dict[str, Tensor | None], other: dict[str, Tensor | None]) -> bool:
    pairs = ((one[name], other[name]) for name in one)
    return all(a is b if a is None or b is None else torch.allclose(a, b, 0, 0, equal_nan=True) for a, b in pairs)


def _check_labels(data: Data, outputs: int) -> None:
    for name, split in data.splits.items():
        largest = int(split.goals.max())
        if largest >= outputs:
            raise InputError(
                f"label {largest} in the {name} data is outside the classes 0 to {outputs - 1} of the model: correct it"
            )
