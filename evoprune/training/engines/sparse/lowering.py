"""From an ordinary module to operations on batch-last buffers, by `torch.fx`."""

from __future__ import annotations

import copy
import inspect
import math
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from evoprune import seeds
from evoprune.errors import UnsupportedLayer
from evoprune.masks.graph import InPlaceTracer
from evoprune.problems.files import first_line
from evoprune.training.engines.base import hooked
from evoprune.training.engines.sparse.in_place import rebind
from evoprune.training.engines.sparse.lifetimes import Lifetimes
from evoprune.training.engines.sparse.operations import Activation, Operation, Output, Product
from evoprune.training.engines.sparse.spatial import Dropout, Largest, Mean, Norm, NormOptions, Plus, Region, Reshape
from evoprune.training.engines.sparse.values import Value

__all__ = ["Network", "Trace"]


class _Batch:
    """Stands for the size of the batch where a model asks for it."""


BATCH = _Batch()


def unsupported(what: str) -> UnsupportedLayer:
    """The error for a layer that this engine cannot run."""
    return UnsupportedLayer(f"the sparse engine cannot run {what}: use engine='dense'")


class _Tracer(InPlaceTracer):
    """Refuses what a graph does not show."""

    def create_node(self, *args: Any, **options: Any) -> fx.Node:
        if not torch.is_grad_enabled():
            raise ValueError("it turns gradients off")
        return super().create_node(*args, **options)


class Trace:
    """A copy of a model traced for training or for evaluation, each module in the mode that the model's `train` gives it."""

    def __init__(self, model: nn.Module, training: bool) -> None:
        name = hooked(model, backward=False)
        if name is not None:
            raise unsupported(f"{name}, which has hooks")
        model = copy.deepcopy(model).train(training)  # forward may set attributes
        self.graph = _traced(model)
        self.modules = dict(model.named_modules())
        rebind(self.graph, self.modules, unsupported)
        self._erase_unused()
        self.model = model
        self.names = {id(value): name for name, value in [*model.named_parameters(), *model.named_buffers()]}
        self.trained = {name for name, value in model.named_parameters() if value.requires_grad}
        self._check()

    def _erase_unused(self) -> None:
        """Take out what nothing reads, unless running it changes something else."""
        for node in reversed(list(self.graph.nodes)):
            if node.users or node.op in ("placeholder", "output"):
                continue
            if node.op == "call_module" and any(_tracks(part) or _drops(part) for part in self.modules[node.target].modules()):
                raise unsupported(f"the layer {node.target!r}, whose output is not used")
            if _draws(node):
                raise unsupported("the function 'dropout' in forward, whose output is not used")
            self.graph.erase_node(node)

    def _check(self) -> None:
        """Every layer has a rule; shapes are checked when the first batch shows them."""
        inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise unsupported(f"{type(self.model).__name__}, whose forward takes {len(inputs)} inputs")
        for node in self.graph.nodes:
            if node.op == "call_module":
                module = self.modules[node.target]
                if type(module) not in MODULES or "forward" in vars(module):
                    raise unsupported(f"the layer {node.target!r} ({type(module).__name__})")
                if isinstance(module, nn.Conv2d) and not _plain(module):
                    raise unsupported(
                        f"the layer {node.target!r} ({module}), only groups=1, dilation=1 and zero padding have kernels"
                    )
            elif node.op == "call_function" and node.target not in FUNCTIONS:
                raise unsupported(f"the function {getattr(node.target, '__name__', node.target)!r} in forward")
            elif node.op == "call_method" and node.target not in METHODS:
                raise unsupported(f"the method {node.target!r} in forward")

    @property
    def random(self) -> bool:
        """Whether the traced program draws random numbers."""
        return any(_draws(node) or (node.op == "call_module" and _drops(self.modules[node.target])) for node in self.graph.nodes)


def _traced(model: nn.Module) -> fx.Graph:
    """The graph of a model's forward. Raises `UnsupportedLayer` where there is none, or where each call may have another."""
    with seeds.isolated(), torch.enable_grad():
        before = seeds.states()
        try:
            graph = _Tracer().trace(model)
        except Exception as error:  # tracing runs the user's code
            raise unsupported(f"{type(model).__name__}, whose forward cannot be traced ({first_line(error)})") from error
        if seeds.states() != before:  # what was drawn would stay as it is: layers that are skipped at random, noise
            raise unsupported(f"{type(model).__name__}, whose forward draws random numbers")
    return graph


def _tracks(module: nn.Module) -> bool:
    """Whether a forward changes running statistics."""
    return isinstance(module, nn.modules.batchnorm._NormBase) and module.training and module.running_mean is not None


