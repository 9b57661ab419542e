"""Dissipating gradients, the parts: which live weights leave at a check, and how many."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from evoprune.errors import InputError
from evoprune.masks.allocation import spread
from evoprune.masks.mask import Mask
from evoprune.masks.ranking import keep_counts, keep_top
from evoprune.masks.space import MaskSpace
from evoprune.methods.registry import Holding
from evoprune.registry import Registry, one_of
from evoprune.training.population import Population
from evoprune.training.trace import Floats
from evoprune.values import is_number, is_whole

__all__ = ["CONTROLS", "RULES", "UNSET", "Rule", "check", "geometric", "start_density", "start_holding"]

UNSET = {"start_sparsity": "1 - max(0.3, twice the asked density)", "checks": "max(2, two fifths of epochs)"}
"""What these options are where they are None."""

CONTROLS = ("none", "rewind", "inverted", "zero_gradient")
Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Rule:
    """How much a live weight still does, `score(value, reference, gradient)`; the smallest leave.

    counts: the schedule says how many leave; otherwise those with a score of at most `delta`, and the sparsity is an outcome.
    """

    name: str
    score: Callable[[Floats, Floats, Floats, float], Floats]
    counts: bool = True
    needs: tuple[str, ...] = ()

    @property
    def doc(self) -> str:
        return (self.score.__doc__ or "").strip()


RULES: Registry[Rule] = Registry("rule")


def rule(*, counts: bool = True, needs: tuple[str, ...] = ()) -> Callable[[Callable[..., Floats]], Rule]:
    """Register a score `(value, reference, gradient, scale) -> score` as the rule of its name."""
    return lambda score: RULES.add(score.__name__, Rule(score.__name__, score, counts, needs))


@rule()
def rank(value: Floats, reference: Floats, gradient: Floats, scale: float) -> Floats:
    """abs(w - r): those that moved least leave."""
    return np.abs(value - reference)


@rule()
def rank_relative(value: Floats, reference: Floats, gradient: Floats, scale: float) -> Floats:
    """abs(w - r) / abs(r): those that moved least for their size leave."""
    return _ratio(np.abs(value - reference), np.abs(reference))


@rule(needs=("grad",))
def gradient(value: Floats, reference: Floats, gradient: Floats, scale: float) -> Floats:
    """abs(sum of gradients over the epoch): the smallest leave."""
    return np.abs(gradient)


@rule(counts=False)
def fraction(value: Floats, reference: Floats, gradient: Floats, scale: float) -> Floats:
    """abs(w - r) <= delta·abs(r): whoever stays within a fraction of its value leaves."""
    return _ratio(np.abs(value - reference), np.abs(reference))


@rule(counts=False)
def fraction_of_scale(value: Floats, reference: Floats, gradient: Floats, scale: float) -> Floats:
    """abs(w - r) <= delta·(std of the layer's initial weights): no preference for large or small weights."""
    return np.abs(value - reference) / scale if scale else np.full(len(value), np.inf)


def start_density(density: float) -> float:
    """Density of the random mask that dissipation starts from: 0.3, or twice the asked density where that is more."""
    return max(0.3, min(1.0, 2 * density))


def start_holding(density: float, options: Mapping[str, Any]) -> Holding:
    """One network of the density that dissipation starts from, all weights where a rule leaves the sparsity open."""
    if options["start_sparsity"] is not None:
        return Holding(1 - options["start_sparsity"])
    return Holding(start_density(density) if RULES[options["rule"]].counts else 1.0)


def geometric(start: int, budget: int, checks: int) -> list[int]:
    """Survivors after each check, from `start` down to exactly `budget`, by a constant factor."""
    if budget > start:
        raise InputError(f"it starts from {start} survivors, fewer than the {budget} asked: choose a smaller start_sparsity")
    counts = [round(start * (budget / start) ** (step / checks)) for step in range(1, checks)]
    return [*(max(count, budget) for count in counts), budget]


def check(
    generation: Population,
    how: Rule,
    reference: Values,
    *,
    budget: int | None = None,
    delta: float | None = None,
    inverted: bool = False,
    scope: str = "global",
) -> None:
    """Prune every network of `generation`: to `budget` survivors, or by `delta`; no layer falls below 1.

    reference: the values that weights are held against, in the layout of the population's survivors.
    """
    weights = generation.problem.initial_weights()
    scales = {name: float(weights[name].std()) if weights[name].numel() > 1 else 0.0 for name in generation.problem.space.names}
    sign = -1 if inverted else 1
    scores = [_scores(generation, row, how, reference, scales) for row in range(len(generation))]
    pairs = zip(generation.masks, scores, strict=True)
    generation.prune([_kept(mask, [sign * score for score in own], budget, delta, sign, scope) for mask, own in pairs])


def _scores(generation: Population, row: int, how: Rule, reference: Values, scales: Mapping[str, float]) -> list[Floats]:
    parameters, trace = generation.parameters, generation.trace
    scores = []
    for name in parameters.space.names:
        own = parameters.span(name, row, row + 1)
        value, start = (_numpy(source[name][own]) for source in (parameters.survivors, reference))
        gradients = _numpy(trace.per_weight("grad", name)[own]) if how.needs else value
        score = how.score(value, start, gradients, scales[name] * _scaling(generation, row, name))
        scores.append(np.zeros(len(score)) if trace.failed[row] else score)  # a failed network still gets a mask
    return scores


def _scaling(generation: Population, row: int, name: str) -> float:
    """How many times larger than the problem's the weights are that the training of a row began with."""
    parameters, problem, training = generation.parameters, generation.problem, generation.training
    if training.init == "problem" and not training.rescale and not training.drop_rate:
        return 1.0
    began = _numpy(parameters.initial[name][parameters.span(name, row, row + 1)])
    given = _numpy(problem.initial_weights()[name]).reshape(-1)[parameters.masks[row].survivors[problem.space.index[name]]]
    size = float(np.square(given).sum())
    return math.sqrt(float(np.square(began).sum()) / size) if size else 1.0


def _kept(mask: Mask, scores: Sequence[Floats], budget: int | None, delta: float | None, sign: int, scope: str) -> Mask:
    if budget is None:
        assert delta is not None
        stay = [score > delta if sign > 0 else score >= -delta for score in scores]
        counts = [max(int(np.count_nonzero(kept)), min(1, len(kept))) for kept in stay]
        return keep_counts(mask, scores, counts)
    if one_of("scope", scope, ("global", "layer")) == "layer":
        return keep_counts(mask, scores, layer_counts(mask, budget))
    return keep_top(mask, scores, budget)


def layer_counts(mask: Mask, budget: int) -> tuple[int, ...]:
    """`budget` spread over the layers in the proportions of `mask`."""
    live = {name: count for name, count in zip(mask.space.names, mask.counts, strict=True) if count}
    held = MaskSpace(tuple(live), tuple((count,) for count in live.values()))
    left = dict(zip(live, spread(held, np.ones(len(live)), budget, [1] * len(live)), strict=True))
    return tuple(left.get(name, 0) for name in mask.space.names)


def check_options(
    rule_name: str, control: str, reference: str, scope: str, sparsity: float | None, delta: float | None, decay: float
) -> Rule:
    """The rule, once its options fit together; `InputError` otherwise."""
    how = RULES[rule_name]
    one_of("control", control, CONTROLS)
    one_of("reference", reference, ("init", "epoch"))
    one_of("scope", scope, ("global", "layer"))
    if how.counts and delta is not None:
        raise InputError(f"delta={delta!r} has no meaning for rule {rule_name!r}: leave it out, or use rule='fraction'")
    if not how.counts and not (is_number(delta) and delta > 0):
        raise InputError(
            f"rule {rule_name!r} needs delta= above 0, the share of a weight's value that counts as unmoved, not {delta!r}"
        )
    if not how.counts and sparsity is not None:
        raise InputError(f"the sparsity of rule {rule_name!r} is an outcome: leave sparsity={sparsity!r} out")
    if how.needs and reference != "init":
        raise InputError(f"reference={reference!r} has no part in rule {rule_name!r}, which reads gradients alone: leave it out")
    if how.needs and control == "zero_gradient":
        raise InputError(f"the control 'zero_gradient' leaves rule {rule_name!r} nothing to read: choose another rule")
    if control == "zero_gradient" and not decay:
        raise InputError("the control 'zero_gradient' moves weights by decay alone: set weight_decay above 0")
    return how


def check_count(checks: int | None, epochs: int, *, after: int = 0) -> int:
    """The number of checks, max(2, 2·epochs // 5) unless given, with at least one epoch left after them."""
    chosen = min(max(2, 2 * epochs // 5), epochs - 1 - after) if checks is None else checks
    if not is_whole(chosen, 1) or chosen >= epochs - after:
        raise InputError(
            f"checks={chosen} do not fit into {epochs} epochs: leave at least one epoch for what remains, raise epochs="
        )
    return chosen


def snapshot(values: Values) -> dict[str, Tensor]:
    """Detached copies."""
    return {name: value.detach().clone() for name, value in values.items()}


def _numpy(value: Tensor) -> Floats:
    return value.detach().cpu().double().numpy()


def _ratio(moved: Floats, size: Floats) -> Floats:
    """moved / size; a weight that started at 0 counts as moved without limit, unless it is still there."""
    return np.divide(moved, size, out=np.where(moved > 0, np.inf, 0.0), where=size > 0)
