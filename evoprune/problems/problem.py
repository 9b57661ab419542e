"""The problem: model, initial weights, data splits and loss."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from evoprune import seeds
from evoprune.errors import InputError, TestSplitLocked, UnknownName
from evoprune.masks.space import MaskSpace
from evoprune.problems.data import load_data
from evoprune.problems.fit import CLASSIFICATION, RECONSTRUCTION, check_fit, check_training, outputs_of, task_of
from evoprune.problems.gradients import always_trainable
from evoprune.problems.losses import LOSSES, Loss, find_loss
from evoprune.problems.naming import programs_in
from evoprune.problems.origin import Built, Given, Named, Origin, own_copy, shapes_of
from evoprune.problems.splits import Split
from evoprune.registry import programs

__all__ = ["Problem"]

log = logging.getLogger("evoprune")


@always_trainable()
class Problem:
    """What is trained: a model with its initial weights, data in three splits, and a loss.

    model: a registered name (He-normal weights, zero biases), a `torch.nn.Module` (copied, never changed; it keeps the
        weights it has, whatever the seed), or a callable that builds one (called with the global generators seeded, and
        float32 as torch's default type).
    data: a registered name, the path of an `.npz`, a dict of arrays or tensors `x_train, y_train, x_test, y_test[,
        x_validation, y_validation]` (labels left out for reconstruction), or `torch.utils.data.Dataset`s.
    seed: of the initial weights; the validation split does not depend on it.
    loss: `cross_entropy`, `mse`, or a function of (outputs, targets) of one network; chosen by the labels when None.
    data_root: folder of the named data sets in torchvision's layout, else the environment variable EVOPRUNE_DATA.
    standardize: scale inputs with the statistics of the training part; otherwise uint8 becomes [0, 1], floats stay.
    validation: share of the training data that becomes the validation split, where none is given.

    Attributes: seed; model_name, data_name; task (`classification`, `reconstruction`, `regression`); metric (`accuracy`,
    `mse`, or `loss`: the mean of one that is neither); loss; space (names and shapes of the prunable weights); prunable
    (their number); input_shape (of one sample); outputs (numbers a sample); batch_size (the default, min(128, training
    samples // 40)); test_openings (why the test split was opened, in order).

    Raises `InputError` (or one of its kinds) with one line when model, data and loss do not belong together.
    """

    def __init__(
        self,
        model: str | nn.Module | Callable[[], nn.Module],
        data: Any = "digits",
        *,
        seed: int = 0,
        loss: str | Loss | Callable[[Tensor, Tensor], Tensor] | None = None,
        data_root: str | os.PathLike[str] | None = None,
        standardize: bool = True,
        validation: float = 0.1,
    ) -> None:
        self.seed = seeds.check_seed(seed)
        with seeds.isolated():  # a library that loads data may draw numbers when it is imported
            given = load_data(data, root=data_root, standardize=standardize, validation=validation)
        self.task = task_of(model, given, loss)
        self._data = given.without_labels() if self.task == RECONSTRUCTION else given
        self.data_name = given.name
        self._scaling = {"standardize": bool(standardize), "validation": validation}
        default = "cross_entropy" if self.task == CLASSIFICATION else "mse"
        self.loss = find_loss(default if loss is None else loss, "accuracy" if self.task == CLASSIFICATION else "loss")
        values = "mse" if self.loss is LOSSES["mse"] else "loss"
        self.metric = "accuracy" if self.task == CLASSIFICATION else values
        self.input_shape = tuple(self._data.train.inputs.shape[1:])
        self._origin = self._origin_of(model)
        self.model_name = self._origin.name
        self._module = self._origin.draw(self.seed)
        self._programs = programs(self.model_name) if isinstance(self._origin, Named) else {}
        self._programs |= programs_in(self._module, getattr(self.loss, "function", self.loss))
        self._check_callable()
        self.space = MaskSpace.of(self._module)
        self.outputs = check_fit(self._module, self._data, self.task, self.loss)
        if not isinstance(self._origin, Named):
            check_training(self._module, self._data, self.loss)
        self.test_openings: list[str] = []
        self._fingerprint: str | None = None

    def _origin_of(self, model: object) -> Origin:
        if isinstance(model, str):
            return Named(model, self.input_shape, outputs_of(model, self._data, self.task))
        if isinstance(model, nn.Module):
            return Given(own_copy(model))
        if callable(model):
            return Built(model)
        kind = type(model).__name__
        raise InputError(f"model of type {kind} is not usable: give a name, a torch.nn.Module, or a callable that builds one")

    def _check_callable(self) -> None:
        if isinstance(self._origin, Built):
            self._draw(self.seed + 1)  # masks of one seed must fit the others

    def _draw(self, seed: int) -> nn.Module:
        module = self._origin.draw(seed)
        if shapes_of(module) != shapes_of(self._module):
            raise InputError(
                f"the model builder {self.model_name} gives other shapes for other seeds: let it build one structure"
            )
        return module

    # ---- model --------------------------------------------------------------------------------------------------

    @property
    def prunable(self) -> int:
        """Number of prunable weights."""
        return self.space.prunable

    def module(self) -> nn.Module:
        """A fresh module with the initial weights."""
        return copy.deepcopy(self._module)

    def initial_weights(self, seed: int | None = None) -> dict[str, Tensor]:
        """Fresh copies of all parameters and buffers by name, float32; a tied one stands once, under its first name.

        seed: draw those of another seed instead. Raises `InputError` for a module instance, which has only its own.
        """
        if seed is None:
            return _copies(self._module)
        if isinstance(self._origin, Given):
            raise InputError(f"the module {self.model_name} has its own weights and no others: give a callable that builds it")
        return _copies(self._draw(seeds.check_seed(seed)))

    def with_seed(self, seed: int) -> Problem:
        """The same problem with the initial weights of another seed; the data are shared. A module instance keeps its own."""
        other = copy.copy(self)
        other.seed = seeds.check_seed(seed)
        other._module = self._draw(other.seed)
        other.test_openings = []
        other._fingerprint = None
        return other

    def with_shuffled_labels(self, seed: int) -> Problem:
        """The same problem with the labels of its training and validation samples in random order: nothing is left to learn.

        The test split is kept. Raises `InputError` for what is no classification.
        """
        if self.task != CLASSIFICATION:
            raise InputError(f"{self.data_name} has no class labels to shuffle: use a classification")
        other = copy.copy(self)
        other._data = self._data.with_shuffled_labels(seeds.check_seed(seed))
        other.test_openings = []
        other._fingerprint = None
        return other

    # ---- data ---------------------------------------------------------------------------------------------------

    @property
    def batch_size(self) -> int:
        """Samples of a batch when nothing else is asked; at least 2, which batch norm needs."""
        return min(len(self._data.train), max(2, min(128, len(self._data.train) // 40)))

    def split(self, name: str) -> Split:
        """The split `train` or `validation`. Raises `TestSplitLocked` for `test`."""
        if name == "test":
            raise TestSplitLocked("the test split is locked: train and select on the others, then call ticket.test() once")
        if name not in ("train", "validation"):
            raise UnknownName("split", name, ("train", "validation"))
        return self._data.splits[name]

    def _open_test(self, reason: str) -> Split:
        """The test split, for the one place that may: `Ticket.test`. `reason` is kept in `test_openings` and logged."""
        self.test_openings.append(reason)
        log.info("test split of %s opened: %s", self.data_name, reason)
        return self._data.test

    # ---- identity -----------------------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        """Hex hash of structure, initial weights, data, split, scaling and loss; the same in every process.

        A module's structure is its printed form, a custom loss its name with the options it holds: what a `forward`
        or a function of yours computes is not seen, but stands in `describe`, by which runs and journals know it.
        """
        if self._fingerprint is None:
            digest = hashlib.blake2b(repr(self._structure()).encode(), digest_size=16)
            for name, value in sorted(self.initial_weights().items()):
                digest.update(name.encode())
                digest.update(value.contiguous().numpy().tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def describe(self) -> dict[str, Any]:
        """What it is, in values that JSON can hold; `from_description` makes it again where model, data and loss have names."""
        data = self._data.source[0] if self._data.source else self.data_name
        named = {"model": self.model_name, "data": data, "seed": self.seed, "loss": self.loss.name}
        about = {**named, **self._scaling, "task": self.task, "metric": self.metric, "fingerprint": self.fingerprint}
        return {**about, "programs": self._programs} if self._programs else about

    @classmethod
    def from_description(cls, description: Mapping[str, Any], *, data_root: str | os.PathLike[str] | None = None) -> Problem:
        """The problem that `describe` described. Raises `InputError` when it has no names to go by, or became another one."""
        try:
            keys = ("seed", "loss", "standardize", "validation")
            problem = cls(
                description["model"], description["data"], data_root=data_root, **{key: description[key] for key in keys}
            )
        except KeyError as error:
            raise InputError(f"the description of a problem has no {error}: make the problem by hand") from None
        if problem.fingerprint != description.get("fingerprint"):
            raise InputError(f"{problem!r} is not the problem that was described: model, data or library have changed")
        return problem

    def _structure(self) -> tuple[Any, ...]:
        text = self.model_name if isinstance(self._origin, Named) else re.sub(r" at 0x[0-9a-f]+", "", repr(self._module))
        frozen = [name for name, parameter in self._module.named_parameters() if not parameter.requires_grad]
        return text, sorted(shapes_of(self._module).items()), frozen, self.task, self.loss.name, self._data.digest

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in self._data.splits.items())
        return f"Problem({self.model_name} on {self.data_name}: {self.prunable:,} prunable weights, {sizes}, seed {self.seed})"


def _copies(module: nn.Module) -> dict[str, Tensor]:
    """Detached copies of parameters and buffers."""
    named = (*module.named_parameters(), *module.named_buffers())
    return {name: value.detach().clone() for name, value in named}
