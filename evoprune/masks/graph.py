"""A network as torch.fx sees it, and a walker that carries one tensor of labels a value through its operations.

Every operation is one of a few kinds (`masks.kinds`), and a walker answers each kind once.
"""

from __future__ import annotations

import copy
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from evoprune import seeds
from evoprune.errors import EvopruneError, UnsupportedLayer
from evoprune.masks.aliases import contested
from evoprune.masks.kinds import IN_PLACE, KINDS, kind_of, plain_name

__all__ = ["Conv", "InPlaceTracer", "Layer", "Walker", "pads", "tensors_in", "trace"]

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
Layer = nn.Linear | Conv
DTYPE = torch.float64  # of labels: every operation that moves values takes it, and it counts exactly to 2^53


class _Proxy(fx.Proxy):
    """`h += g` is a change of h, which torch's own proxy takes for h = h + g."""


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda proxy, other: proxy.tracer.create_proxy("call_function", function, (proxy, other), {})


for _name in IN_PLACE:
    setattr(_Proxy, f"__{_name}__", _in_place(getattr(operator, _name)))


class InPlaceTracer(fx.Tracer):
    """Sees `h += g` and its like as they are."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


class _Tracer(InPlaceTracer):
    """Looks into every module except torch's own layers, and subclasses of them that keep torch's forward."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own_forward = type(m).forward.__module__
        return super().is_leaf_module(m, module_qualified_name) or (kind_of(m) is not None and own_forward.startswith("torch.nn"))


def trace(model: nn.Module) -> fx.GraphModule:
    """A traced copy of `model` in evaluation mode on the CPU, of whose modules the names start with "0".

    Raises `UnsupportedLayer` when torch.fx cannot follow the forward method, or when what it draws would stay as it is.
    """
    name = type(model).__name__
    with seeds.isolated():
        before = seeds.states()
        try:
            root = nn.Sequential(copy.deepcopy(model)).cpu().eval()
            traced = fx.GraphModule(root, _Tracer().trace(root))
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UnsupportedLayer(
                f"torch.fx cannot trace {name} ({reason}): write its forward without branches on values or shapes"
            ) from None
        if seeds.states() != before:
            raise UnsupportedLayer(
                f"{name} draws random numbers in evaluation too, which tracing would keep: let it draw none there"
            )
    return traced


def tensors_in(value: object) -> list[Tensor]:
    """The floating-point tensors anywhere in a nested value."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def own_name(target: object) -> str:
    """A module's name in the model that was traced."""
    return str(target).removeprefix("0").removeprefix(".")


