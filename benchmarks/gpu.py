"""How close one GPU comes to its own limits, training K sparse networks at once: loop, dense and sparse engine.

    python benchmarks/gpu.py [--json FILE] [--device cuda] [--seconds 420] [--models MODEL…] [--ks K…] [--tiny]

Seconds a step for all K individuals (loss, trace and optimizer included); steps of one epoch, medians:

loop_s      `torch.nn.utils.prune.custom_from_mask` and SGD with momentum, one individual after the other, data on the device
s           `Population(engine="dense")` or `"sparse"`, in each precision
floor_s     the larger of bytes / copy bandwidth and operations / matrix peak, both measured here first; every tensor of a step is
            counted once, however often it is used (docs/gpu.md shows the sum)
ratio_floor = seconds / floor_s; ratio_loop = loop_s / seconds; utilisation: operations / seconds / matrix peak

First the two cells that decide, then the wall seconds of K-starts with K = 512 on Fashion-MNIST (where EVOPRUNE_DATA names it),
the accuracy here and on the CPU, what else those cells could run with ("choices": torch.compile, no CUDA graph, chunk sizes,
tiles of the kernels), and all other cells. What does not fit into memory or time is a row that says so; what an engine had to do
without (a recording, the compiler, a whole chunk) stands in its row as "said". The file is written anew with every row, so that
a run that is cut off leaves what it has. On a CPU it runs with --tiny.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine_speed import counts
from torch.nn import functional
from torch.nn.utils import prune

import evoprune as ep
from evoprune.errors import EvopruneError
from evoprune.files import atomic_write
from evoprune.masks.mask import Mask
from evoprune.problems.models import find_model
from evoprune.shortage import out_of_memory
from evoprune.training.engines import dense
from evoprune.training.memory import release_memory
from evoprune.training.options import Training
from evoprune.training.precision import arithmetic
from evoprune.training.recorded import WARM

MODELS = ("lenet-300-100", "resnet20", "lenet5", "conv4")
KS = (256, 32, 1, 1024, 4096, 64, 16, 4)
DECIDING = (("lenet-300-100", 256), ("resnet20", 32))
"""They come first, so that time cannot run out before them."""
BATCH, SPARSITY, STEPS = 128, 0.98, 64
REPEATS, CELL = 3, 0.6
"""Timed runs of a cell, and the seconds that they take together where steps are short."""
SLOW, LONGEST = 2, 15
"""Seconds of a step that is timed once, without a recording: its kernels fill them. And those that a cell may take by all that is
known before it."""
PATIENCE, GRACE = 75, 20
"""Seconds after which a cell is stopped, building and compiling included; and those that it has after the deadline."""
SEARCH = 90
"""Seconds after which the search is stopped."""
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


def masks_of(problem: ep.Problem, number: int) -> list[Mask]:
    return [ep.random_mask(problem.space, sparsity=SPARSITY, seed=seed) for seed in range(number)]


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


@dataclass(frozen=True)
class Cell:
    """One thing to time: an engine on K networks of a model. label: what differs from how it runs by itself."""

    model: str
    k: int
    engine: str
    precision: str = "full"
    label: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    settings: tuple[tuple[Any, str, Any], ...] = ()

    @property
    def head(self) -> dict[str, Any]:
        named = {"model": self.model, "k": self.k, "batch": BATCH, "sparsity": SPARSITY, "engine": self.engine}
        return named | {"precision": self.precision} | ({"choice": self.label} if self.label else {})


@contextmanager
def changed(settings: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """The block with other constants: (owner, name, value)."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in settings]
    for owner, name, value in settings:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


