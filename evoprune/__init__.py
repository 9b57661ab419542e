"""evoprune: evolutionary search of sparse neural networks at initialization.

The names a user types. They are imported when they are first used, so that `import evoprune` stays close to `import torch`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evoprune import (
        criteria as criteria,
    )
    from evoprune import (
        methods as methods,
    )
    from evoprune.evidence.check import (
        check as check,
    )
    from evoprune.evidence.plots import (
        plot_accuracy as plot_accuracy,
    )
    from evoprune.evidence.plots import (
        plot_controls as plot_controls,
    )
    from evoprune.evidence.plots import (
        plot_cost as plot_cost,
    )
    from evoprune.evidence.plots import (
        plot_genealogy as plot_genealogy,
    )
    from evoprune.evidence.plots import (
        plot_layers as plot_layers,
    )
    from evoprune.evidence.plots import (
        plot_mask as plot_mask,
    )
    from evoprune.evidence.plots import (
        plot_pareto as plot_pareto,
    )
    from evoprune.evidence.plots import (
        plot_trace as plot_trace,
    )
    from evoprune.evolution.individual import (
        FitnessMax as FitnessMax,
    )
    from evoprune.evolution.individual import (
        FitnessMin as FitnessMin,
    )
    from evoprune.evolution.individual import (
        Individual as Individual,
    )
    from evoprune.evolution.individual import (
        fitness_class as fitness_class,
    )
    from evoprune.evolution.journal import (
        read_journal as read_journal,
    )
    from evoprune.evolution.loop import (
        generations as generations,
    )
    from evoprune.evolution.operators import (
        OPERATORS as OPERATORS,
    )
    from evoprune.evolution.operators import (
        UMDA as UMDA,
    )
    from evoprune.evolution.operators import (
        Told as Told,
    )
    from evoprune.evolution.operators import (
        cxLayers as cxLayers,
    )
    from evoprune.evolution.operators import (
        cxRAR as cxRAR,
    )
    from evoprune.evolution.operators import (
        cxSetUniform as cxSetUniform,
    )
    from evoprune.evolution.operators import (
        initSparse as initSparse,
    )
    from evoprune.evolution.operators import (
        mutGuided as mutGuided,
    )
    from evoprune.evolution.operators import (
        mutMoveBudget as mutMoveBudget,
    )
    from evoprune.evolution.operators import (
        mutResize as mutResize,
    )
    from evoprune.evolution.operators import (
        mutSwap as mutSwap,
    )
    from evoprune.evolution.operators import (
        replay as replay,
    )
    from evoprune.evolution.statistics import (
        statistics as statistics,
    )
    from evoprune.evolution.toolbox import (
        make_toolbox as make_toolbox,
    )
    from evoprune.masks.files import (
        load_mask as load_mask,
    )
    from evoprune.masks.files import (
        save_mask as save_mask,
    )
    from evoprune.masks.mask import (
        Mask as Mask,
    )
    from evoprune.masks.sampling import (
        random_mask as random_mask,
    )
    from evoprune.masks.space import (
        MaskSpace as MaskSpace,
    )
    from evoprune.masks.topology import (
        Topology as Topology,
    )
    from evoprune.methods import (
        Method as Method,
    )
    from evoprune.methods import (
        method as method,
    )
    from evoprune.methods import (
        scorers as scorers,
    )
    from evoprune.methods.scorers.scorer import (
        scorer as scorer,
    )
    from evoprune.pages import (
        report as report,
    )
    from evoprune.problems.problem import (
        Problem as Problem,
    )
    from evoprune.runs import (
        load_runs as load_runs,
    )
    from evoprune.training.ledger import (
        Ledger as Ledger,
    )
    from evoprune.training.population import (
        Population as Population,
    )
    from evoprune.training.ticket import (
        Ticket as Ticket,
    )
    from evoprune.training.trace import (
        Trace as Trace,
    )

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
