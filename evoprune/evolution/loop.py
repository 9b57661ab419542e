"""Our own loop, a generator: DEAP's argument names, one state a generation; callbacks are the caller's `for`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from deap import algorithms, base, tools

from evoprune.errors import InputError
from evoprune.evolution.batchmap import BatchMap, core, wraps
from evoprune.evolution.elites import Elites, similar
from evoprune.evolution.genealogy import Genealogy, diversity, row_of
from evoprune.evolution.individual import has_failed
from evoprune.training.ledger import Ledger
from evoprune.values import whole

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["State", "generations"]


@dataclass(frozen=True, eq=False)
class State:
    """What stands after one generation; the lists are those of the search, later generations have their own.

    generation: 0 for the first population. population: who is selected from next. offspring: who was new. logbook: gen,
    nevals (evaluations asked for), again (elites evaluated once more), and the statistics. halloffame: the caller's, or one
    of size 1. ledger: what all evaluations so far cost. genealogy: everyone evaluated so far.
    """

    generation: int
    population: list[Any]
    offspring: list[Any]
    logbook: tools.Logbook
    halloffame: Any
    nevals: int
    ledger: Ledger
    genealogy: Genealogy

    @property
    def best(self) -> Any:
        """The first of the hall of fame; None while everybody failed."""
        return self.halloffame[0] if len(self.halloffame) else None

    def frame(self) -> pd.DataFrame:
        """The population, one row an individual: generation, mask, parents, operator, …, as in `Genealogy.frame`."""
        import pandas as pd

        rows = [row_of(individual, self.genealogy.objectives) for individual in self.population]
        return pd.DataFrame([{"generation": self.generation, **row} for row in rows])

    def statistics(self) -> pd.DataFrame:
        """The logbook as a data frame, one row a generation; chapters of a `MultiStatistics` become columns `chapter.name`."""
        return logbook_frame(self.logbook)

    def __repr__(self) -> str:
        best = self.best.fitness.values if self.best is not None else None
        return f"State(generation {self.generation}, {self.nevals} evaluations, best {best})"


def generations(
    population: Sequence[Any],
    toolbox: base.Toolbox,
    cxpb: float,
    mutpb: float,
    ngen: int | None = None,
    *,
    mu: int | None = None,
    lambda_: int | None = None,
    comma: bool = False,
    stats: Any = None,
    halloffame: Any = None,
    repetitions: int = 3,
) -> Iterator[State]:
    """Evolve `population` and yield a state after every generation, the first population's included.

    With `lambda_` children a generation are made by `algorithms.varOr` and the next population of `mu` (the population's size
    when None) is selected from parents and children, or with `comma` from the children alone. Without it the generation is
    replaced as in `eaSimple`: selected, then varied by `algorithms.varAnd`. ngen: generations after the first population; None
    goes on until the caller stops.

    repetitions: how often at most an individual is evaluated. Those that stay, and those in the hall of fame, are evaluated
    once more each generation with another training seed; their fitness is the mean, `individual.scores` holds the values.
    So no elite keeps a lucky score, nor one that was evaluated before. 1 leaves that out; it is also left out under a replaced
    `evaluate` or `map`, and where the fitness is a tournament (`rungs=`): there everybody competes anew, and the hall of fame is
    of the generation.

    As in DEAP's own loops selection and who is varied draw from the global `random`, whatever the toolbox's seed: a script that
    calls `random.seed` is repeatable, and with a journal goes on where it was killed when it is run again.
    """
    _check(cxpb, mutpb, ngen, mu, lambda_, comma, repetitions)
    parents = list(population)
    hall = tools.HallOfFame(1, similar=similar) if halloffame is None else halloffame
    objectives = toolbox.map.trainer.names if isinstance(toolbox.map, BatchMap) else None
    own = isinstance(toolbox.map, BatchMap) and core(toolbox.evaluate) is toolbox.map.evaluator
    whole = isinstance(toolbox.map, BatchMap) and toolbox.map.trainer.whole and wraps(toolbox.evaluate, toolbox.map.evaluator)
    if whole and lambda_ is not None and not comma:
        raise InputError("the fitness of a tournament compares within one generation only: set comma=True, or drop lambda_=")
    elites = Elites(toolbox.map if own and not whole else None, repetitions)
    logbook = tools.Logbook()
    logbook.header = ["gen", "nevals", "again", *(stats.fields if stats else []), "diversity"]
    genealogy: Genealogy | None = None
    evaluated = 0
    for generation in count() if ngen is None else range(ngen + 1):
        if generation == 0:
            offspring = parents
        elif lambda_ is not None:
            offspring = algorithms.varOr(parents, toolbox, lambda_, cxpb, mutpb)
        else:
            offspring = algorithms.varAnd(toolbox.select(parents, len(parents)), toolbox, cxpb, mutpb)
        if whole:  # who was not varied competes anew, in this generation
            for individual in offspring:
                del individual.fitness.values
            hall.clear()
        fresh = [individual for individual in offspring if not individual.fitness.valid]
        known = [] if generation else [individual for individual in offspring if individual.fitness.valid]
        elites.meet(known)
        for individual, values in zip(fresh, toolbox.map(toolbox.evaluate, fresh), strict=True):
            individual.fitness.values = values
        elites.welcome(fresh)
        staying = [] if comma else parents if lambda_ is not None else offspring
        again = elites.evaluate_again(staying, hall, offspring) if generation else 0
        if generation and lambda_ is not None:
            candidates = list(offspring) if comma else [*parents, *offspring]
            parents = list(toolbox.select(candidates, mu or len(population)))
        else:
            parents = list(offspring)
        hall.update(_sound(offspring))
        names = objectives or [f"objective_{place}" for place in range(len(parents[0].fitness.weights))]
        genealogy = genealogy or Genealogy(names)
        genealogy.add(generation, [*known, *fresh], parents)
        evaluated += len(fresh) + again
        record = stats.compile(parents) if stats else {}
        logbook.record(
            gen=generation, nevals=len(fresh), again=again, diversity=diversity([one.mask for one in parents]), **record
        )
        ledger = toolbox.map.ledger if isinstance(toolbox.map, BatchMap) else Ledger()
        yield State(generation, parents, list(offspring), logbook, hall, evaluated, ledger, genealogy)


def logbook_frame(logbook: tools.Logbook) -> pd.DataFrame:
    """A DEAP logbook as a data frame, one row a record."""
    import pandas as pd

    frame = pd.DataFrame(list(logbook))
    for name, chapter in logbook.chapters.items():
        inner = pd.DataFrame(list(chapter)).drop(columns=list(frame.columns), errors="ignore")
        frame = frame.join(inner.add_prefix(f"{name}."))
    return frame


def _sound(individuals: Sequence[Any]) -> list[Any]:
    return [individual for individual in individuals if not has_failed(individual)]


def _check(
    cxpb: float, mutpb: float, ngen: int | None, mu: int | None, lambda_: int | None, comma: bool, repetitions: int
) -> None:
    for name, value in {"ngen": ngen, "mu": mu, "lambda_": lambda_, "repetitions": repetitions}.items():
        least = 0 if name == "ngen" else 1
        if value is not None:
            whole(name, value, least)
    if not (0 <= cxpb <= 1 and 0 <= mutpb <= 1) or (lambda_ is not None and cxpb + mutpb > 1):
        raise InputError(f"cxpb={cxpb!r} and mutpb={mutpb!r} are not usable: give probabilities, with lambda_ at most 1 together")
    if lambda_ is None and (mu is not None or comma):
        raise InputError("mu= and comma= need lambda_=, the number of children: give it, or leave them out")
    if comma and mu is not None and lambda_ is not None and mu > lambda_:
        raise InputError(f"mu={mu} cannot be selected from lambda_={lambda_} children alone: raise lambda_, or drop comma=")
