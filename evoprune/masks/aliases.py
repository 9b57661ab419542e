"""Values of a traced network that share memory, so that a change in place of one shows in the others."""

from __future__ import annotations

from torch import fx, nn

from evoprune.masks.kinds import KINDS, kind_of, name_of, plain_name

__all__ = ["contested"]

PERHAPS = """alpha_dropout bfloat16 bool contiguous detach double dropout dropout1d dropout2d dropout3d feature_alpha_dropout
    feature_dropout flatten float half pos reshape reshape_as to"""
"""What gives its input's own memory or a copy, as types and strides have it."""


def contested(graph: fx.GraphModule) -> frozenset[fx.Node]:
    """Operations in place on what may be the memory of a value that is there before and read after, under another name."""
    order = {node: position for position, node in enumerate(graph.graph.nodes)}
    surely, perhaps = _origins(graph)

    def others(node: fx.Node) -> list[fx.Node]:
        before = (other for other in order if order[other] < order[node])  # what comes after holds the change
        return [other for other in before if perhaps[other] is perhaps[node] and surely[other] is not surely[node]]

    in_place = [node for node in order if node.op.startswith("call_") and _in_place(node)]
    return frozenset(
        node
        for node in in_place
        if any(order[reader] > order[node] and not _asks(reader) for other in others(node) for reader in other.users)
    )


def _asks(node: fx.Node) -> bool:
    """Whether a node reads no values: a shape, a size."""
    return node.op.startswith("call_") and node.op != "call_module" and KINDS.get(name_of(node)) == "ask"


def _origins(graph: fx.GraphModule) -> tuple[dict[fx.Node, fx.Node], dict[fx.Node, fx.Node]]:
    """For every node the first one whose memory it surely has, and the first whose memory it perhaps has."""
    surely: dict[fx.Node, fx.Node] = {}
    perhaps: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else node
        shares = _shares(graph, node) if node.op.startswith("call_") else None
        surely[node] = surely.get(source, node) if shares == "surely" else node
        perhaps[node] = perhaps.get(source, node) if shares else node
    return surely, perhaps


def _shares(graph: fx.GraphModule, node: fx.Node) -> str | None:
    """Whether a node has its first operand's memory: `surely` (a copy only where its labels are one too), `perhaps`, or None."""
    if node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        own = isinstance(module, (nn.Identity, nn.Flatten, nn.modules.dropout._DropoutNd)) or getattr(module, "inplace", False)
        return "perhaps" if own else "surely" if kind_of(module) == "move" else None
    name = name_of(node)
    if name in PERHAPS.split() or node.kwargs.get("inplace"):
        return "perhaps"
    return "surely" if _in_place(node) or KINDS.get(name) in ("move", "ask") else None


def _in_place(node: fx.Node) -> bool:
    name = name_of(node)
    return plain_name(name) != name and KINDS.get(plain_name(name)) == "pointwise"
