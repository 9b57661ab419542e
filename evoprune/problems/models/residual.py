"""Residual models whose shortcuts have no weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from evoprune.problems.models.convolutional import halved, image
from evoprune.problems.models.entry import COLOUR, Shape, model

__all__ = ["Block", "Shortcut", "resnet20", "resnet32"]


class Shortcut(nn.Module):
    """Option A of He et al. 2016: every second pixel, and zero channels for those that are new. It has no weights."""

    def __init__(self, new: int, stride: int) -> None:
        super().__init__()
        self.new, self.stride = new, stride

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to `(B, C + new, H / stride, W / stride)`."""
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the shortcut."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.shortcut = nn.Identity() if stride == 1 and filters == channels else Shortcut(filters - channels, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, H, W)` to `(B, filters, H / stride, W / stride)`."""
        inner = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        result: Tensor = self.relu2(inner + self.shortcut(x))
        return result


def _resnet(name: str, inputs: Shape, outputs: int, blocks: int) -> nn.Module:
    """Three stages of `blocks` residual blocks with 16, 32, 64 filters; the mean over the pixels; one linear head."""
    channels, _, _ = image(inputs, name, halved(2))
    layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    channels = 16
    for filters in (16, 32, 64):
        for position in range(blocks):
            layers.append(Block(channels, filters, 2 if position == 0 and filters != channels else 1))
            channels = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))


@model("resnet20", reference=COLOUR)
def resnet20(inputs: Shape, outputs: int) -> nn.Module:
    """residual, 20 layers of 16 to 64 filters with batch norm, shortcuts without weights (option A)"""
    return _resnet("resnet20", inputs, outputs, 3)


@model("resnet32", reference=COLOUR)
def resnet32(inputs: Shape, outputs: int) -> nn.Module:
    """residual, 32 layers of 16 to 64 filters with batch norm, shortcuts without weights (option A)"""
    return _resnet("resnet32", inputs, outputs, 5)
