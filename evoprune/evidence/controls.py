"""Controls: pure, seeded functions ticket -> ticket that destroy one thing a search may have found, and keep the rest.

A control gives an untrained ticket: its mask, and the weights it is to start from. What is destroyed and what is kept follow
the sanity checks of [Frankle 2021, Pruning neural networks at initialization: why are we missing the mark, arXiv:2009.08576]
and [Zhou 2019, Deconstructing lottery tickets, arXiv:1905.01067].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal

import numpy as np
import torch
from torch import Tensor

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.masks.allocation import ALLOCATIONS, allocate
from evoprune.masks.mask import Indices, Mask
from evoprune.masks.sampling import complement, random_of_counts, random_subset
from evoprune.problems.origin import Given
from evoprune.problems.problem import Problem
from evoprune.registry import Registry
from evoprune.training.initializers import INITIALIZERS
from evoprune.training.ledger import Ledger
from evoprune.training.options import Training
from evoprune.training.ticket import Ticket

__all__ = ["CONTROLS", "REFERENCE", "Control", "fresh_counts", "original", "reference_counts", "rewired"]

Control = Callable[[Ticket, int], Ticket]
Weights = dict[str, Tensor]

CONTROLS: Registry[Control] = Registry("control")
REFERENCE = "erk"
"""Allocation of the random masks that a search has to beat, where the ticket names none."""


# ---- other masks, the same initial weights ------------------------------------------------------------------------


@CONTROLS.register("fresh_counts")
def fresh_counts(ticket: Ticket, seed: int) -> Ticket:
    """A fresh random mask with the ticket's layer counts: one draw of the null distribution."""
    return rewired(ticket, random_of_counts(ticket.mask.space, ticket.mask.counts, _rng(seed, "fresh_counts")), "fresh_counts")


@CONTROLS.register("fresh_random")
def fresh_random(ticket: Ticket, seed: int) -> Ticket:
    """A fresh random mask of the ticket's size with layer counts that no search chose: what `random` would train."""
    return rewired(
        ticket, random_of_counts(ticket.mask.space, reference_counts(ticket), _rng(seed, "fresh_random")), "fresh_random"
    )


@CONTROLS.register("shuffle_layers")
def shuffle_layers(ticket: Ticket, seed: int) -> Ticket:
    """Survivors move anywhere within their layer; layer counts are kept."""
    rng, space = _rng(seed, "shuffle_layers"), ticket.mask.space
    moved = [np.sort(rng.permutation(size)[:count]) for size, count in zip(space.sizes, ticket.mask.counts, strict=True)]
    return rewired(ticket, Mask(space, moved), "shuffle_layers")


@CONTROLS.register("shuffle_units")
def shuffle_units(ticket: Ticket, seed: int) -> Ticket:
    """Survivors move within their output unit (row or filter); every fan-in is kept."""
    rng, space = _rng(seed, "shuffle_units"), ticket.mask.space
    layers = [
        _within_rows(rng, survivors, size // shape[0])
        for survivors, size, shape in zip(ticket.mask.survivors, space.sizes, space.shapes, strict=True)
    ]
    return rewired(ticket, Mask(space, layers), "shuffle_units")


@CONTROLS.register("shuffle_all")
def shuffle_all(ticket: Ticket, seed: int) -> Ticket:
    """Survivors move anywhere in the network; only their number is kept."""
    space = ticket.mask.space
    every = random_subset(_rng(seed, "shuffle_all"), space.prunable, ticket.mask.count)
    ends = np.cumsum(space.sizes)
    parts = np.split(every, np.searchsorted(every, ends[:-1]))
    return rewired(
        ticket,
        Mask(space, [part - (end - size) for part, end, size in zip(parts, ends, space.sizes, strict=True)]),
        "shuffle_all",
    )


@CONTROLS.register("invert")
def invert(ticket: Ticket, seed: int) -> Ticket:
    """Keep only what the ticket removed: a random part of it, of the same layer counts.

    A layer that keeps more than half of its weights has too few removed ones; the rest are drawn from its survivors.
    """
    rng, layers = _rng(seed, "invert"), []
    for survivors, size in zip(ticket.mask.survivors, ticket.mask.space.sizes, strict=True):
        removed, count = complement(survivors, size), len(survivors)
        first = removed[random_subset(rng, len(removed), min(count, len(removed)))]
        rest = survivors[random_subset(rng, count, max(0, count - len(removed)))]
        layers.append(np.sort(np.concatenate([first, rest])))
    return rewired(ticket, Mask(ticket.mask.space, layers), "invert")


# ---- the same mask, other initial weights -------------------------------------------------------------------------


@CONTROLS.register("permute_weights")
def permute_weights(ticket: Ticket, seed: int) -> Ticket:
    """The kept initial weights change places with each other within their layer; the mask is kept."""
    rng, start = _rng(seed, "permute_weights"), _start(ticket)
    for name, survivors in zip(ticket.mask.space.names, ticket.mask.survivors, strict=True):
        flat, places = start[name].reshape(-1), torch.from_numpy(survivors.copy())
        flat[places] = flat[places[torch.from_numpy(rng.permutation(len(survivors)))]]
    return _control(ticket, ticket.mask, start, "permute_weights")


@CONTROLS.register("reinitialise")
def reinitialise(ticket: Ticket, seed: int) -> Ticket:
    """Initial weights of another seed; the mask is kept.

    A module instance has no others: its weights (pruned ones included) then change places within each tensor.
    """
    problem = ticket._problem("the control 'reinitialise'")
    if isinstance(problem._origin, Given):
        rng = _rng(seed, "reinitialise")
        drawn = problem.initial_weights()
        for name in ticket.mask.space.names:
            flat = drawn[name].reshape(-1)
            drawn[name] = flat[torch.from_numpy(rng.permutation(flat.numel()))].reshape(drawn[name].shape)
    else:
        drawn = problem.initial_weights(seeds.derive(seed, "control", "reinitialise"))
    return _control(ticket, ticket.mask, _prepared(ticket, problem, ticket.mask, drawn), "reinitialise")


@CONTROLS.register("flip_signs")
def flip_signs(ticket: Ticket, seed: int) -> Ticket:
    """Every kept initial weight gets a random sign; mask and magnitudes are kept."""
    rng, start = _rng(seed, "flip_signs"), _start(ticket)
    for name, survivors in zip(ticket.mask.space.names, ticket.mask.survivors, strict=True):
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], size=len(survivors))).to(start[name].dtype)
        start[name].reshape(-1)[torch.from_numpy(survivors.copy())] *= signs
    return _control(ticket, ticket.mask, start, "flip_signs")


