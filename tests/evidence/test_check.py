"""A check finds what was planted: in the weights, in the wiring, in the layer counts only, nowhere; and says so."""

from __future__ import annotations

import io
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import evoprune as ep
from evoprune import seeds as streams
from evoprune.errors import InputError, TrainingFailed
from evoprune.evidence.check import Check, _networks, check
from evoprune.evidence.checked import rejudged
from evoprune.evidence.controls import CONTROLS
from evoprune.evidence.statistics import holm
from evoprune.evidence.tables import plus_minus
from evoprune.evidence.verdict import LAYERS, RANDOM, SEEDS, WEIGHTS, WIRING
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_mask
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from tests.tiny import global_state, table

FEATURES, USEFUL = 40, 4
OPTIONS: dict[str, Any] = {"batch_size": 50, "engine": "dense", "lr": 0.1}
SHORT = ["reinitialise", "shuffle_units"]


@cache
def arrays(useful: int = USEFUL, labels: bool = True) -> dict[str, Any]:
    """Of 40 inputs the first `useful` tell the class; 400 samples to judge by."""
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(900, FEATURES)).astype(np.float32)
    truth = (inputs[:, :useful].sum(1) > 0).astype(np.int64)
    parts = {"train": slice(0, 400), "validation": slice(400, 800), "test": slice(800, 900)}
    return {f"{axis}_{name}": values[part] for name, part in parts.items()
            for axis, values in (("x", inputs), *((("y", truth),) if labels else ()))}  # fmt: skip


class Junk(nn.Module):
    """A wide layer that does nothing, and would take most of a random mask's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out, self.junk = nn.Linear(FEATURES, 12), nn.Linear(12, 2), nn.Linear(FEATURES, 120)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(torch.relu(self.inp(x))) + 0 * self.junk(x).mean(-1, keepdim=True)
        return out


def trained(problem: Problem, mask: Mask, epochs: int = 4, **options: Any) -> Ticket:
    return Population(problem, [mask], horizon=epochs, seed=1, **{**OPTIONS, **options}).train(epochs).ticket()


def in_the_wiring() -> Ticket:
    """All first-layer survivors at the useful inputs, as many as any random mask has in each layer."""
    problem = Problem("mlp:24", arrays())
    mask = random_mask(problem.space, sparsity=0.9, seed=0)
    places = np.sort((np.arange(24)[:, None] * FEATURES + np.arange(USEFUL)).ravel())[: mask.counts[0]]
    assert len(places) == mask.counts[0]
    return trained(problem, mask.replace(0, places))


def in_the_counts() -> Ticket:
    """Random masks are fine, as long as they spend nothing on the layer that does nothing."""

    def build() -> nn.Module:
        return Junk()

    problem = Problem(build, arrays(useful=FEATURES))
    mask = random_mask(problem.space, sparsity=0.97, seed=0)
    layer = {name: problem.space.index[f"{name}.weight"] for name in ("inp", "out", "junk")}
    rng = np.random.default_rng(0)
    counts = {"junk": 1, "out": 20, "inp": mask.count - 21}
    for name, count in counts.items():
        mask = mask.replace(layer[name], np.sort(rng.permutation(problem.space.sizes[layer[name]])[:count]))
    return trained(problem, mask)


def in_the_weights() -> Ticket:
    """A mask that keeps those initial weights that are right already; training is too short to mend others."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Linear(FEATURES, 2, bias=False)
    problem = Problem(layer, arrays(useful=FEATURES))
    right = layer.weight.detach().numpy() * np.array([[-1.0], [1.0]])
    mask = Mask(problem.space, [np.sort(np.argsort(-right.ravel())[:24])])
    return trained(problem, mask, epochs=1, lr=1e-4)


def nowhere() -> Ticket:
    problem = Problem("mlp:24", arrays())
    return trained(problem, random_mask(problem.space, sparsity=0.9, seed=0))


