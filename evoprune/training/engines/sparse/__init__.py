"""The sparse engine: survivors only, on a CPU."""

from evoprune.training.engines.sparse.engine import SparseChunk, SparseEngine

__all__ = ["SparseChunk", "SparseEngine"]
