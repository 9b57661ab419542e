"""How close one GPU comes to its own limits, training K sparse networks at once: loop, dense and sparse engine.

    python benchmarks/gpu.py [--json FILE] [--device cuda] [--seconds 420] [--models MODEL…] [--ks K…] [--tiny]

Seconds a step for all K individuals (loss, trace and optimizer included); steps of one epoch, medians:

loop_s      `torch.nn.utils.prune.custom_from_mask` and SGD with momentum, one individual after the other, data on the device
dense_s     `Population(engine="dense")`; sparse_s `Population(engine="sparse")`, in each precision asked for
floor_s     the larger of bytes / copy bandwidth and operations / matrix peak, both measured here first; every tensor of a step is
            counted once, however often it is used (docs/gpu.md shows the sum)
ratio_floor = seconds / floor_s; ratio_loop = loop_s / seconds; utilisation: operations / seconds / matrix peak

Then accuracy on this device and on the CPU, and the wall seconds of K-starts with K = 512 on Fashion-MNIST (where
EVOPRUNE_DATA names it). What does not fit into memory or time is a row that says so. On a CPU it runs with --tiny.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine_speed import counts
from torch.nn import functional
from torch.nn.utils import prune

import evoprune as ep
from evoprune.errors import EvopruneError
from evoprune.masks.mask import Mask
from evoprune.problems.models import find_model
from evoprune.training.memory import out_of_memory, release_memory
from evoprune.training.options import Training
from evoprune.training.precision import arithmetic

MODELS = ("lenet-300-100", "resnet20", "lenet5", "conv4")
KS = (256, 32, 1, 4096, 16, 64, 1024, 4)
"""The numbers that decide come first, so that time cannot run out before them."""
BATCH, SPARSITY, STEPS = 128, 0.98, 32
PRECISIONS = ("full", "tf32", "bf16")


@dataclass(frozen=True)
class Machine:
    """Measured limits of a device: bytes a second of a copy (read and written), operations a second by precision."""

    device: torch.device
    copy: float
    peak: dict[str, float]


class Clock:
    """Seconds on a device that works while the host goes on."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, call: Callable[[], object]) -> float:
        self._wait()
        start = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


# ---- limits ----------------------------------------------------------------------------------------------------------------


def measure_machine(device: torch.device, *, tiny: bool) -> Machine:
    """Copy bandwidth of a buffer beyond every cache, and the rate of a large matrix product."""
    clock, numbers, side = Clock(device), 1 << (22 if tiny else 28), 512 if tiny else 8192
    copy = copy_bandwidth(clock, numbers)
    peak = {}
    for precision in precisions_of(device):
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        x, y = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        with arithmetic(precision, device):
            peak[precision] = 2 * side**3 / min(clock(lambda x=x, y=y: x @ y) for _ in range(8))
    return Machine(device, copy, peak)


def copy_bandwidth(clock: Clock, numbers: int) -> float:
    """Bytes a second, read and written: the best of many."""
    a, b = torch.randn(numbers, device=clock.device), torch.empty(numbers, device=clock.device)
    return 2 * a.nbytes / min(clock(lambda: b.copy_(a)) for _ in range(10))


def precisions_of(device: torch.device) -> tuple[str, ...]:
    return PRECISIONS if device.type == "cuda" else ("full",)


def floor(problem: ep.Problem, mask: Mask, k: int, machine: Machine, *, engine: str, precision: str) -> dict[str, float]:
    """Bytes and operations of a step of K networks, each tensor counted once, and the seconds that they need at least."""
    shape = problem.split("train").inputs.shape[1:]
    pixels, numbers = counts(problem.module(), shape)
    layers = list(zip(problem.space.names, problem.space.sizes, mask.counts, strict=True))
    width = 2 if precision == "bf16" else 4
    operations, stored = 0, 0
    for position, (name, size, count) in enumerate(layers):
        weights = size if engine == "dense" else count
        operations += (6 if position else 4) * weights * pixels[name] * BATCH  # no gradient of the first layer's input
        stored += 3 * 4 * count  # value, gradient, momentum
        stored += 2 * 4 * size + 8 * count if engine == "dense" else 12 * count  # weights and gradients; where survivors lie
    activations = 2 * width * numbers * BATCH  # and their gradients
    moved = (stored + activations) * k + width * int(np.prod(shape)) * BATCH
    operations *= k
    seconds = max(moved / machine.copy, operations / machine.peak[precision])
    return {"bytes": moved, "operations": operations, "floor_s": seconds}


