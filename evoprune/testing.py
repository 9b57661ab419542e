"""The contract that every method keeps, as one call: for the tests of this package, and of whoever registers a method.

from evoprune.testing import contract_test
contract_test("my_method", every=5)
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evoprune.errors import InputError, UnknownName
from evoprune.methods import METHODS, Method
from evoprune.problems.problem import Problem
from evoprune.training.ticket import Ticket

__all__ = ["contract_test", "tiny_problem"]

SMALL = {"k": 3, "mu": 3, "lambda_": 3, "ngen": 1, "fitness_epochs": 1, "selection_epochs": 1, "every": 3, "steps": 3}
"""Values for options that would make a method slow; used where a method has the option."""


def tiny_problem(seed: int = 0) -> Problem:
    """A classification of 6 numbers in 3 classes with 164 prunable weights, which trains in milliseconds."""
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 3
    inputs = (1.5 * rng.normal(size=(3, 6))[labels] + rng.normal(size=(100, 6))).astype(np.float32)
    arrays = {"x_train": inputs[:80], "y_train": labels[:80], "x_test": inputs[80:], "y_test": labels[80:]}
    return Problem("mlp:10-8", arrays, seed=seed)


def contract_test(method: str | Method, problem: Problem | None = None, *, sparsity: float = 0.8, **options: Any) -> None:
    """Raise `AssertionError`, with a line that says what is broken, unless `method` keeps the contract of all methods.

    method: a registered method or its name. problem: what it runs on, by default a tiny one. options: the method's own.

    Exact counts in total and in every layer; same seed, same ticket bit for bit, whatever the global generators were, which
    are left as they were; another seed, another mask; the problem is not changed and its test split not opened; the ledger
    counts; a ticket comes back equal from its file; one row of history an epoch; bad options are refused.
    """
    method = method if isinstance(method, Method) else METHODS[method]
    problem = problem or tiny_problem()
    options = {
        **{name: value for name, value in SMALL.items() if name in method.options},
        "epochs": 5,
        "batch_size": 9,
        **options,
    }
    before, openings = problem.initial_weights(), list(problem.test_openings)

    def run(own: Problem, seed: int, state: int) -> Ticket:
        with _unmoved(method.name, state):
            return method(own, sparsity=sparsity, seed=seed, **options)

    ticket, again, other = run(problem, 1, 10), run(problem, 1, 20), run(problem, 2, 10)
    _counts(method, problem, ticket, sparsity)
    _same(method, ticket, again)
    reseeded = problem.with_seed(problem.seed + 1)
    drawn = not _equal(before, reseeded.initial_weights())  # a module instance has its own weights and no others
    if method.sparse and drawn:  # a score of the initial weights follows the problem's seed
        differs = ticket.mask != other.mask or ticket.mask != run(reseeded, 2, 10).mask
        _hold(method, differs, "another seed gives the same mask")
    _hold(method, not _equal(ticket.weights, other.weights), "another seed gives the same weights")
    _hold(method, _equal(before, problem.initial_weights()), "the problem's weights were changed")
    _hold(method, problem.test_openings == openings, "the test split was opened")
    _history(method, ticket, options["epochs"])
    _ledger(method, problem, ticket, options["epochs"], options["batch_size"])
    _file(method, problem, ticket)
    _refusals(method, problem, options)


# ---- one clause each ---------------------------------------------------------------------------------------------


def _hold(method: Method, good: bool, broken: str) -> None:
    if not good:
        raise AssertionError(f"method {method.name!r}: {broken}")


@contextmanager
def _unmoved(name: str, state: int) -> Iterator[None]:
    """Set every global generator to `state`; complain if the block moves one; put them back."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002  these are what is tested
    with torch.random.fork_rng():
        try:
            random.seed(state)
            np.random.seed(state)  # noqa: NPY002
            torch.manual_seed(state)
            before = _states()
            yield
            for kind, old, new in zip(("random", "numpy.random", "torch"), before, _states(), strict=True):
                if old != new:
                    raise AssertionError(f"method {name!r}: the global generator of {kind} was moved")
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


def _states() -> tuple[object, ...]:
    return random.getstate(), repr(np.random.get_state(legacy=False)["state"]), torch.get_rng_state().tolist()  # noqa: NPY002


