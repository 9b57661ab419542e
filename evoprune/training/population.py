"""K sparse networks that train together: loss, optimizer, schedule and trace, written once above the engines."""

from __future__ import annotations

import copy
import html
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from evoprune import seeds
from evoprune.errors import InputError, MaskMismatch, TrainingFailed
from evoprune.masks.mask import Mask
from evoprune.problems.gradients import always_trainable
from evoprune.problems.problem import Problem
from evoprune.shortage import out_of_memory
from evoprune.training.batches import Batches
from evoprune.training.denormals import EVERY, zero_tiny
from evoprune.training.dropconnect import DropConnect
from evoprune.training.ending import catch_up, finish_epoch
from evoprune.training.engines import Chunk, EngineChoice, FusedStep
from evoprune.training.evaluation import Evaluator
from evoprune.training.interrupts import interrupted_between, undone
from evoprune.training.ledger import Ledger
from evoprune.training.memory import check_memory, release_memory
from evoprune.training.optimizers import set_rate, transplant, zero_gradients
from evoprune.training.options import SCHEDULES, Training
from evoprune.training.parameters import Parameters, Relayout
from evoprune.training.precision import arithmetic
from evoprune.training.recorded import Recorded
from evoprune.training.running import Anew
from evoprune.training.starting import check_arguments, completed, least_bytes, masks_of, starting_weights
from evoprune.training.ticket import Ticket
from evoprune.training.trace import Trace
from evoprune.values import whole
from evoprune.words import counted

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Population"]

log = logging.getLogger("evoprune")


class HasMask(Protocol):
    """Anything with a mask: an individual, a ticket."""

    @property
    def mask(self) -> Mask: ...