# ---- what is timed ---------------------------------------------------------------------------------------------------------


def make_problem(name: str, steps: int) -> ep.Problem:
    """A problem on noise: speed does not depend on what is learnt."""
    entry, random = find_model(name), np.random.default_rng(0)

    def part(which: str, samples: int) -> dict[str, Any]:
        images = random.standard_normal((samples, *entry.reference), dtype=np.float32)
        return {f"x_{which}": images, f"y_{which}": np.arange(samples) % 10}

    return ep.Problem(name, {**part("train", steps * BATCH), **part("validation", 20), **part("test", 20)}, seed=0)


def user_loop(problem: ep.Problem, masks: Sequence[Mask], device: torch.device) -> Callable[[], None]:
    """One step of every individual, as written today."""
    networks = []
    for mask in masks:
        network = problem.module().train().to(device)
        for name, kept in mask.dense(device=device).items():
            prune.custom_from_mask(network.get_submodule(name.rpartition(".")[0]), "weight", kept)
        networks.append((network, torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)))
    train = problem.split("train")
    x, y = train.inputs[:BATCH].to(device), train.goals[:BATCH].to(device)

    def step() -> None:
        for network, optimizer in networks:
            optimizer.zero_grad()
            functional.cross_entropy(network(x), y).backward()
            optimizer.step()

    return step


def time_loop(problem: ep.Problem, masks: Sequence[Mask], k: int, device: torch.device) -> float:
    """Seconds a step of K individuals, from those of at most four."""
    some = masks[: min(k, 4)]
    step, clock = user_loop(problem, some, device), Clock(device)
    for _ in range(3):
        step()
    return statistics.median(clock(step) for _ in range(5)) * k / len(some)


def time_engine(problem: ep.Problem, masks: Sequence[Mask], device: torch.device, *, engine: str, precision: str) -> float:
    """Seconds a step in the middle of an epoch: the median of short runs."""
    generation = ep.Population(
        problem, masks, horizon=1000, engine=engine, batch_size=BATCH, device=str(device), precision=precision
    )
    clock, steps = Clock(device), generation.batches.per_epoch
    warm, run = steps // 4, max(1, steps // 4)
    generation.train_steps(warm)
    times = [clock(lambda: generation.train_steps(run)) / run for _ in range(3) if generation.steps + run < steps]
    return statistics.median(times)


def rows(machine: Machine, models: Sequence[str], ks: Sequence[int], deadline: float, steps: int) -> Iterator[dict[str, Any]]:
    """One row a model, K, engine and precision, until the deadline."""
    problems = {name: make_problem(name, steps) for name in models}
    drawn = {name: [ep.random_mask(p.space, sparsity=SPARSITY, seed=seed) for seed in range(64)] for name, p in problems.items()}
    loop: dict[str, float] = {}
    for k in ks:
        for name, problem in problems.items():
            masks = [drawn[name][seed % 64] for seed in range(k)]
            for engine in ("dense", "sparse"):
                for precision in precisions_of(machine.device):
                    base = {"model": name, "k": k, "batch": BATCH, "sparsity": SPARSITY, "engine": engine, "precision": precision}
                    if time.monotonic() > deadline:
                        yield base | {"why": "out of time"}
                        continue
                    try:
                        if name not in loop:
                            loop[name] = time_loop(problem, masks, k, machine.device) / k
                        took = time_engine(problem, masks, machine.device, engine=engine, precision=precision)
                    except (EvopruneError, RuntimeError, MemoryError) as error:
                        if not isinstance(error, EvopruneError) and not out_of_memory(error):
                            raise
                        why = str(error).splitlines()[0]
                        release_memory()
                        yield base | {"why": why}
                        continue
                    limit = floor(problem, masks[0], k, machine, engine=engine, precision=precision)
                    yield base | limit | {
                        "s": took, "loop_s": loop[name] * k, "ratio_loop": loop[name] * k / took,
                        "ratio_floor": took / limit["floor_s"], "samples_individuals_s": BATCH * k / took,
                        "utilisation": limit["operations"] / took / machine.peak[precision],
                        "bandwidth": limit["bytes"] / took / machine.copy,
                    }  # fmt: skip
                    release_memory()


