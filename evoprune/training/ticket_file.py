"""Ticket files: one safetensors file with the mask, the survivors' values, every other tensor, and a JSON header."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from evoprune.errors import DamagedFile, MaskMismatch
from evoprune.files import Arrays, read_tensors, write_tensors
from evoprune.masks.files import decode, describe, encode, space_of
from evoprune.masks.mask import Mask
from evoprune.problems.problem import Problem
from evoprune.training.ledger import Ledger

if TYPE_CHECKING:
    from evoprune.training.ticket import Ticket

__all__ = ["load", "save"]

FORMAT, VERSION = "evoprune.ticket", 1


def save(ticket: Ticket, path: Path) -> Path:
    """Write `ticket`; pruned weights take no room."""
    tensors: Arrays = encode(ticket.mask)
    for kind, group in (("weights", ticket.weights), ("initial", ticket.initial)):
        tensors |= {f"{kind}/{name}": _kept(ticket.mask, name, value) for name, value in group.items()}
    tensors |= {f"start/{name}": value.detach().cpu().numpy() for name, value in (ticket.start or {}).items()}
    header = {
        "format": FORMAT,
        "version": VERSION,
        **describe(ticket.mask),
        "history": [_json(row) for row in ticket.history_rows],
        "ledger": ticket.ledger.as_dict(),
        "provenance": ticket.provenance,
    }
    return write_tensors(path, tensors, header)


def load(path: Path, problem: Problem | None) -> Ticket:
    """Read a ticket; `problem` must be of the same space."""
    from evoprune.training.ticket import Ticket

    tensors, header = read_tensors(path, format=FORMAT, version=VERSION, lost="the ticket")
    mask = decode(space_of(header, source=path), tensors, source=path, hash=header.get("hash"))
    if problem is not None and problem.space != mask.space:
        raise MaskMismatch(
            f"{path} holds a ticket for another model than {problem.model_name!r}: give the problem it was made for"
        )
    try:
        weights, initial = (
            {
                key.removeprefix(kind): _dense(mask, key.removeprefix(kind), value)
                for key, value in tensors.items()
                if key.startswith(kind)
            }
            for kind in ("weights/", "initial/")
        )
        start = {
            name.removeprefix("start/"): torch.from_numpy(np.array(value))
            for name, value in tensors.items()
            if name.startswith("start/")
        }
        ledger, provenance = Ledger(**header["ledger"]), dict(header["provenance"])
        history = [dict(row) for row in header["history"]]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedFile(f"{path} is damaged ({error}): the ticket is lost, make it again") from None
    return Ticket(mask, weights, initial, history, ledger, provenance, problem, start=start or None)


def _kept(mask: Mask, name: str, value: Tensor) -> Any:
    flat = value.detach().cpu().numpy()
    return flat.reshape(-1)[mask.survivors[mask.space.index[name]]] if name in mask.space.index else flat


def _dense(mask: Mask, name: str, value: Any) -> Tensor:
    if name not in mask.space.index:
        return torch.from_numpy(np.array(value))
    layer = mask.space.index[name]
    dense = np.zeros(mask.space.sizes[layer], dtype=value.dtype)
    dense[mask.survivors[layer]] = value
    return torch.from_numpy(dense.reshape(mask.space.shapes[layer]))


def _json(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
