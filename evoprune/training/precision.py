"""How products are computed: in the training precision itself, or on a GPU's matrix units with fewer digits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch

from evoprune.errors import InputError

__all__ = ["PRECISIONS", "arithmetic", "autocast", "check_precision"]

PRECISIONS = ("full", "tf32", "bf16")
"""full: products in `dtype`. tf32: float32 products with 10-bit mantissas, on CUDA. bf16: products of bfloat16 numbers (7-bit
mantissas), summed in float32; weights, gradients, optimizer and loss stay float32."""

BFLOAT16_FROM = (8, 0)
"""Compute capability from which a GPU multiplies bfloat16 and TF32."""


def check_precision(precision: str, device: torch.device) -> None:
    """Raises `InputError` where `device` cannot multiply like that."""
    if precision == "tf32" and device.type != "cuda":
        raise InputError(f"precision='tf32' is CUDA's, the device is {device}: use precision='full' or 'bf16', or device='cuda'")
    if precision != "full" and device.type == "cuda" and torch.cuda.get_device_capability(device) < BFLOAT16_FROM:
        name = torch.cuda.get_device_name(device)
        raise InputError(f"precision={precision!r} needs compute capability 8.0, {name} has less: use precision='full'")


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The block's matrix products and convolutions in bfloat16 for "bf16"; nothing otherwise.

    Nothing is cached: weights change every step, and a captured step must not keep a cast of the first one.
    """
    if precision != "bf16":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """The block's float32 products on CUDA in TF32 for "tf32", and in float32 otherwise (cuDNN's own default is TF32).

    Convolutions take kernels whose sums have one order, so that a run can be repeated bit by bit. The switches are torch's, for
    the whole process; they are put back at the end. No effect on a CPU.
    """
    if device.type != "cuda":
        yield
        return
    before = _Switches.now()
    _Switches.for_tf32(precision == "tf32").turn()
    try:
        yield
    finally:
        before.turn()


@dataclass(frozen=True)
class _Switches:
    """What torch has for float32 products, by its old names and by its new ones.

    Both are set together: where they differ, whatever asks by the old ones (torch.compile does) gets an error.
    matmul: as of `torch.set_float32_matmul_precision`. operations: of `_operations()`.
    """

    deterministic: bool
    matmul: str
    cudnn: bool
    operations: tuple[str, ...]

    @classmethod
    def for_tf32(cls, on: bool) -> _Switches:
        """TF32 wherever torch has it, or nowhere."""
        word = "tf32" if on else "ieee"
        return cls(True, "high" if on else "highest", on, tuple(word for _ in _operations()))

    @classmethod
    def now(cls) -> _Switches:
        """As they are. Where the old names cannot be read, because a new one alone was changed, they stand as it did not."""
        operations = tuple(owner.fp32_precision for owner in _operations())
        matmul, cudnn = "highest", True
        if operations:
            matmul = "highest" if operations[0] == "tf32" else "high"
            cudnn = not set(operations[1:3]) <= {"tf32"}
        with suppress(RuntimeError):
            matmul = torch.get_float32_matmul_precision()
        with suppress(RuntimeError):
            cudnn = torch.backends.cudnn.allow_tf32
        return cls(torch.backends.cudnn.deterministic, matmul, cudnn, operations)

    def turn(self) -> None:
        """Give torch these values; the old names first, which set new ones too."""
        torch.backends.cudnn.deterministic = self.deterministic
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the old names are old
            torch.set_float32_matmul_precision(self.matmul)
            torch.backends.cudnn.allow_tf32 = self.cudnn
        for owner, value in zip(_operations(), self.operations, strict=True):
            owner.fp32_precision = value


def _operations() -> tuple[Any, ...]:
    """What has a precision of its own as of torch 2.9: products on CUDA, convolutions, recurrent layers, products on a CPU."""
    backends = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        return ()
    return backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul  # type: ignore[attr-defined]