@pytest.mark.parametrize(
    ("plant", "options", "kind"),
    [
        (in_the_weights, {"difference": 0.02}, WEIGHTS),
        (in_the_wiring, {"difference": 0.05}, WIRING),
        (in_the_counts, {"difference": 0.1}, LAYERS),
        (nowhere, {"difference": 0.15}, RANDOM),
        (nowhere, {"difference": 0.0001}, SEEDS),
    ],
    ids=["weights", "wiring", "counts", "nowhere", "too few seeds"],
)
def test_what_was_planted_is_found(plant: Any, options: dict[str, Any], kind: str) -> None:
    found = check(plant(), controls=SHORT, draws=3, **{"seeds": 5, **options})
    assert found.verdict.kind == kind, found.table.to_string()
    assert kind in repr(found)
    fresh = found.frame[found.frame["control"] == "fresh_counts"]["score"]
    reached = (fresh >= found.frame[found.frame["control"] == "ticket"]["score"].mean()).sum()
    assert f"{reached} of {len(fresh)} fresh masks reach its mean" in found.verdict.because


# ---- what a check gives --------------------------------------------------------------------------------------------


@cache
def small(**options: Any) -> Check:
    return check(nowhere(), seeds=2, epochs=1, draws=3, **options)


def test_every_control_and_seed_is_in_the_frame() -> None:
    found = small()
    networks = found.frame.groupby("control").size().to_dict()
    assert networks == {"ticket": 2, **dict.fromkeys(CONTROLS, 2), "fresh_counts": 6}
    assert set(found.frame.columns) == {"control", "seed", "draw", "score", "metric", "survivors", "failed"}
    assert found.frame["score"].between(0, 1).all()
    assert found.table["control"].tolist() == list(CONTROLS)
    by = found.frame.groupby(["control", "seed"])["score"].mean()
    row = found.table.set_index("control").loc["fresh_counts"]
    assert row["gain"] == pytest.approx((by["ticket"] - by["fresh_counts"]).mean())
    assert found.table["p_holm"].tolist() == pytest.approx(holm(found.table["p"].tolist()), nan_ok=True)
    assert (found.table["p_holm"] > found.table["p"]).any()


