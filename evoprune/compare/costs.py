"""Equal cost: how many epochs each method may take so that the ledgers agree, search and losers included.

Searches cost what they cost; what can be stretched or shortened is the training of the network they return. The cost of a method
is a straight line in its epochs, up to rounding, so two runs of one seed give it, of the asked epochs and of twice as many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from evoprune.compare.cells import Cell
from evoprune.compare.folder import COSTS
from evoprune.errors import InputError
from evoprune.formats import read_json, write_json
from evoprune.methods.registry import METHODS
from evoprune.words import counted

__all__ = ["DEAREST", "Costs", "aim", "check_target", "epochs_at", "equalised"]

DEAREST = "dearest"
"""The target where none is named: what the dearest method costs at each sparsity."""

Price = Callable[[Sequence[Cell]], Iterable[tuple[Cell, float | InputError]]]
"""What each cell costs, or why its method refuses."""


class Costs:
    """What one seed costs, by the kind of cell and by epochs; None where the method refuses so few. Kept in a file, to which
    other processes may add; two that write at the same moment may find a cost twice."""

    def __init__(self, folder: Path, price: Price) -> None:
        self.path, self.price = folder / COSTS, price
        self.known: dict[str, dict[str, float | None]] = {}
        self.refused: dict[tuple[str, int], InputError] = {}
        self._take()

    def _take(self) -> None:
        """Know what the file says too."""
        if self.path.is_file():
            for kind, costs in read_json(self.path, lost="what methods cost").items():
                self.known[kind] = {**costs, **self.known.get(kind, {})}

    def find(self, cells: Sequence[Cell]) -> None:
        """Train the cells whose cost is not known yet, and write it down as they finish."""
        self._take()
        missing = [cell for cell in cells if str(cell.options["epochs"]) not in self.known.get(cell.kind, {})]
        for cell, found in self.price(missing):
            if isinstance(found, InputError):
                self.refused[cell.kind, cell.options["epochs"]] = found
            cost = None if isinstance(found, InputError) else found
            self.known.setdefault(cell.kind, {})[str(cell.options["epochs"])] = cost
            self._take()
            write_json(self.path, self.known)

    def of(self, cell: Cell) -> float | None:
        """In epochs of the dense network."""
        return self.known[cell.kind][str(cell.options["epochs"])]

    def price_of(self, cell: Cell) -> float:
        """The same. Raises `InputError` where the method refuses to be run so, in its words; where an earlier process asked, the
        file does not say why."""
        cost, epochs = self.of(cell), cell.options["epochs"]
        if cost is None:
            told = self.refused.get((cell.kind, epochs))
            why = f": give more, or delete {COSTS}" if told is None else f" ({told})"
            raise InputError(f"{cell.method} refuses {counted(epochs, 'epoch')}{why}")
        return cost


def check_target(target: str | float | None, methods: Sequence[str]) -> str | float | None:
    """`None` for the usual epochs, `DEAREST`, a method among `methods`, or epochs of the dense network. Raises `InputError`."""
    if isinstance(target, str) and target in methods and not METHODS[target].sparse:
        raise InputError(
            f"equal cost to {target!r} is not usable: it prunes nothing; give its cost in epochs of the dense network"
        )
    if target == DEAREST and sum(METHODS[method].sparse for method in set(methods)) < 2:
        raise InputError(f"equal cost of {', '.join(methods)}: give at least two methods that prune")
    if target is None or target == DEAREST or target in methods:
        return target
    if isinstance(target, (str, bool)) or not 0 < target < math.inf:
        names = ", ".join(name for name in methods if METHODS[name].sparse)
        raise InputError(
            f"equal cost to {target!r} is not usable: give {DEAREST!r}, one of {names}, or epochs of the dense network"
        )
    return float(target)


def equalised(cells: Sequence[Cell], epochs: int, target: str | float, costs: Costs) -> list[Cell]:
    """The cells with as many epochs as bring each to the target; those of methods that prune nothing stay references.

    epochs: the usual ones, at which "dearest" and the cost of a method are told. Costs are found with the first seed. Raises
    `InputError` for a method whose sparsity is an outcome beside several sparsities, each of which has a cost of its own.
    """
    first = cells[0].seed
    usual = [cell.lasting(epochs) for cell in cells if cell.seed == first and METHODS[cell.method].sparse]
    for cell in usual if isinstance(target, str) else ():
        if (
            cell.sparsity is None
            and cell.method != target
            and len({other.sparsity for other in _beside(cell, usual)} - {None}) > 1
        ):
            raise InputError(
                f"{cell.method} leaves its sparsity open, and several sparsities have costs of their own: give one sparsity, or "
                "a cost in epochs of the dense network"
            )
    costs.find(usual + [cell.lasting(2 * epochs) for cell in usual])
    aims = {cell.kind: aim(cell, usual, target, costs) for cell in usual}
    chosen = {cell.kind: epochs_at(aims[cell.kind], cell, epochs, costs) for cell in usual}
    return [cell.lasting(chosen.get(cell.kind, epochs)) for cell in cells]


def aim(cell: Cell, usual: Sequence[Cell], target: str | float, costs: Costs) -> float:
    """What a cell should cost, in epochs of the dense network; `usual`: all cells of one seed at the usual epochs."""
    if not isinstance(target, str):
        return target
    own = [other for other in _beside(cell, usual) if target in (DEAREST, other.method)] or [cell]
    return max(costs.price_of(other) for other in own)


def _beside(cell: Cell, usual: Sequence[Cell]) -> list[Cell]:
    """The cells of the same problem and sparsity, itself included; one whose sparsity is an outcome stands beside all."""
    own = [other for other in usual if other.problem == cell.problem]
    return [other for other in own if other.sparsity == cell.sparsity or None in (other.sparsity, cell.sparsity)]


def epochs_at(target: float, cell: Cell, epochs: int, costs: Costs) -> int:
    """Epochs at which the cell costs about `target`; the fewest that its method takes where that is still too much.

    A method whose cost does not grow with its epochs keeps the usual ones.
    """
    low, high = costs.price_of(cell.lasting(epochs)), costs.price_of(cell.lasting(2 * epochs))
    slope = (high - low) / epochs
    if slope <= 0:
        return epochs
    wanted = epochs + round((target - low) / slope)
    if wanted >= epochs:
        return wanted
    for fewer in range(max(1, wanted), epochs):  # a method says itself how few it takes
        costs.find([cell.lasting(fewer)])
        if costs.of(cell.lasting(fewer)) is not None:
            return fewer
    return epochs
