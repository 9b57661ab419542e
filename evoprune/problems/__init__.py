"""What is trained: data sets, models, losses, initial weights."""

from evoprune.problems.arrays import Arrays
from evoprune.problems.data import Data, load_data
from evoprune.problems.datasets import DATASETS
from evoprune.problems.losses import LOSSES, Loss, accuracy, hits
from evoprune.problems.models import MODELS, he_normal_, model_table
from evoprune.problems.problem import Problem
from evoprune.problems.splits import Split

__all__ = [
    "DATASETS",
    "LOSSES",
    "MODELS",
    "Arrays",
    "Data",
    "Loss",
    "Problem",
    "Split",
    "accuracy",
    "he_normal_",
    "hits",
    "load_data",
    "model_table",
]
