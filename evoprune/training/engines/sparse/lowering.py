"""From an ordinary module to operations on batch-last buffers, by `torch.fx`."""

from __future__ import annotations

import copy
import inspect
import operator
from collections import Counter
from collections.abc import Sequence
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
from evoprune.training.engines.sparse.operations import Operation, Output, Product
from evoprune.training.engines.sparse.rules import FUNCTIONS, METHODS, MODULES, plain, unsupported
from evoprune.training.engines.sparse.spatial import Dropout, Plus, Reshape
from evoprune.training.engines.sparse.values import Value

__all__ = ["Network", "Trace"]


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
                if isinstance(module, nn.Conv2d) and not plain(module):
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