class TimeUp(BaseException):
    """A cell took too long. No `Exception`, which an engine would take for a reason to go on in another way."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """The block; `TimeUp` in it after so many seconds, between two lines of Python (never, on a system without alarms)."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)  # again, should it fall into a destructor, which drops errors
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def heard() -> Iterator[list[str]]:
    """What the package warns of in the block, each line once."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = record.getMessage()
            lines.extend([] if line in lines else [line])

    log, listener = logging.getLogger("evoprune"), Listener(logging.WARNING)
    log.addHandler(listener)
    try:
        yield lines
    finally:
        log.removeHandler(listener)


def time_engine(problem: ep.Problem, masks: Sequence[Mask], device: torch.device, cell: Cell) -> float:
    """Seconds a step within an epoch: the median of short runs, which take `CELL` seconds together where a step allows it."""
    options = {"engine": cell.engine, "precision": cell.precision, "device": str(device), **cell.options}
    with changed(cell.settings):
        generation = ep.Population(problem, masks, horizon=1000, batch_size=BATCH, **options)
        clock, epoch = Clock(device), generation.batches.per_epoch
        generation.train_steps(1)  # kernels are compiled
        once = clock(lambda: generation.train_steps(1))
        if once > SLOW:
            return once
        generation.train_steps(WARM - 1)  # the last of them is recorded
        once = clock(lambda: generation.train_steps(1))
        run = max(1, min(epoch - 1, int(CELL / REPEATS / once)))
        times = []
        for _ in range(REPEATS):
            if generation.steps % epoch + run >= epoch:  # an evaluation ends an epoch
                generation.train_steps(epoch - generation.steps % epoch)
            times.append(clock(lambda: generation.train_steps(run)) / run)
    return statistics.median(times)


class Bench:
    """Times cells until the deadline."""

    def __init__(self, machine: Machine, models: Sequence[str], deadline: float, steps: int) -> None:
        self.machine, self.deadline = machine, deadline
        self.problems = {name: make_problem(name, steps) for name in models}
        self.drawn = {name: masks_of(one, 64) for name, one in self.problems.items()}
        self.loop: dict[str, float] = {}
        self.took: dict[tuple[str, str, str], float] = {}
        """Seconds a step and individual, where they were fewest: one alone leaves the device idle."""

    def __call__(self, cell: Cell) -> dict[str, Any]:
        """The row of a cell, or why there is none."""
        left, expected = self.deadline - time.monotonic(), self._expected(cell)
        if expected > min(left, LONGEST):
            return cell.head | {"why": f"out of time: {max(left, 0):.0f} s are left, it would take about {expected:.0f}"}
        with heard() as said:
            found = self._try(cell, min(PATIENCE, left + GRACE))
        return cell.head | found | ({"said": said} if said else {})

    def _try(self, cell: Cell, seconds: float) -> dict[str, Any]:
        try:
            with at_most(seconds):
                return self._measure(cell)
        except TimeUp:
            return {"why": f"out of time: stopped after {seconds:.0f} s"}
        except Exception as error:  # Triton's own errors are of no other family; the other rows are worth having
            return {"why": _why(error)}
        finally:
            release_memory()

    def _expected(self, cell: Cell) -> float:
        """Seconds of a cell, from its like at another K; in a precision that is new, from the fastest of the others."""
        likes = {precision: took for (*kind, precision), took in self.took.items() if kind == [cell.model, cell.engine]}
        step = cell.k * likes.get(cell.precision, min(likes.values(), default=0.0))
        return step * (2 if step > SLOW else WARM + 2 + REPEATS)

    def _measure(self, cell: Cell) -> dict[str, Any]:
        machine, problem = self.machine, self.problems[cell.model]
        masks = [self.drawn[cell.model][seed % 64] for seed in range(cell.k)]
        if cell.model not in self.loop:
            self.loop[cell.model] = time_loop(problem, self.drawn[cell.model], 4, machine.device) / 4
        if machine.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(machine.device)
        took, loop = time_engine(problem, masks, machine.device, cell), self.loop[cell.model] * cell.k
        kind = cell.model, cell.engine, cell.precision
        self.took[kind] = min(self.took.get(kind, math.inf), took / cell.k)
        limit = floor(problem, masks[0], cell.k, machine, engine=cell.engine, precision=cell.precision)
        return limit | {
            "s": took, "loop_s": loop, "ratio_loop": loop / took,
            "ratio_floor": took / limit["floor_s"], "samples_individuals_s": BATCH * cell.k / took,
            "utilisation": limit["operations"] / took / machine.peak[cell.precision],
            "bandwidth": limit["bytes"] / took / machine.copy,
            "peak_memory": torch.cuda.max_memory_allocated(machine.device) if machine.device.type == "cuda" else None,
        }  # fmt: skip


def _why(error: Exception) -> str:
    """One line; what was not foreseen is named."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if isinstance(error, EvopruneError) or out_of_memory(error) else f"{type(error).__name__}: {line}"


