"""The journal and the batch map over it: nothing is trained twice, nothing is lost, and wrong files are left alone."""

from __future__ import annotations

import copy
import functools
import json
import logging
import pickle
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from deap import algorithms, base, tools
from torch import nn

import evoprune as ep
from evoprune.errors import DamagedFile, InputError, TrainingFailed
from evoprune.evolution.jobs import Finished, Job
from evoprune.evolution.trainer import Trainer
from evoprune.problems.problem import Problem
from tests.tiny import global_state, mlp, table

Train = Callable[[Trainer, Sequence[Job]], list[Finished]]


def made(path: Path | None = None, **options: Any) -> base.Toolbox:
    return ep.make_toolbox(mlp(), journal=path, **{"sparsity": 0.8, "epochs": 1, "batch_size": 24, "engine": "dense", **options})


def run(toolbox: base.Toolbox, ngen: int = 2, n: int = 5) -> tuple[list[Any], list[dict[str, Any]]]:
    random.seed(1)
    population, log = algorithms.eaSimple(toolbox.population(n=n), toolbox, 0.5, 0.5, ngen, verbose=False)
    return [(one.mask.hash, one.fitness.values) for one in population], list(log)


def sound(ledger: ep.Ledger) -> dict[str, Any]:
    return {name: value for name, value in ledger.as_dict().items() if name != "wall_s"}


def replace_training(monkeypatch: pytest.MonkeyPatch, change: Callable[[Train, Trainer, Sequence[Job]], list[Finished]]) -> None:
    original = Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda self, jobs: change(original, self, jobs))


# ---- replay --------------------------------------------------------------------------------------------------------------