# ---- accuracy, and a search from start to end ------------------------------------------------------------------------------


def accuracy(device: torch.device, k: int) -> list[dict[str, Any]]:
    """Validation accuracy on digits of the same K networks: on the CPU, and on the device in every precision."""
    problem = ep.Problem("lenet-300-100", "digits", seed=0)
    masks = [ep.random_mask(problem.space, sparsity=0.9, seed=seed) for seed in range(k)]
    settings = [("cpu", "loop", "full"), *((str(device), e, p) for e in ("dense", "sparse") for p in precisions_of(device))]
    found = []
    for where, engine, precision in settings:
        row: dict[str, Any] = {"device": where, "engine": engine, "precision": precision, "k": k}
        try:
            generation = ep.Population(problem, masks, horizon=10, engine=engine, device=where, precision=precision).train(10)
        except EvopruneError as error:
            found.append(row | {"why": str(error).splitlines()[0]})
            continue
        values = generation.trace.last("val_accuracy")
        found.append(row | {"mean": float(values.mean()), "error": float(values.std(ddof=1) / len(values) ** 0.5)})
    return found


def search(device: torch.device, k: int) -> dict[str, Any]:
    """Wall seconds of `evoprune run kstarts` with K individuals for 2 epochs, everything included."""
    if not os.environ.get("EVOPRUNE_DATA"):
        return {"k": k, "why": "EVOPRUNE_DATA names no folder with Fashion-MNIST"}
    command = [
        *(sys.executable, "-m", "evoprune", "run", "kstarts", "--data", "fashion-mnist", "--model", "lenet-300-100"),
        *("--epochs", "2", "--set", f"k={k}", "--set", "selection_epochs=2", "--sparsity", str(SPARSITY)),
        *("--device", str(device), "--json", "--out"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = subprocess.run([*command, str(Path(folder) / "run")], capture_output=True, text=True, check=False)
        took = time.perf_counter() - start
    if done.returncode:
        return {"k": k, "why": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    return {"k": k, "wall_s": took, "val_accuracy": json.loads(done.stdout)["val_accuracy"]}


def describe(row: dict[str, Any]) -> str:
    """A line of the table."""
    head = f"{row['model']:14} {row['k']:5} {row['engine']:7} {row['precision']:5}"
    if "s" not in row:
        return f"{head}  {row['why']}"
    return (
        f"{head} {row['s'] * 1e3:10.3f} {row['floor_s'] * 1e3:10.3f} {row['ratio_floor']:8.2f} {row['ratio_loop']:8.1f} "
        f"{row['samples_individuals_s']:12.3g} {row['utilisation']:6.1%} {row['bandwidth']:6.1%}"
    )


def main() -> None:
    """Measure, print a table, write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write everything there")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1, cpu")
    parser.add_argument("--seconds", type=float, default=420, help="for all of it; what does not fit is left out, and says so")
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--ks", nargs="*", type=int, default=KS)
    parser.add_argument("--tiny", action="store_true", help="small numbers, to see that it runs")
    options = parser.parse_args()
    started = time.monotonic()
    device = Training.of(device=options.device).resolved_device()
    machine = measure_machine(device, tiny=options.tiny)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    peaks = ", ".join(f"{precision} {value / 1e12:.2f}" for precision, value in machine.peak.items())
    print(f"{name}: copy {machine.copy / 1e9:.0f} GB/s, matrix peak {peaks} Tflop/s")
    result: dict[str, Any] = {
        "machine": {"name": name, "torch": torch.__version__, "copy_bytes_s": machine.copy, "peak_operations_s": machine.peak},
        "accuracy": accuracy(device, 3 if options.tiny else 16),
        "kstarts": {"why": "tiny"} if options.tiny else search(device, 512),
    }
    print(json.dumps({"accuracy": result["accuracy"], "kstarts": result["kstarts"]}, indent=1))
    heads = f"{'ms':>10} {'floor ms':>10} {'x floor':>8} {'x loop':>8} samples·ind/s  peak   copy"
    print(f"{'model':14} {'K':>5} {'engine':7} {'prec':5} {heads}")
    result["rows"] = []
    for row in rows(machine, options.models, options.ks, started + options.seconds, 8 if options.tiny else STEPS):
        result["rows"].append(row)
        print(describe(row), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
