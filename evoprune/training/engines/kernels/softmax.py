"""Softmax in explicit vectors: one vector of samples at a time, all their outputs in the cache.

exp(x) for x <= 0 is 2^n · exp(r), r = x - n·log 2 with abs(r) <= log(2) / 2, and exp(r) its Taylor polynomial (degree 7 in
float32, 13 in float64: an error below the last bit). 2^n is made from the bits of n, so that no table is read.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from evoprune.training.engines.kernels.runtime import machine
from evoprune.training.engines.kernels.vectors import WORD, Emitter

__all__ = ["softmax_lanes"]


class _Format:
    """What `exp` needs to know of a floating-point type: bits of the fraction, bias of the exponent, degree, smallest x, and
    log 2 in two parts, the first with so few bits that n times it is exact."""

    def __init__(self, double: bool) -> None:
        self.integer = ir.IntType(64 if double else 32)
        self.fraction, self.bias, self.degree, self.least = (52, 1023, 13, -708.0) if double else (23, 127, 7, -87.0)
        self.high = 0.693145751953125  # 15 bits
        self.low = math.log(2) - self.high


def _exp(emit: Emitter, x: Any) -> Any:
    """exp of a vector of numbers <= 0; NaN stays NaN, what would underflow becomes about 1e-38 (1e-308)."""
    builder, own = emit.builder, _Format(emit.size == 8)
    integers = ir.VectorType(own.integer, emit.lanes)

    def constant(value: float) -> Any:
        return ir.Constant(emit.vector, [ir.Constant(emit.element, value)] * emit.lanes)

    def whole(value: int) -> Any:
        return ir.Constant(integers, [ir.Constant(own.integer, value)] * emit.lanes)

    least = constant(own.least)
    x = builder.select(builder.fcmp_ordered("<", x, least), least, x)
    magic = constant(1.5 * 2.0**own.fraction)  # adding it leaves x / log 2, rounded, in the lowest bits
    shifted = emit.fma(x, constant(1 / math.log(2)), magic)
    n = builder.fsub(shifted, magic)
    r = emit.fma(n, constant(-own.low), emit.fma(n, constant(-own.high), x))
    result = constant(1 / math.factorial(own.degree))
    for power in range(own.degree - 1, -1, -1):
        result = emit.fma(result, r, constant(1 / math.factorial(power)))
    exponent = builder.shl(builder.add(builder.bitcast(shifted, integers), whole(own.bias)), whole(own.fraction))
    return builder.fmul(result, builder.bitcast(exponent, emit.vector))


@machine
def softmax_lanes(
    typingctx: Any, outputs: Any, delta: Any, features: Any, stride: Any, scale: Any, largest: Any, sums: Any
) -> Any:
    """For one vector of samples: delta[f·stride:] = scale · softmax(outputs[f·stride:]) over f < features; `largest` receives
    the largest output of each sample, `sums` the sum of exp(output - largest)."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        outputs, delta, features, stride, scale, largest, sums = values
        emit = Emitter(builder, outputs.type.pointee)
        top = cgutils.alloca_once_value(builder, emit.load(outputs))
        with cgutils.for_range(builder, features) as loop:
            value, known = emit.load(emit.at(outputs, builder.mul(loop.index, stride))), builder.load(top)
            builder.store(builder.select(builder.fcmp_ordered(">", value, known), value, known), top)
        highest, total = builder.load(top), cgutils.alloca_once_value(builder, emit.zero())
        with cgutils.for_range(builder, features) as loop:
            at = builder.mul(loop.index, stride)
            power = _exp(emit, builder.fsub(emit.load(emit.at(outputs, at)), highest))
            builder.store(builder.fadd(builder.load(total), power), total)
            emit.store(power, emit.at(delta, at))
        factor = builder.fdiv(emit.splat(scale), builder.load(total))
        with cgutils.for_range(builder, features) as loop:
            own = emit.at(delta, builder.mul(loop.index, stride))
            emit.store(builder.fmul(emit.load(own), factor), own)
        emit.store(highest, largest)
        emit.store(builder.load(total), sums)
        return context.get_dummy_value()

    words = types.int64
    assert WORD.width == 64
    return types.void(outputs, outputs, words, words, outputs.dtype, outputs, outputs), codegen
