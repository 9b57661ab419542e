"""Max pooling in explicit vectors: one window for a run of samples, its best value and where that was kept in registers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from evoprune.training.engines.kernels.runtime import machine
from evoprune.training.engines.kernels.vectors import WORD, Emitter

__all__ = ["largest_of", "spread_to"]

BYTE = ir.IntType(8)


def _positions(emit: Emitter) -> Any:
    """One position within a window a lane, as wide as a number so that choosing one costs one instruction."""
    return ir.VectorType(ir.IntType(8 * emit.size), emit.lanes)


def _each_tap(
    builder: Any, line: Any, pixel: Any, wide: Any, inside: list[Any], size: int, do: Callable[[Any, Any], None]
) -> None:
    """`do(offset in numbers, position in the window)` for every tap within the bounds; without a loop if `size` is that of
    a square window which is all inside."""

    def tap(i: Any, j: Any) -> None:
        do(builder.add(builder.mul(i, line), builder.mul(j, pixel)), builder.add(builder.mul(i, wide), j))

    if size:
        for position in range(size * size):
            tap(ir.Constant(WORD, position // size), ir.Constant(WORD, position % size))
        return
    top, bottom, left, right = inside
    one = ir.Constant(WORD, 1)
    down, across = (cgutils.for_range_slice(builder, *ends, one) for ends in ((top, bottom), (left, right)))
    with down as (i, _), across as (j, _):
        tap(i, j)


@contextmanager
def _each_run(builder: Any, emit: Emitter, windows: Any, count: Any) -> Iterator[tuple[Any, Any, Any]]:
    """For every window and vector of samples: which window, which sample, and both as one position."""
    none = ir.Constant(WORD, 0)
    samples = cgutils.for_range_slice(builder, none, count, ir.Constant(WORD, emit.lanes))
    with cgutils.for_range(builder, windows) as window, samples as (sample, _):
        yield window.index, sample, builder.add(builder.mul(window.index, count), sample)


def _splat(emit: Emitter, kind: Any, position: Any) -> Any:
    return emit.splat(emit.builder.trunc(position, kind.element), kind)


def largest_of(size: int) -> Any:
    """`largest(result, kept, values, windows, step, count, line, pixel, wide, top, bottom, left, right)`

    result[w·count + b] = largest of values[w·step + i·line + j·pixel + b], top <= i < bottom, left <= j < right, for w < windows
    and b < count; kept[w·count + b] is i·wide + j of it. The first of equals; a NaN is above all. count is a multiple of the
    lanes. size: of windows that are square and all inside, whose taps need no loop; 0 for others.
    """

    @machine
    def largest(
        typingctx: Any, result: Any, kept: Any, values: Any, windows: Any, step: Any, count: Any, line: Any, pixel: Any,
        wide: Any, top: Any, bottom: Any, left: Any, right: Any,
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            result, kept, values, windows, step, count, line, pixel, wide, *inside = given
            emit = Emitter(builder, result.type.pointee)
            positions = _positions(emit)
            best, where = (cgutils.alloca_once(builder, kind) for kind in (emit.vector, positions))
            top, _, left, _ = [ir.Constant(WORD, 0)] * 4 if size else inside
            begin = builder.add(builder.mul(top, line), builder.mul(left, pixel))
            with _each_run(builder, emit, windows, count) as (window, sample, at):
                source = emit.at(values, builder.add(builder.mul(window, step), sample))
                builder.store(emit.load(emit.at(source, begin)), best)
                builder.store(_splat(emit, positions, builder.add(builder.mul(top, wide), left)), where)

                def compare(offset: Any, tap: Any) -> None:
                    value, before = emit.load(emit.at(source, offset)), builder.load(best)
                    larger = builder.fcmp_ordered(">", value, before)
                    take = builder.or_(larger, builder.fcmp_unordered("uno", value, value))
                    builder.store(builder.select(take, value, before), best)
                    builder.store(builder.select(take, _splat(emit, positions, tap), builder.load(where)), where)

                _each_tap(builder, line, pixel, wide, inside, size, compare)
                emit.store(builder.load(best), emit.at(result, at))
                narrow = builder.trunc(builder.load(where), ir.VectorType(BYTE, emit.lanes))
                builder.store(narrow, builder.bitcast(emit.at(kept, at), narrow.type.as_pointer()), align=1)
            return context.get_dummy_value()

        words = types.int64
        return types.void(result, types.CPointer(types.int8), result, *[words] * 10), codegen

    return largest


def spread_to(size: int) -> Any:
    """`spread(result, kept, change, best, windows, step, count, gated, add, line, pixel, wide, top, bottom, left, right)`

    result[w·step + i·line + j·pixel + b] = change[w·count + b] where kept[w·count + b] is i·wide + j, else zero, for the taps
    within the bounds; added to what is there if `add`; zero where best[w·count + b] <= 0 if `gated`. The rest as `largest_of`.
    """

    @machine
    def spread(
        typingctx: Any, result: Any, kept: Any, change: Any, best: Any, windows: Any, step: Any, count: Any, gated: Any, add: Any,
        line: Any, pixel: Any, wide: Any, top: Any, bottom: Any, left: Any, right: Any,
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            result, kept, change, best, windows, step, count, gated, add, line, pixel, wide, *inside = given
            emit = Emitter(builder, result.type.pointee)
            positions, narrow = _positions(emit), ir.VectorType(BYTE, emit.lanes)
            closing, adding = (builder.icmp_signed("!=", flag, ir.Constant(WORD, 0)) for flag in (gated, add))
            with _each_run(builder, emit, windows, count) as (window, sample, at):
                target = emit.at(result, builder.add(builder.mul(window, step), sample))
                closed = builder.fcmp_ordered("<=", emit.load(emit.at(best, at)), emit.zero())
                closed = builder.and_(closed, emit.splat(closing, closed.type))
                value = builder.select(closed, emit.zero(), emit.load(emit.at(change, at)))
                where = builder.load(builder.bitcast(emit.at(kept, at), narrow.as_pointer()), align=1)
                where = builder.zext(where, positions)

                def give(offset: Any, tap: Any) -> None:
                    here = emit.at(target, offset)
                    own = builder.icmp_signed("==", where, _splat(emit, positions, tap))
                    part = builder.select(own, value, emit.zero())
                    with builder.if_else(adding) as (then, otherwise):
                        with then:
                            emit.store(builder.fadd(emit.load(here), part), here)
                        with otherwise:
                            emit.store(part, here)

                _each_tap(builder, line, pixel, wide, inside, size, give)
            return context.get_dummy_value()

        words = types.int64
        return types.void(result, types.CPointer(types.int8), result, result, *[words] * 12), codegen

    return spread
