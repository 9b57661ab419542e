"""Many runs side by side: method x sparsity x seed, on one or several problems; resumable, judged once, tabled."""

from evoprune.compare.cells import Cell
from evoprune.compare.comparison import compare
from evoprune.compare.outcome import Comparison

__all__ = ["Cell", "Comparison", "compare"]
