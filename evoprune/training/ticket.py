"""The product: a mask with its initial and trained weights, history, cost and provenance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evoprune import seeds
from evoprune.errors import EvopruneError, InputError, MaskMismatch
from evoprune.masks.mask import Mask
from evoprune.masks.space import MaskSpace
from evoprune.problems.gradients import trainable
from evoprune.problems.losses import hits
from evoprune.problems.problem import Problem
from evoprune.problems.splits import batch_sizes
from evoprune.training.ledger import Ledger

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Ticket"]


@dataclass(eq=False)
class Ticket:
    """A trained sparse network.

    mask: the survivors. weights: every parameter and buffer by name in its dense shape, pruned weights 0.
    initial: the values that every trained parameter started from, pruned weights 0.
    history_rows: one mapping an epoch. ledger: what it cost, losers included. provenance: where it came from, JSON-able.
    problem: what it was trained on; None for a loaded ticket, until it is needed. trace_rows: as history_rows, of every
    individual of the population that it comes from. earlier_s: seconds that processes before this one trained what a journal
    answered. These two are not saved with the ticket. start: where the dense network stood, pruned weights included, when the
    ticket is a part of one that trained before (late rewinding); None where that is the problem's initial weights.
    """

    mask: Mask
    weights: dict[str, Tensor]
    initial: dict[str, Tensor]
    history_rows: list[dict[str, Any]] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    provenance: dict[str, Any] = field(default_factory=dict)
    problem: Problem | None = None
    trace_rows: list[dict[str, Any]] = field(default_factory=list)
    earlier_s: float = 0.0
    start: dict[str, Tensor] | None = None

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch of the returned network's own path: epoch, train_loss, val_loss, val_accuracy, survivors, …."""
        import pandas as pd

        columns = ["epoch", "train_loss", "val_loss", "val_accuracy", "survivors"]
        frame = pd.DataFrame([{k: v for k, v in row.items() if k != "individual"} for row in self.history_rows])
        return frame.reindex(columns=[*columns, *(c for c in frame.columns if c not in columns)])

    @property
    def trace(self) -> pd.DataFrame:
        """One row an individual and epoch of the population that it comes from, losers included.

        Of several populations (the rounds of `imp`, the generations of `evolve`) it is the last; a journal holds a search.
        """
        import pandas as pd

        return pd.DataFrame(self.trace_rows)

    @property
    def val_loss(self) -> float:
        """Validation loss after the last epoch."""
        return float(self.history_rows[-1]["val_loss"]) if self.history_rows else math.nan

    @property
    def val_accuracy(self) -> float:
        """Validation accuracy after the last epoch; NaN unless it is a classification."""
        return float(self.history_rows[-1]["val_accuracy"]) if self.history_rows else math.nan

    # ---- as a module --------------------------------------------------------------------------------------------

    @trainable()
    def module(self) -> nn.Module:
        """A fresh module with the trained sparse weights, in evaluation mode."""
        return self.apply(self._problem("module()").module()).eval()

    def apply(self, module: nn.Module) -> nn.Module:
        """Copy the trained weights into `module` (in place) and return it.

        Raises `MaskMismatch` when its parameters have other names or shapes.
        """
        self._check(module)
        own = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))}
        with torch.no_grad():
            for name, value in self.weights.items():
                own[name].copy_(value)
        return module

    def to_torch_prune(self, module: nn.Module) -> nn.Module:
        """Apply weights and mask to `module` in the form of `torch.nn.utils.prune` (in place) and return it.

        Pruned weights stay 0 through any optimizer; the result survives `copy.deepcopy` and `state_dict`.
        """
        from evoprune.training.torch_form import in_torch_form

        return in_torch_form(self.apply(module), self.mask)

    def compact(self) -> nn.Module:
        """A smaller module with the same outputs (evaluation mode): units that cannot matter are removed exactly.

        Raises `UnsupportedLayer` for a model whose structure cannot be followed.
        """
        from evoprune.training.compact import compact

        problem = self._problem("compact()")
        return compact(self.module(), problem.input_shape)

    def _check(self, module: nn.Module) -> None:
        space = MaskSpace.of(module)
        if space != self.mask.space:
            raise MaskMismatch(
                f"this ticket prunes {dict(zip(self.mask.space.names, self.mask.space.shapes, strict=True))}, the module has "
                f"{dict(zip(space.names, space.shapes, strict=True))}: give the module that the ticket was made for"
            )
        own = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))}
        for name, value in self.weights.items():
            if name not in own or own[name].shape != value.shape:
                raise MaskMismatch(
                    f"the module has no {name!r} of shape {tuple(value.shape)}: give the module that the ticket was made for"
                )

    # ---- judging ------------------------------------------------------------------------------------------------

    def test(self, reason: str = "Ticket.test()") -> dict[str, float | None]:
        """Open the locked test split, once more, and judge: `{"accuracy": … or None, "loss": …}`. The opening is logged."""
        problem = self._problem("test()")
        split = problem._open_test(reason)
        targets = split.inputs if split.targets is None else split.targets
        module, loss, right = self.module(), 0.0, 0
        dtype = self.weights[self.mask.space.names[0]].dtype  # of training; a buffer may have another
        module = module.double() if dtype == torch.float64 else module  # complex numbers stay, which `to(dtype)` would cut
        with seeds.isolated(0, "test"), torch.no_grad():  # a model may draw in evaluation too: every ticket's the same
            sizes = batch_sizes(len(split), 1000)
            for x, y in zip(split.inputs.split(sizes), targets.split(sizes), strict=True):
                own = x.to(dtype if x.is_floating_point() else x.dtype, copy=True)  # which the model may change
                outputs, goals = module(own).unsqueeze(0), y.to(dtype) if y.is_floating_point() else y
                loss += float(problem.loss.per_sample(outputs, goals).double().sum())
                if problem.task == "classification":
                    right += int(hits(outputs, y).sum())
        return {"accuracy": right / len(split) if problem.task == "classification" else None, "loss": loss / len(split)}

    def _problem(self, wanted: str) -> Problem:
        """The problem; a loaded ticket makes it again, when it is needed, from the names in its provenance."""
        if self.problem is None:
            try:
                self.problem = Problem.from_description(self.provenance.get("problem", {}))
            except EvopruneError as error:
                raise InputError(
                    f"{wanted} needs the problem ({error}): use Ticket.load(path, problem=…), or apply(my_module)"
                ) from error
        return self.problem

    # ---- files --------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file (atomically) with everything but the data. Returns the path."""
        from evoprune.training.ticket_file import save

        return save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, *, problem: Problem | None = None) -> Ticket:
        """Read a ticket back; unless model and data were named, `module`, `compact` and `test` need `problem`.

        Raises `DamagedFile` for a file that cannot be read, `MaskMismatch` for a problem of another model.
        """
        from evoprune.training.ticket_file import load

        return load(Path(path), problem)

    def __repr__(self) -> str:
        made = self.provenance.get("method", "ticket")
        score = f"val_loss {self.val_loss:.4f}, val_accuracy {self.val_accuracy:.4f}"
        return f"Ticket({made}: {self.mask.count:,} of {self.mask.space.prunable:,} weights, {score})"

    def _repr_html_(self) -> str:
        space, made = self.mask.space, self.provenance.get("method", "a ticket")
        rows = "".join(
            f"<tr><td>{name}</td><td>{count:,}</td><td>{size:,}</td><td>{count / size:.2%}</td></tr>"
            for name, count, size in zip(space.names, self.mask.counts, space.sizes, strict=True)
        )
        kept = f"{self.mask.count:,} of {space.prunable:,} weights ({self.mask.sparsity:.2%} sparse)"
        accuracy = "" if math.isnan(self.val_accuracy) else f", accuracy {self.val_accuracy:.2%}"
        cost = f"cost {self.ledger.dense_equivalent_epochs:.3g} epochs of the dense network"
        return (
            f"<p><b>{made}</b>: {kept}, validation loss {self.val_loss:.4f}{accuracy}, {cost}</p>"
            f"<table><tr><th>layer</th><th>survivors</th><th>of</th><th>kept</th></tr>{rows}</table>"
        )

    def with_provenance(self, more: Mapping[str, Any]) -> Ticket:
        """The same ticket with more provenance."""
        self.provenance = {**self.provenance, **more}
        return self
