"""The table of scorers: a decorated function that scores weights becomes a way to a mask, and a method."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from evoprune import seeds
from evoprune.errors import InputError, UnknownName
from evoprune.masks.allocation import Allocation, allocate, is_layerwise
from evoprune.masks.mask import Mask
from evoprune.masks.ranking import keep_counts, keep_top
from evoprune.masks.space import PRUNABLE
from evoprune.methods.first import SCORING
from evoprune.methods.registry import METHODS, Holding, Method
from evoprune.methods.scorers.probe import Probe
from evoprune.methods.scorers.samples import Samples
from evoprune.problems.gradients import trainable
from evoprune.problems.problem import Problem
from evoprune.registry import Registry
from evoprune.training.ledger import Ledger
from evoprune.training.options import Training
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from evoprune.values import whole

__all__ = ["SCORERS", "Needs", "Scorer", "Scores", "scorer"]

log = logging.getLogger("evoprune")

Scores = Mapping[str, Tensor]
"""One tensor a layer, in the shape of its weight: the largest are kept."""
Needs = Literal["nothing", "inputs", "labels"]

SCORERS: Registry[Scorer] = Registry("scorer")


@dataclass(frozen=True)
class Scorer:
    """A registered scorer; call it as `scorer(problem, sparsity=…, seed=…, **options) -> Mask`.

    function: from a `Probe` to scores, with options of its own. reference: paper. needs: "nothing" of the data, "inputs" (their
    shape alone) or "labels" (the loss on training samples). steps: rounds of scoring and pruning, survivors falling by a constant
    factor. regrow: whether a pruned weight may come back in a later round.
    """

    name: str
    function: Callable[..., Scores]
    reference: str
    needs: Needs = "labels"
    steps: int = 1
    regrow: bool = False

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return inspect.cleandoc(self.function.__doc__ or "")

    @property
    def options(self) -> dict[str, Any]:
        """Options by name with their defaults."""
        common: dict[str, Any] = {"scope": "global", "allocation": "erk", "steps": self.steps}
        if self.needs != "nothing":
            common |= {"samples_per_class": None, "batches": None}
        parameters = inspect.signature(self.function).parameters.values()
        return common | {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    @property
    def hints(self) -> dict[str, Any]:
        """The annotation of each option, by which the command line reads it."""
        common: dict[str, Any] = {"scope": str, "allocation": Allocation, "steps": int}
        common |= dict.fromkeys(("samples_per_class", "batches"), int | None)
        parameters = inspect.signature(self.function).parameters.values()
        return common | {p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY}

    def __call__(
        self,
        problem: Problem,
        *,
        sparsity: float = 0.95,
        seed: int = 0,
        device: str = "auto",
        dtype: str = "float32",
        **options: Any,
    ) -> Mask:
        """The mask of the weights that score most; exactly `problem.space.budget(sparsity)` of them, at least 1 a layer.

        scope: "global" ranks all layers together, "layer" each on its own, with the counts of `allocation`. steps: rounds.
        samples_per_class, batches: training samples of one round (10 a class; 100 where there are no classes).
        Raises `InputError` for a frozen weight, labels that are not there, a score that is not a number, or a budget that would
        leave a layer empty; `UnknownName` for an option it does not have.
        """
        return self.select(problem, sparsity=sparsity, seed=seed, device=device, dtype=dtype, **options)[0]

    @trainable()
    def select(
        self,
        problem: Problem,
        *,
        sparsity: float = 0.95,
        seed: int = 0,
        device: str = "auto",
        dtype: str = "float32",
        **options: Any,
    ) -> tuple[Mask, Ledger]:
        """As a call, with what it cost."""
        chosen = {**self.options, **options}
        steps, layerwise, allocation = self._check(problem, options)
        budgets, counts = _schedule(problem, sparsity, steps, layerwise, allocation)
        training = Training.of(device=device, dtype=dtype)
        where, precision = training.resolved_device(), getattr(torch, dtype)
        samples = Samples(
            problem,
            per_class=chosen.get("samples_per_class"),
            batches=1 if self.needs == "nothing" else chosen.get("batches"),
            seed=seeds.check_seed(seed),
            device=where,
            dtype=precision,
            drawn=self.needs == "labels",
        )
        own = {name: value for name, value in chosen.items() if name in inspect.signature(self.function).parameters}
        start = problem.initial_weights()
        module, ledger, mask = problem.module().to(where), Ledger(device=where.type), Mask.full(problem.space)
        for step in range(steps):
            probe = Probe(problem, module, mask, samples, step, seed, ledger, start)
            with seeds.isolated(seed, self.name, step):
                scores = self.function(probe, **own)
            candidates = Mask.full(problem.space) if self.regrow else mask
            ranked = self._numbers(scores, candidates)
            mask = (
                keep_top(candidates, ranked, budgets[step]) if counts is None else keep_counts(candidates, ranked, counts[step])
            )
        if mask.count < problem.prunable and (useful := sum(int(np.count_nonzero(score)) for score in ranked)) < mask.count:
            log.warning("%s: only %d weights have a score, the others of %d survivors go by index", self.name, useful, mask.count)
        return mask, ledger

    def _check(self, problem: Problem, options: Mapping[str, Any]) -> tuple[int, bool, Allocation]:
        for name in options:
            if name not in self.options:
                raise UnknownName(f"option of {self.name}", name, self.options)
        chosen = {**self.options, **options}
        steps, layerwise = whole("steps", chosen["steps"], 1), is_layerwise(chosen["scope"], chosen["allocation"])
        for name, layer in problem.module().named_modules():
            if isinstance(layer, PRUNABLE) and not layer.weight.requires_grad:
                raise InputError(f"the weight of {name!r} is frozen, {self.name} cannot rank it: set requires_grad=True")
        return steps, layerwise, chosen["allocation"]

    def _numbers(self, scores: Scores, candidates: Mask) -> list[np.typing.NDArray[np.float64]]:
        """Scores of the candidates, float64, one array a layer."""
        ranked = []
        for name, kept, size in zip(candidates.space.names, candidates.survivors, candidates.space.sizes, strict=True):
            flat = scores[name].detach().reshape(-1).cpu().double().numpy()
            own = flat if len(kept) == size else flat[kept]
            if not np.isfinite(own).all():
                raise InputError(f"{self.name} gives a score of {name!r} that is not finite: check initial weights and inputs")
            ranked.append(own)
        return ranked


def scorer(
    *, reference: str, needs: Needs = "labels", steps: int = 1, regrow: bool = False
) -> Callable[[Callable[..., Scores]], Scorer]:
    """Register a function `(probe, *, options) -> scores` as the scorer of its name, and the method that trains its mask."""

    def register(function: Callable[..., Scores]) -> Scorer:
        made = Scorer(function.__name__, function, reference, needs, steps, regrow)
        _register_method(made)
        return SCORERS.add(made.name, made)

    return register


def _register_method(scorer: Scorer) -> None:
    def run(problem: Problem, *, sparsity: float = 0.95, epochs: int = 10, seed: int = 0, **options: Any) -> Ticket:
        if options.get("own_weights"):
            raise InputError(f"own_weights=True draws other weights than {scorer.name} has scored: leave it out")
        own = {name: options.pop(name) for name in scorer.options if name in options}
        device, dtype = options.get("device", "auto"), options.get("dtype", "float32")
        mask, ledger = scorer.select(problem, sparsity=sparsity, seed=seed, device=device, dtype=dtype, **own)
        ticket = Population(problem, [mask], horizon=epochs, seed=seed, **options).train(epochs).ticket()
        ticket.ledger = ledger + ticket.ledger
        return ticket

    kind = inspect.Parameter.KEYWORD_ONLY
    common = [inspect.signature(run).parameters[name] for name in ("problem", "sparsity", "epochs")]
    hints = {name: scorer.hints[name] for name in scorer.options}
    own = [inspect.Parameter(name, kind, default=value, annotation=hints[name]) for name, value in scorer.options.items()]
    last = [inspect.signature(run).parameters["seed"], inspect.Parameter("training", inspect.Parameter.VAR_KEYWORD)]
    typed = cast(Any, run)
    typed.__name__, typed.__doc__ = scorer.name, f"{scorer.__doc__}\n\n{_options(scorer)}"
    typed.__module__, typed.__qualname__ = scorer.function.__module__, scorer.function.__qualname__
    typed.__annotations__ = {**run.__annotations__, **hints}
    typed.__signature__ = inspect.Signature([*common, *own, *last])
    words = {"samples_per_class": "10; 100 in all where there are no classes", "batches": "samples_per_class instead"}
    unset = {name: text for name, text in words.items() if name in scorer.options}
    METHODS.add(scorer.name, Method(scorer.name, run, scorer.reference, holds=_holds, unset=unset))


def _holds(density: float, options: Mapping[str, Any]) -> Holding:
    """The network that trains, and before it what scoring takes."""
    return Holding(density, gradients=SCORING)


def _options(scorer: Scorer) -> str:
    text = 'The network then trains `epochs` on the mask. scope: "global" ranks all layers together, "layer" each on its own\n'
    text += "with the counts of `allocation`. steps: rounds of scoring."
    return text if scorer.needs == "nothing" else f"{text} samples_per_class, batches: training samples of a round."


def _schedule(
    problem: Problem, sparsity: float, steps: int, layerwise: bool, allocation: Allocation
) -> tuple[list[int], list[tuple[int, ...]] | None]:
    """Survivors after each round, in all and, where layers are ranked on their own, of each layer; the last are exact."""
    space = problem.space
    final = allocate(space, sparsity, allocation if layerwise else "erk")  # refuses a budget that empties a layer

    def after(size: int, end: int, step: int) -> int:
        return end if step == steps else max(end, round(size * (end / size) ** (step / steps)))

    rounds = range(1, steps + 1)
    budgets = [after(space.prunable, sum(final), step) for step in rounds]
    if not layerwise:
        return budgets, None
    return budgets, [tuple(after(size, end, step) for size, end in zip(space.sizes, final, strict=True)) for step in rounds]
