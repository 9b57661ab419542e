"""NTK-SAP: pruning by the neural tangent kernel, without labels."""

from __future__ import annotations

import torch

from evoprune.methods.scorers.probe import Probe, slopes
from evoprune.methods.scorers.scorer import Scores, scorer
from evoprune.values import positive

__all__ = ["ntk_sap"]


@scorer(reference="Wang 2023, arXiv:2304.02840, eq. 9", needs="inputs", steps=20)
def ntk_sap(probe: Probe, *, epsilon: float = 0.01) -> Scores:
    """abs(dS/dm), S the mean of abs(f(x, m·w) - f(x, m·(w + epsilon·z)))^2 over Gaussian x, w and z.

    20 rounds of density d^(t/20). S estimates epsilon^2 times the trace of the neural tangent kernel. Each batch has inputs,
    weights and noise of its own. Both passes are in evaluation mode, without dropout and with the statistics that batch norm
    has of the unmoved network on this batch, as in the authors' code. Cost: two passes a batch and round, three with batch norm.
    """
    positive("epsilon", epsilon)
    gates = probe.gates()
    total = {name: torch.zeros_like(gate) for name, gate in gates.items()}
    for index in range(probe.samples.number):
        probe.redraw(probe.step, index)
        inputs = probe.samples.noise(probe.step, index)
        moved = {name: w + epsilon * probe.gaussian(w, "move", name, probe.step, index) for name, w in probe.weights.items()}
        still = {name: gates[name].detach() * w for name, w in probe.weights.items()}
        statistics = probe.statistics(still, inputs, seen=False)
        here, there = (
            probe.outputs(
                {name: gates[name] * w for name, w in weights.items()}, inputs, others=statistics, training=False, seen=False
            )
            for weights in (probe.weights, moved)
        )
        change = (here - there).square().sum() / len(inputs)
        for value, gradient in zip(total.values(), slopes(change, gates), strict=True):
            value += gradient
    return {name: value.abs() for name, value in total.items()}
