"""Criteria: what training told, as one number an individual.  [Haroon 2022, arXiv:2209.02201, and controls]

A criterion is a function `(trace, masks) -> (K,) numbers` with a direction. `needs` names the per-weight sums that have
to be recorded over the last selection epoch; `relative` says that a value depends on the cohort.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import numpy as np

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.masks.topology import Topology
from evoprune.registry import Registry, as_table
from evoprune.training.trace import Floats, Trace

__all__ = ["CRITERIA", "Criterion", "criterion"]

Function = Callable[[Trace, Sequence[Mask]], Floats]
Direction = Literal["max", "min"]


@dataclass(frozen=True)
class Criterion:
    """A registered criterion; call it with a trace and the masks of its current rows.

    direction: "max" when larger is fitter. needs: per-weight sums to record. relative: depends on the cohort.
    trained: False when it needs no training.
    """

    name: str
    function: Function
    direction: Direction
    needs: tuple[str, ...] = ()
    relative: bool = False
    trained: bool = True

    @property
    def doc(self) -> str:
        """One line."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    @property
    def weight(self) -> float:
        """+1 to maximise, -1 to minimise, as DEAP's fitness weights."""
        return 1.0 if self.direction == "max" else -1.0

    @property
    def worst(self) -> float:
        """Infinite, on the losing side: what a failed individual gets."""
        return -self.weight * np.inf

    def __reduce__(self) -> tuple[Callable[[str, str], Criterion], tuple[str, str]]:
        """By name: the module that registers it is imported where it is needed."""
        return _registered, (self.function.__module__, self.name)

    def __call__(self, trace: Trace, masks: Sequence[Mask]) -> Floats:
        """Values `(K,)`; a failed or non-finite one is the worst, whatever the direction."""
        with np.errstate(invalid="ignore", over="ignore"):
            values = np.asarray(self.function(trace, masks), dtype=np.float64)
        if values.shape != trace.failed.shape:
            raise InputError(
                f"the criterion {self.name!r} gives shape {values.shape} for {len(trace.failed)} masks: return one number a mask"
            )
        return np.where(np.isfinite(values) & ~trace.failed, values, self.worst)


CRITERIA: Registry[Criterion] = Registry("criterion", by='@evoprune.criteria.criterion("min")')


def criterion(
    direction: Direction, *, needs: tuple[str, ...] = (), relative: bool = False, trained: bool = True
) -> Callable[[Function], Criterion]:
    """Register a function `(trace, masks) -> (K,) numbers` as the criterion of its name.

    direction: "max" when larger is fitter, else "min". needs: per-weight sums that have to be recorded, `grad` and `grad_path`.
    relative: whether a value depends on who else is there. trained: False when it needs no training.

    Raises `InputError` for another direction, and for a function of other arguments.
    """
    if direction not in ("max", "min"):
        raise InputError(f'direction={direction!r} is not usable: give "max" when larger is fitter, else "min"')

    def register(function: Function) -> Criterion:
        name = getattr(function, "__name__", "criterion")
        try:
            inspect.signature(function).bind(None, [])
        except ValueError:  # C functions may have no signature
            pass
        except TypeError:
            raise InputError(f"the criterion {name!r} has other arguments: let it take (trace, masks)") from None
        return CRITERIA.add(name, Criterion(name, function, direction, needs, relative, trained))

    return register


def _registered(module: str, name: str) -> Criterion:
    """The criterion of a name, in this process or another. Raises `InputError` where the module does not register it."""
    if name not in CRITERIA:
        import_module(module)
    if name not in CRITERIA:
        raise InputError(f"the module {module!r} registers no criterion {name!r} here: define it at the top level of a module")
    return CRITERIA[name]


@criterion("max")
def weight(trace: Trace, masks: Sequence[Mask]) -> Floats:
    """Sum of abs(w) over the survivors."""
    return trace.total("weight")


@criterion("max", needs=("grad",))
def grad(trace: Trace, masks: Sequence[Mask]) -> Floats:
    """Sum over the survivors of abs(sum of gradients over the last selection epoch)."""
    return trace.total("grad")


@criterion("max", needs=("grad_path",))
def grad_path(trace: Trace, masks: Sequence[Mask]) -> Floats:
    """Sum over the survivors of the gradients' sizes, added up over the last selection epoch."""
    return trace.total("grad_path")


@criterion("max", needs=("grad",), relative=True)
def both(trace: Trace, masks: Sequence[Mask]) -> Floats:
    """Sum of the z-scores of `weight` and `grad` over the cohort."""
    return _z_scores(trace.total("weight"), ~trace.failed) + _z_scores(trace.total("grad"), ~trace.failed)


@criterion("max")
def movement(trace: Trace, masks: Sequence[Mask]) -> Floats:
    """Sum over the survivors of abs(w - w0)."""
    return trace.total("movement")


@criterion("min")
def loss(trace: Trace, masks: Sequence[Mask]) -> Floats:
    """Mean loss on the validation split."""
    return trace.last("val_loss")


@criterion("max")
def accuracy(trace: Trace, masks: Sequence[Mask]) -> Floats:
    """Accuracy on the validation split."""
    if trace.problem.task != "classification":
        raise InputError(f"criterion 'accuracy' has no meaning for a {trace.problem.task}: use criterion='loss'")
    return trace.last("val_accuracy")


@criterion("max", trained=False)
def live_paths(trace: Trace, masks: Sequence[Mask]) -> Floats:
    """Survivors that lie on a path from input to output; needs no training."""
    topology = Topology.of(trace.problem.module(), trace.problem.input_shape)
    return np.array([topology.live_paths(mask) for mask in masks], dtype=np.float64)


@criterion("max", trained=False)
def random(trace: Trace, masks: Sequence[Mask]) -> Floats:
    """A control: a number drawn from the mask's own hash, which tells nothing."""
    return np.array([seeds.generator(int(mask.hash[:15], 16), "random criterion").random() for mask in masks])


def _z_scores(values: Floats, good: np.typing.NDArray[np.bool_]) -> Floats:
    cohort = values[good]
    spread = cohort.std() if len(cohort) else 0.0
    return np.where(good, (values - cohort.mean()) / spread if spread else 0.0, np.nan)


as_table(__name__, CRITERIA)
