"""How the activations of one layer lie in memory: batch-last, in blocks of the batch, with a border for convolutions."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

__all__ = ["Layout", "Value"]


@dataclass(frozen=True)
class Layout:
    """`(channels, height + 2 pad, width + 2 pad, block)`, numbers contiguous along the block of the batch."""

    channels: int
    height: int
    width: int
    pad: int
    block: int

    @property
    def line(self) -> int:
        """Numbers from one image line to the next."""
        return (self.width + 2 * self.pad) * self.block

    @property
    def channel(self) -> int:
        """Numbers from one channel to the next."""
        return (self.height + 2 * self.pad) * self.line

    @property
    def origin(self) -> int:
        """Where the first pixel inside the border lies."""
        return self.pad * (self.line + self.block)

    @property
    def numbers(self) -> int:
        """Numbers in all."""
        return self.channels * self.channel

    def pixels(self, channel: int, line: int) -> int:
        """Offset in pixels."""
        return channel * (self.channel // self.block) + line * (self.line // self.block)


@dataclass(eq=False)
class Value:
    """One tensor of the network: `shape` without batch.

    root: the value whose memory a view shares, or itself. pad, delta_pad: borders that convolutions ask of the activations
    and of their gradients. gated: it came out of a ReLU that is fused into its producer, so that the gradient is zero where
    it is not positive. uses: operations that read it. needs: whether it depends on a trained parameter.
    """

    shape: tuple[int, ...]
    root: Value = field(default=None)  # type: ignore[assignment]
    pad: int = 0
    delta_pad: int = 0
    gated: bool = False
    uses: int = 0
    needs: bool = True

    def __post_init__(self) -> None:
        if self.root is None:
            self.root = self

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, height, width; a vector is as many channels of one pixel."""
        if len(self.shape) == 3:
            return self.shape[0], self.shape[1], self.shape[2]
        return prod(self.shape), 1, 1
