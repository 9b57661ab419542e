"""Prospect pruning: sensitivity through the first steps of training."""

from __future__ import annotations

import torch

from evoprune.evolution.operators.numbers import whole
from evoprune.methods.scorers.probe import Probe
from evoprune.methods.scorers.scorer import Scores, finite, scorer

__all__ = ["prospr"]


@scorer(reference="Alizadeh 2022, arXiv:2202.08132, eq. 4")
def prospr(probe: Probe, *, inner_steps: int = 3, inner_lr: float = 0.1) -> Scores:
    """abs(dL(w_M)/dm), w_0 = m·w and w_M after M = 3 steps of SGD on other batches: what the mask does to the loss after them.

    inner_steps: M. inner_lr: their learning rate. Cost: M + 1 gradients, and M second-order ones.
    """
    whole("inner_steps", inner_steps, 1)
    finite("inner_lr", inner_lr, zero=True)
    gates = probe.gates()
    values = {name: gate * probe.weights[name] for name, gate in gates.items()}
    trained = {name: value.clone().requires_grad_() for name, value in probe.others.items() if name in probe.trained}
    values = {**values, **trained}
    for step in range(inner_steps):
        loss = probe.loss(values, probe.batch(step))
        gradients = torch.autograd.grad(loss, list(values.values()), create_graph=True)
        values = {name: value - inner_lr * g for (name, value), g in zip(values.items(), gradients, strict=True)}
    meta = probe.second(probe.loss(values, probe.batch(inner_steps)), gates)
    return {name: gradient.abs() for name, gradient in zip(gates, meta, strict=True)}
