"""Scorers: one file each; importing this package registers every one, as a scorer and as a method.

ep.scorers["snip"](problem, sparsity=0.95, seed=0)   # a mask
ep.methods["snip"](problem, sparsity=0.95, epochs=10, seed=0)   # the mask, trained
"""

from importlib import import_module
from pkgutil import iter_modules

from evoprune.methods.scorers.probe import Probe
from evoprune.methods.scorers.scorer import SCORERS, Scorer, Scores, scorer
from evoprune.registry import as_table

for _module in sorted(module.name for module in iter_modules(__path__)):
    import_module(f"{__name__}.{_module}")  # a new file is a new scorer, with no line to add here

__all__ = ["SCORERS", "Probe", "Scorer", "Scores", "scorer"]

as_table(__name__, SCORERS)
