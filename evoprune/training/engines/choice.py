"""Which engine runs: the asked one, or `auto`: decided from device, model and sparsity, never from K or a timing."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from evoprune import seeds
from evoprune.errors import EvopruneError, UnsupportedLayer
from evoprune.masks.mask import Mask
from evoprune.masks.space import MaskSpace
from evoprune.problems.files import first_line
from evoprune.problems.problem import Problem
from evoprune.shortage import out_of_memory
from evoprune.training.engines.base import ENGINES, Engine
from evoprune.training.parameters import Parameters

__all__ = ["EngineChoice", "make_engine", "sparse_suits"]

log = logging.getLogger("evoprune")

SPARSE_FROM: dict[str, dict[str, float]] = {"cpu": {"linear": 0.0, "convolutional": 0.3}}
"""By device type: sparsity from which `auto` takes the sparse engine, for models whose prunable layers are all Linear, and for
others: where `benchmarks/engine_choice.py` measures it to be faster than the dense one. Nothing is known of a GPU yet."""


def make_engine(
    name: str,
    model: nn.Module,
    parameters: Parameters,
    sample: torch.Tensor,
    *,
    batch_size: int,
    dtype: torch.dtype,
    precision: str = "full",
    compile: bool = False,
) -> Engine:
    """The engine called `name`; for "auto" the first of the suitable ones that can run the model.

    sample: a few inputs `(B, …)` on the device, to see whether the model can be vmapped.
    Raises `UnsupportedLayer` when the asked engine cannot run the model, `UnknownName` for an unknown engine.
    """

    def build(name: str) -> Engine:
        engine = ENGINES[name](model, parameters.space, batch_size=batch_size, device=sample.device, dtype=dtype)
        if precision not in engine.precisions:
            raise UnsupportedLayer(
                f"the {engine.name} engine computes with precision='full' here, not {precision!r}: use engine='dense'"
            )
        if compile and not engine.compilable:
            raise UnsupportedLayer(f"the {engine.name} engine is not compiled: use engine='dense', or compile=False")
        engine.precision = precision
        engine.prepare(sample.shape[1:])
        if compile:
            engine.compile()
        return engine

    if name != "auto":
        return build(name)
    for candidate in _candidates(parameters.space, parameters.masks, sample.device):
        try:
            engine = build(candidate)
            if candidate == "dense":
                _probe(engine, parameters, sample)
        except UnsupportedLayer as error:
            log.warning("engine auto: not %s: %s", candidate, error)
            continue
        log.info("engine auto: %s", candidate)
        return engine
    return build("loop")


def _candidates(space: MaskSpace, masks: tuple[Mask, ...], device: torch.device) -> list[str]:
    return ["sparse", "dense", "loop"] if sparse_suits(space, masks, device) else ["dense", "loop"]


def sparse_suits(space: MaskSpace, masks: tuple[Mask, ...], device: torch.device) -> bool:
    """Whether `auto` takes the sparse engine for these masks, if it can run the model."""
    kind = "linear" if all(len(shape) == 2 for shape in space.shapes) else "convolutional"
    least = SPARSE_FROM.get(device.type, {}).get(kind)
    return "sparse" in ENGINES and least is not None and min(mask.sparsity for mask in masks) >= least


def _probe(engine: Engine, parameters: Parameters, sample: torch.Tensor) -> None:
    """Raise `UnsupportedLayer` where a few inputs show that the engine cannot run the model, for whatever reason."""
    try:
        with seeds.isolated(), torch.no_grad():
            chunk = engine.chunk(parameters, 0, 1)
            chunk.states = {name: value.clone() for name, value in chunk.states.items()}
            for mode in (True, False):
                chunk.train(mode)(sample)
    except EvopruneError:
        raise
    except Exception as error:  # it runs the user's code, in ways that torch may not know
        if out_of_memory(error):
            raise
        raise UnsupportedLayer(f"the {engine.name} engine fails on this model ({first_line(error)})") from error


class EngineChoice:
    """The engine of one population: the asked one; of `auto` a suitable one, and, once, another for the networks that are left.

    name: an engine's, or "auto". sample: a few inputs `(B, …)` on the device. options: as of `make_engine`.
    """

    def __init__(self, name: str, problem: Problem, sample: torch.Tensor, **options: Any) -> None:
        self.name, self._problem, self._sample, self._options = name, problem, sample, options
        self._asked_sparse = False

    def make(self, name: str, parameters: Parameters) -> Engine:
        """The engine called `name`. Raises `UnsupportedLayer` when it cannot run the model."""
        model = self._problem.module().to(self._sample.device, self._options["dtype"])
        return make_engine(name, model, parameters, self._sample, **self._options)

    def first(self, parameters: Parameters) -> Engine:
        """The engine to begin with."""
        self._asked_sparse = sparse_suits(parameters.space, parameters.masks, self._sample.device)
        return self.make(self.name, parameters)

    def next(self, engine: Engine, parameters: Parameters) -> Engine:
        """The engine to go on with, `engine` itself unless there is a better one.

        `auto` begins with the dense engine where there is little sparsity, and leaves it for the sparse one, once, when the
        networks that are left are so sparse that it is faster.
        """
        if self.name != "auto" or engine.name != "dense" or self._asked_sparse:
            return engine
        if not sparse_suits(parameters.space, parameters.masks, self._sample.device):
            return engine
        self._asked_sparse = True  # where it cannot run the model it never can
        try:
            engine = self.make("sparse", parameters)
        except UnsupportedLayer as error:
            log.warning("engine auto: not sparse: %s", error)
        else:
            log.info("engine auto: sparse from here on")
        return engine
