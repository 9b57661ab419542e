"""Running statistics: which values they are, and how they are taken anew."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Anew"]

REST = 0.005
"""Weight of what a statistic was, at which it is forgotten."""
USUAL = 0.1
"""torch's default momentum, of buffers that a module of one's own keeps."""


def _running_statistics(model: nn.Module, buffers: Mapping[str, Tensor]) -> list[str]:
    """Names of the buffers among `buffers`, which hold parameters that are not trained too."""
    own = {name for name, _ in model.named_buffers()}
    return [name for name in buffers if name in own]


@dataclass(frozen=True)
class _Layer:
    """A batch normalisation: its buffers, `(K, channels)` and counts `(K,)`, and copies of what they were."""

    momentum: float | None
    held: tuple[Tensor, Tensor, Tensor]
    before: tuple[Tensor, Tensor, Tensor]

    def begin(self) -> None:
        for statistic in self.held if self.momentum is None else self.held[:2]:
            statistic.zero_()

    def end(self) -> None:
        mean, variance, count = self.held
        seen = count if self.momentum is None else count - self.before[2]
        if self.momentum is not None:
            weight = -torch.expm1(seen * math.log1p(-self.momentum) if self.momentum < 1 else seen * -math.inf)
            for statistic in (mean, variance):
                statistic.div_(weight.to(statistic)[:, None])
        for statistic, was in zip(self.held, self.before, strict=True):
            statistic[seen == 0] = was[seen == 0]  # of a layer that is not used


class Anew:
    """Running statistics from batches that are shown between `Anew(…)` and `finish`; what they were has no part in them.

    Those of batch normalisation start at zero, and are divided by what the weights of the batches amount to, 1 - (1 - m)^n after
    n batches at momentum m: the bias correction of Kingma and Ba (2015), section 3. Others have forgotten what they were after
    `batches` of them, up to half a percent.

    model: is put into training mode. buffers: of K networks, `(K, *shape)` by name; changed in place.
    """

    def __init__(self, model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
        rest = set(_running_statistics(model, buffers))
        self._layers: list[_Layer] = []
        momenta = set()
        for path, module in model.train().named_modules():
            if not isinstance(module, nn.modules.batchnorm._NormBase) or module.running_mean is None:
                continue
            names = [f"{path}.{one}".lstrip(".") for one in ("running_mean", "running_var", "num_batches_tracked")]
            rest -= set(names)
            if not module.training:
                continue  # its statistics are used as they are
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum != 0:
                mean, variance, count = (buffers[name] for name in names)
                held = (mean, variance, count)
                self._layers.append(_Layer(module.momentum, held, (mean.clone(), variance.clone(), count.clone())))
            elif module.momentum:
                momenta.add(module.momentum)
        momenta |= {USUAL} if rest else set()
        least = 1 if self._layers else 0
        self.batches = max((round(math.log(REST) / math.log1p(-one)) if one < 1 else 1 for one in momenta), default=least)
        """How many to show at least; 0 where there are no statistics."""
        for layer in self._layers:
            layer.begin()

    def finish(self) -> None:
        """After the batches."""
        for layer in self._layers:
            layer.end()
