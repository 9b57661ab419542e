"""Connection sensitivity, in one round and in many."""

from __future__ import annotations

from evoprune.methods.scorers.probe import Probe
from evoprune.methods.scorers.scorer import Scores, scorer

__all__ = ["force", "iterative_snip", "snip"]


@scorer(reference="Lee 2019, arXiv:1810.02340, eq. 4")
def snip(probe: Probe) -> Scores:
    """abs(g·w), g the gradient of the loss at initialization: to first order, what the loss loses with the weight.

    Cost: one dense gradient.
    """
    weights = probe.masked()
    return {name: (gradient * weights[name]).abs() for name, gradient in probe.gradient(weights).items()}


@scorer(reference="de Jorge 2021, arXiv:2006.09081, algorithm 1; Verdenius 2020, arXiv:2006.00896", steps=60)
def iterative_snip(probe: Probe) -> Scores:
    """abs(g·w) in the network pruned so far, 60 rounds of density d^(t/60); what has left stays away.

    Cost: one dense gradient a round.
    """
    weights = probe.masked()
    return {name: (gradient * weights[name]).abs() for name, gradient in probe.gradient(weights).items()}


@scorer(reference="de Jorge 2021, arXiv:2006.09081, eq. 5", steps=60, regrow=True)
def force(probe: Probe) -> Scores:
    """abs(g·w0), g the gradient in the network pruned so far, w0 the dense weights: foresight connection sensitivity.

    60 rounds of density d^(t/60); a pruned weight that would help comes back. Cost: one dense gradient a round.
    """
    return {name: (gradient * probe.weights[name]).abs() for name, gradient in probe.gradient(probe.masked()).items()}
