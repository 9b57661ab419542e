"""How products are computed: in the training precision itself, or on a GPU's matrix units with fewer digits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
    switches = _switches()
    before = [getattr(owner, name) for owner, name, *_ in switches]
    for owner, name, off, on in switches:
        setattr(owner, name, on if precision == "tf32" else off)
    try:
        yield
    finally:
        for (owner, name, *_), value in zip(switches, before, strict=True):
            setattr(owner, name, value)


def _switches() -> list[tuple[Any, str, Any, Any]]:
    """Owner, attribute, value without and value with TF32, for products and for convolutions."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    repeatable = convolutions, "deterministic", True, True
    if hasattr(convolutions, "conv"):  # torch >= 2.9, which refuses a mixture of the old and the new names
        return [repeatable, (products, "fp32_precision", "ieee", "tf32"), (convolutions.conv, "fp32_precision", "ieee", "tf32")]
    return [repeatable, (products, "allow_tf32", False, True), (convolutions, "allow_tf32", False, True)]
