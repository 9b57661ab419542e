"""One writer a file: an advisory lock that its process gives back by ending, however it ends."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from evoprune.errors import EvopruneError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["lock"]

log = logging.getLogger("evoprune")


def lock(file: int, path: Path) -> None:
    """Lock the open file (its descriptor) for writing until it is closed. Raises `EvopruneError` when another process has it."""
    if fcntl is None:
        log.warning("this platform has no file locks: take care that only one process writes %s", path)
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise EvopruneError(
                f"another process is writing {path}: wait for it or stop it, or give another --out or journal= (read_journal may "
                "read it)"
            ) from None
        log.warning("%s cannot be locked here (%s): take care that only one process writes it", path, error.strerror)
