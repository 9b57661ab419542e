"""Pictures. Each function takes and returns a matplotlib `Axes`, so that they go into any figure."""

from evoprune.evidence.plots.accuracy import plot_accuracy
from evoprune.evidence.plots.controls import plot_controls
from evoprune.evidence.plots.cost import plot_cost
from evoprune.evidence.plots.genealogy import plot_genealogy
from evoprune.evidence.plots.masks import plot_layers, plot_mask
from evoprune.evidence.plots.pareto import plot_pareto
from evoprune.evidence.plots.trace import plot_trace

__all__ = [
    "plot_accuracy",
    "plot_controls",
    "plot_cost",
    "plot_genealogy",
    "plot_layers",
    "plot_mask",
    "plot_pareto",
    "plot_trace",
]
