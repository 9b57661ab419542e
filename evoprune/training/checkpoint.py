"""A population's state as plain tensors and JSON values, to go on in another process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from evoprune.errors import InputError, UnsupportedLayer
from evoprune.formats import as_json
from evoprune.masks.mask import Mask
from evoprune.training.parameters import Parameters

if TYPE_CHECKING:
    from evoprune.training.population import Population

__all__ = ["restore", "state"]

FREE = ("engine", "device", "cuda_graphs", "compile")
"""Options that say how training is computed, not what is trained: a state may go on with others."""

Form = tuple[tuple[int, ...], torch.dtype]
"""Shape and type of a tensor."""


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
        "problem": population.problem.fingerprint,
        "training": _options(population),
    }
    return {"tensors": tensors, "values": values}


def restore(population: Population, saved: Mapping[str, Any]) -> Population:
    """Put a saved state into a population made with the same problem and options. Raises `InputError` for another one.

    Then nothing has changed. Options of `FREE` may differ. What a state that an earlier version saved does not tell (problem,
    options, seed, horizon) is not compared: its tensors have to fit.
    """
    tensors, values = _parts(saved)
    tensors = _with_first_statistics(population, tensors)
    _check_options(population, values)
    _check_tensors(population, tensors)
    if values.get("problem", population.problem.fingerprint) != population.problem.fingerprint:
        raise InputError(
            "the state was saved for another problem (model, data, loss or initial weights differ): make the population for that"
        )
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


def _options(population: Population) -> dict[str, Any]:
    """What decides what is trained, as JSON gives it back; defaults that stand for a number as that number."""
    options = population.training.as_dict() | {"seed": population.seed, "horizon": population.horizon}
    options |= {"batch_size": population.batches.size, "lr": population.training.base_lr}
    kept: dict[str, Any] = as_json({name: value for name, value in options.items() if name not in FREE})
    return kept


def _parts(saved: Mapping[str, Any]) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    """Tensors and values of a state, all that `restore` needs of the latter."""
    tensors, values = (saved.get(kind) if isinstance(saved, Mapping) else None for kind in ("tensors", "values"))
    complete = isinstance(values, Mapping) and {"steps", "optimizer", "ledger", "trace", "engine"} <= values.keys()
    if not isinstance(tensors, Mapping) or not isinstance(values, Mapping) or not complete:
        raise InputError("this is not the state of a population: give what its state() returned")
    return tensors, values


def _with_first_statistics(population: Population, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of a state, and the problem's running statistics where an earlier version did not save those of the start."""
    held, k = population.parameters, len(tensors.get("counts", ()))
    names = [name for name in held.buffers if name in held.initial]
    if not k or any(f"initial/{name}" in tensors for name in names):
        return tensors
    fresh = population.problem.initial_weights()
    return {**tensors, **{f"initial/{name}": torch.stack([fresh[name].to(held.buffers[name].dtype)] * k) for name in names}}


def _check_options(population: Population, values: Mapping[str, Any]) -> None:
    own = _options(population)
    for name, value in values.get("training", {}).items():
        if name in own and own[name] != value:
            raise InputError(
                f"the state was saved with {name}={value!r}, this population has {own[name]!r}: set {name}={value!r}"
            )


def _check_tensors(population: Population, tensors: Mapping[str, Tensor]) -> None:
    """Raise `InputError` where a tensor is missing, is too much, or has another shape or type than this population needs."""
    counts = tensors.get("counts")
    layers = len(population.problem.space)
    if counts is None or counts.dtype != torch.int64 or counts.dim() != 2 or counts.shape[1] != layers or not len(counts):
        raise InputError(f"the state has no counts of survivors of {layers} layers: restore it for the model it was saved for")
    expected = _expected(population, counts) | _expected_slots(tensors, _expected(population, counts))
    if odd := sorted(tensors.keys() ^ expected.keys()):
        verb, model = ("has", "has not") if odd[0] in tensors else ("lacks", "has")
        raise InputError(f"the state {verb} {odd[0]!r}, which this model {model}: restore it for the model it was saved for")
    for name, (shape, dtype) in expected.items():
        found = tensors[name]
        if tuple(found.shape) != shape or found.dtype != dtype:
            raise InputError(
                f"the state's {name!r} is {tuple(found.shape)} of {found.dtype}, this population needs {shape} of {dtype}: "
                "restore it for the model and dtype it was saved for"
            )


def _expected(population: Population, counts: Tensor) -> dict[str, Form]:
    """Shape and type of every tensor of a state of networks with `counts` survivors, but for the optimizer's."""
    held, k = population.parameters, len(counts)
    totals = dict(zip(held.space.names, counts.sum(0).tolist(), strict=True))
    trained: dict[str, Form] = {name: ((totals[name],), value.dtype) for name, value in held.survivors.items()}
    trained |= {name: ((k, *value.shape[1:]), value.dtype) for name, value in held.stacked.items()}
    buffers: dict[str, Form] = {name: ((k, *value.shape[1:]), value.dtype) for name, value in held.buffers.items()}
    initial = {name: form for name, form in {**trained, **buffers}.items() if name in held.initial}
    groups = {"value": trained, "initial": initial, "buffer": buffers}
    return {
        "counts": (tuple(counts.shape), torch.int64),
        "loss": ((k,), torch.float64),
        **{f"survivors/{name}": ((total,), torch.int64) for name, total in totals.items()},
        **{f"{kind}/{name}": form for kind, group in groups.items() for name, form in group.items()},
    }


def _expected_slots(tensors: Mapping[str, Tensor], expected: Mapping[str, Form]) -> dict[str, Form]:
    """The same of the optimizer's tensors that the state has: they are as their leaves, a step count has no dimension."""
    slots = {name: "value/" + name.split("/", 2)[2] for name in tensors if name.startswith("optimizer/")}
    return {
        name: expected[leaf] if tensors[name].ndim else ((), tensors[name].dtype)
        for name, leaf in slots.items()
        if leaf in expected
    }


def _masks(population: Population, tensors: Mapping[str, Tensor]) -> list[Mask]:
    counts = tensors["counts"].numpy()
    space = population.problem.space
    layers = [
        np.split(tensors[f"survivors/{name}"].numpy(), np.cumsum(counts[:, layer])[:-1]) for layer, name in enumerate(space.names)
    ]
    return [Mask(space, list(own)) for own in zip(*layers, strict=True)]
