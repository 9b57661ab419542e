"""Losses of k networks at once, and accuracy."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from evoprune.errors import InputError
from evoprune.problems.files import first_line
from evoprune.problems.naming import name_of, with_options
from evoprune.registry import Registry
from evoprune.shortage import out_of_memory

__all__ = ["LOSSES", "Loss", "UserLoss", "accuracy", "find_loss", "hits"]


class Loss:
    """What training minimises.

    name: for people and fingerprints. metric: what is reported beside it, `accuracy`, `mse`, or `loss` for itself.
    """

    name: str = ""
    metric: str = "loss"

    @property
    def higher_is_better(self) -> bool:
        """Whether more of `metric` is better."""
        return self.metric == "accuracy"

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses `(k, B)` of outputs `(k, B, …)`, with targets `(B, …)` for all, or `(k, B, …)` with own ones a row."""
        raise NotImplementedError

    def check_mean(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise `InputError` where one number for a batch, seen on outputs `(B, …)` and targets `(B, …)`, is no mean."""

    def __repr__(self) -> str:
        return self.name


LOSSES: Registry[Loss] = Registry("loss")


class _Registered(Loss):
    """One object a process: a copy, and what comes out of a pickle, is the one in `LOSSES`, by which kernels know it."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        same = self.name in LOSSES and LOSSES[self.name] is self
        return (find_loss, (self.name, self.metric)) if same else super().__reduce_ex__(protocol)


class _CrossEntropy(_Registered):
    """Logits `(k, B, classes)` against int64 class numbers: -log softmax at the class, in nats."""

    name, metric = "cross_entropy", "accuracy"

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        k, samples, _ = outputs.shape
        # classes second: torch's kernel then runs over whole lines of samples, several times faster than over rows of classes
        return functional.cross_entropy(outputs.transpose(1, 2), targets.expand(k, samples), reduction="none")


class _MeanSquaredError(_Registered):
    """Mean over a sample's features of (output - target)^2; both are flattened, so `(B, C, H, W)` meets `(k, B, F)`."""

    name, metric = "mse", "mse"

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        k, samples = outputs.shape[:2]
        flat = outputs.reshape(k, samples, -1)
        shared = targets.numel() * k == outputs.numel()
        return (flat - targets.reshape(1 if shared else k, samples, -1)).square().mean(-1)


LOSSES.add("cross_entropy", _CrossEntropy())
LOSSES.add("mse", _MeanSquaredError())


class UserLoss(Loss):
    """A callable `loss(outputs, targets)` for one network: outputs `(B, …)`, targets `(B, …)`.

    It gives `(B,)` losses, or their mean as a scalar (which every sample of the batch then counts with). It is applied to
    the k networks by `torch.vmap`, or one by one where that is not possible.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], metric: str) -> None:
        if isinstance(function, nn.Module) and any(parameter.requires_grad for parameter in function.parameters()):
            raise InputError(f"the loss {name_of(function)} has weights to train: only the model trains, move them there")
        self.function, self.metric = function, metric
        self.name = f"custom:{with_options(function)}"  # never the name of a registered one
        self._vmap = True
        self._placed: dict[torch.device, Callable[[Tensor, Tensor], Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_placed": {}}

    def _on(self, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
        """The function, with what it holds (weights of classes) on a device."""
        if not isinstance(self.function, nn.Module):
            return self.function
        if all(held.device == device for held in (*self.function.parameters(), *self.function.buffers())):
            return self.function
        if device not in self._placed:
            self._placed[device] = copy.deepcopy(self.function).to(device)
        return self._placed[device]

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        k, samples = outputs.shape[:2]
        values = self._apply(outputs, *_aligned(outputs, targets))
        if values.shape == (k,):
            return values[:, None].expand(k, samples)
        if values.shape != (k, samples):
            shape = tuple(values.shape[1:])
            raise InputError(f"the loss {name_of(self.function)} gives shape {shape}: return the mean or one loss a sample")
        return values

    def check_mean(self, outputs: Tensor, targets: Tensor) -> None:
        once, twice = (self._of_one(torch.cat([outputs] * times), torch.cat([targets] * times)) for times in (1, 2))
        if once is None or twice is None:
            return
        if math.isclose(twice, 2 * once, rel_tol=1e-4) and not math.isclose(twice, once):
            raise InputError(
                f"the loss {name_of(self.function)} doubles with the samples: give reduction='mean' or 'none', not their sum"
            )

    def _of_one(self, outputs: Tensor, targets: Tensor) -> float | None:
        """The one number that it gives for a batch of one network, None where it gives one a sample."""
        values = self._apply(outputs[None], *_aligned(outputs[None], targets))
        return float(values) if values.shape == (1,) else None

    def _apply(self, outputs: Tensor, targets: Tensor, own: bool) -> Tensor:
        function = self._on(outputs.device)
        if self._vmap:
            try:
                return torch.vmap(function, in_dims=(0, 0 if own else None))(outputs, targets)
            except Exception as error:  # whatever a user's function does that vmap cannot: the loop decides
                _raise_shortage(error)
                self._vmap = False
        try:
            return torch.stack([function(row, targets[i] if own else targets) for i, row in enumerate(outputs)])
        except Exception as error:
            _raise_shortage(error)
            raise InputError(
                f"the loss {name_of(self.function)} fails ({first_line(error)}): let it take (outputs, targets) of one network"
            ) from error


def _raise_shortage(error: Exception) -> None:
    """Pass on that memory ran out, which says nothing about the loss: smaller chunks may fit."""
    if out_of_memory(error):
        raise error


def _aligned(outputs: Tensor, targets: Tensor) -> tuple[Tensor, bool]:
    """Targets as one network of outputs `(k, B, …)` is compared with them, and whether each of the k has its own.

    Values get the shape of the outputs: `(B, 1)` against `(B,)` would be broadcast to `(B, B)` in silence.
    """
    if targets.is_floating_point() and targets.numel() * len(outputs) == outputs.numel():
        return targets.reshape(outputs.shape[1:]), False
    if targets.is_floating_point() and targets.numel() == outputs.numel():
        return targets.reshape(outputs.shape), True
    return targets, targets.ndim > 1 and targets.shape[:2] == outputs.shape[:2]


def find_loss(loss: str | Loss | Callable[[Tensor, Tensor], Tensor], metric: str) -> Loss:
    """A `Loss` from a registered name, a `Loss`, or a callable (whose `metric` is then as given)."""
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        return LOSSES[loss]
    if callable(loss):
        return UserLoss(loss, metric)
    raise InputError(f"loss {loss!r} is not usable: give {' or '.join(LOSSES)}, or a function of (outputs, targets)")


def hits(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether the largest of outputs `(k, B, classes)` is at the class in targets `(B,)` or `(k, B)`: bool `(k, B)`.

    A NaN among a sample's outputs is no hit.
    """
    largest, guess = outputs.max(-1)
    return (guess == targets) & ~largest.isnan()


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of `hits`, float32 `(k,)`, in [0, 1]."""
    return hits(outputs, targets).float().mean(-1)
