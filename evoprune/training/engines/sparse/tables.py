"""Programs with all their addresses: one chunk of individuals on one workspace of buffers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evoprune.training.engines.base import Chunk
from evoprune.training.engines.kernels.runtime import Program, address_of
from evoprune.training.engines.kernels.vectors import lanes
from evoprune.training.engines.sparse.lowering import Network
from evoprune.training.engines.sparse.operations import BARRIER, Call, Operation
from evoprune.training.engines.sparse.structure import Longs, Sparse
from evoprune.training.engines.sparse.values import Layout, Value

__all__ = ["At", "Call", "Plan", "Tables", "Workspace"]

At = tuple[int, int, int, int]
Objective = Callable[["Tables"], Call]

BLOCK = 128
"""Samples a block of the batch: what one survivor touches at a time."""

BLOCK_IMAGES = 16
"""The same where layers work on images: what a layer reads and writes of one block should still be there for the next one."""


class Plan:
    """How a network runs on a batch: size of a block, number of blocks, what must be kept for the backward pass.

    rows: individuals that there is room for, at least those of the chunk. keep: a backward pass follows. fused: in the same
    program, block by block, so that no individual needs activations of its own. key: equal plans can share workspaces.
    """

    def __init__(
        self, network: Network, rows: int, samples: int, *, shared: bool, threads: int, keep: bool, fused: bool = False
    ) -> None:
        self.network, self.rows, self.samples = network, rows, samples
        self.shared, self.threads, self.keep, self.fused = shared, threads, keep, fused
        whole = -(-samples // 16) * 16
        self.block = min(whole, BLOCK_IMAGES if network.images else BLOCK)
        self.blocks = -(-samples // self.block)
        self.key = (id(network), rows, samples, shared, threads, keep, fused)

    @property
    def apart(self) -> bool:
        """Whether every individual and block keeps its own activations."""
        return self.keep and not self.fused


class Workspace:
    """Buffers that one chunk at a time works in; made when first asked for, zeros (borders stay zero)."""

    def __init__(self, plan: Plan, dtype: torch.dtype) -> None:
        self.plan, self.dtype, self.stamp = plan, dtype, 0
        self._buffers: dict[Hashable, tuple[Tensor, At]] = {}
        self.tables: weakref.WeakKeyDictionary[Chunk, Tables] = weakref.WeakKeyDictionary()

    def buffer(self, key: Hashable, numbers: int, *, a_row: bool, a_block: bool, dtype: torch.dtype | None = None) -> At:
        """Address and byte strides (individual, thread, block) of a buffer of `numbers` numbers.

        a_row: every individual has its own (it is kept), else every thread. a_block: every block has its own.
        """
        if key not in self._buffers:
            plan = self.plan
            blocks, owners = plan.blocks if a_block else 1, plan.rows if a_row else plan.threads
            tensor = _zeros(owners * blocks * numbers, dtype or self.dtype)
            block = numbers * tensor.element_size()
            owner = blocks * block
            at = (tensor.data_ptr(), owner if a_row else 0, 0 if a_row else owner, block if a_block else 0)
            self._buffers[key] = tensor, at
        return self._buffers[key][1]

    def scratch(self, numbers: int) -> At:
        """A buffer of `numbers` numbers a thread that holds nothing between two operations; it grows in powers of two."""
        size = 1 << max(10, (numbers - 1).bit_length())
        return self.buffer(("scratch", size), size, a_row=False, a_block=False)

    def shared_buffer(self, key: Hashable, numbers: int) -> int:
        """Address of a buffer that all individuals share."""
        if key not in self._buffers:
            tensor = torch.zeros(numbers, dtype=self.dtype)
            self._buffers[key] = tensor, (tensor.data_ptr(), 0, 0, 0)
        return self._buffers[key][1][0]

    def tensor(self, key: Hashable) -> Tensor:
        """The memory of a buffer."""
        return self._buffers[key][0]


LINE = 64
"""Bytes of a cache line: a vector that lies across two costs two loads."""


def _zeros(numbers: int, dtype: torch.dtype) -> Tensor:
    """Zeros from the start of a cache line on, in numpy's memory, which asks the system for huge pages where a buffer is large:
    rows of images lie far apart, and looking up small pages costs more than reading them."""
    size = numbers * dtype.itemsize
    raw = np.zeros(size + LINE, dtype=np.uint8)
    first = -raw.ctypes.data % LINE
    return torch.from_numpy(raw[first : first + size]).view(dtype)


class Tables:
    """What the operations of a network ask while they become kernel calls, and the programs that result: `forward` and
    `backward`, or both in `forward` under a fused plan.

    gradients: by name, where the gradients of parameters are added; what is not there gets none. dense: those of the weights
    are dense, `(k, *shape)`, and count pruned weights too. objective: of a fused plan, the call that turns outputs into losses
    and their gradients. last: its calls after an individual's backward pass.
    """

    backward: Program | None = None

    def __init__(self, chunk: Chunk, structures: dict[Hashable, Sparse], masks: Mapping[str, Sequence[Longs]], space: Workspace,
                 source: tuple[Tensor, At], gradients: dict[str, Tensor], *, dense: bool = False,
                 objective: Objective | None = None, last: Sequence[Call] = ()) -> None:  # fmt: skip
        plan = space.plan
        self.chunk, self.structures, self.masks, self.space, self.plan = chunk, structures, masks, space, plan
        self.source, self.gradients, self.dense = source, gradients, dense
        self.samples, self.size, self.lanes = plan.samples, 8 if space.dtype == torch.float64 else 4, 0
        self.lanes = lanes(8 * self.size)
        self._kept: list[Any] = []
        self._waiting: dict[Value, int] = {}
        self._written: set[Value] = set()
        self._renewed: set[Value] = set()
        network = plan.network
        self.k, self.objective = chunk.k, objective
        forward = [call for step in network.operations for call in step.forward(self)]
        backward: list[Call] = []
        if plan.keep:
            self._waiting = dict(network.uses)
            backward = [call for step in reversed(network.operations) for call in [*self._renew(step), *step.backward(self)]]
        if plan.fused:
            self.forward = self.program([*forward, *backward], last)
        else:
            self.forward, self.backward = self.program(forward), self.program(backward) if plan.keep else None
        del self.chunk, self.structures, self.masks  # a chunk owns its tables, not the other way round

    def program(self, calls: Sequence[Call], last: Sequence[Call] = ()) -> Program:
        """Kernel calls as a program for all individuals and blocks; `last`: those that follow an individual's last block."""
        segments: list[list[tuple[int, Sequence[int] | npt.NDArray[np.int64]]]] = [[]]
        for call in calls:
            if call is BARRIER:
                segments.append([])
            else:
                segments[-1].append((address_of(call[0], self.space.dtype), call[1]))
        return Program(segments, self.k, self.plan.blocks, [(address_of(entry, self.space.dtype), args) for entry, args in last])

    def _renew(self, step: Operation) -> list[Call]:
        """The calls that compute what `step` reads and is not kept, where no step before it asked for the same."""
        renewed = self.plan.network.lifetimes.renewed
        missing = [root for root in dict.fromkeys(x.root for x in step.inputs) if root in renewed and root not in self._renewed]
        self._renewed.update(missing)
        return [renewed[root].normalised(self, root, again=True) for root in missing]

    # ---- buffers ------------------------------------------------------------------------------------------------

    def layout(self, value: Value) -> Layout:
        """How the numbers of `value` lie."""
        return Layout(*value.image, value.root.pad, self.plan.block)

    def delta_layout(self, value: Value) -> Layout:
        """How the numbers of its gradient lie."""
        return Layout(*value.image, value.root.delta_pad, self.plan.block)

    def at(self, value: Value, *, offset: int = 0, inside: bool = False) -> At:
        """Where `value` lies, `offset` numbers on, or from its first pixel inside the border."""
        layout = self.layout(value)
        base = self._value(value.root, layout.numbers)
        return base[0] + (layout.origin if inside else offset) * self.size, *base[1:]

    def _value(self, root: Value, numbers: int) -> At:
        lifetimes = self.plan.network.lifetimes
        if root is self.plan.network.source:
            return self.source[1]
        if root in lifetimes.renewed:
            return self.space.buffer(("renewed", lifetimes.value_place[root]), numbers, a_row=False, a_block=False)
        return self.extra(("value", root), numbers)

    def delta_at(self, value: Value, *, offset: int = 0, inside: bool = False) -> At:
        """The same for its gradient, of which every thread holds one at a time: of a block, or of all where a barrier asks."""
        layout, lifetimes = self.delta_layout(value), self.plan.network.lifetimes
        root = lifetimes.gradient_of(value)
        if self.plan.fused and root in lifetimes.replaced:
            return self.at(value, offset=offset, inside=inside)
        key, a_block = ("delta", lifetimes.gradient_place[root]), root in lifetimes.crossing
        base = self.space.buffer(key, layout.numbers, a_row=False, a_block=a_block)
        return base[0] + (layout.origin if inside else offset) * self.size, *base[1:]

    def extra(self, key: Hashable, numbers: int, dtype: torch.dtype | None = None) -> At:
        """A buffer that forward leaves for backward."""
        apart = self.plan.apart
        return self.space.buffer(key, numbers, a_row=apart, a_block=apart or self.plan.network.whole_batch, dtype=dtype)

    def once(self, key: Hashable, numbers: int, dtype: torch.dtype | None = None) -> At:
        """A buffer that all blocks share."""
        return self.space.buffer(key, numbers, a_row=self.plan.apart, a_block=False, dtype=dtype)

    @staticmethod
    def put(args: list[int] | npt.NDArray[np.int64], position: int, at: Sequence[int]) -> None:
        """Write the four words of a buffer."""
        args[position : position + 4] = at

    def contribute(self, root: Value) -> tuple[bool, bool]:
        """The next operation adds to the gradient of `root`: (whether something is there already, whether it closes the gate)."""
        add = root in self._written
        self._written.add(root)
        self._waiting[root] -= 1
        return add, root.gated and self._waiting[root] == 0

    # ---- parameters ---------------------------------------------------------------------------------------------

    def address(self, array: Any) -> int:
        """Address of a numpy array, which is kept alive."""
        self._kept.append(array)
        return int(array.ctypes.data)

    def structure(self, key: Hashable, make: Callable[[], Sparse], *, keep: bool = True) -> Sparse:
        """The sparse matrices `key` of this chunk, made once if they are kept."""
        found = self.structures.get(key)
        if found is None:
            found = make()
            if keep:
                self.structures[key] = found
        return found

    def survivors(self, name: str) -> Sequence[Longs]:
        """Sorted indices of the weights of each individual."""
        if name in self.masks:
            return self.masks[name]
        fixed = self._other(name)
        return [np.arange(fixed[0].numel(), dtype=np.int64)] * self.chunk.k

    def _other(self, name: str) -> Tensor:
        return self.chunk.stacked[name] if name in self.chunk.stacked else self.chunk.states[name]

    def weight(self, name: str) -> int:
        """Address of the values of a weight."""
        return (self.chunk.survivors[name] if name in self.chunk.survivors else self._other(name)).data_ptr()

    def stacked(self, name: str | None) -> int:
        """Address of a stacked parameter or buffer, 0 if there is none."""
        return 0 if name is None else self._other(name).data_ptr()

    def weight_gradient(self, name: str) -> int:
        """Address of the gradient, 0 where none is wanted."""
        return self.gradients[name].data_ptr() if name in self.gradients else 0

    def stacked_gradient(self, name: str | None) -> int:
        """The same for a parameter that may be absent."""
        return 0 if name is None else self.weight_gradient(name)
