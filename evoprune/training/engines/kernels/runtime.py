"""How compiled kernels are written, called and spread over threads.

A kernel is a plain Python function `(args, kind, row, slot, block)`: `args` are its int64 arguments (addresses, strides,
counts), `kind` a null pointer that only carries the element type, `row` the individual, `slot` the thread, `block` the block
of the batch. It is compiled once a type (cached on disk) and known by its address from then on. A program is a list of such
addresses with their arguments; `launch` runs the whole program for every individual, one individual a thread at a time, so
that what one layer writes is still in the core's cache when the next layer reads it, and no thread waits between layers.

The threads are torch's own (the OpenMP pool that torch has loaded), so that two pools never spin for the same cores. Who
computes an individual has no influence on its bits.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import platform
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba import cfunc, njit, types
from numba.extending import intrinsic

__all__ = [
    "FAST",
    "Program",
    "address",
    "address8",
    "address32",
    "address64",
    "address_of",
    "addressd",
    "bits",
    "double",
    "inline",
    "kernel",
    "launch",
    "machine",
    "move",
    "number",
    "pointer",
    "zero",
]

FAST = {"reassoc", "nsz", "arcp", "contract", "afn"}
"""Fast-math flags without nnan and ninf: a NaN stays one."""

FLUSH = 0x8040
"""Bits of the x86 control register that flush denormals to zero, as operands and as results."""

Body = Callable[..., None]


def machine(function: Callable[..., Any]) -> Any:
    """A numba intrinsic: `function(typingctx, types…)` gives a signature, and a function that emits its machine code."""
    return intrinsic(function)


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """A helper that kernels call: compiled into its caller."""
    compiled: Callable[..., Any] = njit(nogil=True, fastmath=FAST, error_model="numpy", inline="never")(function)
    return compiled


class kernel:  # noqa: N801 - reads as the decorator it is
    """Decorator: a kernel, compiled when its address is asked for."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.__doc__, self.__name__ = body.__doc__, body.__name__


_kept: list[Any] = []  # compiled functions stay alive as long as their addresses are in use


@functools.cache
def address_of(entry: kernel, dtype: torch.dtype) -> int:
    """Address of the machine code of `entry` for float32 or float64."""
    element = types.CPointer(types.float32 if dtype == torch.float32 else types.float64)
    signature = types.void(types.CPointer(types.int64), element, types.int64, types.int64, types.int64)
    compiled: Any = cfunc(signature, cache=True, fastmath=FAST, error_model="numpy")(entry.body)
    _kept.append(compiled)
    return int(compiled.address)


# ---- what Python cannot say: pointers, calls by address, atomics, the denormal flag ------------------------------------


@machine
def pointer(typingctx: Any, args: Any, kind: Any, position: Any, row: Any, slot: Any, block: Any) -> Any:
    """Pointer of `kind`'s type to where the buffer described by `args[position:position + 4]` (address, and bytes from one
    individual, thread and block to the next) holds this individual's numbers."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        args, kind, position, *at = values
        base = builder.gep(args, [position])
        total = builder.load(base)
        for number, index in enumerate(at, start=1):
            stride = builder.load(builder.gep(base, [ir.Constant(ir.IntType(64), number)]))
            total = builder.add(total, builder.mul(stride, index))
        return builder.inttoptr(total, kind.type)

    return kind(args, kind, types.int64, types.int64, types.int64, types.int64), codegen


@machine
def address(typingctx: Any, kind: Any, where: Any) -> Any:
    """The number `where` as a pointer of `kind`'s type."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[1], values[0].type)

    return kind(kind, types.int64), codegen


@machine
def address32(typingctx: Any, where: Any) -> Any:
    """The number `where` as a pointer to int32."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], ir.IntType(32).as_pointer())

    return types.CPointer(types.int32)(types.int64), codegen


@machine
def address64(typingctx: Any, where: Any) -> Any:
    """The number `where` as a pointer to int64."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(types.int64), codegen


@machine
def zero(typingctx: Any, kind: Any) -> Any:
    """Zero of `kind`'s element type."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return ir.Constant(values[0].type.pointee, 0.0)

    return kind.dtype(kind), codegen


@machine
def number(typingctx: Any, kind: Any, value: Any) -> Any:
    """A float64 in `kind`'s element type, so that arithmetic with it stays in that type."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        element = values[0].type.pointee
        return values[1] if isinstance(element, ir.DoubleType) else builder.fptrunc(values[1], element)

    return kind.dtype(kind, types.float64), codegen


@machine
def address8(typingctx: Any, where: Any) -> Any:
    """The number `where` as a pointer to int8."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], ir.IntType(8).as_pointer())

    return types.CPointer(types.int8)(types.int64), codegen


@machine
def move(typingctx: Any, kind: Any, count: Any) -> Any:
    """The pointer `count` elements on."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.gep(values[0], [values[1]])

    return kind(kind, types.int64), codegen


@machine
def addressd(typingctx: Any, where: Any) -> Any:
    """The number `where` as a pointer to float64."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], ir.DoubleType().as_pointer())

    return types.CPointer(types.float64)(types.int64), codegen


@machine
def double(typingctx: Any, bits: Any) -> Any:
    """The float64 with these bits."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], ir.DoubleType())

    return types.float64(types.int64), codegen


