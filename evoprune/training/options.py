"""How a generation is trained: one frozen record of every option, checked where the user's value enters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from evoprune.errors import InputError, UnknownName
from evoprune.registry import Registry
from evoprune.training.initializers import INITIALIZERS
from evoprune.training.precision import PRECISIONS, check_precision
from evoprune.values import is_number, is_whole, native

__all__ = ["OPTIMIZERS", "SCHEDULES", "Training"]

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adadelta": torch.optim.Adadelta,
    "adamax": torch.optim.Adamax,
    "rprop": torch.optim.Rprop,
}
"""The element-wise optimizers of `torch.optim`: each survivor's update depends on its own gradient and state alone."""

FUSED = ("sgd", "adam", "adamw")
"""On a GPU these step in one kernel."""
CAPTURABLE = (*FUSED, "rmsprop", "nadam", "radam", "adadelta", "adamax", "rprop")
"""Their learning rate and step count can be numbers on the device, so that a CUDA graph can hold the step."""
CAPTURABLE_ON = ("cuda",)

COUPLED = ("lbfgs", "adafactor", "muon")
LEARNING_RATES = {"sgd": 0.05, "adagrad": 0.01, "adadelta": 1.0, "rprop": 0.01}
"""Where none is given; of the others it is .001. Journals keep what was asked, so that a change here would mix two rates."""
UNREAD_WITHOUT = {"momentum": ("optimizer", "sgd"), "step_every": ("schedule", "step"), "step_factor": ("schedule", "step")}
"""By option: the option and its value that alone read it."""

SCHEDULES: Registry[Callable[[Training, int, int], float]] = Registry("schedule")


@SCHEDULES.register("constant")
def constant(training: Training, step: int, total: int) -> float:
    """Factor 1 throughout."""
    return 1.0


@SCHEDULES.register("cosine")
def cosine(training: Training, step: int, total: int) -> float:
    """From 1 to 0 along half a cosine, per step.  [Loshchilov 2017, arXiv:1608.03983]"""
    return 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0)))


