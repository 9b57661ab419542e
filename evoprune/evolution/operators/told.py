"""What training told about an individual, for operators that listen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evoprune.errors import MaskMismatch
from evoprune.masks.mask import Indices, Mask

__all__ = ["Told"]

Scores = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Told:
    """Hung on an individual as `individual.told` by whoever trained it; absent, or None, when nothing is known.

    mask: the mask that was trained; the individual's own may have been varied since, and is aligned with it by index.
    movement: per layer abs(w - w0), one number a survivor of `mask`; w0 where this training began, with its parent's values
    where it inherited them. grown: per layer the candidates to turn on, as
    (distinct flat indices, scores), such as the largest dense gradients on a batch; None when they were not computed.
    Copies share it. Raises `MaskMismatch` when arrays do not fit.
    """

    mask: Mask
    movement: tuple[Scores, ...]
    grown: tuple[tuple[Indices, Scores], ...] | None = None

    def __post_init__(self) -> None:
        if tuple(len(layer) for layer in self.movement) != self.mask.counts:
            raise MaskMismatch(
                f"movement of {[len(layer) for layer in self.movement]} weights for {list(self.mask.counts)} survivors: "
                "give one number a survivor"
            )
        if self.grown is not None and len(self.grown) != len(self.mask.space):
            raise MaskMismatch(
                f"candidates for {len(self.grown)} of {len(self.mask.space)} layers: give (indices, scores) for each"
            )
        for indices, scores in self.grown or ():
            if len(indices) != len(scores):
                raise MaskMismatch(f"{len(indices)} candidates with {len(scores)} scores: give one score a candidate")

    def __copy__(self) -> Told:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Told:
        return self
