"""Engines: how a generation is trained. Importing this package registers them."""

from typing import Any

import torch

from evoprune.errors import UnsupportedLayer
from evoprune.training.engines.base import ENGINES, Chunk, Engine, FusedEvaluation, FusedStep
from evoprune.training.engines.choice import EngineChoice
from evoprune.training.engines.dense import DenseEngine
from evoprune.training.engines.loop import LoopEngine

__all__ = [
    "ENGINES",
    "Chunk",
    "DenseEngine",
    "Engine",
    "EngineChoice",
    "FusedEvaluation",
    "FusedStep",
    "LoopEngine",
]


@ENGINES.register("sparse")
def _sparse(*args: Any, **options: Any) -> Engine:
    """Survivors only, as one block-diagonal network; numba, or Triton on a GPU, is loaded when this engine is first used."""
    if torch.device(options["device"]).type == "cuda":
        try:
            from evoprune.training.engines.blocks import BlockEngine
        except ImportError:
            raise UnsupportedLayer("the sparse engine needs Triton on a GPU: pip install triton, or use engine='dense'") from None
        return BlockEngine(*args, **options)
    from evoprune.training.engines.sparse import SparseEngine

    return SparseEngine(*args, **options)
