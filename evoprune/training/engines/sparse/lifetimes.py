"""How long activations and gradients are needed, and which can share memory.

A barrier stands between two segments of the program, and an operation with a barrier reads its inputs in one segment and
writes its output in the next. Backward mirrors forward: an operation touches the gradient of its inputs in the mirrored segment
where it read them, and that of its output where it wrote it (with a barrier of its own, in both). What lives in one segment
alone needs memory for one block of the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from evoprune.training.engines.sparse.operations import Operation, Output, Product
from evoprune.training.engines.sparse.spatial import Largest, Norm, Plus
from evoprune.training.engines.sparse.values import Value

__all__ = ["Lifetimes"]

Span = tuple[int, int]


class Lifetimes:
    """Of the values of a network and their gradients.

    aliases: values whose gradient lives in the memory of another's. crossing: values whose gradients live in several segments.
    renewed: normalised values that live in one segment forward and its mirror image backward; they are computed anew there.
    replaced: values that only a max pooling reads, which goes backward without them: under a fused plan their gradient takes
    their memory, and half as much passes through the cache.
    place: gradients of equal shape and place, and renewed values likewise, are never needed at the same time.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        replaced = _replaced(operations)
        self.aliases = _shared_gradients(operations)
        self._read, self._written = _segments(operations)
        gradients, self.crossing = self._gradients(operations)
        values, self.renewed = self._renewed(operations)
        self.replaced = replaced - self.crossing
        self.gradient_place = _places(gradients, lambda value: (value.image, value.delta_pad, value in self.crossing))
        self.value_place = _places(values, lambda value: (value.image, value.pad))

    def gradient_of(self, value: Value) -> Value:
        """The value in whose memory the gradient of `value` lives."""
        root = value.root
        while root in self.aliases:
            root = self.aliases[root]
        return root

    def _gradients(self, operations: Sequence[Operation]) -> tuple[dict[Value, Span], set[Value]]:
        """When each gradient is in use, by operation or, where it lives in several segments, by segment; and which do."""
        positions: dict[Value, list[int]] = {}
        segments: dict[Value, set[int]] = {}
        for position, operation in enumerate(operations):
            read, written = self._read[position], self._written[position]
            for value, where in [*((x, {read}) for x in operation.inputs), (operation.output, {read, written})]:
                root = self.gradient_of(value)
                positions.setdefault(root, []).append(position)
                segments.setdefault(root, set()).update(where)
        crossing = {value for value, where in segments.items() if len(where) > 1}
        used = {value: segments[value] if value in crossing else positions[value] for value in positions}
        return {value: (min(where), max(where)) for value, where in used.items()}, crossing

    def _renewed(self, operations: Sequence[Operation]) -> tuple[dict[Value, Span], dict[Value, Norm]]:
        spans: dict[Value, Span] = {}
        renewed: dict[Value, Norm] = {}
        for position, operation in enumerate(operations):
            y = operation.output
            if not isinstance(operation, Norm) or not operation.barrier or operation.summed or y.root is not y:
                continue
            readers = [at for at, reader in enumerate(operations) if any(x.root is y for x in reader.inputs)]
            leaves = any(isinstance(operations[at], Output) for at in readers)
            if not leaves and all(self._read[at] == self._written[at] == self._written[position] for at in readers):
                spans[y], renewed[y] = (position, max(readers, default=position)), operation
        return spans, renewed


def _segments(operations: Sequence[Operation]) -> tuple[list[int], list[int]]:
    """The segments in which each operation reads and writes."""
    read, written, segment = [], [], 0
    for operation in operations:
        read.append(segment)
        segment += operation.barrier
        written.append(segment)
    return read, written


def _places(spans: dict[Value, Span], kind: Callable[[Value], Hashable]) -> dict[Value, tuple[Hashable, int]]:
    """The first place of its kind that is free when each value begins."""
    ends: dict[Hashable, list[int]] = {}
    places: dict[Value, tuple[Hashable, int]] = {}
    for value, (first, last) in sorted(spans.items(), key=lambda item: item[1]):
        own = ends.setdefault(kind(value), [])
        place = next((place for place, end in enumerate(own) if end < first), len(own))
        own[place : place + 1] = [last]
        places[value] = kind(value), place
    return places


def _replaced(operations: Sequence[Operation]) -> set[Value]:
    """See `Lifetimes`; both get the same borders."""
    readers = Counter(x.root for operation in operations for x in operation.inputs)
    written = {operation.output for operation in operations if isinstance(operation, Product)}
    read = {operation.inputs[0] for operation in operations if isinstance(operation, Largest)}
    found = {value for value in written & read if value.root is value and readers[value] == 1}
    for value in found:
        value.pad = value.delta_pad = max(value.pad, value.delta_pad)
    return found


def _shared_gradients(operations: Sequence[Operation]) -> dict[Value, Value]:
    """Inputs of sums whose gradient can live in the memory of the output's gradient, because nothing writes it too early.

    Backward runs the operations from the last to the first. The gradient of a sum's output is complete when the sum runs, and
    is that of both inputs. An input that others read as well has more added to it; that must come after the producer of the
    other input has read it, and after those of whatever else lives in that memory.
    """
    producers = {
        operation.output.root: position for position, operation in enumerate(operations) if not isinstance(operation, Output)
    }
    aliases: dict[Value, Value] = {}
    for position, operation in enumerate(operations):
        if not isinstance(operation, Plus) or operation.inputs[0].root is operation.inputs[1].root:
            continue
        y = operation.output
        for x, other in (operation.inputs, operation.inputs[::-1]):
            readers = [
                at
                for at, reader in enumerate(operations)
                if at != position and any(x.root is value.root for value in reader.inputs)
            ]
            same = x.root is x and x.needs and x.delta_pad == y.delta_pad and y.root is y
            alone = not readers and not x.gated
            after = bool(readers) and max(readers) < producers.get(other.root, -1)
            if same and (alone or after) and _complete({**aliases, x: y}, operations, producers):
                aliases[x] = y
    return aliases


def _complete(aliases: dict[Value, Value], operations: Sequence[Operation], producers: dict[Value, int]) -> bool:
    """Whether every producer, when it runs backward, finds the gradient of its output in the memory that it shares.

    That is what readers of the output and of the sums above it have added there, all of it and nothing else. A reader adds once
    for each of its inputs: a sum of two values that share their memory twice.
    """
    added: dict[Value, set[tuple[int, int]]] = {}  # operation and which of its inputs
    for position, operation in enumerate(operations):
        for place, x in enumerate(operation.inputs):
            if aliases.get(x.root) is not operation.output:  # what lives in the sum's memory is there already
                added.setdefault(x.root, set()).add((position, place))
    groups: dict[Value, list[Value]] = {}
    own: dict[Value, set[tuple[int, int]]] = {}
    for value in {*aliases, *aliases.values()}:
        home, own[value] = value, set(added.get(value, ()))
        while home in aliases:
            home = aliases[home]
            own[value] |= added.get(home, set())
        groups.setdefault(home, []).append(value)
    for members in groups.values():
        for value in members:
            present = {one for other in members for one in added.get(other, ()) if one[0] >= producers.get(value, -1)}
            if present != own[value]:
                return False
    return True
