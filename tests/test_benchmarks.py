"""Benchmarks run from start to end; what they measure is no business of a test."""

from __future__ import annotations

import importlib
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import evoprune as ep

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_a_cpu_and_counts_what_it_should(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    options = ["--tiny", "--device", "cpu", "--models", "lenet-300-100", "--ks", "2", "--json", str(out)]
    subprocess.run([sys.executable, "benchmarks/gpu.py", *options], check=True, capture_output=True, cwd=ROOT, timeout=300)
    result = json.loads(out.read_text())
    assert result["complete"]
    [choice] = result["choices"]
    assert (choice["choice"], choice["k"]) == ("chunks of 2", 4)
    assert choice["s"] > 0
    dense, sparse = result["rows"]
    layers, batch = (784 * 300, 300 * 100, 100 * 10), 128
    assert dense["operations"] == 2 * batch * (4 * layers[0] + 6 * sum(layers[1:]))  # 2 networks; no gradient of the inputs
    assert sparse["operations"] < 0.05 * dense["operations"]
    assert dense["bytes"] > 2 * 2 * 4 * sum(layers), "weights and gradients of two dense networks"
    assert sparse["bytes"] < dense["bytes"]
    for row in (dense, sparse):
        limits = result["machine"]
        bound = max(row["bytes"] / limits["copy_bytes_s"], row["operations"] / limits["peak_operations_s"]["full"])
        assert row["floor_s"] == pytest.approx(bound)
        assert row["ratio_floor"] == pytest.approx(row["s"] / bound)
    assert {row["engine"] for row in result["accuracy"]} == {"loop", "dense", "sparse"}
    assert result["kstarts"]["val_accuracy"] > 0.2, "ten classes: by chance a tenth"


@pytest.mark.parametrize("method", ["dissipate_regrow", "regrow_average"])
def test_the_published_table_trains_the_registered_method(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    published = importlib.import_module("published")
    problem = ep.Problem("lenet-300-100", "digits", seed=0)
    [row] = published.cell(method, 0.9, problem, [0], 8)
    options = published.RECIPE | published.OWN.get(method, {})
    ticket = ep.methods[method](problem, sparsity=0.9, epochs=8, seed=0, **options)
    assert row["mask_hash"] == ticket.mask.hash
    assert row["val_accuracy"] == ticket.val_accuracy
    assert row["dense_equivalent_epochs"] == ticket.ledger.dense_equivalent_epochs


@pytest.fixture
def gpu_benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`benchmarks/gpu.py` as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu")


def test_a_cell_that_fails_costs_a_benchmark_of_a_gpu_that_row_alone(gpu_benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it fails with: Triton's errors are of a family of their own."""
    errors = pytest.importorskip("triton.runtime.errors")
    machine = gpu_benchmark.Machine(torch.device("cpu"), copy=1e10, peak={"full": 1e11})
    bench = gpu_benchmark.Bench(machine, ["lenet-300-100"], time.monotonic() + 100, 1)

    def fails(*args: Any, **options: Any) -> float:
        raise errors.OutOfResources(300_000, 232_448, "shared memory")

    monkeypatch.setattr(gpu_benchmark, "time_engine", fails)
    row = bench(gpu_benchmark.Cell("lenet-300-100", 1, "dense"))
    assert row["why"].startswith("OutOfResources: out of resource: shared memory")
    monkeypatch.setattr(ep, "Population", fails)
    assert all("shared memory" in row["why"] for row in gpu_benchmark.accuracy(torch.device("cpu"), 1))


def test_a_benchmark_of_a_gpu_that_runs_out_of_time_keeps_what_it_has_and_says_so(tmp_path: Path, gpu_benchmark: Any) -> None:
    gpu = gpu_benchmark
    machine = gpu.Machine(torch.device("cpu"), copy=1e10, peak={"full": 1e11})
    bench = gpu.Bench(machine, ["lenet-300-100"], time.monotonic() + 100, 1)
    bench.took["lenet-300-100", "dense", "full"] = 1.0  # seconds a step and individual, as if measured
    results = gpu.Results(str(tmp_path / "gpu.json"), machine={"name": "none"})
    results.add("rows", bench(gpu.Cell("lenet-300-100", 256, "dense")))
    bench.deadline = 0.0
    results.add("rows", bench(gpu.Cell("lenet-300-100", 1, "sparse")))
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert not found["complete"]
    assert [row["why"].split(":")[0] for row in found["rows"]] == ["out of time"] * 2
    assert found["machine"] == {"name": "none"}


@pytest.fixture
def timed(gpu_benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Cells of one model with `took(cell)` in place of training; the loop is taken as known."""

    def bench(took: Callable[[Any], float]) -> Any:
        monkeypatch.setattr(gpu_benchmark, "time_engine", lambda problem, masks, device, cell: took(cell))
        machine = gpu_benchmark.Machine(torch.device("cpu"), copy=1e10, peak=dict.fromkeys(("full", "tf32"), 1e11))
        found = gpu_benchmark.Bench(machine, ["lenet-300-100"], time.monotonic() + 100, 1)
        found.loop["lenet-300-100"] = 1.0
        return found

    return bench


def test_a_large_cell_of_a_gpu_is_expected_to_take_what_a_full_device_takes(timed: Any, gpu_benchmark: Any) -> None:
    """One network alone takes a step as long as a hundred together; a precision that is new is at most as slow as the others."""
    bench = timed(lambda cell: 0.05 + 1e-4 * cell.k)
    cells = [gpu_benchmark.Cell("lenet-300-100", k, "dense") for k in (256, 1, 4096)]
    assert [bench(cell)["s"] for cell in cells] == pytest.approx([0.0756, 0.0501, 0.4596])
    assert "out of time" in bench(gpu_benchmark.Cell("lenet-300-100", 10**6, "dense", "tf32"))["why"]


def test_a_cell_that_goes_on_too_long_is_stopped(timed: Any, gpu_benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an engine would go on in another way after any error."""
    monkeypatch.setattr(gpu_benchmark, "PATIENCE", 0.1)

    def stubborn(cell: Any) -> float:
        try:
            time.sleep(30)
        except Exception:
            time.sleep(30)
        return 1.0

    row = timed(stubborn)(gpu_benchmark.Cell("lenet-300-100", 2, "dense"))
    assert row["why"] == "out of time: stopped after 0 s"
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_an_engine_does_without_stands_in_the_row(timed: Any, gpu_benchmark: Any) -> None:
    """A model that the compiler does not take is timed without it, which the row must say."""

    def refused(cell: Any) -> float:
        for _ in range(2):
            logging.getLogger("evoprune").warning("torch.compile does not take this model (%s)", "no compiler")
        return 1.0

    row = timed(refused)(gpu_benchmark.Cell("lenet-300-100", 2, "dense", label="torch.compile"))
    assert row["said"] == ["torch.compile does not take this model (no compiler)"]
    assert gpu_benchmark.describe(row).endswith("  torch.compile  torch.compile does not take this model (no compiler)")
    assert "said" not in timed(lambda cell: 1.0)(gpu_benchmark.Cell("lenet-300-100", 2, "dense"))


def test_a_slow_step_is_timed_once(gpu_benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten of them would be the time of a whole run."""
    gpu, taken = gpu_benchmark, []
    steps = ep.Population.train_steps
    monkeypatch.setattr(ep.Population, "train_steps", lambda self, number: taken.append(number) or steps(self, number))
    monkeypatch.setattr(gpu, "SLOW", 0)
    problem = gpu.make_problem("lenet-300-100", 2)
    assert gpu.time_engine(problem, gpu.masks_of(problem, 1), torch.device("cpu"), gpu.Cell("lenet-300-100", 1, "dense")) > 0
    assert taken == [1, 1]