@always_trainable(but=("rate", "set_rate", "seed_dropout"))
class Population:
    """K sparse networks of one problem that see the same batches in the same order (common random numbers).

    problem: what is trained. individuals: masks, or anything with a `.mask`.
    horizon: epochs over which the learning rate's schedule runs; `train` cannot go beyond it.
    seed: batches and dropout. weights: one mapping an individual of dense starting values by parameter name, in place of
    the problem's initial weights, which stand in for what it lacks, and of what `init=`, `rescale=` and `own_weights=` would make
    of them: these then have no part. Further keywords: the options of `Training`.

    A row that turns NaN is marked failed at the end of the epoch and never disturbs another.
    Raises `InputError` for no individuals or a bad option, `MaskMismatch` for masks of another model.
    """

    def __init__(
        self,
        problem: Problem,
        individuals: Iterable[Mask | HasMask],
        *,
        horizon: int,
        seed: int = 0,
        weights: Sequence[Mapping[str, Tensor]] | None = None,
        **training: Any,
    ) -> None:
        masks = masks_of(individuals)
        check_arguments(problem, masks, horizon)
        self.problem, self.horizon, self.seed = problem, int(horizon), seeds.check_seed(seed)
        self.training = Training.of(**training)
        self.device, self.dtype = self.training.resolved_device(), getattr(torch, self.training.dtype)
        self.batches = Batches(problem, self.seed, self.training.batch_size, self.device, self.dtype)
        model = problem.module()
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if self.device.type in ("cpu", "cuda"):
            check_memory(len(masks), least_bytes(masks, model, self.dtype), self.device)
        rescale, self.start_costs = self.training.rescale and weights is None, tuple(Ledger() for _ in masks)
        if weights:
            weights = completed(problem, weights, len(masks))
        else:
            weights, self.start_costs = starting_weights(problem, masks, self.training)
        parameters = Parameters.of(
            masks,
            weights,
            trained,
            statistics=[name for name, _ in model.named_buffers()],
            rescale=rescale,
            device=self.device,
            dtype=self.dtype,
        )
        DropConnect.scale_initial(parameters, self.training.drop_rate)
        self._choice = self._engine_choice()
        self.engine = self._choice.first(parameters)
        self.trace = Trace(problem, parameters)
        self.ledger = Ledger(device=self.device.type, engine=self.engine.name, configurations=len(masks))
        for cost in self.start_costs:
            self.ledger += cost
        self.steps = 0
        self._loss = torch.zeros(len(masks), dtype=torch.float64, device=self.device)  # sum over the steps of the running epoch
        self.optimizer = self.training.make_optimizer(parameters.leaves().values())
        self._fused_step: FusedStep | None = None
        self._fused_for: torch.optim.Optimizer | None = None
        self._chunks: list[Chunk] = []
        self._evaluator: Evaluator | None = None
        self._recorded: Recorded | None = None
        self._adopt(parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def __repr__(self) -> str:
        where = f"{self.problem.model_name} on {self.problem.data_name}"
        size = counted(len(self), "network")
        return f"Population({size}: {where}, epoch {self.epoch} of {self.horizon}, engine {self.engine.name})"

    def _repr_html_(self) -> str:
        latest = self.trace.frame()
        latest = latest[latest["epoch"] == latest["epoch"].max()] if len(latest) else latest
        return f"<p>{html.escape(repr(self))}</p>{latest.to_html(index=False, max_rows=20)}"

    @property
    def masks(self) -> tuple[Mask, ...]:
        """The current masks, one a row."""
        return self.parameters.masks

    @property
    def epoch(self) -> int:
        """Epochs trained so far."""
        return self.steps // self.batches.per_epoch

    # ---- training -----------------------------------------------------------------------------------------------

    def train(self, epochs: int, *, record: Iterable[str] = (), gradients: bool = True) -> Population:
        """Advance every network by `epochs`, then by nothing else; returns itself.

        record: per-weight sums to keep over the last of these epochs ("grad", "grad_path").
        gradients: False leaves all gradients zero (a control: weight decay alone moves the weights).
        Raises `InputError` beyond the horizon, `TrainingFailed` when every network has turned NaN.
        """
        epochs = whole("epochs", epochs)
        if self.epoch + epochs > self.horizon:
            raise InputError(f"{self.epoch} + {epochs} epochs go beyond the horizon of {self.horizon}: raise horizon=")
        if self.steps % self.batches.per_epoch:
            raise InputError(f"step {self.steps} lies within epoch {self.epoch + 1}: finish it with train_steps()")
        with self._training():
            for remaining in range(epochs, 0, -1):
                self.trace.start_sums(tuple(record) if remaining == 1 else ())
                self._advance(self.batches.per_epoch, gradients=gradients)
        return self

    def train_steps(self, steps: int) -> Population:
        """Advance every network by `steps` optimizer steps; where an epoch ends the trace gets its rows. Returns itself.

        Raises `InputError` beyond the horizon, `TrainingFailed` when every network has turned NaN.
        """
        steps = whole("steps", steps)
        if self.steps + steps > self.horizon * self.batches.per_epoch:
            raise InputError(f"{self.steps} + {steps} steps go beyond the horizon of {self.horizon} epochs: raise horizon=")
        end = self.steps + steps
        with self._training():
            self.trace.start_sums(())
            while self.steps < end:
                self._advance(min(end - self.steps, self.batches.per_epoch - self.steps % self.batches.per_epoch))
        return self

    @contextmanager
    def _training(self) -> Iterator[None]:
        """The block trains: what an interrupt left open is finished first, its time counts, and some network is left after it."""
        started = time.perf_counter()
        try:
            with self._undisturbed():
                catch_up(self)
                yield
        finally:
            self.ledger.wall_s += time.perf_counter() - started
        if self.trace.failed.all():
            who = "the network" if len(self) == 1 else f"all {len(self)} networks"
            raise TrainingFailed(f"{who} turned NaN by epoch {self.epoch}: lower lr= (now {self.training.base_lr})")

    def _advance(self, steps: int, *, gradients: bool = True) -> None:
        """Take `steps` steps within one epoch, and finish the epoch when they end it."""
        start, first = self.steps, self.steps % self.batches.per_epoch
        for chunk in self._chunks:
            chunk.train()
        if not first:
            self._loss.zero_()
        order = self.batches.order(self.epoch)
        try:
            with interrupted_between() as let_interrupts_through:
                for indices in order[first : first + steps]:
                    self._step(indices, order, gradients=gradients)
                    self.steps += 1
                    if self.steps % EVERY == 0:
                        zero_tiny(self.optimizer)
                    let_interrupts_through()
        finally:
            counts, taken = [mask.count for mask in self.masks], (self.steps - start) * self.batches.size
            self.ledger.train(taken, counts, 3 * self.problem.prunable * len(self.problem.split("train")))
        if first + steps == self.batches.per_epoch:
            finish_epoch(self)

    def _step(self, indices: Tensor, order: Tensor, *, gradients: bool) -> None:
        """One step on the samples `indices`, in the fastest way there is. order: all indices of the epoch."""
        if gradients and not self.training.drop_rate and self._take_fused(indices):
            return
        if self._recorded is not None and gradients:
            self._recorded.step(self, order)
        else:
            self._take(indices, gradients=gradients)

    def _take_fused(self, indices: Tensor) -> bool:
        """One step on the samples `indices` as the engine's own step; False where it has none.

        Where memory runs out it is tried again with half as many individuals at a time: nothing has changed by then.
        """
        while True:
            try:
                fused = self._fused()
                if fused is not None:
                    self.set_rate()
                    fused(indices, self._loss, self.trace.sums)
                return fused is not None
            except (RuntimeError, MemoryError) as error:
                self._halve(error)
            self._cut_again()

    def _fused(self) -> FusedStep | None:
        """The engine's own step for the present layout and optimizer, if it has one."""
        if self._fused_for is not self.optimizer:
            data = self.batches.inputs, self.batches.targets
            self._fused_step = None  # its memory is free before there is another
            self._fused_step = self.engine.fuse(self.parameters, data, self.problem.loss, self.optimizer)
            self._fused_for = self.optimizer
        return self._fused_step

    def _take(self, indices: Tensor, *, gradients: bool = True) -> None:
        """One step on the samples `indices`: gradients, trace, optimizer."""
        inputs, targets = self.batches.rows(indices)
        self.set_rate()
        with self._dropped.at(self.steps):
            self._try(inputs, targets, gradients=gradients)
        if self.trace.sums:
            self.trace.accumulate()
        self._update()

    def _gradients(self, inputs: Tensor, targets: Tensor, *, gradients: bool = True, seeded: bool = True) -> None:
        """Add the gradients of a batch to the leaves', and its losses to the epoch's; nothing is copied to the host."""
        for chunk in self._chunks:
            if seeded and self.engine.random:
                self.seed_dropout()
            losses = self.problem.loss.per_sample(chunk(inputs), targets).mean(1)
            if gradients:
                losses.sum().backward()
            self._loss[chunk.start : chunk.stop] += losses.detach()

    def _try(self, inputs: Tensor, targets: Tensor, *, gradients: bool) -> None:
        """Gradients of a step: where memory runs out they are taken again with half as many individuals a chunk."""
        while True:
            try:
                with undone([self._loss, *self.parameters.buffers.values()], self.parameters):
                    return self._gradients(inputs, targets, gradients=gradients)
            except (RuntimeError, MemoryError) as error:
                self._halve(error)
            self._cut_again()

    def _halve(self, error: Exception) -> None:
        """Half as many individuals a chunk, if that may help; raises `error` if not."""
        if not out_of_memory(error) or not self.engine.halve(max(chunk.k for chunk in self._chunks)):
            raise error

    def _cut_again(self) -> None:
        """Smaller chunks, when nothing holds what the failed attempt allocated; a recording would hold all that a step needs."""
        self._let_go()
        release_memory()
        self._cut()
        log.warning("out of memory: going on with %d networks at a time", self.engine.width)

    def _update(self) -> None:
        """The optimizer's step; gradients are zero again."""
        self.optimizer.step()
        zero_gradients(self.parameters)

    def rate(self, step: int) -> float:
        """The learning rate of the global `step`."""
        total = self.horizon * self.batches.per_epoch
        return self.training.base_lr * SCHEDULES[self.training.schedule](self.training, step, total)

    def set_rate(self) -> None:
        """Give the optimizer the learning rate of the step to come."""
        set_rate(self.optimizer, self.rate(self.steps))

    def seed_dropout(self, ahead: int = 0) -> None:
        """Seed what a forward may draw from in the step to come, or so many steps `ahead`: all chunks draw the same."""
        seeds.seed_all(self._dropout_seed + self.steps + ahead)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """The block changes no global generator and computes in the precision asked for."""
        with seeds.isolated(), arithmetic(self.training.precision, self.device):
            yield

    # ---- asking -------------------------------------------------------------------------------------------------

    def evaluate(self, split: str = "validation") -> pd.DataFrame:
        """Loss and accuracy of every network on "train" or "validation": columns individual, loss, accuracy, failed.

        Raises `TestSplitLocked` for "test".
        """
        import pandas as pd

        values = self._evaluate(split)
        return pd.DataFrame({"individual": self.trace.individuals, **values, "failed": self.trace.failed})

    def measure(self) -> Population:
        """Evaluate on the validation split and put it into the trace's latest epoch, after masks changed; returns itself."""
        values = self._evaluate("validation")
        counts = [mask.count for mask in self.masks]
        self.trace.add(self.epoch, {"val_loss": values["loss"], "val_accuracy": values["accuracy"], "survivors": counts})
        return self

    def _evaluate(self, split: str) -> dict[str, Any]:
        data = self.problem.split(split)
        while True:
            try:
                with arithmetic(self.training.precision, self.device):
                    assert self._evaluator is not None
                    values = self._evaluator(data)
                self.ledger.evaluation_samples += len(self) * len(data)
                return values
            except (RuntimeError, MemoryError) as error:
                self._halve(error)
            self._cut_again()

    def dense_gradient(self, batch: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
        """Gradient of the loss with respect to every prunable weight, pruned ones included: `(K, *shape)` by name.

        batch: inputs `(B, …)` and targets; by default the batch that the next step will see. Counted in the ledger as
        3 · prunable · samples.
        """
        inputs, targets = batch or self.batches.at(self.steps)
        loss, n_train = self.problem.loss, len(self.problem.split("train"))
        self.ledger.train(len(inputs), [self.problem.prunable] * len(self), 3 * self.problem.prunable * n_train)
        collected: dict[str, list[Tensor]] = {name: [] for name in self.problem.space.names}
        with self._undisturbed():
            for chunk in self._chunks:
                self.seed_dropout()
                found = chunk.train().dense_gradients(inputs, lambda o: loss.per_sample(o, targets).mean(1).sum())
                for name, gradient in found.items():
                    collected[name].append(gradient)
        return {name: torch.cat(gradients) for name, gradients in collected.items()}

    # ---- changing who trains ------------------------------------------------------------------------------------

    def select(self, rows: Sequence[int]) -> Population:
        """Keep the networks at positions `rows`, in that order; weights and optimizer state of the rest stay."""
        if any(isinstance(row, (bool, np.bool_)) for row in rows):
            raise InputError("rows are positions, not booleans: use numpy.flatnonzero(chosen)")
        chosen = [int(row) for row in rows]
        distinct = {row % len(self) for row in chosen}
        if not chosen or any(not -len(self) <= row < len(self) for row in chosen) or len(distinct) != len(chosen):
            raise InputError(f"rows {chosen} cannot be selected from {len(self)} networks: give distinct positions")
        chosen = [row % len(self) for row in chosen]
        return self._move(chosen, *self.parameters.select(chosen), branch=False)

    def prune(self, masks: Sequence[Mask]) -> Population:
        """Shrink each network to its mask, in place; survivors keep value and optimizer state.

        Raises `InputError` when a mask keeps a weight that is pruned already.
        """
        if len(masks) != len(self):
            raise InputError(f"{len(masks)} masks for {len(self)} individuals: give one each")
        for position, (new, old) in enumerate(zip(masks, self.masks, strict=True)):
            if not new <= old:
                raise InputError(f"mask {position} keeps weights that are pruned already: use grow() to bring weights back")
        return self._rewire(range(len(self)), masks, branch=False)

    def grow(self, masks: Sequence[Mask]) -> Population:
        """Rewire each network to its mask, in place: common survivors keep value and state, new ones start at 0."""
        return self._rewire(range(len(self)), masks, branch=False)

    def branch(self, rows: Sequence[int], masks: Sequence[Mask]) -> Population:
        """Go on with one copy of network `rows[i]` under `masks[i]` each, as new individuals."""
        self._rewire([self._position(row) for row in rows], masks, branch=True)
        self.ledger.configurations += len(masks)
        return self.measure()

    def rewind(self) -> Population:
        """Put every trained value and running statistic back to where it started, and clear the optimizer's state; the schedule
        goes on."""
        held = {**self.parameters.leaves(), **self.parameters.buffers}
        with torch.no_grad():
            for name, value in self.parameters.initial.items():
                held[name].copy_(value)
        self.optimizer = self.training.make_optimizer(self.parameters.leaves().values())
        self._recorded = Recorded.of(self)  # the old one updates with the old optimizer's state
        return self

    def settle(self) -> Population:
        """Take running statistics anew, after values were changed: a pass over the training split, without a step.

        What they were has no part in them. Statistics that are not those of batch normalisation take as many passes as bring it
        below half a percent. The ledger counts passes as evaluation.
        """
        anew = Anew(self.problem.module(), self.parameters.buffers)
        passes = math.ceil(anew.batches / self.batches.per_epoch)
        self.ledger.evaluation_samples += passes * len(self) * self.batches.per_epoch * self.batches.size
        with self._undisturbed(), torch.no_grad():
            batches = (indices for ahead in range(passes) for indices in self.batches.order(self.epoch + ahead))
            for number, indices in enumerate(batches):
                for chunk in self._chunks:
                    self.seed_dropout(number)
                    chunk.train()(self.batches.rows(indices)[0])
        anew.finish()
        return self

    def _position(self, row: int) -> int:
        """A row, counted from the end where it is negative, from the start."""
        if isinstance(row, (bool, np.bool_)) or not -len(self) <= row < len(self):
            raise InputError(f"there is no network {row!r} among {len(self)}: give a position")
        return int(row) % len(self)

    def _rewire(self, rows: Iterable[int], masks: Sequence[Mask], *, branch: bool) -> Population:
        chosen = list(rows)
        if masks and masks[0].space != self.problem.space:
            raise MaskMismatch("the masks belong to another model: use masks of problem.space")
        return self._move(chosen, *self.parameters.rewire(chosen, masks), branch=branch)

    def _move(self, rows: Sequence[int], parameters: Parameters, relayout: Relayout, *, branch: bool) -> Population:
        catch_up(self)
        self.trace.move(parameters, relayout, rows, branch=branch)
        self.optimizer = transplant(self.optimizer, self.training, self.parameters, parameters, relayout)
        self._loss = self._loss[list(rows)]
        self._choose(parameters)
        self._adopt(parameters)
        return self

    def _engine_choice(self) -> EngineChoice:
        options, size = self.training, self.batches.size
        kept = {"batch_size": size, "dtype": self.dtype, "precision": options.precision, "compile": options.compile}
        return EngineChoice(options.engine, self.problem, self.batches.sample(), **kept)

    def _choose(self, parameters: Parameters) -> None:
        """Another engine for the networks that are left, when the options leave the choice and it suits them better."""
        engine = self._choice.next(self.engine, parameters)
        if engine is not self.engine:
            self.engine = engine
            self.ledger += Ledger(engine=engine.name)

    def _adopt(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self._dropout_seed = seeds.derive(self.seed, "dropout") >> 1
        self._dropped = DropConnect(parameters, self.training.drop_rate, self.seed)
        self._cut()

    def _cut(self) -> None:
        """Chunks of as many individuals as the engine holds."""
        self._let_go()
        self._recorded = Recorded.of(self)
        width, k = self.engine.width, len(self)
        self._chunks += [self.engine.chunk(self.parameters, start, min(start + width, k)) for start in range(0, k, width)]
        self._evaluator = Evaluator(self.engine, self.parameters, self._chunks, self.problem, self.batches, self.seed)

    def _let_go(self) -> None:
        """The old chunks' memory, and that of the recording, is free before there are new ones."""
        self._chunks, self._recorded, self._evaluator = [], None, None
        self._fused_step = self._fused_for = None

    # ---- keeping ------------------------------------------------------------------------------------------------

    def ticket(self, row: int | None = None) -> Ticket:
        """The network at position `row` (needed when there are several) as a ticket.

        Raises `TrainingFailed` for a network that has turned NaN.
        """
        if row is None and len(self) > 1:
            raise InputError(f"there are {len(self)} networks: give row=, or select one first")
        position = self._position(row or 0)
        catch_up(self)
        if self.trace.failed[position]:
            raise TrainingFailed(
                f"network {position} has turned NaN and cannot become a ticket: lower lr= (now {self.training.base_lr})"
            )
        return Ticket(
            mask=self.masks[position],
            weights={name: value.cpu() for name, value in self.parameters.row(position).items()},
            initial={
                name: value.cpu()
                for name, value in self.parameters.row(position, values=self.parameters.initial).items()
                if name not in self.parameters.buffers
            },
            history_rows=[dict(row) for row in self.trace.history(self.trace.individuals[position])],
            ledger=replace(self.ledger),
            provenance={"problem": self.problem.describe(), "seed": self.seed, "training": self.training.as_dict()},
            problem=self.problem,
            trace_rows=[dict(row) for row in self.trace.rows()],
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Population:
        """A population that goes on by itself from here; the problem, which never changes, is shared."""
        options = {**self.training.as_dict(), "engine": self.engine.name}
        twin = Population(self.problem, self.masks, horizon=self.horizon, seed=self.seed, **options).restore(self.state())
        twin.training, twin._choice = self.training, copy.copy(self._choice)
        twin.trace.sums = {name: {layer: own.clone() for layer, own in sums.items()} for name, sums in self.trace.sums.items()}
        return twin

    def state(self) -> dict[str, Any]:
        """Everything needed to go on in another process, as tensors, numbers and masks; see `restore`."""
        from evoprune.training.checkpoint import state

        return state(self)

    def restore(self, saved: Mapping[str, Any]) -> Population:
        """Go on from a `state` of a population made with the same arguments.

        Raises `InputError` for one of another problem or of options that train something else.
        """
        from evoprune.training.checkpoint import restore

        return restore(self, saved)
