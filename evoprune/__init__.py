"""evoprune: evolutionary search of sparse neural networks at initialization.

The names a user types. They are imported when they are first used, so that `import evoprune` stays close to `import torch`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evoprune import criteria, methods
    from evoprune.evidence.check import check
    from evoprune.evidence.plots import (
        plot_accuracy,
        plot_controls,
        plot_cost,
        plot_genealogy,
        plot_layers,
        plot_mask,
        plot_pareto,
        plot_trace,
    )
    from evoprune.evolution.individual import FitnessMax, FitnessMin, Individual, fitness_class
    from evoprune.evolution.journal import read_journal
    from evoprune.evolution.loop import generations
    from evoprune.evolution.operators import (
        OPERATORS,
        UMDA,
        Told,
        cxLayers,
        cxRAR,
        cxSetUniform,
        initSparse,
        mutGuided,
        mutMoveBudget,
        mutResize,
        mutSwap,
        replay,
    )
    from evoprune.evolution.statistics import statistics
    from evoprune.evolution.toolbox import make_toolbox
    from evoprune.masks.files import load_mask, save_mask
    from evoprune.masks.mask import Mask
    from evoprune.masks.sampling import random_mask
    from evoprune.masks.space import MaskSpace
    from evoprune.masks.topology import Topology
    from evoprune.methods import Method, method, scorers
    from evoprune.methods.scorers.scorer import scorer
    from evoprune.pages import report
    from evoprune.problems.problem import Problem
    from evoprune.runs import load_runs
    from evoprune.training.ledger import Ledger
    from evoprune.training.population import Population
    from evoprune.training.ticket import Ticket
    from evoprune.training.trace import Trace

__version__ = "0.1.0.dev0"

_NAMES = {
    "FitnessMax": "evolution.individual",
    "FitnessMin": "evolution.individual",
    "Individual": "evolution.individual",
    "Ledger": "training.ledger",
    "Mask": "masks.mask",
    "MaskSpace": "masks.space",
    "Method": "methods",
    "OPERATORS": "evolution.operators",
    "Population": "training.population",
    "Problem": "problems.problem",
    "Ticket": "training.ticket",
    "Told": "evolution.operators",
    "Topology": "masks.topology",
    "Trace": "training.trace",
    "UMDA": "evolution.operators",
    "cxLayers": "evolution.operators",
    "cxRAR": "evolution.operators",
    "check": "evidence.check",
    "cxSetUniform": "evolution.operators",
    "fitness_class": "evolution.individual",
    "generations": "evolution.loop",
    "initSparse": "evolution.operators",
    "load_mask": "masks.files",
    "load_runs": "runs",
    "make_toolbox": "evolution.toolbox",
    "method": "methods",
    "mutGuided": "evolution.operators",
    "mutMoveBudget": "evolution.operators",
    "mutResize": "evolution.operators",
    "mutSwap": "evolution.operators",
    "plot_accuracy": "evidence.plots",
    "plot_controls": "evidence.plots",
    "plot_cost": "evidence.plots",
    "plot_genealogy": "evidence.plots",
    "plot_layers": "evidence.plots",
    "plot_mask": "evidence.plots",
    "plot_pareto": "evidence.plots",
    "plot_trace": "evidence.plots",
    "random_mask": "masks.sampling",
    "read_journal": "evolution.journal",
    "replay": "evolution.operators",
    "report": "pages",
    "save_mask": "masks.files",
    "scorer": "methods.scorers.scorer",
    "scorers": "methods",
    "statistics": "evolution.statistics",
}
_TABLES = ("criteria", "methods")  # modules that can be subscripted by name
_METHODS = ("combined", "dense", "dissipating", "dropout", "evolve", "kstarts")

__all__ = [*_NAMES, *_TABLES, *_METHODS, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _METHODS:
        return import_module("evoprune.methods").METHODS[name]
    if name in _TABLES:
        return import_module(f"evoprune.{name}")
    if name not in _NAMES:
        raise AttributeError(f"module 'evoprune' has no attribute {name!r}")
    module, _, attribute = _NAMES[name].partition(":")
    return getattr(import_module(f"evoprune.{module}"), attribute or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
