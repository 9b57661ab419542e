"""Magnitude at initialization."""

from __future__ import annotations

from evoprune.methods.scorers.probe import Probe
from evoprune.methods.scorers.scorer import Scores, scorer

__all__ = ["magnitude"]


@scorer(reference="Han 2015, arXiv:1506.02626; at initialization: Frankle 2021, arXiv:2009.08576", needs="nothing")
def magnitude(probe: Probe) -> Scores:
    """abs(w0): the largest initial weights stay.

    Cost: none.
    """
    return {name: weight.abs() for name, weight in probe.weights.items()}
