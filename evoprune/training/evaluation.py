"""Loss and accuracy of every network of a population on a whole split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evoprune import seeds
from evoprune.problems.losses import hits
from evoprune.problems.problem import Problem
from evoprune.problems.splits import Split, batch_sizes
from evoprune.training.batches import Batches
from evoprune.training.engines import Chunk, Engine, FusedEvaluation
from evoprune.training.parameters import Parameters

__all__ = ["Evaluator"]


class Evaluator:
    """Evaluates the networks of one layout: as the engine's own call where it has one for a split, else chunk by chunk.

    What a model draws in evaluation too (dropout that stays on) follows from the seed and the batch: it is the same for every
    network, whatever its company, and every time.
    """

    def __init__(
        self, engine: Engine, parameters: Parameters, chunks: Sequence[Chunk], problem: Problem, batches: Batches, seed: int
    ) -> None:
        self._engine, self._parameters, self._chunks = engine, parameters, chunks
        self._problem, self._batches, self._seed = problem, batches, seeds.derive(seed, "evaluation") >> 1
        self._fused: dict[Split, FusedEvaluation | None] = {}

    def __call__(self, split: Split) -> dict[str, npt.NDArray[np.float64]]:
        """Mean loss `(K,)` and accuracy `(K,)` (NaN unless it is a classification), in float64, on all of `split`."""
        loss = torch.zeros(len(self._parameters), dtype=torch.float64, device=self._batches.device)
        right = torch.zeros_like(loss) if self._problem.task == "classification" else None
        if split not in self._fused:
            self._fused[split] = self._engine.fuse_evaluation(self._parameters, self._data(split), self._problem.loss)
        fused = self._fused[split]
        if fused is not None:
            fused(loss, right)
        else:
            self._by_chunks(self._data(split), loss, right)
        accuracy = torch.full_like(loss, float("nan")) if right is None else right / len(split)
        return {"loss": (loss / len(split)).cpu().numpy(), "accuracy": accuracy.cpu().numpy()}

    def _data(self, split: Split) -> tuple[Tensor, Tensor]:
        training = split is self._problem.split("train")
        return (self._batches.inputs, self._batches.targets) if training else self._batches.place(split)

    def _by_chunks(self, data: tuple[Tensor, Tensor], loss: Tensor, right: Tensor | None) -> None:
        sizes = batch_sizes(len(data[0]), self._batches.size)
        with seeds.isolated(), torch.no_grad():
            for chunk in self._chunks:
                chunk.eval()
            for number, (x, y) in enumerate(zip(data[0].split(sizes), data[1].split(sizes), strict=True)):
                for chunk in self._chunks:
                    seeds.seed_all(self._seed + number)  # microseconds, whether or not the model draws
                    rows, outputs = slice(chunk.start, chunk.stop), chunk(x)
                    loss[rows] += self._problem.loss.per_sample(outputs, y).double().sum(1)
                    if right is not None:
                        right[rows] += hits(outputs, y).sum(-1)
