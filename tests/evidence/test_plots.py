"""Pictures take and return Axes, show every method, and say what they show."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from evoprune.criteria import CRITERIA, Criterion
from evoprune.errors import InputError
from evoprune.evidence.plots import (
    plot_accuracy,
    plot_controls,
    plot_cost,
    plot_genealogy,
    plot_layers,
    plot_mask,
    plot_pareto,
    plot_trace,
)
from evoprune.evidence.plots.accuracy import spread_apart
from evoprune.evidence.plots.style import MARKERS, looks
from evoprune.evolution.individual import Individual
from evoprune.masks.mask import Mask
from evoprune.masks.space import MaskSpace
from tests.evidence.runs_frame import runs_frame


@pytest.fixture
def ax() -> Axes:
    return Figure(layout="constrained").subplots()


def texts(ax: Axes) -> str:
    drawn = [text.get_text() for text in ax.texts]
    return " ".join([*drawn, ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()])


def test_every_method_is_named_and_every_sparsity_has_a_tick(ax: Axes) -> None:
    assert plot_accuracy(runs_frame({"random": 0.9, "kstarts": 0.95, "dense": 1.0}), ax) is ax
    ax.figure.draw_without_rendering()
    for word in ("random", "kstarts", "dense", "digits", "mlp:16", "3 seeds", "3 epochs", "95%", "test accuracy"):
        assert word in texts(ax), word
    assert [label.get_text() for label in ax.get_xticklabels()] == ["90%", "95%"]


def test_the_points_are_the_means(ax: Axes) -> None:
    plot_accuracy(runs_frame({"random": 0.9}), ax)
    [joined] = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_marker() == "None"]
    assert joined.get_ydata() == pytest.approx([0.9 - 0.09 + 0.01 - 0.02, 0.9 - 0.095 + 0.01 - 0.02])
    assert np.diff(joined.get_xdata())[0] == pytest.approx(math.log10(2)), "half the survivors are the same step anywhere"


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("sparsities", [(0.95,), (0.0, 0.5, 0.999)])
def test_any_number_of_seeds_and_sparsities(ax: Axes, seeds: int, sparsities: tuple[float, ...]) -> None:
    names = dict.fromkeys(("random", "kstarts", "dissipating", "combined", *(f"mine{i}" for i in range(8)), "dense"), 0.9)
    plot_accuracy(runs_frame(names, sparsities, seeds), ax)
    ax.figure.draw_without_rendering()
    assert all(name in texts(ax) for name in names)
    assert ("no intervals" in texts(ax)) == (seeds == 1)


def test_reconstruction_and_a_locked_test_split_are_named(ax: Axes) -> None:
    plot_accuracy(runs_frame({"random": 0.9}, metric="mse", test_score=None), ax)
    assert "validation mse (lower is better)" in texts(ax)


def test_an_open_sparsity_is_written_at_its_point(ax: Axes) -> None:
    plot_accuracy(pd.concat([runs_frame({"dissipating": 0.9}, (math.nan,)), runs_frame({"random": 0.9})]), ax)
    assert "87.0%" in texts(ax)


def test_an_axis_of_open_sparsities_shows_sparsities(ax: Axes) -> None:
    plot_accuracy(runs_frame({"dissipating": 0.9}, (math.nan,)), ax)
    ax.figure.draw_without_rendering()
    shown = [float(label.get_text().removesuffix("%")) for label in ax.get_xticklabels()]
    places = ax.get_xticks()
    assert shown == pytest.approx([100 - 100 * 10**-place for place in places], abs=0.01)
    assert min(shown) < 87 < max(shown)


def test_a_file_is_called_by_its_name_alone(ax: Axes) -> None:
    plot_accuracy(runs_frame({"random": 0.9}, data="/a/long/way/to/own.npz"), ax)
    assert ax.get_title(loc="left") == "own.npz, mlp:16"


@given(st.lists(st.floats(-1, 2), max_size=12).map(sorted), st.floats(0.01, 0.2))
def test_labels_keep_apart_and_in_order(heights: list[float], gap: float) -> None:
    places = spread_apart(heights, gap)
    assert len(places) == len(heights)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(places))
    if all(b - a >= gap for a, b in pairwise(heights)):
        assert places == pytest.approx(heights)


def test_layers_show_their_counts(ax: Axes) -> None:
    mask = Mask(MaskSpace(("a.weight", "b.weight"), ((4, 5), (3, 4))), [np.arange(5), np.arange(12)])
    assert plot_layers(mask, ax) is ax
    assert "5 of 20" in texts(ax)
    assert "12 of 12" in texts(ax)


def test_a_trace_shows_everyone_and_points_at_the_winner(ax: Axes) -> None:
    rows = [(individual, epoch) for individual in range(4) for epoch in range(1, 6 if individual == 2 else 3)]
    trace = pd.DataFrame(rows, columns=["individual", "epoch"]).assign(val_loss=0.5, val_accuracy=0.9)
    assert plot_trace(trace, ax) is ax
    assert len(ax.lines) == 4
    assert "the winner" in texts(ax)
    assert "validation accuracy" in texts(ax)


def test_a_trace_without_accuracies_shows_the_loss(ax: Axes) -> None:
    plot_trace(pd.DataFrame({"individual": 0, "epoch": [1, 2], "val_loss": [0.5, 0.4], "val_accuracy": math.nan}), ax)
    assert "validation loss" in texts(ax)


def test_the_history_of_one_network_is_a_trace_of_one(ax: Axes) -> None:
    plot_trace(pd.DataFrame({"epoch": [1, 2], "train_loss": 0.6, "val_loss": [0.5, 0.4], "val_accuracy": [0.7, 0.8]}), ax)
    assert len(ax.lines) == 1
    assert "1 network" in texts(ax)
    assert "1 networks" not in texts(ax)


def test_what_cannot_be_drawn_is_refused(ax: Axes) -> None:
    with pytest.raises(InputError, match="empty"):
        plot_trace(pd.DataFrame(), ax)
    with pytest.raises(InputError, match="no column 'speed'"):
        plot_trace(pd.DataFrame({"individual": [0], "epoch": [1], "val_loss": [0.5]}), ax, column="speed")


def test_axes_are_made_when_none_are_given() -> None:
    from matplotlib import pyplot

    drawn = plot_accuracy(runs_frame({"random": 0.9}))
    assert isinstance(drawn, Axes)
    pyplot.close(drawn.figure)


# ---- cost, masks, controls, genealogy, fronts ----------------------------------------------------------------------


def test_cost_shows_every_run_and_names_every_method(ax: Axes) -> None:
    runs = runs_frame({"random": 0.9, "kstarts": 0.92, "dense": 0.97})
    runs["dense_equivalent_epochs"] = [0.2 + 0.1 * row for row in range(len(runs))]
    assert plot_cost(runs, ax) is ax
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["random", "kstarts", "dense"]
    assert sum(len(points.get_offsets()) for points in ax.collections) == len(runs) + 5, "runs, and the means of five cells"
    assert "90%" in texts(ax)
    assert "losers included" in ax.get_xlabel()
    assert plot_cost(runs.assign(dense_equivalent_epochs=0.0)).get_xscale() == "linear", (
        "nothing trained, nothing to take logs of"
    )


def test_a_method_of_open_sparsity_has_one_mean(ax: Axes) -> None:
    runs = runs_frame({"dissipating": 0.9}, sparsities=(math.nan,))
    runs["sparsity_obtained"] += 0.01 * runs["seed"]
    plot_cost(runs, ax)
    assert sum(len(points.get_offsets()) for points in ax.collections) == len(runs) + 1
    assert "88%" in texts(ax)


def test_a_name_may_hold_what_is_mathematics_elsewhere(ax: Axes) -> None:
    plot_accuracy(runs_frame({"random": 0.9}, data="cost_in_$_and_$.npz"), ax)
    ax.figure.canvas.draw()
    assert ax.get_title(loc="left") == "cost_in_$_and_$.npz, mlp:16"


def test_methods_look_the_same_in_every_picture() -> None:
    found = looks(["random", "dense", "kstarts"])
    assert list(found) == ["random", "dense", "kstarts"]
    assert found["kstarts"] == looks(["random", "kstarts"])["kstarts"], "references take no colour from the others"
    assert len(set(looks([f"m{index}" for index in range(20)]).values())) == 20
    runs = pd.concat([runs_frame({"dissipating": 0.9}, (math.nan,)), runs_frame({"random": 0.9, "snip": 0.8})])
    accuracy, cost = (plot(runs, Figure().subplots()) for plot in (plot_accuracy, plot_cost))
    expected = {f"{MARKERS[marker]} {name}": colour for name, (colour, marker) in looks(runs["method"].unique()).items()}
    assert {text.get_text(): text.get_color() for text in accuracy.texts if text.get_text() in expected} == expected
    assert [to_hex(part.get_facecolor()[0]).upper() for part in cost.collections[1::2]] == list(expected.values())


def test_a_masks_picture_has_as_much_ink_as_survivors(ax: Axes) -> None:
    mask = Mask(MaskSpace(("a.weight", "b.weight"), ((3, 4), (2, 3, 2, 2))), [[0, 5, 11], [1, 2, 23]])
    assert plot_mask(mask, 0, ax) is ax
    shown = np.asarray(ax.images[0].get_array())
    assert shown.shape == (3, 4)
    assert np.flatnonzero(shown).tolist() == [0, 5, 11]
    assert "3 of 12 weights" in texts(ax)
    assert np.asarray(plot_mask(mask, "b.weight").images[0].get_array()).shape == (2, 12)
    coarse = np.asarray(plot_mask(mask, 0, pixels=2).images[0].get_array())
    assert coarse.shape == (2, 2)
    assert texts(plot_mask(Individual(mask))) == texts(plot_mask(mask))
    assert texts(plot_layers(Individual(mask))) == texts(plot_layers(mask))
    for wrong in (2, "c.weight", -3):
        with pytest.raises(InputError, match="there is no layer"):
            plot_mask(mask, wrong)


def test_the_share_of_a_block_is_that_of_its_weights(ax: Axes) -> None:
    shape = (300, 7)
    full = Mask.full(MaskSpace(("a.weight",), (shape,)))
    assert (np.asarray(plot_mask(full, ax=ax).images[0].get_array()) == 1).all()
    columns = Mask(full.space, [np.flatnonzero(np.arange(2100) % 7 < 3)])
    shown = np.asarray(plot_mask(columns, pixels=4).images[0].get_array())
    assert shown.mean(0).tolist() == pytest.approx([1, 0.5, 0, 0]), "columns 0 and 1, 2 and 3, 4, 5 and 6 stand together"


def test_controls_stand_beside_the_ticket(ax: Axes) -> None:
    rows = [{"control": name, "seed": seed, "draw": 0, "score": value + seed / 100, "metric": "accuracy"}
            for name, value in (("ticket", 0.9), ("shuffle_all", 0.6)) for seed in range(3)]  # fmt: skip
    frame = pd.DataFrame(rows)
    assert plot_controls(frame, ax) is ax
    assert [label.get_text() for label in ax.get_yticklabels()] == ["ticket", "shuffle all"]
    assert "3 seeds" in texts(ax)
    plot_controls(frame.assign(score=math.nan))
    plot_controls(frame[frame["seed"] == 0])
    with pytest.raises(InputError, match="no row of the ticket"):
        plot_controls(frame[frame["control"] != "ticket"])


def genealogy() -> pd.DataFrame:
    rows = [("a", 0, (), 0.5), ("b", 0, (), 0.6), ("c", 1, ("a", "b"), 0.7), ("d", 1, ("b",), 0.4), ("e", 2, ("c",), 0.9)]
    columns = {"operator": "mutSwap", "operator_seed": 1, "survivors": 10, "count": 1, "failed": False, "lineage": None}
    return pd.DataFrame(
        [
            {"mask": mask, "generation": g, "parents": parents, "val_accuracy": value, **columns}
            for mask, g, parents, value in rows
        ]
    )


def test_a_genealogy_leads_to_the_best(ax: Axes) -> None:
    assert plot_genealogy(genealogy(), ax) is ax
    assert "5 networks; the best and its 3 ancestors" in texts(ax)
    assert len(ax.lines) == 4, "one line a parent"
    assert "the best and its 1 ancestors" in texts(plot_genealogy(genealogy().rename(columns={"val_accuracy": "val_loss"})))
    with pytest.raises(InputError, match="no column 'x'"):
        plot_genealogy(genealogy(), column="x")
    with pytest.raises(InputError, match="empty"):
        plot_genealogy(genealogy()[:0])


@pytest.mark.parametrize(("column", "ancestors"), [("macs", 1), ("accuracy", 3), ("flatness", 1)])
def test_the_best_of_a_genealogy_is_the_criterions(column: str, ancestors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Criterion("flatness", lambda trace, masks: trace.last("val_loss"), "min")
    monkeypatch.setitem(CRITERIA._entries, "flatness", own)
    drawn = plot_genealogy(genealogy().rename(columns={"val_accuracy": column}))
    assert f"the best and its {ancestors} ancestors" in texts(drawn)


def test_the_front_holds_whom_nobody_beats(ax: Axes) -> None:
    frame = pd.DataFrame({"survivors": [10, 20, 20, 30, 40], "val_accuracy": [0.5, 0.7, 0.6, 0.65, 0.9]})
    assert plot_pareto(frame, ax) is ax
    assert "5 networks, 3 on the front" in texts(ax)
    assert "1 on the front" in texts(plot_pareto(frame.rename(columns={"val_accuracy": "val_loss"}), y="val_loss"))
    with pytest.raises(InputError, match="no column 'cost'"):
        plot_pareto(frame, x="cost")
