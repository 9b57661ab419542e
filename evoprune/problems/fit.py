"""Do model, data and loss belong together? Asked once, when a problem is made."""

from __future__ import annotations

import copy
from math import prod

import torch
from torch import Tensor, nn

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.problems.data import Data
from evoprune.problems.files import first_line
from evoprune.problems.losses import LOSSES, Loss
from evoprune.problems.models import find_model

__all__ = ["check_fit", "outputs_of", "task_of"]

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
    return task


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


def _check_labels(data: Data, outputs: int) -> None:
    for name, split in data.splits.items():
        largest = int(split.goals.max())
        if largest >= outputs:
            raise InputError(
                f"label {largest} in the {name} data is outside the classes 0 to {outputs - 1} of the model: correct it"
            )
