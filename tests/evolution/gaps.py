"""A criterion that a user might define, in a module of its own so that other processes can import it."""

from __future__ import annotations

from collections.abc import Sequence

from evoprune.criteria import criterion
from evoprune.masks.mask import Mask
from evoprune.training.trace import Floats, Trace

__all__ = ["overfitting"]


@criterion("min")
def overfitting(trace: Trace, masks: Sequence[Mask]) -> Floats:
    """How much the validation loss is above the training loss."""
    return trace.last("val_loss") - trace.last("train_loss")
