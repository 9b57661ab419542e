"""Benchmarks run from start to end; what they measure is no business of a test."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
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
