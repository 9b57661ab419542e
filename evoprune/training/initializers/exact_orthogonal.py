"""Exact orthogonal initialization: sparse weights with WᵀW = σ²I.  [Nowak 2024, arXiv:2406.01755]

A permutation matrix is as sparse as an orthogonal one can be. A Givens rotation of two rows keeps it orthogonal and lets
both rows have the survivors of either, so random rotations lead to any density. A convolution gets the matrix at the
centre of its kernel and 0 elsewhere (delta-orthogonal, Xiao 2018, arXiv:1806.05393). Of a grouped convolution it is the matrix of
all groups, one below the other: each input of a group reaches its own outputs alone, so the layer as a whole is not orthogonal.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from evoprune import seeds
from evoprune.masks.allocation import Allocation, allocate
from evoprune.masks.mask import Indices, Mask
from evoprune.masks.sampling import complement, random_subset
from evoprune.masks.space import MaskSpace
from evoprune.problems.problem import Problem
from evoprune.training.initializers.table import INITIALIZERS, Weights
from evoprune.training.ledger import Ledger

__all__ = ["eoi", "eoi_weights", "gain_of"]

log = logging.getLogger("evoprune")

Matrix = npt.NDArray[np.float64]
TRIES = 64
"""Random pairs of rows that are tried before the rotations end, or are searched for."""
SWEEPS = 4
"""Times that each row of a given mask looks for a partner."""


def eoi(
    space: MaskSpace, sparsity: float, allocation: Allocation = "erk", seed: int = 0, *, gain: float = 1.0
) -> tuple[Mask, Weights]:
    """A mask with the counts of `allocation` and weights by name, float32, that are exactly orthogonal on it.

    With out outputs and in inputs a layer has WᵀW = gain²·I for out >= in, else WWᵀ = gain²·I. Its non-zero weights are within
    one rotation of its count; the rest of the survivors start at 0. A layer of fewer than min(out, in) survivors is
    orthogonal on as many of its units (logged). Cost: about (survivors / units) rotations of rows, no training.
    """
    survivors, weights, short = [], {}, []
    for layer, (name, shape, count) in enumerate(
        zip(space.names, space.shapes, allocate(space, sparsity, allocation), strict=True)
    ):
        rng = seeds.generator(seed, "eoi", layer)
        rows, columns, taps, centre = _kernel(shape)
        share = max(round(count / taps), min(rows, columns), count - rows * columns * (taps - 1))
        matrix = _rotated(rows, columns, min(share, count, rows * columns), rng)
        if count < min(rows, columns):
            short.append(f"{name} ({count} of {min(rows, columns)} units)")
        used = np.flatnonzero(matrix) * taps + centre
        # the survivors that no rotation reaches: in the matrix as far as it is to be filled, then anywhere else
        inner = complement(np.flatnonzero(matrix), rows * columns) * taps + centre
        wanted = min(share, count, rows * columns) - len(used)
        used = np.union1d(used, inner[random_subset(rng, len(inner), wanted)])
        free = _off_centre(rows * columns, taps, centre)
        used = np.union1d(used, free[random_subset(rng, len(free), count - len(used))])
        survivors.append(used)
        weights[name] = _placed(gain * matrix, shape, taps, centre)
    _tell(short)
    return Mask(space, survivors), weights


def eoi_weights(mask: Mask, seed: int = 0, *, gain: float = 1.0) -> Weights:
    """Exactly orthogonal weights for a mask that is chosen already, by name, float32.

    Few masks allow an orthogonal matrix without zeros. So the weights are a maximum matching of units among the survivors,
    opened up by the rotations that the mask has room for; the other survivors start at 0. A unit without a match has zero
    weights (logged). A layer that is not pruned is a random orthogonal matrix.
    """
    weights, dense, short = {}, mask.dense(), []
    for layer, (name, shape) in enumerate(zip(mask.space.names, mask.space.shapes, strict=True)):
        rng = seeds.generator(seed, "eoi", layer)
        rows, columns, taps, centre = _kernel(shape)
        support = dense[name].reshape(rows * columns, taps)[:, centre].reshape(rows, columns).numpy()
        matrix = _random_orthogonal(rows, columns, rng) if support.all() else _matched(support, rng)
        units, full = min(int(matrix.any(0).sum()), int(matrix.any(1).sum())), min(rows, columns)
        if units < full:
            short.append(f"{name} ({units} of {full} units)")
        weights[name] = _placed(gain * matrix, shape, taps, centre)
    _tell(short)
    return weights


class _Called(TorchFunctionMode):
    """Names of the functions that torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(getattr(func, "__name__", "").rstrip("_"))
        return func(*args, **(kwargs or {}))


def gain_of(problem: Problem) -> float:
    """σ that keeps the signal's size: √2 for a network with ReLUs or their like, which halve it, else 1.

    Seen in a pass over two training samples, so that functions in a `forward` count as layers do.
    """
    with seeds.isolated(), torch.no_grad(), _Called() as called:
        problem.module().train()(problem.split("train").inputs[:2].clone())  # which a model may change
    return 2**0.5 if called.names & {"relu", "leaky_relu", "gelu", "silu", "elu"} else 1.0


