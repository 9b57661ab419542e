"""Benchmarks run from start to end; what they measure is no business of a test."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import evoprune as ep

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_a_cpu_and_counts_what_it_should(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    options = ["--tiny", "--device", "cpu", "--models", "lenet-300-100", "--ks", "2", "--json", str(out)]
    subprocess.run([sys.executable, "benchmarks/gpu.py", *options], check=True, capture_output=True, cwd=ROOT, timeout=300)
    result = json.loads(out.read_text())
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
