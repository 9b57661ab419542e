"""One rule a layer or function: how it becomes operations on batch-last buffers.

A rule is called `(network, module, inputs…)` or `(network, inputs…, options)` and gives the value that the layer would.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.errors import UnsupportedLayer
from evoprune.training.engines.sparse.operations import Activation, Product
from evoprune.training.engines.sparse.spatial import Dropout, Largest, Mean, Norm, NormOptions, Plus, Region, Reshape
from evoprune.training.engines.sparse.values import Value

if TYPE_CHECKING:
    from evoprune.training.engines.sparse.lowering import Network

__all__ = ["FUNCTIONS", "METHODS", "MODULES", "plain", "unsupported"]


class _Batch:
    """Stands for the size of the batch where a model asks for it."""


BATCH = _Batch()


def unsupported(what: str) -> UnsupportedLayer:
    """The error for a layer that this engine cannot run."""
    return UnsupportedLayer(f"the sparse engine cannot run {what}: use engine='dense'")


Rule = Callable[..., Any]


def _linear(network: Network, layer: nn.Linear, x: Value) -> Value:
    return _product(network, x, layer.weight, layer.bias)


def _product(network: Network, x: Value, weight: Tensor, bias: Tensor | None = None) -> Value:
    if len(x.shape) != 1 or x.shape[0] != weight.shape[1]:
        raise network.refuse(f"on inputs of shape {x.shape}")
    return network.add(Product(x, Value((weight.shape[0],)), str(network.name(weight)), network.name(bias)))


def _relu(network: Network, x: Value, inplace: bool = False) -> Value:
    if isinstance(network.producer.get(x), (Product, Norm, Plus)) and network.only_reader(x) and not x.gated:
        x.gated = True
        return x
    return network.add(Activation(x, Value(x.shape), "relu"))


def _nonlinear(kind: str) -> Rule:
    def rule(network: Network, x: Value, inplace: bool = False) -> Value:
        return network.add(Activation(x, Value(x.shape), kind))

    return rule


def _gelu(network: Network, x: Value, approximate: str = "none") -> Value:
    return network.add(Activation(x, Value(x.shape), "gelu" if approximate == "none" else "gelu_tanh"))


def _same(network: Network, x: Any, *options: Any, **named: Any) -> Any:
    return x


def _reshape(network: Network, x: Value, *shape: Any) -> Value:
    sizes = list(shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list, torch.Size)) else shape)
    if len(sizes) < 2 or not (sizes[0] is BATCH or sizes[0] == -1) or any(not isinstance(size, int) for size in sizes[1:]):
        raise network.refuse(f"to {sizes}")
    total, known = math.prod(x.shape), math.prod(size for size in sizes[1:] if size != -1)
    target = tuple(total // known if size == -1 else size for size in sizes[1:])
    if math.prod(target) != total or len(target) not in (1, 3):
        raise network.refuse(f"from {x.shape} to {target}")
    if target == x.shape:
        return x
    if len(target) == 3 and len(x.shape) == 3:  # through a vector: a copy between borders knows one image only
        x = network.add(Reshape(x, Value((total,))))
    return network.add(Reshape(x, Value(target)))


def _flatten(network: Network, x: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    if start_dim % (len(x.shape) + 1) != 1 or end_dim not in (-1, len(x.shape)):
        raise network.refuse(f"from {start_dim} to {end_dim}")
    return _reshape(network, x, BATCH, -1)


def _size(network: Network, x: Value, dim: int | None = None) -> Any:
    sizes = (BATCH, *x.shape)
    return sizes if dim is None else sizes[dim]


def _getattr(network: Network, x: Any, name: str) -> Any:
    if isinstance(x, Value) and name == "shape":
        return _size(network, x)
    raise network.refuse(name)


def _getitem(network: Network, x: Any, index: Any) -> Any:
    if isinstance(x, tuple):
        return x[index]
    index = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(part, slice) for part in index) or index[0] != slice(None) or len(x.shape) not in (1, 3):
        raise network.refuse(str(index))
    spans = [range(*part.indices(size)) for part, size in zip([*index[1:], *[slice(None)] * 3], x.shape, strict=False)]
    if any(not len(span) or span.step < 1 for span in spans):
        raise network.refuse(str(index))
    shape = tuple(len(span) for span in spans)
    size, start, step = (
        _image(part, fill) for part, fill in ((shape, 1), ([s.start for s in spans], 0), ([s.step for s in spans], 1))
    )
    return network.add(Region(x, Value(shape), size=size, start=start, step=step))


def _image(numbers: Sequence[int], fill: int) -> tuple[int, int, int]:
    """One number a dimension of an image, for a vector too."""
    full = [*numbers, fill, fill][:3]
    return full[0], full[1], full[2]


def _pad(network: Network, x: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Value:
    if mode != "constant" or value not in (None, 0) or min(pad) < 0 or len(pad) > 2 * len(x.shape):
        raise network.refuse(f"with {list(pad)}, mode {mode!r}, value {value}")
    sides = [(0, 0)] * (len(x.shape) - len(pad) // 2) + [(pad[n], pad[n + 1]) for n in range(len(pad) - 2, -1, -2)]
    shape = tuple(size + before + after for size, (before, after) in zip(x.shape, sides, strict=True))
    to, sliced = _image([before for before, _ in sides], 0), network.producer.get(x)
    if type(sliced) is Region and sliced.size == x.image and network.only_reader(x):  # a slice that is padded: one copy
        network.operations.remove(sliced)
        return network.add(Region(sliced.inputs[0], Value(shape), size=x.image, start=sliced.start, step=sliced.step, to=to))
    return network.add(Region(x, Value(shape), size=x.image, to=to))


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _image_only(network: Network, x: Value) -> None:
    if len(x.shape) != 3:
        raise network.refuse(f"on inputs of shape {x.shape}")


def _conv(network: Network, x: Value, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
          dilation: Any = 1, groups: int = 1) -> Value:  # fmt: skip
    _image_only(network, x)
    if groups != 1 or _pair(dilation) != (1, 1) or x.shape[0] != weight.shape[1]:
        raise network.refuse("only groups=1 and dilation=1 have kernels")
    kernel, stride = _pair(weight.shape[2:]), _pair(stride)
    if padding == "same" and stride == (1, 1) and kernel[0] % 2 and kernel[1] % 2:
        padding = (kernel[0] // 2, kernel[1] // 2)
    around = (0, 0) if padding == "valid" else _pair(padding)
    sides = [(size + 2 * p - k) // s + 1 for size, p, k, s in zip(x.shape[1:], around, kernel, stride, strict=True)]
    if min(sides) < 1:
        raise network.refuse(f"on inputs of shape {x.shape}")
    y = Value((weight.shape[0], *sides))
    return network.add(Product(x, y, str(network.name(weight)), network.name(bias), kernel, stride, around))


def plain(layer: nn.Conv2d) -> bool:
    """Whether the kernels have this convolution: one group, no dilation, zeros around."""
    return layer.groups == 1 and _pair(layer.dilation) == (1, 1) and layer.padding_mode == "zeros"


def _conv_layer(network: Network, layer: nn.Conv2d, x: Value) -> Value:
    return _conv(network, x, layer.weight, layer.bias, layer.stride, layer.padding)


def _norm(network: Network, layer: nn.BatchNorm1d | nn.BatchNorm2d, x: Value) -> Value:
    if len(x.shape) != (3 if isinstance(layer, nn.BatchNorm2d) else 1):
        raise network.refuse(f"on inputs of shape {x.shape}")
    options = NormOptions(
        weight=network.name(layer.weight),
        bias=network.name(layer.bias),
        mean=network.name(layer.running_mean),
        variance=network.name(layer.running_var),
        tracked=network.name(layer.num_batches_tracked),
        epsilon=layer.eps,
        momentum=layer.momentum,
        batch_statistics=layer.training or layer.running_mean is None,
    )
    return network.add(Norm(x, Value(x.shape), options))


def _max_pool(network: Network, x: Value, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
              ceil_mode: bool = False, return_indices: bool = False) -> Value:  # fmt: skip
    _image_only(network, x)
    kernel, around = _pair(kernel_size), _pair(padding)
    if _pair(dilation) != (1, 1) or return_indices or kernel[0] * kernel[1] > 127:
        raise network.refuse("only dilation=1, windows up to 127 pixels and no indices have kernels")
    steps = kernel if stride is None else _pair(stride)
    sides = [_pooled(*numbers, ceil_mode) for numbers in zip(x.shape[1:], kernel, steps, around, strict=True)]
    return network.add(Largest(x, Value((x.shape[0], *sides)), kernel, steps, around))


def _pooled(size: int, kernel: int, step: int, around: int, ceil_mode: bool) -> int:
    """Windows along one side, as torch counts them."""
    count = (size + 2 * around - kernel + (step - 1 if ceil_mode else 0)) // step + 1
    if ceil_mode and (count - 1) * step >= size + around:
        count -= 1
    if count < 1:
        raise ValueError("the window is larger than the image")
    return count


def _avg_pool(network: Network, x: Value, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
              count_include_pad: bool = True, divisor_override: int | None = None) -> Value:  # fmt: skip
    _image_only(network, x)
    kernel, around = _pair(kernel_size), _pair(padding)
    steps = kernel if stride is None else _pair(stride)
    inner: list[list[tuple[int, int]]] = []
    outer: list[list[int]] = []
    for size, window, step, pad in zip(x.shape[1:], kernel, steps, around, strict=True):
        starts = [n * step - pad for n in range(_pooled(size, window, step, pad, ceil_mode))]
        inner.append([(max(at, 0), min(at + window, size)) for at in starts])
        outer.append([min(at + window, size + pad) - at for at in starts])
    if not count_include_pad:
        outer = [[stop - start for start, stop in side] for side in inner]
    divisors = [divisor_override or tall * wide for tall in outer[0] for wide in outer[1]]
    return network.add(Mean(x, Value((x.shape[0], len(inner[0]), len(inner[1]))), inner[0], inner[1], divisors))


def _adaptive_pool(network: Network, x: Value, output_size: Any) -> Value:
    _image_only(network, x)
    asked = (output_size, output_size) if isinstance(output_size, int) or output_size is None else tuple(output_size)
    goal = [size if want is None else int(want) for size, want in zip(x.shape[1:], asked, strict=True)]
    sides = [
        [(n * size // out, -(-(n + 1) * size // out)) for n in range(out)] for size, out in zip(x.shape[1:], goal, strict=True)
    ]
    divisors = [(b - a) * (d - c) for a, b in sides[0] for c, d in sides[1]]
    return network.add(Mean(x, Value((x.shape[0], *goal)), sides[0], sides[1], divisors))


def _mean(network: Network, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    dims = sorted(d % (len(x.shape) + 1) for d in ((dim,) if isinstance(dim, int) else dim or ()))
    if len(x.shape) != 3 or dims != [2, 3]:
        raise network.refuse(f"over dimensions {dim}, only a mean over all pixels has a kernel")
    pooled = _adaptive_pool(network, x, 1)
    return pooled if keepdim else _reshape(network, pooled, BATCH, x.shape[0])


def _add(network: Network, left: Any, right: Any, alpha: float = 1) -> Value:
    if not (isinstance(left, Value) and isinstance(right, Value)) or left.shape != right.shape or alpha != 1:
        raise network.refuse("of anything but two outputs of the same shape")
    return network.add(Plus(left, right, Value(left.shape)))


def _dropout(network: Network, x: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    return network.add(Dropout(x, Value(x.shape), p)) if training and p > 0 else x


def _of(rule: Rule, *fields: str) -> Rule:
    """The rule of a module from that of the function, with options that the module holds."""

    def module_rule(network: Network, layer: nn.Module, x: Value) -> Any:
        return rule(network, x, **{field: getattr(layer, field) for field in fields})

    return module_rule


MODULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Identity: _of(_same),
    nn.Flatten: _of(_flatten, "start_dim", "end_dim"),
    nn.ReLU: _of(_relu),
    nn.GELU: _of(_gelu, "approximate"),
    nn.Tanh: _of(_nonlinear("tanh")),
    nn.Sigmoid: _of(_nonlinear("sigmoid")),
    nn.SiLU: _of(_nonlinear("silu")),
    nn.Conv2d: _conv_layer,
    nn.BatchNorm1d: _norm,
    nn.BatchNorm2d: _norm,
    nn.MaxPool2d: _of(_max_pool, "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    nn.AvgPool2d: _of(_avg_pool, "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    nn.AdaptiveAvgPool2d: _of(_adaptive_pool, "output_size"),
    nn.Dropout: lambda network, layer, x: _dropout(network, x, layer.p, layer.training),
}

FUNCTIONS: dict[Any, Rule] = {
    getattr: _getattr,
    operator.getitem: _getitem,
    F.linear: _product,
    F.relu: _relu,
    torch.relu: _relu,
    F.gelu: _gelu,
    F.tanh: _nonlinear("tanh"),
    torch.tanh: _nonlinear("tanh"),
    F.sigmoid: _nonlinear("sigmoid"),
    torch.sigmoid: _nonlinear("sigmoid"),
    F.silu: _nonlinear("silu"),
    torch.flatten: _flatten,
    torch.reshape: _reshape,
    F.conv2d: _conv,
    torch.conv2d: _conv,
    F.max_pool2d: _max_pool,
    F.avg_pool2d: _avg_pool,
    F.adaptive_avg_pool2d: _adaptive_pool,
    torch.mean: _mean,
    F.pad: _pad,
    F.dropout: _dropout,
    torch.add: _add,
    operator.add: _add,
    operator.iadd: _add,
}

METHODS: dict[str, Rule] = {
    "relu": _relu,
    "relu_": _relu,
    "tanh": _nonlinear("tanh"),
    "sigmoid": _nonlinear("sigmoid"),
    "flatten": _flatten,
    "view": _reshape,
    "reshape": _reshape,
    "contiguous": _same,
    "size": _size,
    "mean": _mean,
    "add": _add,
    "add_": _add,
}