def _drops(module: nn.Module) -> bool:
    """Whether a forward draws what is dropped."""
    return isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0


def _draws(node: fx.Node) -> bool:
    """Whether a node is a call of `torch.nn.functional.dropout` that draws."""
    if node.op != "call_function" or node.target is not F.dropout:
        return False
    options = inspect.signature(F.dropout).bind(*node.args, **node.kwargs)
    options.apply_defaults()
    return bool(options.arguments["training"] and options.arguments["p"])


class Network:
    """The operations of a traced model on inputs of one shape."""

    def __init__(self, trace: Trace, shape: Sequence[int]) -> None:
        self.trace = trace
        self.source = Value(tuple(shape), needs=False)
        self.operations: list[Operation] = []
        self.producer: dict[Value, Operation] = {}
        self._results: dict[fx.Node, Any] = {}
        self._place = ""
        self._lower()
        self._settle()

    # ---- walking the graph --------------------------------------------------------------------------------------

    def _lower(self) -> None:
        results = self._results

        def ready(argument: Any) -> Any:
            return fx.node.map_arg(argument, lambda node: results[node])

        for node in self.trace.graph.nodes:
            if node.op == "placeholder":
                results[node] = self.source
            elif node.op == "get_attr":
                results[node] = operator.attrgetter(node.target)(self.trace.model)
            elif node.op == "output":
                [result] = node.args
                value = ready(result)
                if not isinstance(value, Value):
                    raise unsupported(f"{type(self.trace.model).__name__}, whose output is not one tensor of the network")
                if len(value.shape) == 3:  # its memory may have borders; a view where it has none
                    value = self.add(Reshape(value, Value(value.shape)))
                self.output = Output(value)
                self.add(self.output)
            else:
                if node.op == "call_module":
                    module = self.trace.modules[node.target]
                    rule, self._place = MODULES[type(module)], f"the layer {node.target!r} ({module})"
                    given = (module, *ready(node.args))
                else:
                    table = FUNCTIONS if node.op == "call_function" else METHODS
                    rule, given = table[node.target], ready(node.args)
                    self._place = f"{getattr(node.target, '__name__', node.target)} in forward"
                try:
                    results[node] = rule(self, *given, **ready(node.kwargs))
                except UnsupportedLayer:
                    raise
                except (TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
                    raise unsupported(f"{self._place} here ({error})") from error

    def refuse(self, why: str = "") -> UnsupportedLayer:
        """The error for the layer that is being lowered."""
        return unsupported(self._place + (f", {why}" if why else ""))

    def only_reader(self, x: Value) -> bool:
        """Whether nothing but the current node reads `x`, under any of its names."""
        nodes = [node for node, value in self._results.items() if value is x]
        return sum(len(node.users) for node in nodes) - (len(nodes) - 1) == 1

    def name(self, parameter: Tensor | None) -> str | None:
        """Name of a parameter in the space (tied ones go by their first name)."""
        if parameter is not None and id(parameter) not in self.trace.names:
            raise self.refuse("with a tensor that is no parameter of the model")
        return None if parameter is None else self.trace.names[id(parameter)]

    def add(self, operation: Operation) -> Value:
        """Append an operation."""
        self.operations.append(operation)
        if operation.output not in operation.inputs:
            self.producer[operation.output] = operation
            names = [getattr(operation, field, None) for field in ("weight", "bias")]
            own = any(name in self.trace.trained for name in names if name)
            operation.output.needs = own or any(x.needs for x in operation.inputs)
        return operation.output

    # ---- memory -------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        for operation in self.operations:
            operation.prepare()
        kept: list[Operation] = []
        for operation in self.operations:
            if isinstance(operation, Reshape) and operation.alias():
                continue
            kept.append(operation)
        self.operations = kept
        self.uses = Counter(x.root for operation in kept for x in operation.inputs)
        self.draws = [operation for operation in kept if isinstance(operation, Dropout)]
        self.whole_batch = any(operation.barrier for operation in kept)
        for operation in kept:
            if isinstance(operation, Plus):
                operation.take_norm(self.producer, self.uses)
        self.lifetimes = Lifetimes(kept)

    @property
    def images(self) -> bool:
        """Whether a layer with weights works on images."""
        return any(isinstance(operation, Product) and operation.output.image[1:] != (1, 1) for operation in self.operations)


# ---- one rule a layer: (network, module, inputs…) or (network, inputs…, options) -> value ---------------------------------

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


def _plain(layer: nn.Conv2d) -> bool:
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