def _counts(method: Method, problem: Problem, ticket: Ticket, sparsity: float) -> None:
    mask = ticket.mask
    asked = problem.space.budget(sparsity) if method.sparse else problem.prunable
    _hold(method, mask.space == problem.space, "the mask belongs to another model")
    _hold(method, mask.count == asked, f"{mask.count} survivors obtained, {asked} asked")
    for name, survivors, count, size in zip(mask.space.names, mask.survivors, mask.counts, mask.space.sizes, strict=True):
        good = len(survivors) == count and bool((np.diff(survivors) > 0).all())
        good = good and (not count or (survivors[0] >= 0 and survivors[-1] < size))
        _hold(method, good, f"the survivors of {name} are not increasing indices of it")
        outside = ticket.weights[name][~mask.dense()[name]]
        _hold(method, not outside.any(), f"pruned weights of {name} are not 0")
        alive = int((ticket.weights[name] != 0).sum())
        _hold(method, alive >= 0.5 * count, f"{name} keeps {count} weights, but only {alive} are not 0")


def _same(method: Method, ticket: Ticket, again: Ticket) -> None:
    _hold(method, ticket.mask == again.mask, "the same seed gives another mask")
    _hold(method, _equal(ticket.weights, again.weights), "the same seed gives other weights")
    _hold(method, _equal(ticket.initial, again.initial), "the same seed gives other initial weights")
    _hold(method, ticket.history.equals(again.history), "the same seed gives another history")
    first, second = ({**one.ledger.as_dict(), "wall_s": 0} for one in (ticket, again))
    _hold(method, first == second, "the same seed costs another amount")


def _equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def _history(method: Method, ticket: Ticket, epochs: int) -> None:
    history = ticket.history
    seen = history["epoch"].tolist()
    _hold(method, seen == list(range(1, epochs + 1)), f"the history has the epochs {seen}, {epochs} were asked")
    losses = history[["train_loss", "val_loss"]].to_numpy(dtype=float)
    _hold(method, bool(np.isfinite(losses).all()), "a loss in the history is not finite")
    last = int(history["survivors"].iloc[-1])
    _hold(method, last == ticket.mask.count, f"the history ends with {last} survivors, the mask has {ticket.mask.count}")


def _ledger(method: Method, problem: Problem, ticket: Ticket, epochs: int, batch: int) -> None:
    ledger, train = ticket.ledger, len(problem.split("train"))
    least = epochs * (train // batch) * batch
    _hold(method, ledger.samples >= least, f"the ledger counts {ledger.samples} samples, the path alone takes {least}")
    least_updates = 3 * least * ticket.mask.count
    _hold(method, ledger.survivor_updates >= least_updates, "the ledger counts fewer updates than the path alone takes")
    dense_epochs = ledger.survivor_updates / (3 * problem.prunable * train)
    _hold(method, abs(ledger.dense_equivalent_epochs / dense_epochs - 1) < 1e-6, "dense_equivalent_epochs and updates disagree")
    _hold(method, ledger.evaluation_samples > 0 and ledger.wall_s > 0, "the ledger counts no evaluation or no time")
    _hold(method, bool(ledger.engine and ledger.device), "the ledger names no engine or device")


def _file(method: Method, problem: Problem, ticket: Ticket) -> None:
    with tempfile.TemporaryDirectory() as folder:
        loaded = Ticket.load(ticket.save(Path(folder) / "ticket.safetensors"), problem=problem)
    _hold(method, loaded.mask == ticket.mask, "the mask changes in a file")
    _hold(method, _equal(loaded.weights, ticket.weights), "the weights change in a file")
    _hold(method, _equal(loaded.initial, ticket.initial), "the initial weights change in a file")
    _hold(method, loaded.history.equals(ticket.history), "the history changes in a file")
    _hold(method, loaded.ledger == ticket.ledger, "the ledger changes in a file")
    _hold(method, loaded.provenance == ticket.provenance, "the provenance changes in a file")
    _hold(method, loaded.provenance["method"] == method.name, "the provenance names another method")
    module = ticket.module()
    right = all(torch.equal(value, ticket.weights[name]) for name, value in module.state_dict().items() if name in ticket.weights)
    _hold(method, right, "module() does not have the ticket's weights")


def _refusals(method: Method, problem: Problem, options: dict[str, Any]) -> None:
    bad: list[dict[str, Any]] = [{"no_such_option": 1}, {"epochs": 0}, {"epochs": 1.5}, {"seed": -1}, {"sparsity": 1.0}]
    bad += [{"sparsity": "lots"}, {"lr": -1.0}, {"optimizer": "lbfgs"}, {"engine": "no such engine"}]
    bad += [{name: "no such value"} for name in ("criterion", "allocation", "rule", "form", "order") if name in method.options]
    bad += [{name: 0} for name in ("k", "mu", "lambda_") if name in method.options]
    for wrong in bad:
        try:
            method(problem, **{**options, **wrong})
        except InputError as error:
            _hold(method, "\n" not in str(error), f"the refusal of {wrong} is not one line")
            if "no_such_option" in wrong:
                _hold(method, isinstance(error, UnknownName), f"{wrong} is refused, but not as an unknown name")
        else:
            raise AssertionError(f"method {method.name!r}: {wrong} is accepted")
