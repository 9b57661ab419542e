"""Prospect pruning: sensitivity through the first steps of training."""

from __future__ import annotations

import torch

from evoprune.methods.scorers.probe import Probe, slopes
from evoprune.methods.scorers.scorer import Scores, scorer
from evoprune.values import positive, whole

__all__ = ["prospr"]


@scorer(reference="Alizadeh 2022, arXiv:2202.08132, eq. 4")
def prospr(probe: Probe, *, inner_steps: int = 3, inner_lr: float = 0.1) -> Scores:
    """abs(dL(w_M)/dm), w_0 = m·w and w_M after M = 3 steps of SGD on other batches: what the mask does to the loss after them.

    inner_steps: M. inner_lr: their learning rate. Each of `batches=` repeats it on M + 1 others.
    Cost: M + 1 gradients each, and M second-order ones.
    """
    whole("inner_steps", inner_steps, 1)
    positive("inner_lr", inner_lr, zero=True)
    gates = probe.gates()
    kept = {name: gate.detach() for name, gate in gates.items()}
    total = {name: torch.zeros_like(gate) for name, gate in gates.items()}
    for first in range(0, probe.samples.number * (inner_steps + 1), inner_steps + 1):
        values = {name: gate * probe.weights[name] for name, gate in gates.items()}
        values |= {name: value.clone().requires_grad_() for name, value in probe.others.items() if name in probe.trained}
        for batch in range(first, first + inner_steps):
            loss = probe.loss(values, probe.batch(batch))
            gradients = slopes(loss, values, again=True)
            values = {
                name: value - inner_lr * (slope * kept[name] if name in kept else slope)  # what is pruned stays at 0
                for (name, value), slope in zip(values.items(), gradients, strict=True)
            }
        meta = probe.second(probe.loss(values, probe.batch(first + inner_steps)), gates, gradients=inner_steps)
        for name, gradient in zip(gates, meta, strict=True):
            total[name] += gradient
    return {name: gradient.abs() for name, gradient in total.items()}
