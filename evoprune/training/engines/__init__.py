"""Engines: how a generation is trained. Importing this package registers them."""

from evoprune.training.engines.base import ENGINES, Chunk, Engine
from evoprune.training.engines.choice import make_engine
from evoprune.training.engines.dense import DenseEngine
from evoprune.training.engines.loop import LoopEngine
from evoprune.training.engines.sparse import SparseEngine

__all__ = ["ENGINES", "Chunk", "DenseEngine", "Engine", "LoopEngine", "SparseEngine", "make_engine"]
