"""Operators in DEAP's form: they change individuals in place, return tuples, never touch a fitness, and keep the count.

One file each. Each draws one 64-bit seed a call from `rng` (the global `random` by default), so that `random.seed` rules, and
leaves on the child a lineage from which `replay` makes the same mask again.
"""

from evoprune.evolution.operators.guided import mutGuided
from evoprune.evolution.operators.init import initSparse
from evoprune.evolution.operators.layers import cxLayers
from evoprune.evolution.operators.lineage import replay, stream
from evoprune.evolution.operators.move import mutMoveBudget
from evoprune.evolution.operators.rar import cxRAR
from evoprune.evolution.operators.registry import OPERATORS, Operator
from evoprune.evolution.operators.resize import mutResize
from evoprune.evolution.operators.swap import mutSwap
from evoprune.evolution.operators.told import Told
from evoprune.evolution.operators.umda import UMDA
from evoprune.evolution.operators.uniform import cxSetUniform

__all__ = [
    "OPERATORS",
    "UMDA",
    "Operator",
    "Told",
    "cxLayers",
    "cxRAR",
    "cxSetUniform",
    "initSparse",
    "mutGuided",
    "mutMoveBudget",
    "mutResize",
    "mutSwap",
    "replay",
    "stream",
]
