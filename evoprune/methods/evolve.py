"""A generational search over masks in DEAP's terms: a few epochs of training are a fitness, the fittest have children."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from deap import base, tools

from evoprune.errors import InputError, TrainingFailed
from evoprune.evolution.elites import similar
from evoprune.evolution.loop import State, generations
from evoprune.evolution.operators import mutGuided
from evoprune.evolution.operators.lineage import lineage_of
from evoprune.evolution.several import front
from evoprune.evolution.toolbox import make_toolbox
from evoprune.evolution.tournament import ETA
from evoprune.masks.allocation import Allocation
from evoprune.methods.first import SCORING, check_first, first_population
from evoprune.methods.registry import Holding, method
from evoprune.problems.problem import Problem
from evoprune.registry import one_of
from evoprune.training.ledger import Ledger
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from evoprune.values import is_number, probability, whole

__all__ = ["evolve"]

log = logging.getLogger("evoprune")


FORMS: dict[str, dict[str, Any]] = {
    "guided": {
        "fitness_epochs": 1, "mu": 1, "lambda_": 4, "ngen": 15, "cxpb": 0.0, "mutpb": 1.0, "comma": True,
        "mutate": "mutGuided", "inherit": "weights",
    },
    "plain": {
        "fitness_epochs": 2, "mu": 16, "lambda_": 16, "ngen": 8, "cxpb": 0.2, "mutpb": 0.8, "comma": False,
        "mutate": None, "inherit": None,
    },
}  # fmt: skip
"""What an option is that is None."""
SHARE = 0.3
"""Of the survivors of a layer, those that guided mutation replaces."""


def _plan(options: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of `FORMS`: as given, else the form's."""
    several = options["objectives"] is not None or options["rungs"] is not None
    varies = isinstance(options.get("sparsity"), (tuple, list))  # a swap of survivors keeps their number
    form = options["form"] or ("plain" if several or varies else "guided")
    given = {name: options[name] for name in FORMS["plain"] if options[name] is not None}
    comma = {"comma": True} if options["rungs"] is not None else {}
    return FORMS[one_of("form", form, tuple(FORMS))] | comma | given


def _holds(density: float, options: Mapping[str, Any]) -> Holding:
    """A generation, with a dense gradient for each network where mutation is guided; scorers of the first population."""
    plan = _plan(options)
    networks = max(plan["mu"], plan["lambda_"])
    scored = SCORING if set(options["first"]) - {"random"} else 0
    return Holding(networks * density, max(scored, networks if plan["mutate"] == "mutGuided" else 0))


