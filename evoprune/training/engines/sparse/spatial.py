"""Operations on images: normalisation, pooling, regions (slices, padding, reshapes), sums, dropout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from evoprune.training.engines.kernels import copies, norm, pool
from evoprune.training.engines.kernels.runtime import bits
from evoprune.training.engines.sparse.operations import BARRIER, Call, Operation, gate_calls
from evoprune.training.engines.sparse.values import Layout, Value

if TYPE_CHECKING:
    from evoprune.training.engines.sparse.tables import Tables

__all__ = ["Dropout", "Largest", "Mean", "Norm", "Plus", "Region", "Reshape"]


def _geometry(args: list[int], names: object, x: Value, y: Value, tables: Tables) -> None:
    """Channel and line strides of input, output and their gradients; where input and output lie."""
    layouts = (tables.layout(x), tables.layout(y), tables.delta_layout(y), tables.delta_layout(x))
    start = names.STRIDES  # type: ignore[attr-defined]
    for number, layout in enumerate(layouts):
        args[start + 2 * number : start + 2 * number + 2] = [layout.channel, layout.line]
    tables.put(args, names.IN, tables.at(x, inside=True))  # type: ignore[attr-defined]
    tables.put(args, names.OUT, tables.at(y, inside=True))  # type: ignore[attr-defined]


def _deltas(args: list[int], names: object, x: Value, y: Value, tables: Tables) -> None:
    tables.put(args, names.DELTA_OUT, tables.delta_at(y, inside=True))  # type: ignore[attr-defined]
    if x.root.needs:
        tables.put(args, names.DELTA_IN, tables.delta_at(x, inside=True))  # type: ignore[attr-defined]


@dataclass(frozen=True)
class NormOptions:
    """What a batch normalisation layer holds: names of its tensors, and its numbers."""

    weight: str | None
    bias: str | None
    mean: str | None
    variance: str | None
    tracked: str | None
    epsilon: float
    momentum: float | None
    batch_statistics: bool


class Norm(Operation):
    """BatchNorm1d and BatchNorm2d, with ReLU if the output is gated.

    summed: the addition that is the only reader of the output, which then is never written: the addition normalises.
    """

    summed: Plus | None = None

    def __init__(self, x: Value, output: Value, options: NormOptions) -> None:
        self.inputs, self.output, self.options = (x,), output, options
        self.weight, self.bias, self.barrier = options.weight, options.bias, options.batch_statistics

    def _args(self, tables: Tables) -> list[int]:
        x, y, options = self.inputs[0], self.output, self.options
        args = [0] * norm.WORDS
        layouts = (tables.layout(x), tables.layout(y), tables.delta_layout(y), tables.delta_layout(x))
        for number, layout in enumerate(layouts):
            args[norm.STRIDES + 2 * number : norm.STRIDES + 2 * number + 2] = [layout.channel, layout.line]
        tables.put(args, norm.IN, tables.at(x, inside=True))
        channels, lines, width = y.image
        block = tables.plan.block
        tables.put(args, norm.SAVED, tables.once(("norm", y), norm.PER_CHANNEL * channels))
        tables.put(args, norm.SUMS, tables.once(("sums", y), norm.SUMS_PER_CHANNEL * channels, torch.float64))
        args[norm.CHANNELS], args[norm.LINES], args[norm.WIDTH], args[norm.BLOCK] = channels, lines, width, block
        args[norm.SAMPLES], args[norm.SIZE] = tables.samples, tables.size
        args[norm.BATCH_STATISTICS] = int(options.batch_statistics)
        args[norm.WEIGHT], args[norm.BIAS] = tables.stacked(options.weight), tables.stacked(options.bias)
        args[norm.MEAN], args[norm.VARIANCE] = tables.stacked(options.mean), tables.stacked(options.variance)
        args[norm.TRACKED] = tables.stacked(options.tracked)
        args[norm.EPSILON] = bits(options.epsilon)
        args[norm.MOMENTUM] = bits(-1.0 if options.momentum is None else options.momentum)
        return args

    def normalised(self, tables: Tables, y: Value, other: Value | None = None, *, again: bool = False) -> Call:
        """The call that writes `y`, the normalised input, plus `other`; again: with what the first time left in memory."""
        args, layout = self._args(tables), tables.layout(y)
        tables.put(args, norm.OUT, tables.at(y, inside=True))
        args[norm.STRIDES + 2 : norm.STRIDES + 4] = [layout.channel, layout.line]
        args[norm.GATED], args[norm.AGAIN] = int(y.gated), int(again)
        if other is not None:
            along = tables.layout(other)
            tables.put(args, norm.OTHER, tables.at(other, inside=True))
            args[norm.STRIDES + 8 : norm.STRIDES + 10] = [along.channel, along.line]
        return norm.normalise, args

    def forward(self, tables: Tables) -> list[Call]:
        calls = [(norm.moments, self._args(tables)), BARRIER] if self.barrier else []
        return calls if self.summed else [*calls, self.normalised(tables, self.output)]

    def backward(self, tables: Tables) -> list[Call]:
        x, y = self.inputs[0], self.output
        args = self._args(tables)
        tables.put(args, norm.DELTA_OUT, tables.delta_at(y, inside=True))
        calls = [(norm.moments_back, args), *([BARRIER] if self.barrier else [])]
        args[norm.WEIGHT_GRADIENT] = tables.stacked_gradient(self.weight)
        args[norm.BIAS_GRADIENT] = tables.stacked_gradient(self.bias)
        if not x.root.needs:
            return [*calls, (norm.normalise_back, args)]
        add, gated = tables.contribute(x.root)
        tables.put(args, norm.DELTA_IN, tables.delta_at(x, inside=True))
        args[norm.ADD] = int(add)
        return [*calls, (norm.normalise_back, args), *gate_calls(tables, x, gated)]


class Largest(Operation):
    """Max pooling."""

    def __init__(
        self, x: Value, output: Value, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
    ) -> None:
        self.inputs, self.output, self.kernel, self.stride, self.padding = (x,), output, kernel, stride, padding

    def _args(self, tables: Tables) -> list[int]:
        x, y = self.inputs[0], self.output
        args = [0] * pool.WORDS
        _geometry(args, pool, x, y, tables)
        channels, lines, width = y.image
        block = tables.plan.block
        tables.put(args, pool.TAPS, tables.extra(("taps", y), channels * lines * width * block, torch.int8))
        args[pool.CHANNELS], args[pool.LINES], args[pool.WIDTH], args[pool.BLOCK] = channels, lines, width, block
        args[pool.IN_LINES], args[pool.IN_WIDTH] = x.image[1:]
        args[pool.TALL], args[pool.WIDE] = self.kernel
        args[pool.STEP_DOWN], args[pool.STEP_RIGHT] = self.stride
        args[pool.PAD_DOWN], args[pool.PAD_RIGHT] = self.padding
        reach = [(count - 1) * step + side for count, step, side in zip(y.image[1:], self.stride, self.kernel, strict=True)]
        inside = self.padding == (0, 0) and all(end <= size for end, size in zip(reach, x.image[1:], strict=True))
        args[pool.PLAIN] = int(inside and self.kernel == (2, 2))
        args[pool.TILED] = int(inside and self.kernel == self.stride and tuple(reach) == tuple(x.image[1:]))
        return args

    def forward(self, tables: Tables) -> list[Call]:
        return [(pool.largest, self._args(tables))]

    def backward(self, tables: Tables) -> list[Call]:
        x, y = self.inputs[0], self.output
        if not x.root.needs:
            return []
        add, gated = tables.contribute(x.root)
        args = self._args(tables)
        _deltas(args, pool, x, y, tables)
        args[pool.ADD], args[pool.GATED] = int(add), int(gated and not add)
        return [(pool.largest_back, args), *gate_calls(tables, x, gated and add)]


class Mean(Operation):
    """Average pooling over regions: `tops[i]:bottoms[i]` of the lines and `lefts[j]:rights[j]` of the columns."""

    def __init__(self, x: Value, output: Value, lines: Sequence[tuple[int, int]], columns: Sequence[tuple[int, int]],
                 divisors: Sequence[int]) -> None:  # fmt: skip
        self.inputs, self.output = (x,), output
        sides = [*zip(*lines, strict=True), *zip(*columns, strict=True)]
        self.tables = [np.array(side, dtype=np.int64) for side in [*sides, divisors]]

    def _args(self, tables: Tables) -> list[int]:
        x, y = self.inputs[0], self.output
        args = [0] * pool.WORDS
        _geometry(args, pool, x, y, tables)
        args[pool.CHANNELS], args[pool.LINES], args[pool.WIDTH] = y.image
        args[pool.BLOCK] = tables.plan.block
        args[pool.IN_LINES], args[pool.IN_WIDTH] = x.image[1:]
        for number, table in enumerate(self.tables):
            args[pool.TOP + number] = tables.address(table)
        return args

    def forward(self, tables: Tables) -> list[Call]:
        return [(pool.mean, self._args(tables))]

    def backward(self, tables: Tables) -> list[Call]:
        x, y = self.inputs[0], self.output
        if not x.root.needs:
            return []
        add, gated = tables.contribute(x.root)
        args = self._args(tables)
        _deltas(args, pool, x, y, tables)
        args[pool.ADD] = int(add)
        return [(pool.mean_back, args), *gate_calls(tables, x, gated)]


class Region(Operation):
    """`output[to] = input[from::step]`, zero elsewhere: strided slices and zero padding of images.

    start, step: first pixel and stride in the input, by (channel, line, column). to: first pixel in the output. size: of the
    region.
    """

    def __init__(self, x: Value, output: Value, *, size: tuple[int, int, int], start: tuple[int, int, int] = (0, 0, 0),
                 step: tuple[int, int, int] = (1, 1, 1), to: tuple[int, int, int] = (0, 0, 0)) -> None:  # fmt: skip
        self.inputs, self.output, self.size, self.start, self.step, self.to = (x,), output, size, start, step, to

    def images(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """The image that input and output are seen as."""
        return self.inputs[0].image, self.output.image

    def _call(self, tables: Tables, *, back: bool, add: bool) -> list[Call]:
        x, y = self.inputs[0], self.output
        seen_x, seen_y = self.images()
        block, at = tables.plan.block, tables.delta_at if back else tables.at
        inside = Layout(*seen_x, x.root.delta_pad if back else x.root.pad, block)
        outside = Layout(*seen_y, y.root.delta_pad if back else y.root.pad, block)
        args = [0] * copies.WORDS
        i = [inside.channel, inside.line, block]
        o = [outside.channel, outside.line, block]
        from_ = sum(a * b for a, b in zip(self.start, i, strict=True))
        to = sum(a * b for a, b in zip(self.to, o, strict=True))
        stepped = [a * b for a, b in zip(self.step, i, strict=True)]
        at_x, at_y = at(x, offset=inside.origin), at(y, offset=outside.origin)
        if back:
            tables.put(args, copies.TARGET, at_x)
            tables.put(args, copies.SOURCE, at_y)
            args[copies.TARGET_OFFSET], args[copies.SOURCE_OFFSET] = from_, to
            args[copies.STRIDES : copies.STRIDES + 8] = [*stepped, *o, inside.channel, inside.line]
            args[copies.ALL_CHANNELS : copies.ALL_WIDTH + 1] = list(seen_x)
            covers = self.size == seen_x
        else:
            tables.put(args, copies.TARGET, at_y)
            tables.put(args, copies.SOURCE, at_x)
            args[copies.TARGET_OFFSET], args[copies.SOURCE_OFFSET] = to, from_
            args[copies.STRIDES : copies.STRIDES + 8] = [*o, *stepped, outside.channel, outside.line]
            args[copies.ALL_CHANNELS : copies.ALL_WIDTH + 1] = list(seen_y)
            covers = self.size == seen_y
        args[copies.CHANNELS], args[copies.LINES], args[copies.WIDTH] = self.size
        args[copies.BLOCK], args[copies.ADD], args[copies.CLEAR] = block, int(add), int(not add and not covers)
        return [(copies.region, args)]

    def forward(self, tables: Tables) -> list[Call]:
        return self._call(tables, back=False, add=False)

    def backward(self, tables: Tables) -> list[Call]:
        x = self.inputs[0]
        if not x.root.needs:
            return []
        add, gated = tables.contribute(x.root)
        return [*self._call(tables, back=True, add=add), *gate_calls(tables, x, gated)]


class Reshape(Region):
    """Another shape of the same numbers: a view where no border is in the way, else a copy."""

    def __init__(self, x: Value, output: Value) -> None:
        image = x.image if len(x.shape) == 3 else output.image
        super().__init__(x, output, size=image)

    def images(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        return self.size, self.size

    def alias(self) -> bool:
        """Make the output a view of the input, if the memory allows it."""
        x, y = self.inputs[0].root, self.output
        if x.pad or x.delta_pad or y.pad or y.delta_pad:
            return False
        y.root = x
        return True


class Plus(Operation):
    """The sum of two values, with ReLU if the output is gated.

    norm: the normalisation that leaves it to this sum to write its output.
    """

    norm: Norm | None = None

    def __init__(self, left: Value, right: Value, output: Value) -> None:
        self.inputs, self.output = (left, right), output

    def take_norm(self, producers: Mapping[Value, Operation], uses: Mapping[Value, int]) -> None:
        """Normalise and add in one pass, where an input is a normalisation's output that nothing else reads."""
        for x in self.inputs:
            producer = producers.get(x)
            if self.norm is None and isinstance(producer, Norm) and uses[x] == 1 and not x.gated:
                self.norm, producer.summed = producer, self

    def forward(self, tables: Tables) -> list[Call]:
        (left, right), y = self.inputs, self.output
        if self.norm:
            return [self.norm.normalised(tables, y, right if self.norm.output is left else left)]
        args = [0] * copies.WORDS
        for number, (where, value) in enumerate(((copies.TARGET, y), (copies.SOURCE, left), (copies.OTHER, right))):
            tables.put(args, where, tables.at(value, inside=True))
            layout = tables.layout(value)
            args[copies.STRIDES + 3 * number : copies.STRIDES + 3 * number + 2] = [layout.channel, layout.line]
        args[copies.CHANNELS], args[copies.LINES], args[copies.WIDTH] = y.image
        args[copies.BLOCK], args[copies.GATED] = tables.plan.block, int(y.gated)
        return [(copies.plus, args)]

    def backward(self, tables: Tables) -> list[Call]:
        calls: list[Call] = []
        for x in self.inputs:
            if x.root.needs:
                add, gated = tables.contribute(x.root)
                if tables.plan.network.lifetimes.aliases.get(x.root) is self.output:  # x may live in another sum's memory
                    continue
                same = Region(x, self.output, size=x.image)
                calls += [*same._call(tables, back=True, add=add), *gate_calls(tables, x, gated)]
        return calls


