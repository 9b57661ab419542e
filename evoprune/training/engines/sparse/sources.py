"""Samples in batch-last form, as kernels read them: a batch of a data set by its indices, or a batch as it is."""

from __future__ import annotations

import weakref
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from evoprune.training.engines.kernels import gather
from evoprune.training.engines.kernels.runtime import Program, address_of, launch
from evoprune.training.engines.kernels.vectors import lanes
from evoprune.training.engines.sparse.values import Layout

if TYPE_CHECKING:
    from evoprune.training.engines.sparse.tables import At, Plan

__all__ = ["Batch", "Source"]


class Buffer:
    """Room for `rows` times the samples of a plan, `layout` a block.

    at: where the samples lie, in the form of `Tables`.
    """

    def __init__(self, layout: Layout, plan: Plan, dtype: torch.dtype, rows: int = 1) -> None:
        self.buffer = torch.zeros(rows * plan.blocks * layout.numbers, dtype=dtype)
        size = self.buffer.element_size()
        self._row = plan.blocks * layout.numbers * size
        self.at: At = (self.buffer.data_ptr(), self._row if rows > 1 else 0, 0, layout.numbers * size)
        image = layout.channels, layout.height, layout.width
        args = np.zeros(gather.WORDS, dtype=np.int64)
        args[gather.SAMPLES], args[gather.BLOCK], args[gather.BLOCK_NUMBERS] = plan.samples, layout.block, layout.numbers
        # without a border the lines follow each other, as they do in the data
        args[gather.CHANNELS], args[gather.LINES], args[gather.WIDTH] = image if layout.pad else (1, 1, prod(image))
        args[gather.ORIGIN], args[gather.CHANNEL], args[gather.LINE] = layout.origin, layout.channel, layout.line
        args[gather.LANES], args[gather.SIZE] = lanes(8 * size), size
        self._args = args
        self._program = Program([[(address_of(gather.gather, dtype), args)]], -(-plan.samples // gather.TOGETHER), 1)

    def copy(self, data: Tensor, indices: Tensor, threads: int, row: int = 0) -> None:
        """Copy the samples at positions `indices` of `data`, both contiguous, indices int64."""
        self._args[gather.DATA], self._args[gather.INDICES] = data.data_ptr(), indices.data_ptr()
        self._args[gather.TARGET] = self.buffer.data_ptr() + row * self._row
        launch(self._program, threads)


class Batch(Buffer):
    """Samples of `data` `(n, …)`, chosen anew at each step."""

    def __init__(self, data: Tensor, layout: Layout, plan: Plan) -> None:
        super().__init__(layout, plan, data.dtype)
        self.data, self.layout = data.contiguous(), layout

    def take(self, indices: Tensor, threads: int) -> None:
        """Copy the samples at positions `indices`, int64 and contiguous."""
        self.copy(self.data, indices, threads)


class Source(Buffer):
    """A batch as it is; kept while the same batch goes through chunk after chunk."""

    def __init__(self, plan: Plan, dtype: torch.dtype) -> None:
        value = plan.network.source
        super().__init__(Layout(*value.image, value.root.pad, plan.block), plan, dtype, 1 if plan.shared else plan.rows)
        self.plan, self._all = plan, torch.arange(plan.samples)
        self._batch: weakref.ref[Tensor] | None = None
        self._version = -1

    def fill(self, batch: Tensor) -> None:
        """Copy `batch` in, unless it is there already."""
        version = -1 if batch.is_inference() else batch._version
        if self._batch is not None and self._batch() is batch and self._version == version >= 0:
            return
        data = batch.detach().contiguous()
        for row, own in enumerate([data] if self.plan.shared else data):
            self.copy(own, self._all, torch.get_num_threads(), row)
        self._batch, self._version = weakref.ref(batch), version