def cells_of(model: str, k: int, device: torch.device) -> list[Cell]:
    return [Cell(model, k, engine, precision) for engine in ("dense", "sparse") for precision in precisions_of(device)]


def choices_of(device: torch.device, *, tiny: bool) -> list[Cell]:
    """What the deciding cells could run with instead; on a CPU, where there is no tile and no graph, the chunk alone."""
    (plain, k), (images, few) = DECIDING
    if tiny:
        return [Cell(plain, 4, "dense", label="chunks of 2", settings=((dense, "CHUNK_ROWS", {"cpu": 2, "cuda": 2}),))]
    if device.type != "cuda":
        return []
    from evoprune.training.engines.blocks import layer
    from evoprune.training.engines.blocks.layer import Tile

    found = []
    for model, number in DECIDING:
        found.append(Cell(model, number, "dense", label="torch.compile", options={"compile": True}))
        found += [Cell(model, number, one, label="no CUDA graph", options={"cuda_graphs": False}) for one in ("dense", "sparse")]
    for rows in (64, 128):
        found.append(Cell(plain, k, "dense", label=f"chunks of {rows}", settings=((dense, "CHUNK_ROWS", {"cuda": rows}),)))
    for rows in (8, 16):
        found.append(Cell(images, few, "dense", label=f"chunks of {rows}", settings=((dense, "IMAGE_ROWS", rows),)))
    found.append(Cell(plain, k, "dense", label="products batch-first", settings=((dense, "BATCH_LAST_ON", ()),)))
    tiles = {"UNITS": (plain, k, ((16, 64, 2), (16, 128, 4), (8, 32, 1), (32, 32, 1), (8, 64, 1)))}
    tiles["PIXELS"] = (images, few, ((4, 256, 2), (4, 512, 4), (8, 128, 2), (16, 32, 1), (2, 256, 1)))
    for name, (model, number, shapes) in tiles.items():
        for entries, width, warps in shapes:
            other = ((layer, name, Tile(entries, width, warps)),)
            found.append(Cell(model, number, "sparse", label=f"tile {entries} x {width}, {warps} warps", settings=other))
    return found


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
        except Exception as error:  # as for a cell
            found.append(row | {"why": _why(error)})
            continue
        values = generation.trace.last("val_accuracy")
        found.append(row | {"mean": float(values.mean()), "error": float(values.std(ddof=1) / len(values) ** 0.5)})
    return found


