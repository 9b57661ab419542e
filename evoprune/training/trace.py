"""What training told about each individual, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evoprune.errors import InputError
from evoprune.problems.problem import Problem
from evoprune.training.parameters import Parameters, Relayout

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ACCUMULATORS", "Floats", "Quantity", "Trace"]

Floats = npt.NDArray[np.float64]
Quantity = Literal["weight", "movement", "grad", "grad_path"]
ACCUMULATORS = ("grad", "grad_path")
"""Per-weight sums over the steps of the last recorded epoch: of the gradient, of its size."""


class Trace:
    """Scalars of every individual and epoch, and per-weight sums of the last recorded epoch.

    individuals: identity of each current row; it stays with a network through `select`.
    failed: whether each current row has turned NaN.
    """

    def __init__(self, problem: Problem, parameters: Parameters) -> None:
        self.problem = problem
        self.parameters = parameters
        self.individuals: list[int] = list(range(len(parameters)))
        self.failed = np.zeros(len(parameters), dtype=bool)
        self.sums: dict[str, dict[str, Tensor]] = {}
        self._rows: dict[tuple[int, int], dict[str, Any]] = {}
        self._next = len(parameters)

    # ---- writing, by the population ------------------------------------------------------------------------------

    def add(self, epoch: int, columns: Mapping[str, Sequence[Any] | Floats]) -> None:
        """One value a current row for each column, for `epoch` (1 for the first); merged with what is there."""
        for position, individual in enumerate(self.individuals):
            row = self._rows.setdefault((individual, epoch), {"individual": individual, "epoch": epoch})
            row.update({name: values[position] for name, values in columns.items()})

    def start_sums(self, quantities: Sequence[str]) -> None:
        """Zero the per-weight sums named; the others are dropped."""
        for name in quantities:
            if name not in ACCUMULATORS:
                raise InputError(f"nothing is recorded under {name!r}: choose from {', '.join(ACCUMULATORS)}")
        values = self.parameters.survivors
        self.sums = {name: {layer: torch.zeros_like(value.detach()) for layer, value in values.items()} for name in quantities}

    def accumulate(self) -> None:
        """Add this step's gradients to the sums."""
        for layer, value in self.parameters.survivors.items():
            assert value.grad is not None
            if "grad" in self.sums:
                self.sums["grad"][layer].add_(value.grad)
            if "grad_path" in self.sums:
                self.sums["grad_path"][layer].add_(value.grad.abs())

    def move(self, parameters: Parameters, relayout: Relayout, rows: Sequence[int], *, branch: bool) -> None:
        """Follow the population to a new layout; rows of a branch are new individuals with their parent's history."""
        old = [self.individuals[row] for row in rows]
        self.parameters = parameters
        self.failed = self.failed[list(rows)]
        self.sums = {name: {layer: relayout(layer, value) for layer, value in sums.items()} for name, sums in self.sums.items()}
        if not branch:
            self.individuals = old
            return
        self.individuals = list(range(self._next, self._next + len(old)))
        self._next += len(old)
        for child, parent in zip(self.individuals, old, strict=True):
            for (individual, epoch), row in list(self._rows.items()):
                if individual == parent:
                    self._rows[child, epoch] = {**row, "individual": child}

    def precede(self, histories: Sequence[Sequence[Mapping[str, Any]]]) -> None:
        """Put what each current row went through before this population (its `history` there) before its own rows."""
        for individual, rows in zip(self.individuals, histories, strict=True):
            for row in rows:
                self._rows[individual, row["epoch"]] = {**row, "individual": individual}

    # ---- reading ------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Epochs recorded so far."""
        return max((epoch for _, epoch in self._rows), default=0)

    def lacks(self, epoch: int) -> bool:
        """Whether a current row has no training loss of `epoch`."""
        return any("train_loss" not in self._rows.get((individual, epoch), {}) for individual in self.individuals)

    def last(self, column: str) -> Floats:
        """The latest value of a column for each current row, `(K,)`."""
        epoch = self.epoch
        rows = [self._rows.get((individual, epoch), {}) for individual in self.individuals]
        if any(column not in row for row in rows):
            raise InputError(f"{column!r} has not been measured for every individual: train for an epoch, or evaluate, first")
        return np.array([row[column] for row in rows], dtype=np.float64)

    def total(self, quantity: Quantity) -> Floats:
        """Sum over each current row's survivors of abs(quantity), `(K,)`, in float64.

        weight: current value. movement: value minus initial value. grad, grad_path: the recorded sums.
        """
        totals = np.zeros(len(self.parameters))
        for layer in self.parameters.survivors:
            flat = np.abs(self.per_weight(quantity, layer).detach().cpu().double().numpy())
            bounds = self.parameters.bounds[layer]
            totals += [flat[a:b].sum() for a, b in pairwise(bounds)]
        return totals

    def per_weight(self, quantity: Quantity, layer: str) -> Tensor:
        """A quantity for all survivors of a layer, in the layout of `Parameters.survivors`."""
        value = self.parameters.survivors[layer].detach()
        if quantity == "weight":
            return value
        if quantity == "movement":
            return value - self.parameters.initial[layer]
        if quantity not in self.sums:
            raise InputError(f"{quantity!r} was not recorded: train with record=({quantity!r},)")
        return self.sums[quantity][layer]

    def history(self, individual: int) -> list[dict[str, Any]]:
        """The rows of one individual, by epoch; what was known before the first is left out."""
        return [row for (owner, epoch), row in sorted(self._rows.items()) if owner == individual and epoch > 0]

    def state(self) -> dict[str, Any]:
        """Everything but the per-weight sums, as JSON-able values."""
        rows = [{name: _plain(value) for name, value in row.items()} for row in self._rows.values()]
        return {"individuals": self.individuals, "failed": self.failed.tolist(), "next": self._next, "rows": rows}

    def restore(self, saved: Mapping[str, Any], parameters: Parameters) -> None:
        """Go on from a `state`."""
        self.parameters, self.sums = parameters, {}
        self.individuals, self._next = list(saved["individuals"]), saved["next"]
        self.failed = np.array(saved["failed"], dtype=bool)
        self._rows = {(row["individual"], row["epoch"]): dict(row) for row in saved["rows"]}

    def rows(self) -> list[dict[str, Any]]:
        """Every row, by individual and epoch."""
        return [row for _, row in sorted(self._rows.items(), key=lambda item: item[0])]

    def frame(self) -> pd.DataFrame:
        """Tidy frame: individual, epoch, train_loss, val_loss, val_accuracy, survivors, <criteria>, failed; one row each."""
        import pandas as pd

        first = ["individual", "epoch", "train_loss", "val_loss", "val_accuracy", "survivors"]
        frame = pd.DataFrame(self.rows())
        if frame.empty:
            return pd.DataFrame(columns=[*first, "failed"])
        criteria = [name for name in frame.columns if name not in (*first, "failed")]
        return frame.reindex(columns=[*first, *criteria, "failed"])

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(index=False, max_rows=20))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
