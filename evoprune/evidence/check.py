"""Is the ticket real? It is trained again beside its controls, on fresh batches, and judged in words."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evoprune import seeds as streams
from evoprune.errors import InputError, TrainingFailed
from evoprune.evidence.checked import TICKET, Check
from evoprune.evidence.controls import CONTROLS, Control, original, reference_counts
from evoprune.evidence.search_controls import SEARCH_CONTROLS, search_controls_of
from evoprune.formats import as_json
from evoprune.problems.problem import Problem
from evoprune.training.options import Training
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from evoprune.values import is_number, native, whole

__all__ = ["Check", "check"]

NEEDED = ("fresh_counts", "fresh_random")
DRAWS = 4

log = logging.getLogger("evoprune")


def check(
    source: Ticket | str | os.PathLike[str],
    *,
    seeds: int = 5,
    epochs: int | None = None,
    controls: Sequence[str] | None = None,
    search: bool = False,
    draws: int = DRAWS,
    difference: float | None = None,
    problem: Problem | None = None,
    seed: int = 0,
    **training: Any,
) -> Check:
    """Train a ticket's mask and initial weights again beside its controls, and say what the search found.

    source: a ticket, or the folder of a run; its weights start where they started: those that came during training at 0, after
    rewinding at the values of that epoch. seeds: times that everything is trained; each has its own batches and controls,
    and the networks of one seed train together as one population, on the same batches, which pairs them. epochs: of each; None
    takes the ticket's. controls: names of `CONTROLS` and `SEARCH_CONTROLS`; None takes all of the first, those that the verdict
    needs are always trained. search: add all of the second that apply; each searches again, once a seed, at the ticket's cost.
    draws: fresh masks with the ticket's layer counts for each seed, the null distribution. difference: the smallest gain that
    matters, in units of the score; None takes 0.002 of an accuracy (0.2 points), 2% of a loss. problem: needed for a ticket
    from a file whose model or data have no name. training: options of `Training` that differ from the ticket's own.

    The verdict is about this ticket: a random mask that is a lucky draw does beat the others, and is told so; the reason says
    how many fresh masks reach its mean. Scores are of the validation split, at the last epoch.

    Raises `InputError` for a ticket that keeps every weight.
    """
    seeds, draws, seed = whole("seeds", seeds, 1), whole("draws", draws, 1), streams.check_seed(seed)
    epochs, difference = None if epochs is None else whole("epochs", epochs, 1), native(difference)
    if difference is not None and not (is_number(difference) and difference > 0):
        raise InputError(f"difference={difference!r} is not usable: give the smallest gain that matters, such as 0.002")
    ticket = _ticket(source, problem)
    _check_starts(training, ticket.provenance.get("training", {}))
    counts_chosen = reference_counts(ticket) != ticket.mask.counts  # refuses a ticket without a choice, before any work
    chosen = _chosen(controls, search_controls_of(ticket) if search else ())
    horizon = epochs or _epochs(ticket)
    options = Training.following(ticket.provenance.get("training", {}), **training)
    used = as_json(Training.of(**options).as_dict())  # refuses before any work
    rows: list[dict[str, Any]] = []
    for number in range(seeds):
        log.info("check: seed %d of %d, %d epochs", number + 1, seeds, horizon)
        rows += _train(ticket, list(_networks(ticket, chosen, number, draws, seed)), number, horizon, seed, options)
    if all(row["failed"] for row in rows):
        raise TrainingFailed("every network turned NaN: lower lr=")
    about = {
        "method": ticket.provenance.get("method"),
        "model": ticket._problem("check").model_name,
        "data": ticket._problem("check").data_name,
        "metric": ticket._problem("check").metric,
        "sparsity": ticket.mask.sparsity,
        "mask_hash": ticket.mask.hash,
    }
    usual = Training.of(**Training.following(ticket.provenance.get("training", {}), engine="auto", device="auto")).as_dict()
    own = {name: value for name, value in used.items() if value != usual[name]}
    own |= {} if controls is None else {"controls": list(controls)}
    own |= {name: value for name, value, default in (("draws", draws, DRAWS), ("seed", seed, 0)) if value != default}
    return Check.of(pd.DataFrame(rows), about, counts_chosen=counts_chosen, difference=difference, epochs=horizon, options=own)


def _check_starts(asked: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise `InputError` for options that would have no part: everything starts from the ticket's own weights."""
    for name in ("init", "rescale", "own_weights"):
        if name in asked and asked[name] != own.get(name, getattr(Training, name)):
            raise InputError(
                f"{name}={asked[name]!r} has no part in a check, which starts from the ticket's weights: leave it out"
            )


