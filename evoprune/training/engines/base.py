"""What an engine is: it turns (model, parameters of K individuals) into chunks that map a batch to k outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from evoprune.masks.space import MaskSpace
from evoprune.problems.losses import Loss
from evoprune.registry import Registry
from evoprune.training.parameters import Parameters

__all__ = ["ENGINES", "Chunk", "Engine", "FusedEvaluation", "FusedStep", "hooked"]


class Chunk(nn.Module, ABC):
    """k consecutive individuals as one module; `train()` and `eval()` switch it like any other.

    `leaves` are views of the population's flat parameters: their `.grad` are views of the population's gradients, so a
    backward pass accumulates in place, whatever the number of chunks.
    """

    def __init__(self, parameters: Parameters, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop, self.k = start, stop, stop - start
        self.survivors = {name: _view(value, parameters.span(name, start, stop)) for name, value in parameters.survivors.items()}
        self.stacked = {name: _view(value, slice(start, stop)) for name, value in parameters.stacked.items()}
        self.states = {name: value[start:stop] for name, value in parameters.buffers.items()}

    @abstractmethod
    def forward(self, batch: Tensor, shared: bool = True) -> Tensor:
        """Outputs `(k, B, …)` of a batch.

        batch: `(B, …)`, the same for all k individuals; with `shared=False` `(k, B, …)`, one batch an individual.
        """

    @abstractmethod
    def dense_gradients(self, batch: Tensor, objective: Callable[[Tensor], Tensor], shared: bool = True) -> dict[str, Tensor]:
        """Gradient of `objective(outputs)` (a number, outputs as of `forward`) with respect to every prunable weight.

        `(k, *shape)` by name, pruned weights included; gradients and running statistics of the chunk stay as they are.
        """


class FusedStep(Protocol):
    """Forward, loss, backward and optimizer of all individuals as one call that does what the four would."""

    def __call__(self, indices: Tensor, losses: Tensor, sums: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Train one step, with the optimizer's current options.

        indices: the batch as positions in the training split, int64 `(B,)`. losses: float64 `(K,)`, to which each individual's
        mean loss is added. sums: `Trace.sums`, to which gradients are added. Gradients are zero afterwards. Where memory runs
        out, nothing has changed.
        """


class FusedEvaluation(Protocol):
    """Forward and loss of all individuals on a whole split as one call."""

    def __call__(self, losses: Tensor, hits: Tensor | None) -> None:
        """Add each individual's sum of the samples' losses to `losses` and, of a classification, its `hits`; float64 `(K,)`."""


class Engine(ABC):
    """One way to train a generation. Loss, optimizer, schedule and trace are written once, above it.

    Its constructor raises `UnsupportedLayer`, with a line that names the layer, for a model it cannot run.
    """

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("full",)
    """What `precision` may be (see `Training`)."""

    recordable: ClassVar[bool] = False
    """Whether a step is the same kernels on the same memory every time, so that a CUDA graph can hold it."""

    compilable: ClassVar[bool] = False
    """Whether it has a `compile`."""

    precision: str = "full"
    limit: int | None = None
    """Individuals a chunk may hold since memory ran out; None before."""

    def __init__(self, model: nn.Module, space: MaskSpace, *, batch_size: int, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.space, self.batch_size, self.device, self.dtype = model, space, batch_size, device, dtype

    @property
    @abstractmethod
    def rows(self) -> int:
        """Individuals a chunk: follows from model, batch and cache, never from K."""

    @property
    def width(self) -> int:
        """Individuals a chunk: `rows`, or what memory allows."""
        return self.rows if self.limit is None else min(self.rows, self.limit)

    def halve(self, held: int) -> bool:
        """Half of `held`, the individuals of the largest chunk, a chunk from now on; False where one is left."""
        if held == 1:
            return False
        self.limit = held // 2
        return True

    def prepare(self, shape: Sequence[int]) -> None:
        """Raise `UnsupportedLayer` where the shape of a sample, of one input, shows that this engine cannot run the model."""
        return  # the default waits for the first batch

    def compile(self) -> None:
        """Run what is trained through `torch.compile` from now on."""
        raise NotImplementedError

    @property
    def random(self) -> bool:
        """Whether a training step may draw random numbers (dropout); the caller then seeds all generators before each chunk."""
        return True

    @abstractmethod
    def chunk(self, parameters: Parameters, start: int, stop: int) -> Chunk:
        """Individuals start … stop - 1 of `parameters` as one module."""

    def fuse(
        self, parameters: Parameters, data: tuple[Tensor, Tensor], loss: Loss, optimizer: torch.optim.Optimizer
    ) -> FusedStep | None:
        """A step of this engine's own for this loss and this optimizer, on the training split `data` (inputs, targets).

        None where it has none: the population then calls chunks, loss and optimizer one after the other.
        """
        return None

    def fuse_evaluation(self, parameters: Parameters, data: tuple[Tensor, Tensor], loss: Loss) -> FusedEvaluation | None:
        """An evaluation of this engine's own on a split's inputs and targets, or None: then chunks and loss are called."""
        return None


ENGINES: Registry[Callable[..., Engine]] = Registry("engine")
"""Engine classes, or functions that load one first: `ENGINES[name](model, space, batch_size=…, device=…, dtype=…)`."""


def hooked(model: nn.Module, *, backward: bool) -> str | None:
    """The first layer with hooks on its backward pass, or with any hooks at all, for a message; None where there is none."""
    kinds = ("_backward_hooks", "_backward_pre_hooks") + (() if backward else ("_forward_hooks", "_forward_pre_hooks"))
    for name, module in model.named_modules():
        if any(getattr(module, kind) for kind in kinds):
            return f"the layer {name!r} ({type(module).__name__})" if name else type(module).__name__
    return None


def _view(value: Tensor, span: slice) -> Tensor:
    leaf = value.detach()[span].requires_grad_()
    assert value.grad is not None
    leaf.grad = value.grad[span]
    return leaf
