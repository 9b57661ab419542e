"""A population's state as plain tensors and JSON values, to go on in another process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from evoprune.errors import InputError, UnsupportedLayer
from evoprune.masks.mask import Mask
from evoprune.training.parameters import Parameters

if TYPE_CHECKING:
    from evoprune.training.population import Population

__all__ = ["restore", "state"]


def state(population: Population) -> dict[str, Any]:
    """`{"tensors": {name: Tensor}, "values": JSON-able}`; everything is a copy."""
    parameters = population.parameters
    tensors: dict[str, Tensor] = {
        "counts": torch.tensor([mask.counts for mask in parameters.masks]),
        "loss": population._loss.clone(),
    }
    for layer, name in enumerate(parameters.space.names):
        tensors[f"survivors/{name}"] = torch.from_numpy(np.concatenate([mask.survivors[layer] for mask in parameters.masks]))
    groups = {"value": parameters.leaves(), "initial": parameters.initial, "buffer": parameters.buffers}
    for kind, group in groups.items():
        tensors |= {f"{kind}/{name}": value.detach().clone() for name, value in group.items()}
    scalars: dict[str, dict[str, Any]] = {}
    for name, leaf in parameters.leaves().items():
        for key, value in population.optimizer.state.get(leaf, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{key}/{name}"] = value.detach().clone()
            else:
                scalars.setdefault(name, {})[key] = value
    values = {
        "steps": population.steps,
        "optimizer": scalars,
        "ledger": population.ledger.as_dict(),
        "trace": population.trace.state(),
        "engine": population.engine.name,
    }
    return {"tensors": tensors, "values": values}


def restore(population: Population, saved: Mapping[str, Any]) -> Population:
    """Put a saved state into a population made with the same problem and options. Raises `InputError` for another one."""
    tensors, values = saved["tensors"], saved["values"]
    engine = population.engine
    if values["engine"] != engine.name:
        refusal = f"the state was saved by engine {values['engine']!r}, this population runs {engine.name!r}: set engine="
        if population.training.engine != "auto":
            raise InputError(refusal)
        try:
            engine = population._choice.make(values["engine"], population.parameters)
        except UnsupportedLayer as error:
            raise InputError(f"{refusal} ({error})") from error

    def group(kind: str, names: Iterable[str]) -> dict[str, Tensor]:
        return {name: tensors[f"{kind}/{name}"].to(population.device, copy=True) for name in names}

    held, space = population.parameters, population.problem.space
    leaves = group("value", held.leaves())  # in the population's own order, whatever a file made of it
    masks = _masks(population, tensors)
    parameters = Parameters(
        masks,
        {name: value for name, value in leaves.items() if name in space.index},
        {name: value for name, value in leaves.items() if name not in space.index},
        group("buffer", held.buffers),
        group("initial", held.initial),
    )
    optimizer = population.training.make_optimizer(parameters.leaves().values())
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, slot, name = key.split("/", 2)
            leaf = parameters.leaves()[name]
            counts = value.ndim == 0 and not population.training.capturable(leaf.device)  # a step count stays on the CPU
            optimizer.state[leaf][slot] = value.to("cpu" if counts else leaf.device, copy=True)
    for name, slots in values["optimizer"].items():
        optimizer.state[parameters.leaves()[name]].update(slots)
    population.optimizer, population.steps = optimizer, values["steps"]
    population._loss = tensors["loss"].to(population.device, copy=True)
    population.ledger = type(population.ledger)(**values["ledger"])
    population.trace.restore(values["trace"], parameters)
    population.engine = engine
    population._adopt(parameters)
    return population


def _masks(population: Population, tensors: Mapping[str, Tensor]) -> list[Mask]:
    counts = tensors["counts"].numpy()
    space = population.problem.space
    layers = [
        np.split(tensors[f"survivors/{name}"].numpy(), np.cumsum(counts[:, layer])[:-1]) for layer, name in enumerate(space.names)
    ]
    return [Mask(space, list(own)) for own in zip(*layers, strict=True)]
