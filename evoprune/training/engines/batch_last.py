"""Linear layers that store their outputs batch-last, `(out, B)` in memory, as the stacked products of many networks want it."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["batch_last"]

ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.ELU, nn.Softplus, nn.Identity)
"""Modules that take their input in whatever order it lies in memory, and keep it. Not dropout: its noise comes in that order."""


class _BatchLast(nn.Linear):
    """The same layer as W x^T.

    Over stacked weights `(k, out, in)` a shared input is then one product of `(k out, in)` and `(in, B)`, and the gradient of
    the weights comes in their own order; as x W^T it comes transposed, and is copied once more to be put right.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2:
            return super().forward(x)
        product = self.weight @ x.mT
        return (product if self.bias is None else product + self.bias.to(product.dtype).unsqueeze(1)).mT


def batch_last(model: nn.Module) -> nn.Module:
    """`model`, changed in place: the Linear layers at its end as `_BatchLast`.

    Only in an `nn.Sequential`, and only where Linear layers and element-wise functions alone follow: a `view` would not take
    what lies in another order.
    """
    if type(model) is nn.Sequential:
        for module in reversed(model):
            if type(module) is nn.Linear:
                module.__class__ = _BatchLast
            elif type(module) not in ELEMENTWISE:
                break
    return model
