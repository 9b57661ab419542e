"""Changes in place as new values: a traced program in which whoever reads a changed tensor later reads the result instead."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import fx, nn

__all__ = ["rebind"]

VIEWS: frozenset[object] = frozenset(
    [
        *(nn.Identity, nn.Flatten, nn.Dropout, torch.flatten, torch.reshape, F.dropout, operator.getitem),
        *("flatten", "view", "reshape", "contiguous"),
    ]
)
"""What may give its input's own memory: modules, functions and methods."""


def rebind(graph: fx.Graph, modules: Mapping[str, nn.Module], refuse: Callable[[str], Exception]) -> None:
    """Rewrite `graph`. Raises `refuse(why)` for a change that some view would have to show, or of a parameter."""
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        changed = _changed(node, modules)
        if changed is None:
            continue
        if changed.op == "get_attr":
            raise refuse(f"{node.name} in forward: it changes a parameter in place")
        others = [alias for alias in _aliases(changed, modules) if alias is not changed]
        if any(order[reader] > order[node] for alias in others for reader in alias.users):
            raise refuse(f"{node.name} in forward: it changes in place what is read later under another name")
        for reader in list(changed.users):
            if order[reader] > order[node]:
                reader.replace_input_with(changed, node)


def _changed(node: fx.Node, modules: Mapping[str, nn.Module]) -> fx.Node | None:
    """The tensor that a node changes in place, if any."""
    first = next(iter([*node.args, *node.kwargs.values()]), None)
    if not isinstance(first, fx.Node):
        return None
    if node.op == "call_module":
        return first if getattr(modules[str(node.target)], "inplace", False) else None
    if node.op == "call_method":
        return first if str(node.target).endswith("_") and not str(node.target).endswith("__") else None
    return first if node.op == "call_function" and (node.target is operator.iadd or _asks(node)) else None


def _asks(node: fx.Node) -> bool:
    """Whether a function is called with inplace=True."""
    assert callable(node.target)
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # torch's own functions in C have none
        return False
    return bool(bound.arguments.get("inplace", False))


def _aliases(node: fx.Node, modules: Mapping[str, nn.Module]) -> Iterator[fx.Node]:
    """Every node that may share the memory of `node`, itself included."""
    root = node
    while _is_view(root, modules):
        root = root.all_input_nodes[0]
    waiting = [root]
    while waiting:
        alias = waiting.pop()
        yield alias
        waiting += [reader for reader in alias.users if _is_view(reader, modules)]


def _is_view(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    kind: object = type(modules[str(node.target)]) if node.op == "call_module" else node.target
    return node.op.startswith("call_") and kind in VIEWS and bool(node.all_input_nodes)
