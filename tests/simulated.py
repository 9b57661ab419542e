"""A device that is none: numbers lie on the CPU, and torch treats them as on a GPU. For checks in a process of their own.

`torch.device("sim")` is torch's backend for private use, written in Python. An operation that mixes its tensors with the CPU's
raises, as on a GPU, `.numpy()` raises, and whatever makes the host wait is kept in `READS`: a number that it reads, or numbers
that it sends from memory which is not pinned. Importing this module changes torch for the whole process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from evoprune.training import options, recorded
from evoprune.training.engines import dense

aten = torch.ops.aten
READS: list[str] = []
"""Operations that made the host wait, in their order."""


class _Module(_DummyBackendModule):  # type: ignore[misc]
    """`torch.sim`."""

    state = torch.zeros(16, dtype=torch.uint8)

    def get_rng_state(self, device: Any = None) -> Tensor:
        return self.state.clone()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        self.state = state.clone()


_setup_privateuseone_for_python_backend("sim", backend_module=_Module())


class Simulated(Tensor):
    """A tensor on the device; `raw` is what it holds."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> Simulated:
        layout = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype, "layout": raw.layout}
        made = Tensor._make_wrapper_subclass(cls, raw.size(), device=torch.device("sim:0"), **layout)  # type: ignore[attr-defined]
        made.raw = raw
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in MOVES:
            return MOVES[function](*args, **kwargs)
        if function in (
            aten.index.Tensor,
            aten.index_put_.default,
            aten._index_put_impl_.default,
        ):  # torch moves positions itself
            args = (args[0], [Simulated(i) if isinstance(i, Tensor) and _host(i) else i for i in args[1]], *args[2:])
        raws, options = tree_map(_strict, (list(args), kwargs))
        if "device" in options:
            options["device"] = torch.device("cpu")
        own = {id(one.raw): one for one in args if isinstance(one, Simulated)}
        return tree_map(lambda v: own.get(id(v), Simulated(v)) if isinstance(v, Tensor) else v, function(*raws, **options))


def _host(value: Tensor) -> bool:
    return not isinstance(value, Simulated)


def _strict(value: Any) -> Any:
    """What the device holds. Raises for a tensor of the CPU, save a single number, which torch takes along."""
    if isinstance(value, Tensor) and _host(value) and value.dim():
        raise RuntimeError("Expected all tensors to be on the same device, found at least two devices, sim and cpu")
    return _raw(value)


def _raw(value: Any) -> Any:
    return value.raw if isinstance(value, Simulated) else value


def _number(value: Simulated) -> Any:
    READS.append("item")
    return aten._local_scalar_dense.default(value.raw)


def _copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    if _host(target) != _host(source):
        READS.append("copy" if _host(target) else "send")
    _raw(target).copy_(_raw(source))
    return target


def _to_copy(value: Tensor, *, device: Any = None, dtype: Any = None, memory_format: Any = None, **_: Any) -> Tensor:
    raw = _raw(value)
    moved: Tensor = aten._to_copy.default(raw, dtype=dtype or raw.dtype, memory_format=memory_format)
    if device is None or torch.device(device).type == "sim":
        READS.extend(["send"] if _host(value) else [])
        return Simulated(moved)
    READS.append("to")
    return moved


MOVES = {aten._local_scalar_dense.default: _number, aten.copy_.default: _copy, aten._to_copy.default: _to_copy}
INDEXED = (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default)


def _empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):  # type: ignore[no-untyped-def]
    return Simulated(torch.empty(size, dtype=dtype))


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):  # type: ignore[no-untyped-def]
    return Simulated(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    return _copy(target, source)


torch.library.impl("aten::empty.memory_format", "privateuseone", _empty)
torch.library.impl("aten::empty_strided", "privateuseone", _empty_strided)
torch.library.impl("aten::_copy_from", "privateuseone", _copy_from)


@contextmanager
def reads() -> Iterator[list[str]]:
    """What makes the host wait in the block."""
    before = len(READS)
    found: list[str] = []
    yield found
    found += READS[before:]


options.CAPTURABLE_ON = (*options.CAPTURABLE_ON, "sim")
dense.BATCH_LAST_ON = (*dense.BATCH_LAST_ON, "sim")
recorded.RECORDERS["sim"] = lambda call, pool, device: (call, pool)
recorded.WATCHERS["sim"] = lambda device: reads()
