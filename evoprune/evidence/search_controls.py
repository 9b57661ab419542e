"""Controls of a search: pure, seeded functions ticket -> ticket that search again without what should have made the difference.

Each gives the untrained network that such a search chooses, on the ticket's own initial weights. They train as much as the search
did, so they are asked for by name: `check(…, search=True)`, `evoprune check --search`. The fourth, fresh random masks with the
winner's layer counts, trains nothing and is always there: `fresh_counts`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evoprune import seeds
from evoprune.criteria import CRITERIA
from evoprune.errors import InputError
from evoprune.evidence.controls import Control, reference_counts, rewired
from evoprune.masks.sampling import random_of_counts
from evoprune.methods.dissipation import RULES
from evoprune.methods.registry import ASIDE, METHODS, Method
from evoprune.problems.fit import CLASSIFICATION
from evoprune.problems.problem import Problem
from evoprune.registry import Registry
from evoprune.training.options import Training
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket

__all__ = ["SEARCH_CONTROLS", "rivals_at_equal_cost", "search_controls_of"]

SEARCH_CONTROLS: Registry[Control] = Registry("control of a search")


@SEARCH_CONTROLS.register("random_selection")
def random_selection(ticket: Ticket, seed: int) -> Ticket:
    """The same search, but who survives is drawn by lot: what variation and inheritance do without selection.

    Raises `InputError` for a method that selects by no criterion, and where the size of the mask is an outcome.
    """
    method = _method(ticket)
    if "criterion" not in method.options:
        raise InputError(f"{method.name} selects by no criterion: there is no selection to draw by lot")
    chosen = _searched(ticket, ticket._problem("random_selection"), seed, **_by_lot(ticket))
    return rewired(ticket, chosen.mask, "random_selection")


def _by_lot(ticket: Ticket) -> dict[str, Any]:
    """Options that put a lot in the place of everything that training tells the method's selection."""
    objectives = ticket.provenance.get("options", {}).get("objectives") or ()
    lots = list(dict.fromkeys("random" if name in CRITERIA else name for name in objectives))
    changes: dict[str, Any] = {"objectives": lots} if lots else {"criterion": "random"}
    if "finalists" in _method(ticket).options:
        changes["finalists"] = 1  # of several the loss would choose one
    return changes


@SEARCH_CONTROLS.register("best_of_k")
def best_of_k(ticket: Ticket, seed: int) -> Ticket:
    """The best of as many random masks as the search could have paid for, by validation loss after as many epochs as it looked.

    Random masks have the layer counts that no search chose, those of `fresh_random`.
    """
    problem, (k, epochs) = ticket._problem("best_of_k"), rivals_at_equal_cost(ticket)
    counts = reference_counts(ticket)
    masks = [random_of_counts(problem.space, counts, seeds.generator(seed, "best_of_k", number)) for number in range(k)]
    weights = None if ticket.start is None else [ticket.start] * k
    own, training = seeds.derive(seed, "best_of_k"), Training.following(ticket.provenance.get("training", {}))
    generation = Population(problem, masks, horizon=_epochs(ticket), seed=own, weights=weights, **training)
    losses = generation.train(epochs).trace.last("val_loss")
    return rewired(ticket, masks[int(np.argmin(np.where(np.isfinite(losses), losses, np.inf)))], "best_of_k")


@SEARCH_CONTROLS.register("shuffled_labels")
def shuffled_labels(ticket: Ticket, seed: int) -> Ticket:
    """The same search on labels that change places with each other: what it finds without anything to learn.

    Raises `InputError` for what is no classification, and where the size of the mask is an outcome.
    """
    problem = ticket._problem("shuffled_labels")
    chosen = _searched(ticket, problem.with_shuffled_labels(seed), seed)
    return rewired(ticket, chosen.mask, "shuffled_labels")


def search_controls_of(ticket: Ticket) -> list[str]:
    """Names of the controls that the ticket's method and problem allow. Raises `InputError` for a ticket of no method."""
    method, problem = _method(ticket), ticket._problem("a control of its search")
    refused = set()
    if "criterion" not in method.options:
        refused.add("random_selection")
    if problem.task != CLASSIFICATION:
        refused.add("shuffled_labels")
    if _size_is_outcome(ticket):
        refused |= {"random_selection", "shuffled_labels"}
    return [name for name in SEARCH_CONTROLS if name not in refused]


def rivals_at_equal_cost(ticket: Ticket) -> tuple[int, int]:
    """How many random masks cost what the ticket did when the best goes on to the end, and the epochs each is looked at."""
    options, last = {**ticket.provenance.get("options", {}), **ticket.provenance.get("search", {})}, _epochs(ticket)
    looks = [options[name] for name in ("selection_epochs", "fitness_epochs") if isinstance(options.get(name), int)]
    epochs = min([*looks, 2][0], last)
    every = 3 * ticket.mask.count * len(ticket._problem("best_of_k").split("train"))  # updates of an epoch of one mask
    paid = ticket.ledger.survivor_updates / every - (last - epochs)
    return max(1, round(paid / epochs)), epochs


# ---- pieces -------------------------------------------------------------------------------------------------------


def _method(ticket: Ticket) -> Method:
    name = ticket.provenance.get("method")
    if not isinstance(name, str) or name not in METHODS:
        raise InputError(f"the ticket comes from {name or 'no method'}: its search cannot be repeated, leave search controls out")
    return METHODS[name]


def _epochs(ticket: Ticket) -> int:
    asked = ticket.provenance.get("options", {}).get("epochs")
    return asked if isinstance(asked, int) else max((int(row["epoch"]) for row in ticket.history_rows), default=10)


def _size_is_outcome(ticket: Ticket) -> bool:
    """Whether the same search would find a mask of another size, which no control may have."""
    told = ticket.provenance.get("options", {})
    rule = told.get("rule")
    return isinstance(told.get("sparsity"), (list, tuple)) or (rule in RULES and not RULES[rule].counts)


def _searched(ticket: Ticket, problem: Problem, seed: int, **changes: Any) -> Ticket:
    """The ticket's method once more, with another seed."""
    method = _method(ticket)
    if _size_is_outcome(ticket):
        raise InputError(f"{method.name} was not asked for one sparsity, so a search again finds another size: leave this out")
    known = {*method.options, *Training.__dataclass_fields__, "sparsity", "epochs"}
    told = Training.following(ticket.provenance.get("options", {}))
    options = {name: value for name, value in told.items() if name in known and name not in ASIDE}
    return method(problem, **{**options, **changes, "seed": seeds.derive(seed, "search")})