def bits(number: float) -> int:
    """The bits of a float64, as arguments carry it."""
    return int(np.float64(number).view(np.int64))


@machine
def _call(typingctx: Any, code: Any, args: Any, row: Any, slot: Any, block: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = ir.IntType(64)
        function = ir.FunctionType(ir.VoidType(), [word] * 5)
        code, args, row, slot, block = values
        builder.call(builder.inttoptr(code, function.as_pointer()), [args, ir.Constant(word, 0), row, slot, block])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@machine
def _next(typingctx: Any, counters: Any, which: Any) -> Any:
    """Atomic fetch and add 1."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.atomic_rmw("add", builder.gep(values[0], [values[1]]), ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(types.CPointer(types.int64), types.int64), codegen


X86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")


@machine
def _control(typingctx: Any, value: Any) -> Any:
    """Set the floating-point control register to `value` unless negative; returns what it was."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word, module = ir.IntType(32), builder.module
        if not X86:
            return ir.Constant(ir.IntType(64), 0)
        space = builder.alloca(word)
        raw = builder.bitcast(space, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])

        def declared(name: str) -> Any:
            return module.globals.get(name) or ir.Function(module, kind, name)

        builder.call(declared("llvm.x86.sse.stmxcsr"), [raw])
        before = builder.zext(builder.load(space), ir.IntType(64))
        with builder.if_then(builder.icmp_signed(">=", values[0], ir.Constant(ir.IntType(64), 0))):
            builder.store(builder.trunc(values[0], word), space)
            builder.call(declared("llvm.x86.sse.ldmxcsr"), [raw])
        return before

    return types.int64(types.int64), codegen


# ---- running a program --------------------------------------------------------------------------------------------------

HEADER = 6
"""Words that come first: next slot, next individual, individuals, blocks, segments, operations that come last. The ends of the
segments follow, then address and arguments of each operation."""


def _work(data: Any) -> None:
    """One thread: take individuals until none is left; for each, segment by segment, every block through every operation of the
    segment, then what comes last."""
    slot = _next(data, 0)
    before = _control(-1)
    _control(before | FLUSH)
    rows, blocks, segments, last = data[2], data[3], data[4], data[5]
    first = HEADER + segments
    while True:
        row = _next(data, 1)
        if row >= rows:
            break
        begin = 0
        for segment in range(segments):
            end = data[HEADER + segment]
            for block in range(blocks):
                for operation in range(begin, end):
                    _call(data[first + 2 * operation], data[first + 2 * operation + 1], row, slot, block)
            begin = end
        for operation in range(begin, begin + last):
            _call(data[first + 2 * operation], data[first + 2 * operation + 1], row, slot, 0)
    _control(before)


@functools.cache
def _worker() -> tuple[int, Callable[[int], None]]:
    """The thread's function: its address, and as a Python function of the program's address."""
    compiled: Any = cfunc(types.void(types.CPointer(types.int64)), cache=True)(_work)
    _kept.append(compiled)
    return int(compiled.address), ctypes.CFUNCTYPE(None, ctypes.c_void_p)(compiled.address)


@functools.cache
def _team() -> Any:
    """`GOMP_parallel` of the OpenMP library that torch has loaded, or None where there is none."""
    names = ("libgomp*.so*", "libiomp5.*", "libomp.*")
    folder = Path(torch.__file__).parent
    found = [path for place in (folder / "lib", folder.parent / "torch.libs") for name in names for path in place.glob(name)]
    if sys.platform == "win32":
        return None
    for path in [str(path) for path in found] + [None]:  # None: symbols of the process itself
        try:
            entry = ctypes.CDLL(path).GOMP_parallel
        except (OSError, AttributeError):
            continue
        entry.argtypes, entry.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
        return entry
    return None


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="evoprune")


Operation = tuple[int, Sequence[int] | npt.NDArray[np.int64]]


class Program:
    """Operations with their arguments, ready to run for `rows` individuals and `blocks` blocks of the batch.

    segments: lists of (address of the kernel, its int64 arguments); no block enters a segment before all have left the one
    before. last: operations that run once an individual, after its last block. Arguments given as an int64 array are read there
    at every launch; all stay writable through `args`.
    """

    def __init__(self, segments: Sequence[Sequence[Operation]], rows: int, blocks: int, last: Sequence[Operation] = ()) -> None:
        every = [*itertools.chain(*segments), *last]
        self.args: list[npt.NDArray[np.int64]] = [np.asarray(args, dtype=np.int64) for _, args in every]
        words = [0, 0, rows, blocks, len(segments), len(last), *itertools.accumulate(map(len, segments))]
        for (code, _), args in zip(every, self.args, strict=True):
            words += [code, args.ctypes.data]
        self.words = np.array(words, dtype=np.int64)
        self.rows, self.address = rows, self.words.ctypes.data


def launch(program: Program, threads: int) -> None:
    """Run `program` on at most `threads` threads; the rest of the process may run Python meanwhile."""
    program.words[:2] = 0
    (code, worker), team = _worker(), _team()
    threads = min(threads, program.rows)
    if threads <= 1:
        worker(program.address)
    elif team is not None:
        team(code, program.address, threads, 0)
    else:
        list(_threads(threads).map(worker, [program.address] * threads))