@method(
    reference="evolution strategies, Beyer 2002, on masks of fixed size; guided form: Mocanu 2018, Evci 2020 as mutation",
    holds=_holds,
    unset={
        "form": "guided; plain with objectives, rungs or a range of sparsities",
        **{name: f"{guided}; plain: {FORMS['plain'][name]}" for name, guided in FORMS["guided"].items()},
        "comma": "true; plain: false, or true with rungs",
        "mutate": "mutGuided; plain: mutSwap, and mutResize where sizes vary",
        "inherit": "weights; plain: nothing",
        "objectives": "the criterion alone",
        "rungs": "no tournament",
        "budget": "no limit",
        "journal": "none; that of the folder where a run has one",
        "executor": "this process",
    },
)
def evolve(
    problem: Problem,
    *,
    sparsity: float | tuple[float, float] = 0.95,
    epochs: int = 10,
    form: Literal["guided", "plain"] | None = None,
    fitness_epochs: int | None = None,
    mu: int | None = None,
    lambda_: int | None = None,
    ngen: int | None = None,
    cxpb: float | None = None,
    mutpb: float | None = None,
    comma: bool | None = None,
    mutate: str | None = None,
    inherit: str | None = None,
    share: float = SHARE,
    mate: str = "cxSetUniform",
    criterion: str | Sequence[str] = "loss",
    objectives: Sequence[str] | None = None,
    rungs: Sequence[int] | None = None,
    eta: int = ETA,
    first: Sequence[str] = ("random",),
    repetitions: int = 1,
    budget: int | None = None,
    allocation: Allocation = "erk",
    journal: str | os.PathLike[str] | None = None,
    executor: Any = None,
    seed: int = 0,
    **training: Any,
) -> Ticket:
    """Evolve masks for `ngen` generations, then train the best afresh for `epochs`.

    form: "guided" (the default with one objective) is a (1, 4) strategy: children go on from their parent's trained weights,
    and `share` of the survivors of each layer, those that moved least, give way to weights of large gradients. "plain" (the
    default with `objectives`, `rungs` or two sparsities, the lowest and the highest) is a (16 + 16) strategy on random changes,
    each mask trained from the initial weights.
    The guided form's numbers were chosen on validation data (`benchmarks/evolve_configurations.py`).
    Options that are None are the form's (`FORMS`): fitness_epochs (of one evaluation), mu, lambda_, ngen, cxpb + mutpb <= 1 (the
    rest are clones), comma (the next population comes from the children alone), mutate, inherit.

    first: where the first population comes from, in turns: "random", or scorers, at most `mu` of them. rungs: each generation is
    a tournament of `fitness_epochs`, and comma. objectives: several, as ("loss", "survivors") with two sparsities; the best in
    the first of them is trained, the front is in the provenance. repetitions: evaluations an elite gets at most. budget: samples
    trained in the search; it ends before the generation that would exceed it. The other options are those of `make_toolbox`.
    """
    plan = _plan({
        "form": form, "sparsity": sparsity, "objectives": objectives, "rungs": rungs, "fitness_epochs": fitness_epochs, "mu": mu,
        "lambda_": lambda_, "ngen": ngen, "cxpb": cxpb, "mutpb": mutpb, "comma": comma, "mutate": mutate, "inherit": inherit,
    })  # fmt: skip
    _check(
        budget=budget,
        repetitions=repetitions,
        **{name: plan[name] for name in ("mu", "lambda_", "ngen", "cxpb", "mutpb", "comma")},
    )
    check_first(first, plan["mu"])
    if plan["mutate"] != "mutGuided" and share != SHARE:
        log.warning("evolve: share=%r does nothing with mutate=%r", share, plan["mutate"])
    if not plan["cxpb"] and mate != "cxSetUniform":
        log.warning("evolve: mate=%r does nothing with cxpb=0", mate)
    toolbox = make_toolbox(
        problem, sparsity=sparsity, epochs=plan["fitness_epochs"], criterion=criterion, objectives=objectives, rungs=rungs,
        eta=eta, allocation=allocation, mate=mate, mutate=plan["mutate"], inherit=plan["inherit"], journal=journal,
        executor=executor, seed=seed, **training,
    )  # fmt: skip
    if objectives is None:
        toolbox.register("select", tools.selBest)
    if plan["mutate"] == "mutGuided":
        toolbox.register("mutate", mutGuided, share=share, noise=True)
    try:
        population, scoring = first_population(
            toolbox, problem, plan["mu"], first, sparsity=sparsity, allocation=allocation, seed=seed,
            **{name: training[name] for name in ("device", "dtype") if name in training},
        )  # fmt: skip
        shares = dict(Counter(individual.lineage["operator"] for individual in population))
        hall = tools.HallOfFame(1, similar=similar) if objectives is None else tools.ParetoFront(lambda a, b: a.mask == b.mask)
        states = generations(
            population, toolbox, plan["cxpb"], plan["mutpb"], plan["ngen"], mu=plan["mu"], lambda_=plan["lambda_"],
            comma=plan["comma"], halloffame=hall, repetitions=repetitions,
        )  # fmt: skip
        state = next(states)
        asked = plan["lambda_"] + (plan["mu"] + 1 if repetitions > 1 else 0)  # elites are evaluated again
        while not _exceeds(toolbox, asked, budget) and (later := next(states, None)) is not None:
            state = later
    finally:
        toolbox.map.close()
    ticket = _trained(problem, state, toolbox, epochs, seed, training, scoring)
    ticket.provenance["search"]["fitness_epochs"] = plan["fitness_epochs"]
    return ticket.with_provenance({"first": shares})


def _trained(
    problem: Problem, state: State, toolbox: base.Toolbox, epochs: int, seed: int, training: dict[str, Any], scored: Ledger
) -> Ticket:
    """The best of the search as a ticket, with the cost of the search."""
    if state.best is None:
        raise TrainingFailed(f"all {state.nevals} evaluations failed: lower lr=")
    winner = Population(problem, [state.best], horizon=epochs, seed=seed, **training).train(epochs).ticket()
    winner.ledger = scored + toolbox.map.ledger + winner.ledger
    winner.earlier_s = toolbox.map.earlier_s
    names = toolbox.map.trainer.names
    whole_lineage = lineage_of(state.best)
    lineage = {name: whole_lineage[name] for name in ("operator", "seed", "parents") if name in whole_lineage}
    found: dict[str, Any] = {"generations": state.generation, "evaluations": state.nevals, "lineage": lineage}
    if len(toolbox.map.trainer.objectives) > 1:
        found["front"] = front(list(state.halloffame), names).to_dict("records")
    return winner.with_provenance({"search": found})


def _exceeds(toolbox: base.Toolbox, lambda_: int, budget: int | None) -> bool:
    """Whether another generation would cost more than the budget."""
    spent, evaluations = toolbox.map.ledger.samples, toolbox.map.counted
    return budget is not None and spent + spent // max(1, evaluations) * lambda_ > budget


def _check(*, cxpb: float, mutpb: float, mu: int, comma: bool, budget: int | None, **counts: int) -> None:
    for name, value in {"mu": mu, **counts}.items():
        least = 0 if name == "ngen" else 1
        whole(name, value, least)
    if budget is not None and not (is_number(budget) and budget >= 1):
        raise InputError(f"budget={budget!r} is not usable: give a number of samples >= 1, or None for no limit")
    if not isinstance(comma, bool):
        raise InputError(f"comma={comma!r} is not usable: give True or False")
    if probability("cxpb", cxpb) + probability("mutpb", mutpb) > 1:
        raise InputError(f"cxpb={cxpb!r} and mutpb={mutpb!r} are not usable: give shares of the offspring, together at most 1")
    if mu == 1 and cxpb:
        raise InputError(f"mu=1 leaves no pair to cross with cxpb={cxpb!r}: set cxpb=0, or raise mu=")
    if comma and mu > counts["lambda_"]:
        raise InputError(f"mu={mu} cannot be selected from lambda_={counts['lambda_']} children alone: raise lambda_")
