"""From an ordinary module to operations on batch-last buffers, by `torch.fx`."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from evoprune.errors import UnsupportedLayer
from evoprune.training.engines.sparse.operations import Activation, Operation, Output, Product, Reshape
from evoprune.training.engines.sparse.values import Value

__all__ = ["Network", "Trace"]


class _Batch:
    """Stands for the size of the batch where a model asks for it."""


BATCH = _Batch()


def unsupported(what: str) -> UnsupportedLayer:
    """The error for a layer that this engine cannot run."""
    return UnsupportedLayer(f"the sparse engine cannot run {what}: use engine='dense'")


class Trace:
    """A model traced for training or for evaluation; the model itself is left as it was."""

    def __init__(self, model: nn.Module, training: bool) -> None:
        modes = [(module, module.training) for module in model.modules()]
        model.train(training)
        try:
            self.graph = fx.Tracer().trace(model)
        except Exception as error:  # tracing runs the user's code
            line = str(error).strip().splitlines()[0] if str(error).strip() else ""
            raise unsupported(f"{type(model).__name__}, whose forward cannot be traced ({line})") from error
        finally:
            for module, mode in modes:
                module.training = mode
        for node in reversed(list(self.graph.nodes)):
            if not node.users and node.op not in ("placeholder", "output"):
                self.graph.erase_node(node)
        self.model, self.training = model, training
        self.modules = dict(model.named_modules())
        self.names = {id(value): name for name, value in [*model.named_parameters(), *model.named_buffers()]}
        self.trained = {name for name, value in model.named_parameters() if value.requires_grad}
        self._check()

    def _check(self) -> None:
        """Every layer has a rule; shapes are checked when the first batch shows them."""
        inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise unsupported(f"{type(self.model).__name__}, whose forward takes {len(inputs)} inputs")
        for node in self.graph.nodes:
            if node.op == "call_module":
                module = self.modules[node.target]
                if type(module) not in MODULES:
                    raise unsupported(f"the layer {node.target!r} ({type(module).__name__})")
            elif node.op == "call_function" and node.target not in FUNCTIONS:
                raise unsupported(f"the function {getattr(node.target, '__name__', node.target)!r} in forward")
            elif node.op == "call_method" and node.target not in METHODS:
                raise unsupported(f"the method {node.target!r} in forward")

    @property
    def random(self) -> bool:
        """Whether the traced program draws random numbers."""
        return any(
            (node.op == "call_module" and isinstance(self.modules[node.target], nn.modules.dropout._DropoutNd))
            or (node.op == "call_function" and node.target in (F.dropout, F.dropout2d))
            for node in self.graph.nodes
        )


class Network:
    """The operations of a traced model on inputs of one shape."""

    def __init__(self, trace: Trace, shape: Sequence[int]) -> None:
        self.trace, self.training = trace, trace.training
        self.source = Value(tuple(shape), needs=False)
        self.operations: list[Operation] = []
        self.producer: dict[Value, Operation] = {}
        self.whole_batch = False
        self._readers: Counter[Value] = Counter()
        self._place = ""
        self._lower()
        self._settle()

    # ---- walking the graph --------------------------------------------------------------------------------------

    def _lower(self) -> None:
        results: dict[fx.Node, Any] = {}
        self._left = Counter(node for user in self.trace.graph.nodes for node in user.all_input_nodes)

        def ready(argument: Any) -> Any:
            return fx.node.map_arg(argument, lambda node: results[node])

        for node in self.trace.graph.nodes:
            self._node = node
            if node.op == "placeholder":
                results[node] = self.source
            elif node.op == "get_attr":
                results[node] = operator.attrgetter(node.target)(self.trace.model)
            elif node.op == "output":
                [result] = node.args
                value = ready(result)
                if not isinstance(value, Value):
                    raise unsupported(f"{type(self.trace.model).__name__}, whose output is not one tensor of the network")
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
                except (TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
                    raise unsupported(f"{self._place} here ({error})") from error

    def refuse(self, why: str = "") -> UnsupportedLayer:
        """The error for the layer that is being lowered."""
        return unsupported(self._place + (f", {why}" if why else ""))

    def only_reader(self) -> bool:
        """Whether nothing but the current node reads its first input."""
        first = next(iter(self._node.all_input_nodes))
        return len(first.users) == 1

    def name(self, parameter: Tensor | None) -> str | None:
        """Name of a parameter in the space (tied ones go by their first name)."""
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
        kept = []
        for operation in self.operations:
            if isinstance(operation, Reshape) and operation.alias():
                continue
            kept.append(operation)
        self.operations = kept
        self.uses = Counter(x.root for operation in kept for x in operation.inputs)


# ---- one rule a layer: (network, module, inputs…) or (network, inputs…, options) -> value ---------------------------------

Rule = Callable[..., Any]


def _linear(network: Network, layer: nn.Linear, x: Value) -> Value:
    return _product(network, x, layer.weight, layer.bias)


def _product(network: Network, x: Value, weight: Tensor, bias: Tensor | None = None) -> Value:
    if len(x.shape) != 1 or x.shape[0] != weight.shape[1]:
        raise network.refuse(f"on inputs of shape {x.shape}")
    return network.add(Product(x, Value((weight.shape[0],)), str(network.name(weight)), network.name(bias)))


def _relu(network: Network, x: Value, inplace: bool = False) -> Value:
    if isinstance(network.producer.get(x), Product) and network.only_reader() and not x.gated:
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
    return x if target == x.shape else network.add(Reshape(x, Value(target)))


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
    raise network.refuse(str(index))


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
}
