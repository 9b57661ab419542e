"""Inner loops in explicit vectors: what a survivor does to one contiguous run of numbers.

Numba has no vector type, and a compiler that sees plain loops reloads and stores the output once a survivor. These
intrinsics keep the output (or the row of deltas) in registers while the survivors pass by. All sums are fused
multiply-adds in the order of the survivors, so that the result depends neither on the width of a tile nor on threads.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target

from evoprune.training.engines.kernels.runtime import machine

__all__ = ["VECTORS", "Emitter", "dot_tile", "dots_line", "gather_tile", "lane_sum", "lane_sums", "lanes", "transpose_tile"]

WORD = ir.IntType(64)
HALF = ir.IntType(32)


@functools.cache
def register_bytes() -> int:
    """Width of the widest vector registers that numba compiles for: those of this machine, unless NUMBA_CPU_NAME and
    NUMBA_CPU_FEATURES name others, as they do where several kinds of machines share a cache.
    """
    _, _, features = cpu_target.target_context.codegen().magic_tuple()  # by which the cache knows compiled code
    found = set(features.split(","))
    return 64 if "+avx512f" in found else 32 if "+avx2" in found else 16


VECTORS = 8
"""Vectors a tile: enough independent sums to hide the latency of a multiply-add."""


def lanes(bits: int) -> int:
    """Numbers a register, of `bits` bits each."""
    return 8 * register_bytes() // bits


class Emitter:
    """Emits vector code for one element type."""

    def __init__(self, builder: Any, element: Any) -> None:
        self.builder, self.element = builder, element
        self.size = 8 if isinstance(element, ir.DoubleType) else 4
        self.lanes = lanes(8 * self.size)
        self.vector = ir.VectorType(element, self.lanes)

    def at(self, pointer: Any, offset: Any) -> Any:
        return self.builder.gep(pointer, [offset])

    def load(self, pointer: Any, number: int = 0) -> Any:
        target = self.builder.gep(pointer, [ir.Constant(WORD, number * self.lanes)])
        value = self.builder.load(self.builder.bitcast(target, self.vector.as_pointer()))
        value.align = self.size
        return value

    def store(self, value: Any, pointer: Any, number: int = 0) -> None:
        target = self.builder.gep(pointer, [ir.Constant(WORD, number * self.lanes)])
        self.builder.store(value, self.builder.bitcast(target, self.vector.as_pointer()), align=self.size)

    def splat(self, scalar: Any, kind: Any = None) -> Any:
        """A vector of nothing else; kind: its type, where it is not one of numbers."""
        undefined = ir.Constant(kind or self.vector, ir.Undefined)
        start = self.builder.insert_element(undefined, scalar, ir.Constant(HALF, 0))
        return self.shuffle(start, undefined, [0] * undefined.type.count)

    def zero(self) -> Any:
        return ir.Constant(self.vector, [ir.Constant(self.element, 0.0)] * self.lanes)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        name = f"llvm.fma.v{self.lanes}f{8 * self.size}"
        function = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(self.vector, [self.vector] * 3), name)
        return self.builder.call(function, [a, b, c])

    def fold(self, value: Any, width: int) -> Any:
        """Sum of the two halves of a vector of `width` lanes."""
        half = width // 2
        undefined = ir.Constant(value.type, ir.Undefined)
        low, high = (self.shuffle(value, undefined, list(range(at, at + half))) for at in (0, half))
        return self.builder.fadd(low, high)

    def total(self, value: Any) -> Any:
        """Sum of all lanes, halves first."""
        width = self.lanes
        while width > 1:
            value, width = self.fold(value, width), width // 2
        return self.builder.extract_element(value, ir.Constant(HALF, 0))

    def totals(self, values: list[Any]) -> list[Any]:
        """Sums of the lanes of four vectors (or one), each in the order of `total`, with half the shuffles."""
        if len(values) != 4 or self.lanes < 4:
            return [self.total(value) for value in values]
        width = self.lanes  # lanes a group; each vector holds groups of one value each
        while width > 1:
            pairs = [(values[n], values[n + 1]) for n in range(0, len(values), 2)] if len(values) > 1 else [(values[0], None)]
            values = [self._fold_groups(first, second, width) for first, second in pairs]
            width //= 2
        return [self.builder.extract_element(values[0], ir.Constant(HALF, number)) for number in range(4)]

    def _fold_groups(self, first: Any, second: Any, width: int) -> Any:
        count = first.type.count * (1 if second is None else 2)
        starts = range(0, count, width)
        halves = []
        for offset in (0, width // 2):
            mask = [start + offset + lane for start in starts for lane in range(width // 2)]
            other = ir.Constant(first.type, ir.Undefined) if second is None else second
            halves.append(self.shuffle(first, other, mask))
        return self.builder.fadd(*halves)

    def transposed(self, rows: list[Any]) -> list[Any]:
        """The columns of as many vectors as a vector has lanes: each stage swaps blocks of half the size across the diagonal."""
        half, lanes = self.lanes // 2, range(self.lanes)
        while half:
            low = [lane if not lane & half else lane - half + self.lanes for lane in lanes]
            high = [lane + half if not lane & half else lane + self.lanes for lane in lanes]
            for first in lanes:
                if not first & half:
                    pair = rows[first], rows[first + half]
                    rows[first], rows[first + half] = self.shuffle(*pair, low), self.shuffle(*pair, high)
            half //= 2
        return rows

    def shuffle(self, first: Any, second: Any, mask: list[int]) -> Any:
        """Those lanes of the two vectors, one after the other."""
        return self.builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(HALF, len(mask)), mask))

    def index(self, indices: Any, position: Any, unit: Any) -> Any:
        """indices[position] · unit, as 64 bits."""
        return self.builder.mul(self.builder.sext(self.builder.load(self.at(indices, position)), WORD), unit)


def _accumulators(emit: Emitter, count: int) -> list[Any]:
    return [cgutils.alloca_once_value(emit.builder, emit.zero()) for _ in range(count)]


def gather_tile(vectors: int, permuted: bool) -> Any:
    """`tile(out, data, indices, weights, order, count, unit, start, add, gate, gated)`: one tile of an output row.

    out[:] = start (+ out if add) + sum over q < count of weights[q] · data[indices[q]·unit:], then, if gated == 1, relu;
    if gated == 2, zero where gate <= 0. permuted: weights[order[q]] for weights[q].
    """

    @machine
    def tile(
        typingctx: Any, out: Any, data: Any, indices: Any, weights: Any, order: Any, count: Any, unit: Any, start: Any,
        add: Any, gate: Any, gated: Any,
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            out, data, indices, weights, order, count, unit, start, add, gate, gated = values
            emit = Emitter(builder, out.type.pointee)
            sums = _accumulators(emit, vectors)
            first = emit.splat(start)
            for number in range(vectors):
                builder.store(first, sums[number])
            with builder.if_then(builder.icmp_signed("!=", add, ir.Constant(WORD, 0))):
                for number in range(vectors):
                    builder.store(builder.fadd(first, emit.load(out, number)), sums[number])
            with cgutils.for_range(builder, count) as loop:
                row = emit.at(data, emit.index(indices, loop.index, unit))
                position = builder.sext(builder.load(emit.at(order, loop.index)), WORD) if permuted else loop.index
                weight = emit.splat(builder.load(emit.at(weights, position)))
                for number in range(vectors):
                    builder.store(emit.fma(weight, emit.load(row, number), builder.load(sums[number])), sums[number])
            is_relu = builder.icmp_signed("==", gated, ir.Constant(WORD, 1))
            is_gate = builder.icmp_signed("==", gated, ir.Constant(WORD, 2))
            with builder.if_then(is_relu):
                for number in range(vectors):
                    value = builder.load(sums[number])
                    builder.store(
                        builder.select(builder.fcmp_ordered("<=", value, emit.zero()), emit.zero(), value), sums[number]
                    )
            with builder.if_then(is_gate):
                for number in range(vectors):
                    closed = builder.fcmp_ordered("<=", emit.load(gate, number), emit.zero())
                    builder.store(builder.select(closed, emit.zero(), builder.load(sums[number])), sums[number])
            for number in range(vectors):
                emit.store(builder.load(sums[number]), out, number)
            return context.get_dummy_value()

        small = types.CPointer(types.int32)
        words = types.int64
        return types.void(out, out, small, out, small, words, words, out.dtype, words, out, words), codegen

    return tile


def dot_tile(vectors: int) -> Any:
    """`tile(result, delta, data, indices, count, unit)`: result[q] += sum of delta · data[indices[q]·unit:], q < count.

    The tile of `delta` stays in registers while the survivors pass by, four at a time.
    """

    @machine
    def tile(typingctx: Any, result: Any, delta: Any, data: Any, indices: Any, count: Any, unit: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            result, delta, data, indices, count, unit = values
            emit = Emitter(builder, result.type.pointee)
            row = [emit.load(delta, number) for number in range(vectors)]

            def dots(first: Any, together: int) -> None:
                positions = [builder.add(first, ir.Constant(WORD, number)) for number in range(together)]
                others = [emit.at(data, emit.index(indices, position, unit)) for position in positions]
                sums = [emit.zero()] * together
                for number in range(vectors):
                    sums = [emit.fma(row[number], emit.load(o, number), s) for o, s in zip(others, sums, strict=True)]
                for position, total in zip(positions, emit.totals(sums), strict=True):
                    target = emit.at(result, position)
                    builder.store(builder.fadd(builder.load(target), total), target)

            four = ir.Constant(WORD, 4)
            whole = builder.and_(count, ir.Constant(WORD, -4))
            with cgutils.for_range_slice(builder, ir.Constant(WORD, 0), whole, four) as (first, _):
                dots(first, 4)
            with cgutils.for_range_slice(builder, whole, count, ir.Constant(WORD, 1)) as (first, _):
                dots(first, 1)
            return context.get_dummy_value()

        small, words = types.CPointer(types.int32), types.int64
        return types.void(result, result, result, small, words, words), codegen

    return tile


def dots_line(together: int) -> Any:
    """`line(sums, delta, data, indices, unit, runs, length, delta_run, in_run)`: dot products over the runs of one image line.

    sums[t, :] += vectors of delta[…, j] · data[indices[t]·unit + …, j] over runs and j < length, for `together` survivors t;
    `length` is a multiple of the lanes, and what is left to sum over the lanes stays apart until `lane_sums`.
    """

    @machine
    def line(
        typingctx: Any,
        sums: Any,
        delta: Any,
        data: Any,
        indices: Any,
        unit: Any,
        runs: Any,
        length: Any,
        delta_run: Any,
        in_run: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            sums, delta, data, indices, unit, runs, length, delta_run, in_run = values
            emit = Emitter(builder, sums.type.pointee)
            own = _accumulators(emit, together)
            for number in range(together):
                builder.store(emit.load(sums, number), own[number])
            rows = [emit.at(data, emit.index(indices, ir.Constant(WORD, number), unit)) for number in range(together)]
            zero, step = ir.Constant(WORD, 0), ir.Constant(WORD, emit.lanes)
            with cgutils.for_range(builder, runs) as run:
                source = emit.at(delta, builder.mul(run.index, delta_run))
                right = builder.mul(run.index, in_run)
                others = [emit.at(row, right) for row in rows]
                with cgutils.for_range_slice(builder, zero, length, step) as (at, _):
                    value = emit.load(emit.at(source, at))
                    for number in range(together):
                        other = emit.load(emit.at(others[number], at))
                        builder.store(emit.fma(value, other, builder.load(own[number])), own[number])
            for number in range(together):
                emit.store(builder.load(own[number]), sums, number)
            return context.get_dummy_value()

        words = types.int64
        return types.void(sums, sums, sums, types.CPointer(types.int32), *[words] * 5), codegen

    return line


@machine
def transpose_tile(typingctx: Any, target: Any, stride: Any, source: Any, indices: Any, unit: Any) -> Any:
    """target[i·stride + j] = source[indices[j]·unit + i] for all lanes i and j."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, stride, source, indices, unit = values
        emit = Emitter(builder, source.type.pointee)
        numbers = [ir.Constant(WORD, lane) for lane in range(emit.lanes)]
        starts = [builder.mul(builder.load(emit.at(indices, number)), unit) for number in numbers]
        columns = emit.transposed([emit.load(emit.at(source, start)) for start in starts])
        for number, column in zip(numbers, columns, strict=True):
            emit.store(column, emit.at(target, builder.mul(number, stride)))
        return context.get_dummy_value()

    words = types.int64
    return types.void(target, words, target, types.CPointer(words), words), codegen


@machine
def lane_sums(typingctx: Any, result: Any, sums: Any) -> Any:
    """result[0:4] += sums of the lanes of four vectors."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        result, sums = values
        emit = Emitter(builder, result.type.pointee)
        for number, total in enumerate(emit.totals([emit.load(sums, number) for number in range(4)])):
            target = emit.at(result, ir.Constant(WORD, number))
            builder.store(builder.fadd(builder.load(target), total), target)
        return context.get_dummy_value()

    return types.void(result, result), codegen


@machine
def lane_sum(typingctx: Any, result: Any, sums: Any) -> Any:
    """result[0] += sum of the lanes of one vector."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        result, sums = values
        emit = Emitter(builder, result.type.pointee)
        builder.store(builder.fadd(builder.load(result), emit.total(emit.load(sums))), result)
        return context.get_dummy_value()

    return types.void(result, result), codegen