# ---- what is trained ----------------------------------------------------------------------------------------------


def _ticket(source: Ticket | str | os.PathLike[str], problem: Problem | None) -> Ticket:
    if isinstance(source, Ticket):
        found = source
    else:
        path = Path(source)
        if path.is_dir():
            path = path / "ticket.safetensors"
        if not path.is_file():
            raise InputError(f"{source} holds no ticket: give the folder of a finished run, or a ticket's file")
        found = Ticket.load(path, problem=problem)
    if problem is not None and found.problem is not problem:
        found = Ticket(**{**vars(found), "problem": problem})
    found._problem("check")
    return found


def _chosen(controls: Sequence[str] | None, more: Sequence[str]) -> list[str]:
    if isinstance(controls, str):
        raise InputError(f"controls={controls!r} is not usable: give names in a list, as in [{controls!r}]")
    names = list(CONTROLS) if controls is None else [*NEEDED, *controls]
    names = list(dict.fromkeys([*names, *more]))
    for name in names:
        _control(name)
    return names


def _control(name: str) -> Control:
    """By its name. Raises `UnknownName`."""
    return SEARCH_CONTROLS[name] if name in SEARCH_CONTROLS else CONTROLS[name]


def _epochs(ticket: Ticket) -> int:
    asked = ticket.provenance.get("options", {}).get("epochs")
    return asked if isinstance(asked, int) else max((int(row["epoch"]) for row in ticket.history_rows), default=10)


def _networks(ticket: Ticket, controls: Sequence[str], number: int, draws: int, seed: int) -> Iterator[tuple[str, int, Ticket]]:
    """Name, draw and untrained network, the ticket itself first."""
    yield TICKET, 0, original(ticket)
    for name in controls:
        for draw in range(draws if name == "fresh_counts" else 1):
            yield name, draw, _control(name)(ticket, streams.derive(seed, "check", number, draw))


def _train(
    ticket: Ticket, networks: list[tuple[str, int, Ticket]], number: int, epochs: int, seed: int, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """The networks of one seed, as one population."""
    problem = ticket._problem("check")
    rate = options.get("drop_rate", 0.0)
    weights = [
        {name: value / (1 - rate) if name in one.mask.space.index else value for name, value in one.weights.items()}
        for _, _, one in networks
    ]  # a population multiplies by (1 - rate) again
    generation = Population(
        problem,
        [one for _, _, one in networks],
        horizon=epochs,
        seed=streams.derive(seed, "check", number),
        weights=weights,
        **options,
    )
    column = "val_accuracy" if problem.metric == "accuracy" else "val_loss"
    try:
        generation.train(epochs)
        scores = generation.trace.last(column)
    except TrainingFailed:
        scores = np.full(len(networks), math.nan)
    failed = generation.trace.failed | ~np.isfinite(scores)
    return [
        {
            "control": name,
            "seed": number,
            "draw": draw,
            "score": math.nan if bad else float(score),
            "metric": problem.metric,
            "survivors": one.mask.count,
            "failed": bool(bad),
        }
        for (name, draw, one), score, bad in zip(networks, scores, failed, strict=True)
    ]
