"""The end of an epoch: what the networks are worth, and which have failed, goes into the trace."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from evoprune.training.parameters import Parameters

if TYPE_CHECKING:
    from evoprune.training.population import Population

__all__ = ["catch_up", "finish_epoch"]

progress = logging.getLogger("evoprune.progress")


def catch_up(population: Population) -> None:
    """Finish an epoch whose steps are all taken, but which has no row, since an interrupt came before."""
    ended = population.steps and population.steps % population.batches.per_epoch == 0
    if ended and population.trace.lacks(population.epoch) and population._loss.any():  # no loss: its steps were not taken here
        finish_epoch(population)


def finish_epoch(population: Population) -> None:
    """Evaluate on the validation split, and give every network its row of the epoch that has ended."""
    train_loss = (population._loss / population.batches.per_epoch).cpu().numpy()
    trace, counts = population.trace, [mask.count for mask in population.masks]
    values = population._evaluate("validation")
    trace.failed |= ~np.isfinite(train_loss) | ~np.isfinite(values["loss"]) | ~_finite(population.parameters)
    trace.add(
        population.epoch,
        {
            "train_loss": train_loss,
            "val_loss": values["loss"],
            "val_accuracy": values["accuracy"],
            "survivors": counts,
            "failed": trace.failed.tolist(),
        },
    )
    progress.debug("epoch %d of %d, %d networks", population.epoch, population.horizon, len(population))


def _finite(parameters: Parameters) -> npt.NDArray[np.bool_]:
    """Whether all values of each row are finite, `(K,)`."""
    good = np.ones(len(parameters), dtype=bool)
    for name, value in parameters.survivors.items():
        bad = parameters.owners(name)[~torch.isfinite(value.detach())]
        good[bad.unique().cpu().numpy()] = False
    for value in parameters.stacked.values():
        good &= torch.isfinite(value.detach()).reshape(len(parameters), -1).all(1).cpu().numpy()
    return good
