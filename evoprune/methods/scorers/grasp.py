"""Gradient signal preservation."""

from __future__ import annotations

import torch

from evoprune.methods.scorers.probe import Probe, slopes
from evoprune.methods.scorers.scorer import Scores, scorer
from evoprune.values import positive

__all__ = ["grasp"]


@scorer(reference="Wang 2020, arXiv:2002.07376, eq. 8")
def grasp(probe: Probe, *, temperature: float = 200.0) -> Scores:
    """w·(H g), g the gradient, H the Hessian of the loss: those leave without which the squared gradient norm is largest.

    Later rounds look at the gradient of the survivors: the pruned network's.
    The paper's score is the negative of this, and its largest leave. temperature: divides class logits.
    Cost: three dense gradients.
    """
    positive("temperature", temperature)
    weights = probe.masked()
    kept = probe.mask.dense(device=probe.samples.device)
    direction = {name: value * kept[name] for name, value in probe.gradient(weights, temperature=temperature).items()}
    products = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for batch in probe.batches():
        loss = probe.loss(weights, batch, temperature=temperature)
        gradients = slopes(loss, weights, again=True)
        slope = torch.stack(
            [(gradient * along).sum() for gradient, along in zip(gradients, direction.values(), strict=True)]
        ).sum()
        for name, product in zip(weights, probe.second(slope, weights), strict=True):
            products[name] += product / probe.samples.number
    return {name: weights[name] * product for name, product in products.items()}