class Dropout(Operation):
    """Dropout with the noise that torch draws for one batch: the same for all individuals."""

    def __init__(self, x: Value, output: Value, rate: float) -> None:
        self.inputs, self.output, self.rate = (x,), output, rate

    def noise(self, tables: Tables) -> tuple[int, int, int, int]:
        """Where this step's noise lies: one for all individuals."""
        block = Layout(*self.output.image, 0, tables.plan.block).numbers
        plan = tables.plan
        at = tables.space.shared_buffer(("noise", self.output), plan.blocks * block)
        return at, 0, 0, block * tables.size

    def draw(self, tables: Tables) -> None:
        """Fill it from torch's global generator, as `torch.nn.functional.dropout` would."""
        plan, shape = tables.plan, self.output.shape
        noise = torch.empty((plan.samples, *shape), dtype=tables.space.dtype)
        noise = noise.zero_() if self.rate >= 1 else noise.bernoulli_(1 - self.rate).div_(1 - self.rate)
        target = tables.space.tensor(("noise", self.output)).view(plan.blocks, -1, plan.block)
        for number, part in enumerate(noise.view(plan.samples, -1).split(plan.block)):
            target[number, :, : len(part)] = part.t()

    def _call(self, tables: Tables, *, back: bool, add: bool = False) -> list[Call]:
        x, y, at = self.inputs[0], self.output, tables.delta_at if back else tables.at
        layout_of = tables.delta_layout if back else tables.layout
        target, source = (x, y) if back else (y, x)
        args = [0] * copies.WORDS
        tables.put(args, copies.TARGET, at(target, inside=True))
        tables.put(args, copies.SOURCE, at(source, inside=True))
        tables.put(args, copies.OTHER, self.noise(tables))
        for number, layout in enumerate((layout_of(target), layout_of(source), Layout(*y.image, 0, tables.plan.block))):
            args[copies.STRIDES + 3 * number : copies.STRIDES + 3 * number + 2] = [layout.channel, layout.line]
        args[copies.CHANNELS], args[copies.LINES], args[copies.WIDTH] = y.image
        args[copies.BLOCK], args[copies.ADD] = tables.plan.block, int(add)
        return [(copies.times, args)]

    def forward(self, tables: Tables) -> list[Call]:
        return self._call(tables, back=False)

    def backward(self, tables: Tables) -> list[Call]:
        x = self.inputs[0]
        if not x.root.needs:
            return []
        add, gated = tables.contribute(x.root)
        return [*self._call(tables, back=True, add=add), *gate_calls(tables, x, gated)]