def search(device: torch.device, k: int, data: str = "fashion-mnist") -> dict[str, Any]:
    """Wall seconds of `evoprune run kstarts`, everything included: K individuals for 2 epochs, and the fittest for one more."""
    if data == "fashion-mnist" and not os.environ.get("EVOPRUNE_DATA"):
        return {"k": k, "why": "EVOPRUNE_DATA names no folder with Fashion-MNIST"}
    command = [
        *(sys.executable, "-m", "evoprune", "run", "kstarts", "--data", data, "--model", "lenet-300-100"),
        *("--epochs", "3", "--set", f"k={k}", "--set", "selection_epochs=2", "--sparsity", str(SPARSITY)),
        *("--device", str(device), "--json", "--out"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        try:
            command.append(str(Path(folder) / "run"))
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SEARCH)
        except subprocess.TimeoutExpired:
            return {"k": k, "why": f"not ended after {SEARCH} s"}
        took = time.perf_counter() - start
    if done.returncode:
        return {"k": k, "why": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    return {"k": k, "wall_s": took, "val_accuracy": json.loads(done.stdout)["val_accuracy"]}


def describe(row: dict[str, Any]) -> str:
    """A line of the table."""
    head = f"{row['model']:14} {row['k']:5} {row['engine']:7} {row['precision']:5}"
    tail = "".join(f"  {part}" for part in (row.get("choice"), *row.get("said", ())) if part)
    if "s" not in row:
        return f"{head}  {row['why']}{tail}"
    return (
        f"{head} {row['s'] * 1e3:10.3f} {row['floor_s'] * 1e3:10.3f} {row['ratio_floor']:8.2f} {row['ratio_loop']:8.1f} "
        f"{row['samples_individuals_s']:12.3g} {row['utilisation']:6.1%} {row['bandwidth']:6.1%}{tail}"
    )


class Results:
    """What was found so far, in the file too."""

    def __init__(self, path: str | None, **found: Any) -> None:
        self.path, self.found = path, {**found, "rows": [], "choices": [], "complete": False}
        self.save()

    def save(self) -> None:
        if self.path:
            atomic_write(self.path, (json.dumps(self.found, indent=1) + "\n").encode())

    def add(self, where: str, row: dict[str, Any]) -> None:
        """One more row of "rows" or "choices"."""
        self.found[where].append(row)
        print(describe(row), flush=True)
        self.save()

    def put(self, **found: Any) -> None:
        self.found |= found
        print(json.dumps(found, indent=1), flush=True)
        self.save()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write everything there")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1, cpu")
    parser.add_argument("--seconds", type=float, default=420, help="for all of it; what does not fit is left out, and says so")
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--ks", nargs="*", type=int, default=KS)
    parser.add_argument("--tiny", action="store_true", help="small numbers, to see that it runs")
    return parser.parse_args()


def main() -> None:
    """Measure, print a table, write the rows."""
    options, started = arguments(), time.monotonic()
    device = Training.of(device=options.device).resolved_device()
    machine = measure_machine(device, tiny=options.tiny)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    peaks = ", ".join(f"{precision} {value / 1e12:.2f}" for precision, value in machine.peak.items())
    print(f"{name}: copy {machine.copy / 1e9:.0f} GB/s, matrix peak {peaks} Tflop/s")
    limits = {"name": name, "torch": torch.__version__, "copy_bytes_s": machine.copy, "peak_operations_s": machine.peak}
    results = Results(options.json, machine=limits)
    bench = Bench(machine, options.models, started + options.seconds, 8 if options.tiny else STEPS)
    heads = f"{'ms':>10} {'floor ms':>10} {'x floor':>8} {'x loop':>8} samples·ind/s  peak   copy"
    print(f"{'model':14} {'K':>5} {'engine':7} {'prec':5} {heads}")

    grid = [(model, k) for k in options.ks for model in options.models]
    first = [one for one in DECIDING if one in grid]
    for model, k in first:
        for cell in cells_of(model, k, device):
            results.add("rows", bench(cell))
    results.put(kstarts=search(device, 4, "digits") if options.tiny else search(device, 512))
    results.put(accuracy=accuracy(device, 3 if options.tiny else 16))
    for cell in choices_of(device, tiny=options.tiny):
        if cell.model in options.models:
            results.add("choices", bench(cell))
    for model, k in grid:
        for cell in cells_of(model, k, device) if (model, k) not in first else ():
            results.add("rows", bench(cell))
    results.put(seconds=round(time.monotonic() - started, 1), complete=True)


if __name__ == "__main__":
    main()
