"""Every random stream, derived by name from one seed (`numpy.random.SeedSequence`).

`derive(7, "masks", 3)` is the same 64 bits on every machine, whatever else was drawn before, so no result depends on a
position in a batch. Nothing here reads or advances a global generator except `isolated`, which restores them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from evoprune.errors import InputError

__all__ = ["check_seed", "derive", "generator", "isolated", "torch_generator"]


def check_seed(seed: object) -> int:
    """`seed` as a non-negative int, or `InputError`."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"seed {seed!r} is not usable: give a whole number >= 0")
    return int(seed)


def _sequence(seed: int, path: tuple[str | int, ...]) -> np.random.SeedSequence:
    words = [part if isinstance(part, int) else int.from_bytes(hashlib.sha256(part.encode()).digest()[:8]) for part in path]
    return np.random.SeedSequence(entropy=check_seed(seed), spawn_key=words)


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed for the stream named `path`."""
    return int(_sequence(seed, path).generate_state(1, np.uint64)[0] >> 1)


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """A numpy generator for the stream named `path`."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, path)))


def torch_generator(seed: int, *path: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator on `device` for the stream named `path`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *path))


@contextmanager
def isolated(seed: int | None = None, *path: str | int) -> Iterator[None]:
    """Run a block with the global generators of `random`, numpy and torch seeded (when `seed` is given), then put back."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002  restoring what users rely on
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            if seed is not None:
                random.seed(derive(seed, *path, "random"))
                np.random.seed(derive(seed, *path, "numpy") & 0xFFFFFFFF)  # noqa: NPY002
                torch.manual_seed(derive(seed, *path, "torch"))
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
