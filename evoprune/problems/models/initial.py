"""Initial weights of the named models."""

from __future__ import annotations

from math import prod

import torch
from torch import nn

from evoprune.masks.space import PRUNABLE

__all__ = ["he_normal_"]

NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.LayerNorm, nn.GroupNorm)


@torch.no_grad()
def he_normal_(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw every Linear and Conv weight from N(0, 2 / fan-in), set biases to 0 and norms to 1 and 0, in place.

    The order is that of `module.modules()`, so one state of `generator` always gives the same weights.  [He et al. 2015]
    """
    for layer in module.modules():
        if isinstance(layer, PRUNABLE):
            fan_in = prod(layer.weight.shape[1:])
            layer.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, NORMS):
            layer.reset_parameters()
    return module
