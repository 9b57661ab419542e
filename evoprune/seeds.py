"""Every random stream, derived by name from one seed (`numpy.random.SeedSequence`).

`derive(7, "masks", 3)` is the same 64 bits on every machine, whatever else was drawn before, so no result depends on a
position in a batch. Nothing here advances a global generator but what its name says; `isolated` puts all of them back.
"""

from __future__ import annotations

import hashlib
import operator
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from evoprune.errors import InputError

__all__ = ["check_seed", "derive", "generator", "isolated", "seed_all", "seed_torch", "states", "torch_generator"]


def check_seed(seed: object) -> int:
    """`seed` as a non-negative int, or `InputError`."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"seed {seed!r} is not usable: give a whole number >= 0")
    return int(seed)


def _sequence(seed: int, path: tuple[str | int, ...]) -> np.random.SeedSequence:
    words = [_word(part) for part in path]
    return np.random.SeedSequence(entropy=check_seed(seed), spawn_key=words)


def _word(part: str | int) -> int:
    """A number below 2^32 as it is, anything else hashed, so that no two paths are spelt by the same words."""
    if not isinstance(part, str) and 0 <= operator.index(part) < 2**32:
        return operator.index(part)
    return int.from_bytes(hashlib.sha256(str(part).encode()).digest()[:8])


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed for the stream named `path`."""
    return int(_sequence(seed, path).generate_state(1, np.uint64)[0] >> 1)


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """A numpy generator for the stream named `path`."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, path)))


def torch_generator(seed: int, *path: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator on `device` for the stream named `path`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *path))


def seed_torch(seed: int) -> None:
    """Seed torch's global generators, of the CPU and of GPUs in use.

    `torch.manual_seed` would also queue the seed for GPUs that are not in use yet, where nothing could take it back.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def seed_all(seed: int) -> None:
    """Seed the global generators of `random`, numpy and torch; takes a few microseconds."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002  whatever a user's own code draws from
    seed_torch(seed)


def states() -> tuple[object, ...]:
    """What `random`, numpy and torch (of the CPU and of GPUs in use) will draw next, to compare with what it was."""
    in_use = torch.cuda.is_available() and torch.cuda.is_initialized()
    of_torch = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if in_use else [])]
    kind, words, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return random.getstate(), (kind, np.asarray(words).tobytes(), *rest), [bytes(state.numpy()) for state in of_torch]


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
                seed_torch(derive(seed, *path, "torch"))
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