def test_same_script_again_trains_nothing_and_costs_the_same(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    first = made(path)
    found = run(first)
    data = path.read_bytes()
    again = made(path)
    assert run(again) == found
    assert again.map.trained == 0 < first.map.trained
    assert sound(again.map.ledger) == sound(first.map.ledger)
    assert again.map.ledger.wall_s == pytest.approx(first.map.ledger.wall_s)
    assert path.read_bytes() == data
    assert run(made()) == found, "a journal changes nothing"


def test_more_generations_go_on_from_the_end(tmp_path: Path) -> None:
    first, longer, whole = made(tmp_path / "run.jsonl"), None, made()
    run(first, ngen=1)
    longer = made(tmp_path / "run.jsonl")
    assert run(longer, ngen=4) == run(whole, ngen=4)
    assert longer.map.trained == whole.map.trained - first.map.trained
    assert sound(longer.map.ledger) == sound(whole.map.ledger)


def test_journal_is_a_line_an_evaluation_and_reads_as_a_frame_while_it_is_open(tmp_path: Path) -> None:
    toolbox = made(tmp_path / "run.jsonl")
    individuals = toolbox.population(n=3)
    values = list(toolbox.map(toolbox.evaluate, [*individuals, individuals[0]]))
    frame = ep.read_journal(tmp_path / "run.jsonl")
    assert len(frame) == toolbox.map.trained == 3
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 4
    by_mask = frame.set_index("mask")
    assert [(by_mask.loc[one.mask.hash, "loss"],) for one in individuals] == values[:3]
    assert values[3] == values[0]
    assert set(frame["engine"]) == {"dense"}
    assert frame["samples"].sum() == toolbox.map.ledger.samples
    assert frame.attrs["header"]["parts"]["epochs"] == 1


def test_a_column_without_a_value_is_of_numbers_and_a_new_journal_has_its_columns(tmp_path: Path) -> None:
    problem = Problem("autoencoder", table((6,), None))
    toolbox = ep.make_toolbox(problem, sparsity=0.5, epochs=1, batch_size=24, engine="dense", journal=tmp_path / "run.jsonl")
    empty = ep.read_journal(tmp_path / "run.jsonl")
    assert len(empty) == 0
    list(toolbox.map(toolbox.evaluate, toolbox.population(n=2)))
    frame = ep.read_journal(tmp_path / "run.jsonl")
    assert frame["val_accuracy"].isna().all()
    assert frame["val_accuracy"].dtype == empty["val_accuracy"].dtype == float
    assert [name for name in frame if name != "loss"] == list(empty), "the objectives are known with the first evaluation"


def test_batch_size_order_and_company_change_no_result() -> None:
    individuals = made(seed=3).population(n=7)
    alone = [tuple(made().evaluate(one)) for one in individuals]
    for chunk in (1, 3, 7):
        toolbox = made(chunk=chunk)
        assert list(toolbox.map(toolbox.evaluate, individuals)) == alone
    toolbox = made()
    assert list(toolbox.map(toolbox.evaluate, individuals[::-1])) == alone[::-1]


def test_global_generators_are_left_alone(tmp_path: Path) -> None:
    toolbox = made(tmp_path / "run.jsonl", seed=0, inherit="weights")
    with global_state(3):
        individuals = toolbox.population(n=3)
        list(toolbox.map(toolbox.evaluate, individuals))
        toolbox.mutate(individuals[0])


# ---- wrong files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("epochs is 1 there and 2 here", {"epochs": 2}),
        ("training.lr is None there and 0.3 here", {"lr": 0.3}),
        ("objectives", {"criterion": "grad"}),
        ("seed is 0 there and 4 here", {"seed": 4}),
        ("inherit", {"inherit": "weights"}),
        ("guided", {"mutate": "mutGuided"}),
    ],
)
def test_journal_of_another_configuration_is_refused_and_kept(said: str, options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    former = made(path)
    run(former)
    data = path.read_bytes()
    with pytest.raises(InputError, match=said):
        made(path, **options)
    assert path.read_bytes() == data
    assert len(run(former, ngen=3)[0]) == 5, "the toolbox that was there first goes on"


def test_journal_of_another_problem_says_in_what_it_differs(tmp_path: Path) -> None:
    run(made(tmp_path / "run.jsonl"))
    with pytest.raises(InputError, match="the problem's seed is 0 there and 9 here"):
        ep.make_toolbox(mlp().with_seed(9), sparsity=0.8, epochs=1, batch_size=24, journal=tmp_path / "run.jsonl")


def test_training_options_that_equal_the_defaults_are_the_same_configuration(tmp_path: Path) -> None:
    run(made(tmp_path / "run.jsonl"))
    again = made(tmp_path / "run.jsonl", momentum=0.9, seed=0)
    run(again, n=5)


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_half_written_last_line_is_dropped_with_a_word(cut: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "run.jsonl"
    found, data = run(made(path)), path.read_bytes()
    path.write_bytes(data[:-cut])
    with caplog.at_level(logging.WARNING, "evoprune"):
        toolbox = made(path)
    assert "half-written line" in caplog.text
    assert path.read_bytes() == data[:-cut], "opening changes nothing"
    assert run(toolbox) == found
    assert toolbox.map.trained == 1
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == len(data.splitlines())


def test_journal_does_not_answer_for_another_loss(tmp_path: Path) -> None:
    def with_smoothing(amount: float) -> Any:
        problem = Problem("mlp:10-8", table(), loss=nn.CrossEntropyLoss(label_smoothing=amount))
        return ep.make_toolbox(problem, sparsity=0.8, epochs=1, batch_size=24, engine="dense", journal=tmp_path / "run.jsonl")

    run(with_smoothing(0.1))
    with pytest.raises(InputError, match=r"the problem's loss is .custom:CrossEntropyLoss.*label_smoothing=0\.1"):
        with_smoothing(0.4)


def test_half_written_header_is_an_empty_journal(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    found, data = run(made(path)), path.read_bytes()
    for end in (0, 10, 200):
        path.write_bytes(data[:end])
        assert run(made(path)) == found


@pytest.mark.parametrize("damage", [lambda line: line[:40], lambda line: line.replace(b'"survivors": 33', b'"survivors": 34')])
def test_damaged_line_in_the_middle_is_named_and_nothing_overwritten(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    found = run(made(path))
    lines = path.read_bytes().split(b"\n")
    lines[3] = damage(lines[3])
    broken = b"\n".join(lines)
    path.write_bytes(broken)
    for reader in (lambda: made(path), lambda: ep.read_journal(path)):
        with pytest.raises(DamagedFile, match=r"run\.jsonl, line 4 is damaged: one evaluation is lost.*delete that line"):
            reader()
    assert path.read_bytes() == broken
    path.write_bytes(b"\n".join(lines[:3] + lines[4:]))  # what the message says
    toolbox = made(path)
    assert run(toolbox) == found
    assert toolbox.map.trained == 1


def test_a_journal_whose_line_ends_were_changed_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    first = made(path)
    run(first, 1)
    first.map.close()
    changed = path.read_bytes().replace(b"\n", b"\r\n")
    path.write_bytes(changed)
    longer = made(path)
    found = run(longer)
    assert longer.map.trained
    assert path.read_bytes().startswith(changed)
    again = made(path)
    assert run(again) == found == run(made())
    assert again.map.trained == 0
    assert len(ep.read_journal(path)) == first.map.trained + longer.map.trained


@pytest.mark.parametrize("content", [b"my notes", b"my notes\n", b'{"a": 1}\n', b"\x00\x01\x02"])
def test_file_that_is_no_journal_is_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a journal"):
        made(path)
    assert path.read_bytes() == content


def test_newer_format_and_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder that exists"):
        made(tmp_path / "no" / "run.jsonl")
    with pytest.raises(InputError, match="cannot read"):
        ep.read_journal(tmp_path / "none.jsonl")


# ---- failures ------------------------------------------------------------------------------------------------------------


def test_memory_error_halves_the_batch_and_changes_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    individuals = made(seed=1).population(n=8)
    toolbox = made()
    expected, sizes = list(toolbox.map(toolbox.evaluate, individuals)), []

    def small_memory(original: Train, trainer: Trainer, jobs: Sequence[Job]) -> list[Finished]:
        sizes.append(len(jobs))
        if len(jobs) > 2:
            raise MemoryError if len(jobs) % 8 else torch.cuda.OutOfMemoryError("CUDA out of memory")
        return original(trainer, jobs)

    replace_training(monkeypatch, small_memory)
    toolbox = made()
    assert list(toolbox.map(toolbox.evaluate, individuals)) == expected
    assert sizes == [8, 4, 2, 2, 2, 2]


def test_failure_is_retried_and_then_marked_with_the_worst_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    individuals = made(seed=1).population(n=4)
    toolbox = made()
    expected, culprit, tries = list(toolbox.map(toolbox.evaluate, individuals)), individuals[2].mask.hash, []

    def broken(original: Train, trainer: Trainer, jobs: Sequence[Job]) -> list[Finished]:
        if any(job.mask.hash == culprit for job in jobs):
            tries.append(len(jobs))
            raise RuntimeError("a kernel failed")
        return original(trainer, jobs)

    replace_training(monkeypatch, broken)
    toolbox = made(tmp_path / "run.jsonl", retries=2)
    assert list(toolbox.map(toolbox.evaluate, individuals)) == [*expected[:2], (float("inf"),), expected[3]]
    assert tries == [4, 2, 1, 1, 1]
    assert [one.failed for one in individuals] == [False, False, True, False]
    frame = ep.read_journal(tmp_path / "run.jsonl").set_index("mask")
    assert frame.loc[culprit, "failed"]
    assert "a kernel failed" in frame.loc[culprit, "error"]
    again = made(tmp_path / "run.jsonl")
    assert list(again.map(again.evaluate, individuals))[2] == (float("inf"),)


def test_one_failure_does_not_hide_that_everything_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(original: Train, trainer: Trainer, jobs: Sequence[Job]) -> list[Finished]:
        raise RuntimeError("no device")

    replace_training(monkeypatch, broken)
    toolbox = made(tmp_path / "run.jsonl")
    with pytest.raises(TrainingFailed, match=r"all 3 evaluations failed.*no device"):
        toolbox.map(toolbox.evaluate, toolbox.population(n=3))
    assert not (tmp_path / "run.jsonl").read_bytes()


def test_mistake_in_a_program_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(original: Train, trainer: Trainer, jobs: Sequence[Job]) -> list[Finished]:
        raise TypeError("a typing mistake")

    replace_training(monkeypatch, broken)
    toolbox = made()
    with pytest.raises(TypeError, match="a typing mistake"):
        toolbox.map(toolbox.evaluate, toolbox.population(n=3))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_network_that_turns_nan_is_failed_and_never_the_best(tmp_path: Path) -> None:
    toolbox = made(tmp_path / "run.jsonl", lr=1e18, epochs=3, seed=0)
    individuals = toolbox.population(n=3)
    assert list(toolbox.map(toolbox.evaluate, individuals)) == [(float("inf"),)] * 3
    assert all(one.failed for one in individuals)
    assert ep.read_journal(tmp_path / "run.jsonl")["failed"].all()


# ---- DEAP ----------------------------------------------------------------------------------------------------------------


def test_decorated_evaluate_is_still_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def counted(original: Train, trainer: Trainer, jobs: Sequence[Job]) -> list[Finished]:
        sizes.append(len(jobs))
        return original(trainer, jobs)

    individuals = made(seed=1).population(n=6)
    toolbox = made()
    plain = list(toolbox.map(toolbox.evaluate, individuals))
    replace_training(monkeypatch, counted)

    def doubled(function: Any) -> Any:
        @functools.wraps(function)
        def call(individual: Any) -> tuple[float, ...]:
            return tuple(2 * value for value in function(individual))

        return call

    def feasible(individual: Any) -> bool:
        return individual is not individuals[4]

    toolbox = made()
    toolbox.decorate("evaluate", doubled)
    toolbox.decorate("evaluate", tools.DeltaPenalty(feasible, 7.0))
    values = list(toolbox.map(toolbox.evaluate, individuals))
    assert values == [(7.0,) if one is individuals[4] else (2 * value[0],) for one, value in zip(individuals, plain, strict=True)]
    assert sizes == [5], "an infeasible individual is not trained, the others train together"


def test_evaluate_pickles_for_a_map_of_the_users_own(tmp_path: Path) -> None:
    toolbox = made(tmp_path / "run.jsonl")
    individuals = toolbox.population(n=2)
    sent = pickle.loads(pickle.dumps(toolbox.evaluate))
    assert list(map(sent, individuals)) == list(toolbox.map(toolbox.evaluate, individuals))
    assert toolbox.map.trained == 2, "it trains where it was sent, without the journal"


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_of_a_toolbox_have_one_journal(copied: Callable[[base.Toolbox], base.Toolbox], tmp_path: Path) -> None:
    toolbox = made(tmp_path / "run.jsonl")
    again = copied(toolbox)
    individuals = again.population(n=2)
    values = list(again.map(again.evaluate, individuals))
    assert list(toolbox.map(toolbox.evaluate, individuals)) == values == [again.evaluate(one) for one in individuals]
    assert len(ep.read_journal(tmp_path / "run.jsonl")) == toolbox.map.trained == 2


def test_a_toolbox_says_what_to_pickle_instead(tmp_path: Path) -> None:
    toolbox = made(tmp_path / "run.jsonl")
    for what in (toolbox, toolbox.map, functools.partial(run, toolbox)):
        with pytest.raises(InputError, match=r"pickle individuals, populations or toolbox\.evaluate"):
            pickle.dumps(what)


def test_error_in_a_decorator_is_raised() -> None:
    def broken(function: Any) -> Any:
        @functools.wraps(function)
        def call(individual: Any) -> tuple[float, ...]:
            function(individual)
            raise KeyError("mine")

        return call

    toolbox = made()
    toolbox.decorate("evaluate", broken)
    with pytest.raises(KeyError, match="mine"):
        toolbox.map(toolbox.evaluate, toolbox.population(n=3))


def test_users_own_evaluate_is_called_one_by_one_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    toolbox = made()

    def evaluate(individual: Any) -> tuple[float]:
        return (float(individual.mask.survivors[0].sum()),)

    toolbox.register("evaluate", evaluate)
    with caplog.at_level(logging.WARNING, "evoprune"):
        population, _ = run(toolbox)
    assert "one individual after the other" in caplog.text
    assert caplog.text.count("one individual") == 1
    assert toolbox.map.trained == 0
    assert all(values[0] > 0 for _, values in population)


def test_wrong_individuals_and_options_are_refused() -> None:
    toolbox = made()
    strangers = ep.make_toolbox(mlp("mlp:5"), sparsity=0.5).population(n=1)
    with pytest.raises(InputError, match="another model"):
        toolbox.map(toolbox.evaluate, strangers)
    with pytest.raises(InputError, match="has no mask"):
        toolbox.map(toolbox.evaluate, [[1, 2]])
    for said, options in {
        "depends on the cohort": {"criterion": "both"},
        "unknown criterion 'los'": {"criterion": "los"},
        "own_weights": {"own_weights": True},
        "drop_rate": {"drop_rate": 0.1, "inherit": "weights"},
        "chunk=0": {"chunk": 0},
        "retries=-1": {"retries": -1},
        "unknown inherit": {"inherit": "genes"},
        "unknown operator": {"mutate": "mutSwop"},
        "operator to mate with": {"mate": "mutSwap"},
        "executor=": {"executor": "ray"},
    }.items():
        with pytest.raises(InputError, match=said):
            made(**options)


@pytest.mark.parametrize(
    ("said", "options"),
    [("tournament.rungs", {"rungs": (1, 3)}), ("tournament.criteria", {"criterion": "grad"}), ("tournament.eta", {"eta": 3})],
)
def test_a_journal_of_another_tournament_is_refused(said: str, options: dict[str, Any], tmp_path: Path) -> None:
    asked: dict[str, Any] = {"epochs": 3, "rungs": (1, 2), "path": tmp_path / "run.jsonl"}
    toolbox = made(**asked)
    list(toolbox.map(toolbox.evaluate, toolbox.population(n=4)))
    with pytest.raises(InputError, match=said):
        made(**{**asked, **options})


def test_a_resumed_search_keeps_its_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        toolbox = made(tmp_path / "run.jsonl", engine="auto", device="cpu")
        list(toolbox.map(toolbox.evaluate, toolbox.population(n=2)))
        monkeypatch.setattr("evoprune.training.engines.choice.sparse_suits", lambda *_: False)  # what a later version may say
    frame = ep.read_journal(tmp_path / "run.jsonl")
    assert len(frame) == 4
    assert set(frame["engine"]) == {"sparse"}
