"""Loss and accuracy of every network of a population on a whole split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from evoprune.problems.losses import hits
from evoprune.problems.problem import Problem
from evoprune.problems.splits import Split
from evoprune.training.batches import Batches
from evoprune.training.engines import Chunk

__all__ = ["evaluate"]


def evaluate(
    chunks: Sequence[Chunk], problem: Problem, split: Split, batches: Batches, k: int
) -> dict[str, npt.NDArray[np.float64]]:
    """Mean loss `(k,)` and accuracy `(k,)` (NaN unless it is a classification), in float64, on all of `split`."""
    inputs, targets = (batches.inputs, batches.targets) if split is problem.split("train") else batches.place(split)
    loss = torch.zeros(k, dtype=torch.float64, device=inputs.device)
    right = torch.full((k,), 0.0 if problem.task == "classification" else float("nan"), dtype=torch.float64, device=inputs.device)
    with torch.no_grad():
        for chunk in chunks:
            chunk.eval()
        for x, y in zip(inputs.split(batches.size), targets.split(batches.size), strict=True):
            for chunk in chunks:
                rows, outputs = slice(chunk.start, chunk.stop), chunk(x)
                loss[rows] += problem.loss.per_sample(outputs, y).double().sum(1)
                if problem.task == "classification":
                    right[rows] += hits(outputs, y).sum(-1)
    return {"loss": (loss / len(split)).cpu().numpy(), "accuracy": (right / len(split)).cpu().numpy()}
