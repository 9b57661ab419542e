"""Initial weights made for a mask: `init="eoi"` and `init="hessian"` of every method."""

from evoprune.training.initializers import exact_orthogonal, hessian  # importing them fills the registry
from evoprune.training.initializers.exact_orthogonal import eoi, eoi_weights
from evoprune.training.initializers.hessian import hessian_norms, hessian_report, hessian_scales
from evoprune.training.initializers.table import INITIALIZERS, Initializer, Weights

__all__ = [
    "INITIALIZERS",
    "Initializer",
    "Weights",
    "eoi",
    "eoi_weights",
    "exact_orthogonal",
    "hessian",
    "hessian_norms",
    "hessian_report",
    "hessian_scales",
]