@INITIALIZERS.register("eoi")
def initialize(problem: Problem, mask: Mask, weights: Weights, ledger: Ledger) -> Weights:
    """Exactly orthogonal weights on the mask, by the problem's seed; without a sample."""
    return {**weights, **eoi_weights(mask, problem.seed, gain=gain_of(problem))}


# ---- matrices ---------------------------------------------------------------------------------------------------------


def _tell(short: list[str]) -> None:
    if short:
        more = f" and {len(short) - 3} more" if len(short) > 3 else ""
        log.warning("eoi: too few survivors to be orthogonal on every unit: %s%s", ", ".join(short[:3]), more)


def _rotated(rows: int, columns: int, count: int, rng: np.random.Generator) -> Matrix:
    """A matrix of at most `count` non-zeros whose shorter side is orthonormal, by random rotations."""
    if rows < columns:
        return _rotated(columns, rows, count, rng).T
    matrix = np.zeros((rows, columns))
    units = min(columns, count)
    matrix[rng.permutation(rows)[:units], rng.permutation(columns)[:units]] = rng.choice([-1.0, 1.0], units)
    support, left = matrix != 0, count - units
    while left > 0 and (pair := _pair(support, left, rng)):
        first, second = pair
        left += int(support[first].sum() + support[second].sum())
        _rotate(matrix, support, first, second, rng)
        left -= int(2 * support[first].sum())
    return matrix


def _pair(support: npt.NDArray[np.bool_], left: int, rng: np.random.Generator) -> tuple[int, int] | None:
    """Two rows whose rotation makes more non-zeros, at most `left`; None when a search finds none."""
    for _ in range(TRIES):
        first, second = (int(row) for row in rng.integers(len(support), size=2))  # a row with itself gains nothing
        gain = int((support[first] ^ support[second]).sum())
        if 0 < gain <= left:
            return first, second
    for first in (int(row) for row in rng.permutation(len(support))[:TRIES]):
        gains = (support ^ support[first]).sum(1)
        fitting = np.flatnonzero((gains > 0) & (gains <= left))
        if len(fitting):
            return first, int(rng.choice(fitting))
    return None


def _rotate(matrix: Matrix, support: npt.NDArray[np.bool_], first: int, second: int, rng: np.random.Generator) -> None:
    """Turn two rows by a random angle, in place."""
    angle = rng.uniform(0, 2 * np.pi)
    a, b = matrix[first].copy(), matrix[second].copy()
    matrix[first], matrix[second] = np.cos(angle) * a - np.sin(angle) * b, np.sin(angle) * a + np.cos(angle) * b
    support[first] |= support[second]
    support[second] = support[first]


def _matched(allowed: npt.NDArray[np.bool_], rng: np.random.Generator) -> Matrix:
    """A matrix with non-zeros in `allowed` alone, orthonormal on the units of a maximum matching."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    rows, columns = rng.permutation(allowed.shape[0]), rng.permutation(allowed.shape[1])  # which matching is found is random
    partner = maximum_bipartite_matching(csr_array(allowed[np.ix_(rows, columns)]), perm_type="column")
    found = np.flatnonzero(partner >= 0)
    matrix = np.zeros(allowed.shape)
    matrix[rows[found], columns[partner[found]]] = rng.choice([-1.0, 1.0], len(found))
    wide = allowed.shape[0] < allowed.shape[1]
    turned, room = (matrix.T, allowed.T) if wide else (matrix, allowed)
    _open_up(turned, room, rng)
    return turned.T if wide else turned


def _open_up(matrix: Matrix, allowed: npt.NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Rotate pairs of rows for which the mask has room, a few times each row with a random partner, in place."""
    support = matrix != 0
    closed = (~allowed).astype(np.float32)
    for first in _affordable(rng.permuted(np.tile(np.arange(len(matrix)), SWEEPS)), matrix.size):
        fits = (support @ closed[first] == 0) & (closed @ support[first] == 0) & (support ^ support[first]).any(1)
        fitting = np.flatnonzero(fits)
        if len(fitting):
            _rotate(matrix, support, int(first), int(rng.choice(fitting)), rng)


def _affordable(rows: Indices, size: int) -> Iterator[int]:
    """As many rows as a few seconds allow; all of them below about 1000 x 1000 weights."""
    yield from (int(row) for row in rows[: max(1, 4_000_000_000 // size)])


def _random_orthogonal(rows: int, columns: int, rng: np.random.Generator) -> Matrix:
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    turned: Matrix = q * np.sign(np.diag(r))
    return turned if rows >= columns else turned.T


# ---- kernels ----------------------------------------------------------------------------------------------------------


def _kernel(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Outputs, inputs, taps of a weight's kernel, and which tap is its centre."""
    kernel = shape[2:]
    taps = int(np.prod(kernel, dtype=np.int64))
    centre = int(np.ravel_multi_index([side // 2 for side in kernel], kernel)) if kernel else 0
    return shape[0], shape[1], taps, centre


def _off_centre(entries: int, taps: int, centre: int) -> Indices:
    flat = np.arange(entries * taps)
    others: Indices = flat[flat % taps != centre]
    return others


def _placed(matrix: Matrix, shape: tuple[int, ...], taps: int, centre: int) -> Tensor:
    weight = torch.zeros(matrix.size, taps, dtype=torch.float32)
    weight[:, centre] = torch.from_numpy(np.ascontiguousarray(matrix)).reshape(-1).float()
    return weight.reshape(shape)
