"""Synaptic flow: pruning without data."""

from __future__ import annotations

from evoprune.methods.scorers.probe import Probe, slopes
from evoprune.methods.scorers.scorer import Scores, scorer

__all__ = ["synflow"]


@scorer(reference="Tanaka 2020, arXiv:2006.05467, algorithm 1", needs="nothing", steps=100)
def synflow(probe: Probe) -> Scores:
    """abs(dR/dw·w), R the sum of outputs for an input of ones with every parameter made positive.

    100 rounds of density d^(t/100), in float64 and evaluation mode. A layer's scores sum to R where there are no
    biases. Cost: one gradient of one sample a round.
    """
    probe = probe.double()
    weights = probe.masked({name: weight.abs() for name, weight in probe.weights.items()})
    others = {name: value.abs() for name, value in probe.others.items()}
    flow = probe.outputs(weights, probe.samples.ones(), others=others, training=False, seen=False).sum()
    gradients = slopes(flow, weights)
    return {name: (gradient * weights[name]).abs() for name, gradient in zip(weights, gradients, strict=True)}
