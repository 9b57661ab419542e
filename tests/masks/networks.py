"""Small networks whose units are connected in all the ways that are followed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Linear layers, norm, a residual add: what a user writes."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.mid, self.bn, self.out = nn.Linear(4, 5), nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.inp(x))
        return self.out(torch.relu(self.bn(self.mid(h))) + h)


class Shortcut(nn.Module):
    """Two stages joined by an option-A shortcut (strided slice, zero channels), mean over pixels."""

    def __init__(self, cut: str = "pad") -> None:
        super().__init__()
        self.cut = cut
        self.stem, self.bn = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.a, self.b = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        short = x[:, :, ::2, ::2]
        if self.cut == "pad":
            short = F.pad(short, (0, 0, 0, 0, 2, 2))
        else:
            zeros = short.new_zeros(short.size(0), 2, short.size(2), short.size(3))
            short = torch.cat([zeros, short, zeros], dim=1)
        out = self.b(F.relu(self.a(x)))
        out += short
        return self.head(F.relu(out).mean((2, 3)))


class Decoder(nn.Module):
    """Features reshaped to an image, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.up, self.conv = nn.Linear(6, 3), nn.Linear(3, 2 * 3 * 3), nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        image = torch.tanh(self.up(self.code(x))).view(-1, 2, 3, 3)
        return F.interpolate(self.conv(image), scale_factor=2.0).flatten(1)


class Shared(nn.Module):
    """One layer used twice, two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.c.weight = self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.c(self.b(self.a(F.relu(self.a(x))))))


class Slices(nn.Module):
    """Values split, mixed with the input, put together again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(3, 4), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).chunk(2, dim=1)
        return self.c(torch.cat([self.b(left * 0.5) + x, F.elu(right)], dim=1))


class InPlace(nn.Module):
    """An add in place whose result is not assigned."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.a(x))
        g = self.b(h)
        g.add_(h)
        return self.c(g.relu_())


class InPlaceByOperator(InPlace):
    """A sum by `+=`, read under the name that was not assigned."""

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.a(x))
        g = total = self.b(h)
        total += h
        return self.c(g)


class InPlaceThenFlat(nn.Module):
    """Names that a value gets after it has changed, and a size that is asked of what it was."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(4, 5, 1), nn.Linear(45, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = first = self.a(x)
        h += self.b(x)
        h = F.relu(h, inplace=True)
        h = F.dropout(h, 0.5, self.training)
        return self.c(h.reshape(first.size(0), -1))


class InPlaceByView(InPlace):
    """Changes of views, read under the name of what they show."""

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.a(x))
        g = self.b(h)
        flat = g.view(g.size(0), -1)
        flat += h
        left, right = g[:, :2], g.t()[4:]
        left.add_(right.t())
        same = left.add_(h[:, 2:4])
        same += h[:, :2]
        return self.c(g + left.sum(1, keepdim=True))


def lenet() -> nn.Module:
    conv = [nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(3)]
    return nn.Sequential(*conv, nn.Flatten(), nn.Dropout(), nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3))


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 6, 1, groups=2), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.Flatten(), nn.Linear(6, 2))


NETS = {
    "mlp": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)), (2, 3)),
    "lenet": (lenet, (1, 8, 8)),
    "residual": (Residual, (4,)),
    "option A": (Shortcut, (2, 5, 5)),
    "option A by cat": (lambda: Shortcut("cat"), (2, 5, 5)),
    "decoder": (Decoder, (6,)),
    "shared": (Shared, (4,)),
    "slices": (Slices, (4,)),
    "in place": (InPlace, (4,)),
    "in place by operator": (InPlaceByOperator, (4,)),
    "in place by view": (InPlaceByView, (4,)),
    "in place, then flat": (InPlaceThenFlat, (4, 3, 3)),
    "grouped": (grouped, (4, 3, 3)),
    "one pixel": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 5, padding="same")), (2, 1, 2)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3, stride=2, padding=2, dilation=2), nn.Flatten(), nn.Linear(9, 2)), (2, 5)),
    "root": (lambda: nn.Linear(4, 3), (4,)),
    "sequence": (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (7, 4)),
}