# ---- pieces -------------------------------------------------------------------------------------------------------


def original(ticket: Ticket) -> Ticket:
    """The ticket itself, untrained: its mask and the weights it started from."""
    return _control(ticket, ticket.mask, _start(ticket), "original")


def reference_counts(ticket: Ticket) -> tuple[int, ...]:
    """Layer counts of a random mask of the ticket's size, by the allocation it was asked for, else ERK."""
    space, count = ticket.mask.space, ticket.mask.count
    if not 0 < count < space.prunable:
        raise InputError(f"the ticket keeps {count:,} of {space.prunable:,} weights: there is no choice to check")
    asked = ticket.provenance.get("options", {}).get("allocation", REFERENCE)
    name = asked if isinstance(asked, str) and asked in ALLOCATIONS else REFERENCE
    sparsity = 1 - Decimal(count) / Decimal(space.prunable)
    return allocate(space, sparsity, name, floor=1 if count >= len(space) else 0)


def _rng(seed: int, name: str) -> np.random.Generator:
    return seeds.generator(seed, "control", name)


def _within_rows(rng: np.random.Generator, survivors: Indices, width: int) -> Indices:
    """As many of each row's `width` places as `survivors` has there, at random."""
    rows, counts = np.unique(survivors // width, return_counts=True)
    parts = [row * width + random_subset(rng, width, int(count)) for row, count in zip(rows, counts, strict=True)]
    return np.concatenate(parts) if parts else survivors


def _training(ticket: Ticket) -> Training:
    return Training.of(**Training.following(ticket.provenance.get("training", {})))


def _start(ticket: Ticket) -> Weights:
    """What the ticket started from: its own kept values, the problem's for the rest; fresh copies."""
    return _overlaid(ticket, _beginning(ticket, ticket._problem("a control"), ticket.mask))


def _beginning(ticket: Ticket, problem: Problem, mask: Mask) -> Weights:
    """What any mask would start from in the ticket's place: the problem's weights made ready for it, or the rewinding point."""
    if ticket.start is None:
        return _prepared(ticket, problem, mask, problem.initial_weights())
    return {name: value.detach().clone() for name, value in ticket.start.items()}


def _overlaid(ticket: Ticket, start: Weights) -> Weights:
    """`start` with the ticket's own initial values where it kept them."""
    for name, value in ticket.initial.items():
        if name in ticket.mask.space.index:
            places = torch.from_numpy(ticket.mask.survivors[ticket.mask.space.index[name]].copy())
            start[name].reshape(-1)[places] = value.reshape(-1)[places].to(start[name].dtype)
        else:
            start[name] = value.detach().to(start[name].dtype).clone()
    return start


def _prepared(ticket: Ticket, problem: Problem, mask: Mask, weights: Weights) -> Weights:
    """`weights` made ready for a mask in the way the ticket's own were."""
    training = _training(ticket)
    ready = {
        name: value.clone(memory_format=torch.contiguous_format)
        for name, value in INITIALIZERS[training.init](problem, mask, weights, Ledger()).items()
    }
    for name, count, size in zip(mask.space.names, mask.counts, mask.space.sizes, strict=True):
        if training.rescale and count:
            ready[name] /= (count / size) ** 0.5
        ready[name] *= 1 - training.drop_rate
    return ready


def rewired(ticket: Ticket, mask: Mask, name: str) -> Ticket:
    """Another mask on the same initial weights; those that are made for a mask are made for this one."""
    problem, training = ticket._problem(f"the control {name!r}"), _training(ticket)
    start = _beginning(ticket, problem, mask)
    if training.init == "problem" and not training.rescale:
        start = _overlaid(ticket, start)
    return _control(ticket, mask, start, name)


def _control(ticket: Ticket, mask: Mask, start: Mapping[str, Tensor], name: str) -> Ticket:
    kept = mask.dense()
    weights = {key: value * kept[key] if key in kept else value for key, value in start.items()}
    trained = {key: weights[key].clone() for key in weights if key in ticket.initial}
    provenance = {**ticket.provenance, "control": name}
    return Ticket(mask, weights, trained, provenance=provenance, problem=ticket.problem, start=ticket.start)
