"""The network as a scorer sees it: initial weights, a mask, samples, and the cost of looking."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.methods.scorers.samples import Samples
from evoprune.problems.problem import Problem
from evoprune.training.ledger import Ledger

__all__ = ["Probe", "slopes"]

Values = Mapping[str, Tensor]


def slopes(value: Tensor, weights: Values, *, again: bool = False) -> tuple[Tensor, ...]:
    """Gradient of `value` with respect to each of `weights`; 0 where none reaches. again: it will be differentiated itself."""
    leaves = list(weights.values())
    return torch.autograd.grad(value, leaves, create_graph=again, allow_unused=True, materialize_grads=True)


@dataclass(eq=False)
class Probe:
    """One step of a scorer: the mask reached so far, on weights that are never written to.

    step: 0 for the first. start: the initial values of all parameters and buffers. weights: the prunable ones, dense, by name.
    others: the other parameters. buffers: the rest.
    Every pass is counted in `ledger`, as 3 · prunable · samples.
    """

    problem: Problem
    module: nn.Module
    mask: Mask
    samples: Samples
    step: int
    seed: int
    ledger: Ledger
    start: Mapping[str, Tensor]
    weights: dict[str, Tensor] = field(init=False)
    others: dict[str, Tensor] = field(init=False)
    buffers: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self._adopt(self.start)

    def _adopt(self, values: Values) -> None:
        placed = {name: value.to(self.samples.device) for name, value in values.items()}
        placed = {name: value.to(self.samples.dtype) if value.is_floating_point() else value for name, value in placed.items()}
        parameters = dict(self.module.named_parameters())
        self.weights = {name: placed[name] for name in self.problem.space.names}
        self.others = {name: value for name, value in placed.items() if name in parameters and name not in self.weights}
        self.buffers = {name: value for name, value in placed.items() if name not in parameters}

    def double(self) -> Probe:
        """The same in float64."""
        samples = copy.copy(self.samples)
        samples.dtype = torch.float64
        return replace(self, samples=samples)

    @property
    def trained(self) -> set[str]:
        """Names of the parameters that require a gradient."""
        return {name for name, parameter in self.module.named_parameters() if parameter.requires_grad}

    # ---- weights ------------------------------------------------------------------------------------------------

    def gates(self) -> dict[str, Tensor]:
        """The mask as numbers that require a gradient: 1 for a survivor, 0 for the others."""
        dense = self.mask.dense(device=self.samples.device)
        return {name: kept.to(self.samples.dtype).requires_grad_() for name, kept in dense.items()}

    def masked(self, weights: Values | None = None) -> dict[str, Tensor]:
        """`weights` (the initial ones) with those that the mask prunes at 0, as leaves that require a gradient."""
        dense = self.mask.dense(device=self.samples.device)
        return {name: (value * dense[name]).requires_grad_() for name, value in (weights or self.weights).items()}

    def redraw(self, *name: int) -> None:
        """Replace all values by another draw of the initial weights.

        A module that came with its own weights has no other draw: there, Gaussian ones of the same size (root mean square).
        """
        seed = seeds.derive(self.seed, "scoring weights", *name)
        try:
            self._adopt(self.problem.initial_weights(seed))
        except InputError:
            for layer, value in self.weights.items():
                size = self.start[layer].square().mean().sqrt().to(value)  # not of the last draw: sizes would drift
                self.weights[layer] = self.gaussian(value, layer, *name) * size

    def gaussian(self, like: Tensor, *name: str | int) -> Tensor:
        """Standard normal numbers in the shape of `like`, by name."""
        rng = seeds.torch_generator(self.seed, "scoring", *name)
        return torch.randn(like.shape, generator=rng, dtype=torch.float32).to(like)

    # ---- passes -------------------------------------------------------------------------------------------------

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of each batch of this step."""
        for index in range(self.samples.number):
            yield self.batch(index)

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one batch of this step; any index has one."""
        return self.samples.draw(self.step, index)

    def outputs(
        self, weights: Values, inputs: Tensor, *, others: Values | None = None, training: bool = True, seen: bool = True
    ) -> Tensor:
        """Outputs of the network with these weights; buffers stay as they were.

        others: parameters and buffers in place of its own. training: the mode. seen: whether the inputs are training samples, for
        the ledger.
        """
        self._count(len(inputs), seen)
        buffers = {name: value.clone() for name, value in self.buffers.items()}
        values = {**buffers, **self.others, **(others or {}), **weights}
        outputs: Tensor = functional_call(self.module.train(training), values, (inputs.clone(),))  # which it may change
        return outputs

    def statistics(self, weights: Values, inputs: Tensor, *, seen: bool = True) -> dict[str, Tensor]:
        """Running statistics as the norm layers find them on `inputs` alone; nothing, and no pass, where none keeps any."""
        module = copy.deepcopy(self.module).eval()
        norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._NormBase)]
        norms = [layer for layer in norms if layer.track_running_stats]
        if not norms:
            return {}
        for layer in norms:
            layer.train().momentum = 1.0
        self._count(len(inputs), seen)
        buffers = {name: value.clone() for name, value in self.buffers.items()}
        with torch.no_grad():
            functional_call(module, {**buffers, **self.others, **weights}, (inputs.clone(),))
        return buffers

    def loss(
        self, weights: Values, batch: tuple[Tensor, Tensor], *, others: Values | None = None, temperature: float = 1.0
    ) -> Tensor:
        """Mean loss of a batch in training mode. temperature: divides class logits."""
        outputs = self.outputs(weights, batch[0], others=others)
        if self.problem.task == "classification":
            outputs = outputs / temperature
        return self.problem.loss.per_sample(outputs.unsqueeze(0), batch[1]).mean()

    def gradient(self, weights: Values, *, temperature: float = 1.0) -> dict[str, Tensor]:
        """Gradient of the mean loss over this step's batches, by name."""
        total = {name: torch.zeros_like(value) for name, value in weights.items()}
        for batch in self.batches():
            gradients = slopes(self.loss(weights, batch, temperature=temperature), weights)
            for value, gradient in zip(total.values(), gradients, strict=True):
                value += gradient / self.samples.number
        return total

    def second(self, value: Tensor, with_respect_to: Values, *, gradients: int = 1) -> tuple[Tensor, ...]:
        """Gradient of `value`, itself made of so many gradients, each counted as one more pass over its batch."""
        for _ in range(gradients):
            self._count(self.samples.size, False)
        return slopes(value, with_respect_to)

    def _count(self, samples: int, seen: bool) -> None:
        self.ledger.score(samples, self.problem.prunable, len(self.problem.split("train")), seen=seen)