@SCHEDULES.register("step")
def step_decay(training: Training, step: int, total: int) -> float:
    """`step_factor` more after every `step_every` steps (a third of the horizon unless given)."""
    return float(training.step_factor ** (step // (training.step_every or math.ceil(total / 3))))


@dataclass(frozen=True)
class Training:
    """Options of `Population`, all of which every method accepts too; numpy's numbers are taken as Python's.

    engine: "auto", "loop", "dense" or "sparse". device: "auto", "cpu", "cuda", …. dtype: "float32" or "float64".
    precision: how products are computed: "full" in `dtype`, "tf32" (CUDA) or "bf16" with fewer digits, on float32 weights.
    cuda_graphs: on a GPU, record a step once and replay it (what cannot be recorded runs as it is, and says so).
    compile: train the dense engine through `torch.compile` (a model that it does not take runs as it is, and says so).
    batch_size: samples a step; None takes min(128, n_train // 40).
    optimizer: a name of `OPTIMIZERS`. lr: learning rate; None takes .05 for SGD, 1 for adadelta, .01 for adagrad and
        rprop, .001 for the others.
    momentum, nesterov: SGD only. weight_decay: on every parameter.
    schedule: "cosine" per step over the horizon, "constant", or "step" with `step_every` (steps) and `step_factor`. Rprop follows
        none: it reads the learning rate in its first step only.
    rescale: divide survivors by sqrt(layer density) at the start.
    own_weights: another draw of the initial weights for every individual, instead of common ones.
    init: "problem" for its own initial weights, "eoi" for exactly orthogonal ones on the mask, "hessian" for its own with every
        layer scaled to a Hessian norm of 1.
    drop_rate: share of the prunable weights that each step drops at random (DropConnect); SGD only.
    """

    engine: str = "auto"
    device: str = "auto"
    dtype: str = "float32"
    precision: str = "full"
    cuda_graphs: bool = True
    compile: bool = False
    batch_size: int | None = None
    optimizer: str = "sgd"
    lr: float | None = None
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str = "cosine"
    step_every: int | None = None
    step_factor: float = 0.1
    rescale: bool = False
    own_weights: bool = False
    init: str = "problem"
    drop_rate: float = 0.0

    @classmethod
    def of(cls, **options: Any) -> Training:
        """From keyword arguments; an unknown one raises `UnknownName` with the nearest known one."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise UnknownName("training option", name, known)
        return cls(**options)

    @classmethod
    def following(cls, before: Mapping[str, Any], **asked: Any) -> dict[str, Any]:
        """The options `before` with those `asked` in their place, and without those of before that nothing would read then."""
        merged = {**before, **asked}
        chosen = {by: merged.get(by, getattr(cls, by)) for by in ("optimizer", "schedule")}
        unread = {name for name, (by, reader) in UNREAD_WITHOUT.items() if chosen[by] != reader and name not in asked}
        return {name: value for name, value in merged.items() if name not in unread}

    def __post_init__(self) -> None:
        for field in fields(self):
            value = native(getattr(self, field.name))
            object.__setattr__(self, field.name, str(value) if isinstance(value, torch.device) else value)
        self._check_optimizer()
        SCHEDULES[self.schedule]
        INITIALIZERS[self.init]
        if self.dtype not in ("float32", "float64"):
            if self.dtype in ("bfloat16", "float16", "bf16", "tf32"):
                raise InputError(f"dtype={self.dtype!r} is not usable for weights: keep dtype='float32' and set precision='bf16'")
            raise UnknownName("dtype", self.dtype, ("float32", "float64"))
        if self.precision not in PRECISIONS:
            raise UnknownName("precision", self.precision, PRECISIONS)
        if self.precision != "full" and self.dtype != "float32":
            raise InputError(f"precision={self.precision!r} is for dtype='float32', not {self.dtype!r}: change one of them")
        checks = {
            "batch_size": self.batch_size is None or is_whole(self.batch_size, 1),
            "lr": self.lr is None or _number(self.lr, 0, math.inf),
            "momentum": _number(self.momentum, 0, 1, open_end=True),
            "weight_decay": _number(self.weight_decay, 0, math.inf),
            "step_every": self.step_every is None or is_whole(self.step_every, 1),
            "step_factor": _number(self.step_factor, 0, math.inf),
            "drop_rate": _number(self.drop_rate, 0, 1, open_end=True),
        }
        expected = {
            "batch_size": "whole number >= 1",
            "step_every": "whole number >= 1",
            "momentum": "number in [0, 1)",
            "drop_rate": "number in [0, 1)",
        }
        for name, good in checks.items():
            if not good:
                raise InputError(
                    f"{name}={getattr(self, name)!r} is not usable: give a {expected.get(name, 'finite number >= 0')}"
                )
        for name in ("nesterov", "rescale", "own_weights", "cuda_graphs", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}={getattr(self, name)!r} is not usable: give True or False")
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise InputError("nesterov=True needs optimizer='sgd' and a momentum above 0: change one of them")
        if self.drop_rate and self.optimizer != "sgd":  # which divide out the scale that a step on the mean weights takes
            raise InputError(f"drop_rate={self.drop_rate!r} needs optimizer='sgd', not {self.optimizer!r}: change one of them")
        self._check_read()
        if self.rescale and self.init != "problem":
            raise InputError(f"rescale=True would undo init={self.init!r}: choose one of them")

    def _check_read(self) -> None:
        """Raise `InputError` for what the chosen optimizer or schedule would not read."""
        if self.optimizer == "rprop" and self.schedule not in (type(self).schedule, "constant"):
            raise InputError(
                f"schedule={self.schedule!r} does nothing with optimizer='rprop': it reads lr in its first step only"
            )
        for name, (by, reader) in UNREAD_WITHOUT.items():
            given, chosen = getattr(self, name), getattr(self, by)
            if chosen != reader and given != getattr(type(self), name):
                raise InputError(f"{name}={given!r} does nothing with {by}={chosen!r}: give {by}={reader!r}, or leave it out")

    def _check_optimizer(self) -> None:
        if str(self.optimizer).lower() in COUPLED:
            raise InputError(
                f"optimizer {self.optimizer!r} couples the rows of a population, so that one network would disturb another: "
                f"choose an element-wise one of {', '.join(OPTIMIZERS)}"
            )
        if self.optimizer not in OPTIMIZERS:
            raise UnknownName("optimizer", self.optimizer, OPTIMIZERS)

    def as_dict(self) -> dict[str, Any]:
        """Every option by name, for the journal and the ticket."""
        return asdict(self)

    def resolved_device(self) -> torch.device:
        """The torch device. Raises `InputError` for one that is not there, or cannot compute in `precision`."""
        device = self._found_device()
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        check_precision(self.precision, device)
        return device

    def _found_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            if device.type == "meta":
                raise RuntimeError("it holds no numbers")
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"device {self.device!r} is not usable here ({str(error).splitlines()[0]}): use device='cpu' or 'auto'"
            ) from error
        return device

    def make_optimizer(self, leaves: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimizer over `leaves`.

        On a CPU never the fused kernels: their last entries round differently, so a result would depend on its position in a
        batch.
        """
        leaves = list(leaves)
        options: dict[str, Any] = {"lr": self.base_lr, "weight_decay": self.weight_decay}
        if self.capturable(leaves[0].device):
            options["lr"] = torch.tensor(self.base_lr, dtype=torch.float32, device=leaves[0].device)
            options["fused" if self.optimizer in FUSED else "foreach"] = True
            options |= {} if self.optimizer == "sgd" else {"capturable": True}
        if self.optimizer == "sgd":
            options |= {"momentum": self.momentum, "nesterov": self.nesterov}
        if self.optimizer == "rprop":
            if self.weight_decay:
                raise InputError("rprop has no weight decay: set weight_decay=0 or choose another optimizer")
            del options["weight_decay"]
        return OPTIMIZERS[self.optimizer](leaves, **options)

    def capturable(self, device: torch.device) -> bool:
        """Whether the optimizer's learning rate and step count are numbers on `device`."""
        return self.optimizer in CAPTURABLE and device.type in CAPTURABLE_ON

    @property
    def base_lr(self) -> float:
        """The learning rate before the schedule."""
        return LEARNING_RATES.get(self.optimizer, 0.001) if self.lr is None else self.lr


def _number(value: object, low: float, high: float, *, open_end: bool = False) -> bool:
    return is_number(value) and (low <= value < high if open_end else low <= value <= high)
