"""The sparse engine on a GPU: Triton kernels on the block-diagonal layout, torch's own operations for the rest.

Activations are batch-last, `(k, channels, lines, columns, B)`. The program is that of the sparse engine on a CPU (`Network`).
"""

from evoprune.training.engines.blocks.engine import BlockChunk, BlockEngine

__all__ = ["BlockChunk", "BlockEngine"]
