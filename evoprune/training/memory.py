"""What to do when memory runs out, on the CPU or a GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from evoprune.errors import NotEnoughMemory
from evoprune.shortage import out_of_memory

__all__ = ["available_memory", "check_memory", "largest", "release_memory"]


def available_memory(device: torch.device | None = None) -> int | None:
    """Bytes that new numbers can take on a CUDA device, or else on the CPU, the limit of a container included.

    None where the system does not say.
    """
    if device is not None and device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    found = []
    with suppress(OSError, ValueError, IndexError):
        [line] = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")]
        found.append(int(line.split()[1]) * 1024)
    with suppress(OSError, ValueError):
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        found.append(limit - used)
    return min(found, default=None)


def check_memory(networks: int, needed: int, device: torch.device) -> None:
    """Raise `NotEnoughMemory` when `needed` bytes for that many networks are more than there are on the device.

    A system that promises more memory than it has would end the process later, without a word.
    """
    available = available_memory(device)
    if available is not None and needed > available:
        raise NotEnoughMemory(
            f"out of memory: {networks:,} networks need at least {needed / 2**30:.1f} GiB and {available / 2**30:.1f} GiB are "
            "free: train fewer at a time, or raise sparsity"
        )


def release_memory() -> None:
    """Give back what a failed attempt held."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def largest(attempt: Callable[[int], object], *, first: int, most: int) -> int:
    """The largest number up to `most` for which `attempt(number)` does not run out of memory, to within an eighth; at least 1.

    From `first` on the number is doubled until memory runs out, and what lies between is then halved. Any other error is
    raised, and so is an attempt with 1 that fails.
    """
    good, bad, number = 0, most + 1, min(first, most)
    while True:
        if _fits(attempt, number):
            good = number
        elif number == 1:
            attempt(1)  # says itself what is missing
            return 1
        else:
            bad = number
        if good == most or (bad <= most and bad - good <= max(1, good // 8)):
            return good
        number = min(2 * good, most) if bad > most else max(1, (good + bad) // 2)


def _fits(attempt: Callable[[int], object], number: int) -> bool:
    try:
        attempt(number)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        error.__traceback__ = None  # its frames hold what was allocated
        return False
    finally:
        release_memory()
    return True
