"""Running statistics: which values they are, and how long it takes until they have forgotten what they were."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["forget", "running_statistics"]

REST = 0.005
"""Weight of what a statistic was, at which it is forgotten."""
USUAL = 0.1
"""torch's default momentum, of buffers that a module of one's own keeps as well."""


def running_statistics(model: nn.Module, buffers: Mapping[str, Tensor]) -> list[str]:
    """Names of the buffers among `buffers`, which hold parameters that are not trained too."""
    own = {name for name, _ in model.named_buffers()}
    return [name for name in buffers if name in own]


def forget(model: nn.Module, buffers: Mapping[str, Tensor]) -> int:
    """Batches until running statistics have forgotten what they were; those that never do (momentum None) begin anew.

    buffers: of K networks, `(K, *shape)` by name; changed in place. 0 where there is nothing to forget.
    """
    momenta = {USUAL} if running_statistics(model, buffers) else set()
    for name, module in model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._NormBase) or module.running_mean is None:
            continue
        if module.momentum is None:
            for statistic, value in (("running_mean", 0), ("running_var", 1), ("num_batches_tracked", 0)):
                buffers[f"{name}.{statistic}" if name else statistic].fill_(value)
        elif module.momentum > 0:
            momenta.add(module.momentum)
    return max((max(1, round(math.log(REST) / math.log1p(-one))) if one < 1 else 1 for one in momenta), default=0)
