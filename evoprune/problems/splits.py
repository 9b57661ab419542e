"""Train, validation and test: which samples go where, and how they are scaled."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.problems.arrays import Array

__all__ = ["Split", "Standardiser", "holdout"]

log = logging.getLogger("evoprune")

Rows = npt.NDArray[np.int64]
BLOCK = 1024  # samples scaled at a time: no second copy of the data in float64


@dataclass(frozen=True, eq=False)
class Split:
    """Samples that are used together.

    inputs: float32 `(N, …)` on the CPU; int64 for token ids. targets: int64 class numbers `(N,)`, float32 values `(N, …)`,
    or None for reconstruction, where the inputs are the targets.
    """

    inputs: torch.Tensor
    targets: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def goals(self) -> torch.Tensor:
        """What the outputs are compared with: the targets, or the inputs where there are none."""
        return self.inputs if self.targets is None else self.targets

    def __repr__(self) -> str:
        targets = "none" if self.targets is None else str(self.targets.dtype).removeprefix("torch.")
        return f"Split({len(self):,} samples of shape {tuple(self.inputs.shape[1:])}, targets: {targets})"


def holdout(samples: int, labels: Array | None, share: float, stream: str) -> tuple[Rows, Rows]:
    """Rows that stay and rows held out, both in ascending order; always the same for the same labels.

    share: held out, in (0, 1): floor(share·samples + 1/2) rows. labels: class numbers `(samples,)` to stratify by (each
    class gets its exact part by largest remainder, and leaves a sample that stays), or None to draw from all. stream: names
    the permutation. Raises `InputError` when a part would be empty; warns of classes that keep none.
    """
    size = int(share * samples + 0.5)
    if not 0 < size < samples:
        raise InputError(f"{samples} samples cannot spare a share of {share}: give more samples, or a validation set of your own")
    random = seeds.generator(0, stream)  # the split is the same whatever the seed of the problem
    if labels is None:
        held = np.sort(random.permutation(samples)[:size])
    else:
        classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        counts = np.array([len(rows) for rows in classes])
        parts = _largest_remainder(counts, size)
        if missing := int((parts == counts).sum()):
            log.warning("classes without a training sample left: %d; give more samples, or splits of your own", missing)
        held = np.sort(np.concatenate([random.permutation(rows)[:part] for rows, part in zip(classes, parts, strict=True)]))
    return np.setdiff1d(np.arange(samples), held, assume_unique=True), held


def _largest_remainder(counts: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """`size` seats shared in proportion to `counts`, in whole-number arithmetic; ties go to the lower class.

    While others can take a seat, none goes to the last sample of a class: it passes to the next remainder.
    """
    parts, remainders = np.divmod(counts * size, counts.sum())
    order = np.argsort(-remainders, kind="stable")
    while (left := size - parts.sum()) > 0:
        spare = counts[order] - parts[order]
        takers = order[spare > 1] if (spare > 1).any() else order[spare > 0]
        parts[takers[:left]] += 1
    return parts


def batch_sizes(samples: int, size: int) -> list[int]:
    """Sizes of the batches in which a split is evaluated: never a last one of a single sample.

    A model that squeezes its output loses an axis there, and a mean over samples that a loss ignores is 0 / 0.
    """
    whole, rest = divmod(samples, size)
    if rest == 1 and whole and size > 1:
        return [*[size] * (whole - 1), size // 2 + 1, size - size // 2] if size > 2 else [*[size] * (whole - 1), size + 1]
    return [*[size] * whole, *([rest] if rest else [])]


def grey(x: Array) -> bool:
    """Whether the samples are grey images without an axis for the channel, `(N, H, W)` of uint8."""
    return x.ndim == 3 and x.dtype == np.uint8


@dataclass(frozen=True, eq=False)
class Standardiser:
    """Turns raw samples into float32 tensors with the statistics of the training part.

    mean, std: float64, in a shape that broadcasts against a block of samples; std is 1 where the training data are constant.
    None: floats stay as they are and uint8 is divided by 255. Integers other than uint8 (token ids) always stay as they are.
    """

    mean: npt.NDArray[np.float64] | None = None
    std: npt.NDArray[np.float64] | None = None

    @classmethod
    def of(cls, x: Array, rows: Rows | None = None) -> Standardiser:
        """Statistics of the samples `rows` of `x`: per channel for images `(N, C, …)`, per feature for vectors `(N, F)`.

        Grey images `(N, H, W)` of uint8 have one channel; floats of that shape may be series, `(N, C, L)`.
        """
        first = 1 if grey(x) else 2
        axes = (0, *range(first, x.ndim))
        entries = (len(x) if rows is None else len(rows)) * int(np.prod(x.shape[first:], dtype=np.int64))
        mean = sum(block.sum(axes, keepdims=True) for block in _blocks(x, rows)) / entries
        # a second pass, because the difference of two large sums loses digits
        var = sum(((block - mean) ** 2).sum(axes, keepdims=True) for block in _blocks(x, rows)) / entries
        std = np.sqrt(var)
        return cls(mean, np.where(std > 1e-12 * np.abs(mean), std, 1.0))  # a constant's rounding error is no spread

    def __call__(self, x: Array, rows: Rows | None = None) -> torch.Tensor:
        """The samples `rows` of `x` (all when None) as a new tensor; `x` is not changed."""
        if x.dtype.kind in "iu" and x.dtype != np.uint8:
            return torch.from_numpy((x if rows is None else x[rows]).astype(np.int64))
        scaled = np.empty((len(x) if rows is None else len(rows), *x.shape[1:]), dtype=np.float32)
        start = 0
        for block in _blocks(x, rows):
            if self.mean is not None and self.std is not None:
                block = (block - self.mean) / self.std
            elif x.dtype == np.uint8:
                block = block / 255
            with np.errstate(over="ignore"):  # said below
                scaled[start : start + len(block)] = block
            start += len(block)
        if not np.isfinite(scaled).all():
            raise InputError("the inputs overflow float32: scale the data down")
        return torch.from_numpy(scaled)


def _blocks(x: Array, rows: Rows | None) -> Iterator[npt.NDArray[np.float64]]:
    for start in range(0, len(x) if rows is None else len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        yield x[part if rows is None else rows[part]].astype(np.float64)