class Walker(fx.Interpreter, ABC):
    """Runs a traced network on labels: float64 tensors in the shapes of the real values, batch included.

    Subclasses say what each kind of operation does to labels; `move`, `create` and `ask` are the same for most.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.extra_traceback = False  # messages stay one line
        self.node: fx.Node = next(iter(graph.graph.nodes))
        self.contested = contested(graph)

    def walk(self, inputs: Tensor) -> Any:
        """The labels of the network's outputs. Raises `UnsupportedLayer` when an operation is unknown or fails."""
        try:
            with torch.no_grad():
                return self.run(inputs)
        except EvopruneError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UnsupportedLayer(
                f"{self.where()} cannot be followed on inputs of shape {tuple(inputs.shape[1:])} ({reason})"
            ) from None

    def where(self) -> str:
        """The operation being walked, for messages."""
        target = self.node.target
        if self.node.op == "call_module":
            return f"layer {own_name(target)!r} ({type(self.fetch_attr(str(target))).__name__})"
        return f"operation {target if isinstance(target, str) else getattr(target, '__name__', target)!r}"

    # ---- what subclasses say ------------------------------------------------------------------------------------

    @abstractmethod
    def layer(self, module: Layer, x: Tensor, shape: torch.Size) -> Tensor:
        """Labels of the outputs (of `shape`) of a Linear or Conv layer."""

    @abstractmethod
    def pointwise(self, operands: list[Tensor], shape: torch.Size) -> Tensor:
        """Labels of an elementwise function of `operands`, which are broadcast to `shape` with whatever has no labels."""

    @abstractmethod
    def channelwise(self, x: Tensor, shape: torch.Size) -> Tensor:
        """Labels of something that keeps the channels (dimension 1) apart."""

    @abstractmethod
    def reduce(self, x: Tensor, dims: list[int], shape: torch.Size) -> Tensor:
        """Labels of a reduction over `dims`."""

    @abstractmethod
    def mix(self, x: Tensor) -> Tensor:
        """Labels of something that keeps the places of units, but lets others have a say in their values."""

    @abstractmethod
    def blend(self, x: Tensor, shape: torch.Size) -> Tensor:
        """Labels of outputs that each depend on everything."""

    def move(self, function: Callable[[], Any]) -> Any:
        """Labels of something that only moves values: `function` moves the labels likewise."""
        return function()

    def overwrite(self, x: Tensor, result: Tensor) -> Tensor:
        """Labels `x` after an operation in place that gave `result`; what shares their memory shows them too."""
        return x.copy_(result)

    def shape_of(self, function: Callable[..., Any], x: Tensor, args: Any, kwargs: Any) -> torch.Size:
        """The shape that `function` (a module too) gives for labels `x` and its other arguments."""
        if isinstance(function, Layer):
            return _layer_shape(function, x.shape)
        if isinstance(function, nn.modules.batchnorm._BatchNorm):
            function._check_input_dim(x)
            return x.shape
        if isinstance(function, nn.modules.conv._ConvTransposeNd):
            state = {name: torch.empty_like(value, device="meta", dtype=DTYPE) for name, value in function.named_parameters()}
            return torch.Size(functional_call(function, state, (x.to("meta"), *args[1:]), kwargs).shape)
        return torch.Size(function(*args, **kwargs).shape)

    # ---- from nodes to kinds ------------------------------------------------------------------------------------

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        return super().run_node(n)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = self.fetch_attr(target)
        return torch.zeros(value.shape, dtype=DTYPE) if isinstance(value, Tensor) and value.is_floating_point() else value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._call(getattr(target, "__name__", str(target)), target, args, kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._call(str(target), lambda x, *rest, **named: getattr(x, target)(*rest, **named), args, kwargs)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(target)
        kind = kind_of(module)
        if kind == "move" and hasattr(module, "value"):
            return self.move(lambda: _pad(args[0], list(module.padding)))
        return self._of_kind(kind, module, args, kwargs)

    def _call(self, name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        plain = plain_name(name)
        kind = KINDS.get(plain)
        if kwargs.get("out") is not None:
            raise self._unsupported()
        if not tensors_in((args, kwargs)):
            return self._without_labels(kind, function, args, kwargs)
        if plain == "pad":
            function = _pad
        result = self._of_kind(kind, function, args, kwargs)
        return self._written(args[0], result) if plain != name and kind == "pointwise" and tensors_in(args[:1]) else result

    def _written(self, x: Tensor, result: Tensor) -> Tensor:
        if self.node in self.contested:
            raise UnsupportedLayer(
                f"{self.where()} changes in place what is read later under another name: let it make a new tensor, as h = h + g "
                "and torch.relu do"
            )
        return self.overwrite(x, result)

    def _without_labels(self, kind: str | None, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        value = function(*args, **kwargs)
        if kind != "create" and tensors_in(value):
            raise self._unsupported()
        return tree_map(lambda leaf: torch.zeros(leaf.shape, dtype=DTYPE) if tensors_in(leaf) else leaf, value)

    def _of_kind(self, kind: str | None, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if kind in ("layer", "pointwise", "channelwise", "reduce", "mix", "blend"):
            labels = self._computed(kind, function, args, kwargs)
            return labels.clone(memory_format=torch.contiguous_format)  # memory of its own, as the values have
        match kind:
            case "move":
                return self.move(lambda: function(*args, **kwargs))
            case "create":
                return torch.zeros(function(*args, **kwargs).shape, dtype=DTYPE)
            case "ask":
                return function(*args, **kwargs)
        raise self._unsupported()

    def _computed(self, kind: str, function: Any, args: Any, kwargs: Any) -> Tensor:
        x = args[0] if args else kwargs["input"]
        if kind == "pointwise":
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            return self.pointwise(tensors_in(tensors), torch.broadcast_shapes(*(tensor.shape for tensor in tensors)))
        if kind == "mix":
            return self.mix(x)
        shape = self.shape_of(function, x, args, kwargs)
        if kind == "reduce":
            return self.reduce(x, _dims(x.dim(), args, kwargs), shape)
        if kind == "layer":
            return self.layer(function, x, shape)
        return self.channelwise(x, shape) if kind == "channelwise" else self.blend(x, shape)

    def _unsupported(self) -> UnsupportedLayer:
        known = "Linear, Conv, norms, pooling, elementwise functions, adds, pads, slices and reshapes can be"
        return UnsupportedLayer(f"{self.where()} cannot be followed from unit to unit: {known}")


def _pad(input: Tensor, pad: list[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Padding of labels: a constant that is padded with has no label, whatever its value."""
    return F.pad(input, pad, mode)


def _layer_shape(layer: Layer, shape: torch.Size) -> torch.Size:
    """The shape of a layer's output, by arithmetic: nothing needs to be multiplied for it."""
    linear = isinstance(layer, nn.Linear)
    axis, channels = (-1, layer.in_features) if isinstance(layer, nn.Linear) else (1, layer.in_channels)
    if len(shape) <= 1 or shape[axis] != channels or not (linear or len(shape) == layer.weight.dim()):
        raise ValueError(f"a weight of shape {tuple(layer.weight.shape)} does not fit a batch of shape {tuple(shape)}")
    if isinstance(layer, nn.Linear):
        return torch.Size((*shape[:-1], layer.out_features))
    around = pads(layer)
    sizes = []
    for dim, size in enumerate(shape[2:]):
        span = layer.dilation[dim] * (layer.kernel_size[dim] - 1)
        room = size if layer.padding == "same" else size + 2 * around[dim] - span
        if room < 1:
            raise ValueError(f"a kernel of size {tuple(layer.kernel_size)} does not fit {tuple(shape[2:])} pixels")
        sizes.append((room - 1) // layer.stride[dim] + 1)
    return torch.Size((shape[0], layer.out_channels, *sizes))


def _dims(rank: int, args: Any, kwargs: Any) -> list[int]:
    """The dimensions that a reduction takes together."""
    named = kwargs.get("dim", kwargs.get("axis"))
    given = named if named is not None else (args[1] if len(args) > 1 else None)
    if given is None or isinstance(given, (bool, float, str)):
        return list(range(rank))
    return sorted({int(dim) % rank for dim in (given if isinstance(given, (tuple, list)) else [given])})


def pads(module: Conv) -> list[int]:
    """Pixels of padding before each spatial dimension of a Conv layer."""
    if module.padding == "same":
        spans = zip(module.kernel_size, module.dilation, strict=True)
        return [dilation * (size - 1) // 2 for size, dilation in spans]
    return [0] * len(module.kernel_size) if isinstance(module.padding, str) else list(module.padding)
