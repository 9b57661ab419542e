"""How counts are told."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, noun: str) -> str:
    """As in "1 run" and "1,440 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
