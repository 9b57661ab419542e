"""Exact top-k over survivors, ties broken by index, with per-layer floors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evoprune.errors import InputError
from evoprune.masks.mask import Mask

__all__ = ["check_floors", "keep_counts", "keep_top", "largest"]

Scores = Sequence[npt.NDArray[np.float64]]


def largest(scores: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.bool_]:
    """Which entries are the `count` largest; of equal ones the first. Raises `InputError` for a NaN."""
    if np.isnan(scores).any():
        raise InputError("a score is NaN: the network it comes from has diverged, lower the learning rate")
    if count <= 0 or not len(scores):
        return np.zeros(len(scores), dtype=bool)
    if count >= len(scores):
        return np.ones(len(scores), dtype=bool)
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    chosen: npt.NDArray[np.bool_] = scores > threshold
    chosen[np.flatnonzero(scores == threshold)[: count - int(chosen.sum())]] = True
    return chosen


def check_floors(mask: Mask, budget: int, *, floor: int = 1) -> None:
    """Raise `InputError` for a budget that leaves a layer of `mask` fewer than `floor` survivors, or than it has."""
    least = sum(min(floor, count) for count in mask.counts)
    if budget < least:
        most = 1 - least / mask.space.prunable
        layers = sum(count > 0 for count in mask.counts)
        raise InputError(
            f"{budget} survivors are fewer than {floor} in each of {layers} layers: choose a sparsity of at most {most:.6g}"
        )


def keep_counts(mask: Mask, scores: Scores, counts: Sequence[int]) -> Mask:
    """The `counts` best survivors of each layer; `scores`: one array a layer, aligned with the mask's survivors."""
    return Mask._trusted(
        mask.space, (own[largest(score, count)] for own, score, count in zip(mask.survivors, scores, counts, strict=True))
    )


def keep_top(mask: Mask, scores: Scores, budget: int, *, floor: int = 1) -> Mask:
    """The `budget` best survivors of all layers together, no layer below `floor` (or what it has, if that is less)."""
    if budget > mask.count:
        raise InputError(f"{budget} survivors cannot be kept of {mask.count}: ask for fewer")
    check_floors(mask, budget, floor=floor)
    reserved = [largest(score, min(floor, len(score))) for score in scores]
    left = budget - sum(int(chosen.sum()) for chosen in reserved)
    flat, first = np.concatenate(list(scores)), np.concatenate(reserved)
    others = np.flatnonzero(~first)
    first[others[largest(flat[others], left)]] = True
    pieces = np.split(first, np.cumsum(mask.counts)[:-1])
    return Mask._trusted(mask.space, (own[chosen] for own, chosen in zip(mask.survivors, pieces, strict=True)))