def test_a_check_is_repeatable_leaves_the_world_alone_and_never_opens_the_test_split() -> None:
    ticket = nowhere()
    with global_state(1):
        one, same, other = (check(ticket, seeds=1, epochs=1, controls=[], seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one.frame, same.frame)
    assert not one.frame["score"].equals(other.frame["score"])
    assert ticket.problem is not None
    assert ticket.problem.test_openings == []


def test_a_check_of_numpys_numbers_is_kept_as_json() -> None:
    ticket, options = nowhere(), {"seeds": 2, "epochs": 1, "draws": 2, "difference": 0.125, "seed": 1, "lr": 0.25}
    kinds = {int: np.int64, float: np.float32}
    one, other = (
        check(ticket, controls=[], **given) for given in (options, {name: kinds[type(n)](n) for name, n in options.items()})
    )
    assert json.dumps(one.as_dict()) == json.dumps(other.as_dict())


def test_a_single_seed_claims_nothing() -> None:
    found = check(nowhere(), seeds=1, epochs=1, controls=[])
    assert found.verdict.kind == SEEDS
    assert str(found.verdict) == "not enough seeds (need more)"
    found.figure()


def test_the_ticket_starts_where_it_started_whoever_trains_beside_it() -> None:
    ticket = nowhere()
    score = check(ticket, seeds=1, controls=[]).frame["score"].iloc[0]
    assert ticket.problem is not None
    alone = Population(ticket.problem, [ticket.mask], horizon=4, seed=streams.derive(0, "check", 0), **OPTIONS).train(4).ticket()
    assert score == pytest.approx(alone.val_accuracy, abs=0.003)


def test_losses_count_downwards() -> None:
    problem = Problem("mlp:24", arrays(labels=False))
    ticket = trained(problem, random_mask(problem.space, sparsity=0.5, seed=0))
    found = check(ticket, seeds=2, epochs=1, controls=["shuffle_all"])
    means = found.frame.groupby("control")["score"].mean()
    gain = found.table.set_index("control")["gain"]["shuffle_all"]
    assert gain == pytest.approx(means["shuffle_all"] - means["ticket"])
    assert found.difference == pytest.approx(0.02 * means["ticket"])


def test_a_check_without_a_trained_network_is_an_error() -> None:
    ticket = nowhere()
    with pytest.raises(TrainingFailed, match="lower lr="):
        check(ticket, seeds=1, epochs=1, controls=[], lr=1e30)


def test_a_folder_is_checked_and_gets_its_files(tmp_path: Path) -> None:
    nowhere().save(tmp_path / "ticket.safetensors")
    found = check(tmp_path, problem=Problem("mlp:24", arrays()), seeds=2, epochs=1, controls=["flip_signs"])
    paths = found.save(tmp_path)
    assert sorted(path.name for path in paths) == ["check.csv", "check.json", "check.png"]
    assert len(pd.read_csv(tmp_path / "check.csv")) == len(found.frame)
    told = json.loads((tmp_path / "check.json").read_text())
    assert told["verdict"] == str(found.verdict)
    assert [row["control"] for row in told["controls"]] == ["fresh_counts", "fresh_random", "flip_signs"]
    assert "<table" in found._repr_html_()
    stale, frame = {**told, "verdict": "of old", "controls": []}, pd.read_csv(tmp_path / "check.csv")
    assert rejudged(stale, frame) == told, "a page says what is said today"
    for missing in ("counts_chosen", "difference", "epochs"):
        part = {name: value for name, value in stale.items() if name != missing}
        assert rejudged(part, frame) == part


def test_a_check_that_takes_the_place_of_another_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def told(seeds: int, controls: list[str]) -> list[str]:
        caplog.clear()
        check(nowhere(), seeds=seeds, epochs=1, draws=2, controls=controls).save(tmp_path)
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    assert told(2, ["invert"]) == told(2, ["invert"]) == []
    [line] = told(1, [])
    held = "check.json held a check of 2 seeds with fresh_counts, fresh_random, invert"
    assert line.endswith(f"{held}, and is replaced by one of 1 seed with fresh_counts, fresh_random")
    for damaged in ("{", "[]", '{"controls": 3}'):
        (tmp_path / "check.json").write_text(damaged)
        assert told(1, []) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"draws": True}, "draws=True"),
        ({"difference": 0}, "difference=0"),
        ({"controls": ["shufle_all"]}, "did you mean 'shuffle_all'"),
        ({"controls": "invert"}, "give names in a list"),
        ({"seed": -1}, "seed -1"),
        ({"lrr": 0.1}, "training option"),
        ({"init": "eoi"}, "init='eoi' has no part in a check"),
        ({"rescale": True}, "rescale=True has no part"),
        ({"own_weights": True}, "own_weights=True has no part"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(nowhere(), **options)


def test_options_that_are_changed_take_along_what_only_the_old_ones_read() -> None:
    problem = Problem("mlp:24", arrays())
    ticket = trained(
        problem, random_mask(problem.space, sparsity=0.9, seed=0), epochs=1, schedule="step", step_every=5, momentum=0.5
    )
    for asked in ({"schedule": "constant"}, {"optimizer": "adam", "lr": 0.01}):
        assert asked.items() <= check(ticket, seeds=1, epochs=1, draws=1, controls=[], **asked).options.items()


def test_numbers_of_numpy_are_kept_as_any_others(tmp_path: Path) -> None:
    numbers = {"seeds": np.int64(2), "epochs": np.int64(1), "draws": np.int64(1), "seed": np.int64(3), "lr": np.float64(0.2)}
    found = check(nowhere(), controls=[], difference=np.float32(0.5), init="problem", **numbers)
    (tmp_path / "plain").mkdir()
    found.save(tmp_path)
    plain = {name: value.item() for name, value in numbers.items()}
    check(nowhere(), controls=[], difference=0.5, **plain).save(tmp_path / "plain")
    assert (tmp_path / "check.json").read_bytes() == (tmp_path / "plain" / "check.json").read_bytes()


def test_wrong_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no ticket"):
        check(tmp_path)
    problem = Problem("mlp:24", table((FEATURES,)))
    with pytest.raises(InputError, match="there is no choice to check"):
        check(trained(problem, Mask.full(problem.space), epochs=1))
    assert ep.check is check


def test_the_command_line_checks_a_run_and_keeps_the_answer_with_it(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from evoprune.cli import app

    def call(*arguments: object) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    run = tmp_path / "run"
    assert call("run", "random", "--model", "mlp:8", "--sparsity", 0.5, "--epochs", 1, "--out", run).exit_code == 0
    done = call("check", run, "--seeds", 2, "--epochs", 1, "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["verdict"]
    assert told["because"]
    assert {row["control"] for row in told["controls"]} == set(CONTROLS)
    assert all(Path(path).is_file() for path in told["files"])
    shown = call("check", run, "--seeds", 1, "--epochs", 1, "--difference", 0.5)
    assert shown.stdout.startswith("not enough seeds")
    for wrong in (tmp_path, tmp_path / "nowhere"):
        refused = call("check", wrong)
        assert refused.exit_code == 2
        assert len(refused.stderr.strip().splitlines()) == 1
    for wrong, word in (("source=x", "source is no option"), ("seeds=3", "give it as --seeds"), ("weights=x", "training option")):
        refused = call("check", run, "--set", wrong)
        assert refused.exit_code == 2
        assert word in refused.stderr
    (run / "check.csv").unlink()
    (run / "check.csv").mkdir()
    unkept = call("check", run, "--seeds", 1, "--epochs", 1)
    assert unkept.exit_code == 1
    assert unkept.stdout.startswith("not enough seeds"), "what took long is shown"
    assert "shown but not kept: cannot write" in unkept.stderr


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_terminal_loses_no_word_and_no_number(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    from rich.console import Console

    from evoprune.cli.check import show_check

    shown, found = io.StringIO(), small()
    monkeypatch.setattr("evoprune.cli.check.output", lambda: Console(file=shown, width=width))
    show_check(found, [])
    text = " ".join(shown.getvalue().split())
    for row in found.table.to_dict("records"):
        assert f"{str(row['control']).replace('_', ' ')}: {row['ticket_is']}" in text
        assert plus_minus(row["mean"], math.nan, found.about["metric"]) in text
    assert "…" not in text


def test_every_seed_has_batches_and_draws_of_its_own() -> None:
    ticket = nowhere()
    scores = check(ticket, seeds=3, controls=[]).frame.query("control == 'ticket'")["score"].tolist()
    alone = [
        Population(ticket.problem, [ticket.mask], horizon=4, seed=streams.derive(0, "check", number), **OPTIONS).train(4)
        for number in range(3)
    ]
    assert scores == pytest.approx([one.trace.last("val_accuracy")[0] for one in alone], abs=0.003)
    assert len(set(scores)) > 1
    fresh = [one for number in range(3) for _, _, one in list(_networks(ticket, ["fresh_counts"], number, 2, 0))[1:]]
    assert len({one.mask.hash for one in fresh}) == 6, "no draw is counted twice"


def test_a_network_that_turns_nan_leaves_its_control_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def huge(ticket: Ticket, seed: int) -> Ticket:
        made = CONTROLS["fresh_counts"](ticket, seed)
        for name in made.mask.space.names:
            made.weights[name] *= 1e30
        return made

    monkeypatch.setitem(CONTROLS._entries, "flip_signs", huge)
    found = check(nowhere(), seeds=2, epochs=1, controls=["flip_signs"], draws=1)
    bad = found.frame["control"] == "flip_signs"
    assert found.frame["failed"].tolist() == bad.tolist()
    assert found.frame["score"].isna().tolist() == bad.tolist()
    row = found.table.set_index("control").loc["flip_signs"]
    assert math.isnan(row["mean"])
    assert row["ticket_is"] == "not compared (no common seed)"


def test_a_ticket_of_dropped_weights_is_trained_again_as_it_was() -> None:
    problem = Problem("mlp:24", arrays())
    ticket = trained(problem, random_mask(problem.space, sparsity=0.9, seed=0), drop_rate=0.5)
    score = check(ticket, seeds=1, controls=[]).frame["score"].iloc[0]
    options = {**OPTIONS, "drop_rate": 0.5}
    alone = Population(problem, [ticket.mask], horizon=4, seed=streams.derive(0, "check", 0), **options).train(4)
    assert score == pytest.approx(alone.trace.last("val_accuracy")[0], abs=0.003)


def judged(scores: dict[str, tuple[float, ...]], metric: str = "mse", draws: int = 1) -> Check:
    """Of made-up scores, by control, seed by seed and draw by draw; NaN failed."""
    rows = [
        {"control": name, "seed": place // draws, "draw": place % draws, "score": score, "metric": metric, "survivors": 9}
        for name, own in scores.items()
        for place, score in enumerate(own)
    ]
    frame = pd.DataFrame(rows)
    return Check.of(frame.assign(failed=frame["score"].isna()), {}, counts_chosen=True, difference=None, epochs=1, options={})


def test_of_a_loss_those_below_reach_it() -> None:
    found = judged({"ticket": (1.0, 1.0), "fresh_counts": (0.9, 1.2), "fresh_random": (1.5, 1.6)})
    assert "1 of 2 fresh masks reach its mean" in found.verdict.because


def test_a_control_that_diverges_does_not_say_what_matters() -> None:
    ticket, fresh = (1.0, 1.01, 1.02, 1.0, 0.99), (1.05, 1.0, 1.07, 1.04, 1.02)
    calm = judged({"ticket": ticket, "fresh_counts": fresh, "fresh_random": fresh})
    wild = judged({"ticket": ticket, "fresh_counts": fresh, "fresh_random": fresh, "invert": (1e4, 2e4, 1e17, 5e3, 1e4)})
    assert calm.difference == wild.difference == pytest.approx(0.02)
    assert calm.verdict.kind == wild.verdict.kind == SEEDS
    assert str(wild.table.set_index("control")["ticket_is"]["invert"]).startswith(
        "no difference shown (5 seeds; need several for"
    )


def test_a_loss_below_zero_is_judged() -> None:
    found = judged({"ticket": (-2.0, -2.0, -2.1), "fresh_counts": (-1.0, -1.01, -1.1), "fresh_random": (-1.0, -1.02, -1.1)})
    assert found.difference == pytest.approx(0.04)
    assert found.verdict.kind == WIRING


def test_a_ticket_that_fails_in_some_seeds_has_found_nothing() -> None:
    ticket, fresh = (math.nan, math.nan, 0.9, 0.91, 0.92), (0.8, 0.81, 0.82, 0.81, 0.83)
    found = judged({"ticket": ticket, "fresh_counts": fresh, "fresh_random": (math.nan, *fresh[1:])}, "accuracy")
    assert str(found.verdict) == "not enough seeds (need more)"
    assert found.verdict.because.startswith(
        "some of the ticket's networks turned NaN: check it again with a lower lr=; of the others, it"
    )
    assert "2 of 5 of the ticket's networks turned NaN; 1 of 10 of the controls' networks turned NaN" in found.verdict.because
    never = judged({"ticket": (math.nan, math.nan), "fresh_counts": (0.8, 0.81), "fresh_random": (0.8, 0.82)}, "accuracy")
    assert "is unknown, no seed has both" in never.verdict.because
    sound = judged({"ticket": (0.9, 0.912, 0.92), "fresh_counts": fresh[:3], "fresh_random": fresh[:3]}, "accuracy")
    assert sound.verdict.kind == WIRING
    assert "NaN" not in sound.verdict.because


def test_draws_of_one_seed_are_one_value() -> None:
    fresh = (0.80, 0.82, 0.90, 0.92)  # two seeds that differ more than their draws
    found = judged({"ticket": (0.9, 0.8, 0.9, 0.8), "fresh_counts": fresh, "fresh_random": fresh}, "accuracy", draws=2)
    row = found.table.set_index("control").loc["fresh_counts"]
    assert (row["low"], row["high"]) == pytest.approx((0.86 - 12.7062 * 0.05, 0.86 + 12.7062 * 0.05), abs=1e-5)
