"""How long a training step of a generation takes: the loop a DEAP user writes today, the dense and the sparse engine.

    python benchmarks/engine_speed.py [--quick] [--json FILE] [--only MODEL…]

Seconds a step for all K individuals (loss, trace and optimizer included), interleaved, medians:

loop_s       `torch.nn.utils.prune.custom_from_mask` and SGD with momentum, one individual after the other, tensors in memory
dense_s      `Population(engine="dense")`; sparse_s `Population(engine="sparse")`, an epoch divided by its steps
dense_roofline_s     the dense operations of the three products of each layer (forward, both gradients) at the matrix peak
survivor_roofline_s  the larger of the survivors' operations at that peak and the bytes that must move at the copy bandwidth
ratio_loop = loop_s / sparse_s; ratio_roofline = sparse_s / dense_roofline_s

Without --quick also: time against K (`over_k`), against survivors (`over_survivors`: intercept, slope and largest deviation of
the straight line), and the memory of a fresh process that trains 1,000 masks.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

import evoprune as ep
from evoprune.masks.mask import Mask
from evoprune.problems.models import find_model

STEPS = {"lenet-300-100": 64, "autoencoder": 32, "lenet5": 8}
"""Steps an epoch of the sparse engine that is timed, the trace's work at its end included; 2 for other models, whose steps take
seconds. The dense engine takes two steps at a time."""

QUICK = [("lenet-300-100", sparsity, 32, 128) for sparsity in (0.95, 0.98, 0.99)]
FULL = [
    *QUICK,
    *[("lenet-300-100", sparsity, 32, 128) for sparsity in (0.9, 0.995, 0.998, 0.999)],
    *[("lenet5", sparsity, 16, 128) for sparsity in (0.95, 0.98)],
    *[("conv4", sparsity, 16, 128) for sparsity in (0.95, 0.98)],
    *[("resnet20", sparsity, 16, 128) for sparsity in (0.95, 0.98)],
    *[("autoencoder", sparsity, 32, 128) for sparsity in (0.95, 0.98)],
    *[("lenet-300-100", 0.98, k, 128) for k in (8, 512)],
]


def seconds(call: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def matrix_peak() -> float:
    """Operations a second of a large float32 matrix product: the best of many."""
    size = 2048
    a, b, c = (torch.randn(size, size) for _ in range(3))
    return 2 * size**3 / min(seconds(lambda: torch.mm(a, b, out=c)) for _ in range(12))


def bandwidth() -> float:
    """Bytes a second, read and written, of a large copy: the best of many."""
    a, b = torch.randn(1 << 24), torch.empty(1 << 24)
    return 2 * a.nbytes / min(seconds(lambda: b.copy_(a)) for _ in range(12))


FUSED = (nn.ReLU, nn.Flatten, nn.Identity, nn.Dropout)
"""Layers that need no pass of their own over memory."""


def counts(model: nn.Module, shape: Sequence[int]) -> tuple[dict[str, int], int]:
    """Pixels of each prunable layer's output by weight name, and numbers that layers leave for one sample."""
    pixels: dict[str, int] = {}
    numbers = [0]

    def hook(name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def see(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
            numbers[0] += 0 if isinstance(layer, FUSED) else output[0].numel()
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                pixels[f"{name}.weight"] = output[0].numel() // layer.weight.shape[0]

        return see

    handles = [layer.register_forward_hook(hook(name)) for name, layer in model.named_modules() if not list(layer.children())]
    with torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    for handle in handles:
        handle.remove()
    return pixels, numbers[0]


def user_loop(problem: ep.Problem, masks: Sequence[Mask], x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """One step of every individual, as written today."""
    networks = []
    for mask in masks:
        network = problem.module().train()
        for name, kept in mask.dense().items():
            prune.custom_from_mask(network.get_submodule(name.rpartition(".")[0]), "weight", kept)
        networks.append((network, torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)))

    def step() -> None:
        for network, optimizer in networks:
            optimizer.zero_grad()
            outputs = network(x)
            loss = (
                functional.mse_loss(outputs, x.flatten(1))
                if problem.task == "reconstruction"
                else functional.cross_entropy(outputs, y)
            )
            loss.backward()
            optimizer.step()

    return step


def make_problem(name: str, batch: int, steps: int | None = None) -> ep.Problem:
    """A problem on noise, `steps` an epoch: speed does not depend on what is learnt."""
    entry = find_model(name)
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> Any:
        return torch.randn(count, *entry.reference, generator=generator).numpy()

    def labels(count: int) -> Any:
        return (torch.arange(count) % 10).numpy()

    samples = (steps or STEPS.get(name, 2)) * batch
    data: dict[str, Any] = {"x_train": images(samples), "x_validation": images(20), "x_test": images(20)}
    if entry.task == "classification":
        data |= {"y_train": labels(samples), "y_validation": labels(20), "y_test": labels(20)}
    return ep.Problem(name, data, seed=0)


def measure(name: str, sparsity: float, k: int, batch: int, *, peak: float, copy: float, budget: float) -> dict[str, Any]:
    """One row of the table; `budget` seconds for its timings."""
    problem = make_problem(name, batch)
    masks = [ep.random_mask(problem.space, sparsity=sparsity, seed=seed) for seed in range(k)]
    generations = {
        engine: ep.Population(problem, masks, horizon=10_000, engine=engine, batch_size=batch, device="cpu")
        for engine in ("dense", "sparse")
    }
    some = masks[: min(k, 4)]
    inputs = torch.from_numpy(make_inputs(problem, batch))
    loop = user_loop(problem, some, inputs, torch.arange(batch) % 10)
    calls: dict[str, Callable[[], object]] = {
        "loop": loop,
        "dense": lambda: generations["dense"].train_steps(2),
        "sparse": lambda: generations["sparse"].train(1),
    }
    steps = len(problem.split("train")) // batch
    scale = {"loop": k / len(some), "dense": 1 / 2, "sparse": 1 / steps}
    times: dict[str, list[float]] = {engine: [] for engine in calls}
    for warm in ("loop", "sparse"):
        calls[warm]()
    spent = dict.fromkeys(calls, 0.0)
    while sum(spent.values()) < budget or len(times["sparse"]) < 3:
        for engine in calls:
            if spent[engine] < budget / 3 or not times[engine] or (engine != "dense" and len(times[engine]) < 3):
                took = seconds(calls[engine])
                spent[engine] += took
                times[engine].append(took * scale[engine])
    result = {engine: statistics.median(values) for engine, values in times.items()}
    dense_s, survivor_s = rooflines(problem, masks[0], k, batch, peak, copy)
    return {
        "model": name, "sparsity": sparsity, "survivors": masks[0].count, "k": k, "batch": batch,
        "loop_s": result["loop"], "dense_s": result["dense"], "sparse_s": result["sparse"],
        "dense_roofline_s": dense_s, "survivor_roofline_s": survivor_s,
        "ratio_loop": result["loop"] / result["sparse"], "ratio_roofline": result["sparse"] / dense_s,
        "ratio_survivor_roofline": result["sparse"] / survivor_s,
        "us_per_individual": result["sparse"] / k * 1e6,
        "activation_s": activations(problem, batch) / copy * k,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def activations(problem: ep.Problem, batch: int) -> int:
    """Bytes of activations that a step moves for one individual: each number and its gradient written and read once."""
    return 16 * counts(problem.module(), problem.split("train").inputs.shape[1:])[1] * batch


def over_k(rounds: int = 5) -> dict[str, Any]:
    """Microseconds an individual and step of lenet-300-100 at 98%, by K: all K in turn, round after round, medians."""
    problem = make_problem("lenet-300-100", 128)
    steps, times = len(problem.split("train")) // 128, {}
    for k in (8, 16, 32, 64, 128, 256, 512):
        masks = [ep.random_mask(problem.space, sparsity=0.98, seed=seed) for seed in range(k)]
        generation = ep.Population(problem, masks, horizon=1 + rounds, engine="sparse", batch_size=128, device="cpu").train(1)
        times[k] = generation, []
    for _ in range(rounds):
        for k, (generation, own) in times.items():
            own.append(seconds(lambda generation=generation: generation.train(1)) / steps / k * 1e6)
    found = {k: statistics.median(own) for k, (_, own) in times.items()}
    large = [value for k, value in found.items() if k >= 32]
    return {"us_per_individual_by_k": found, "spread_from_32_to_512": max(large) / min(large) - 1}


def fits(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How the time of a step depends on the number of survivors: least relative squares over two decades."""
    rows = [row for row in rows if row["model"] == "lenet-300-100" and row["k"] == 32]
    survivors, times = (np.array([row[key] for row in rows]) for key in ("survivors", "us_per_individual"))
    matrix = np.stack([np.ones(len(times)), survivors], axis=1) / times[:, None]
    intercept, slope = np.linalg.lstsq(matrix, np.ones(len(times)), rcond=None)[0]
    return {
        "intercept_us": intercept,
        "us_per_thousand_survivors": 1000 * slope,
        "largest_deviation": float(np.abs((intercept + slope * survivors) / times - 1).max()),
        "activation_traffic_us": rows[0]["activation_s"] / 32 * 1e6,
    }


def memory(k: int = 1000) -> float:
    """Peak memory in MB of a fresh process that trains k masks of lenet-300-100 at 99% for an epoch."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import evoprune as ep, engine_speed as e, resource\n"
        f"problem = e.make_problem('lenet-300-100', 128)\n"
        f"masks = [ep.random_mask(problem.space, sparsity=0.99, seed=seed) for seed in range({k})]\n"
        f"ep.Population(problem, masks, horizon=1, engine='sparse', batch_size=128, device='cpu').train(1)\n"
        f"print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def make_inputs(problem: ep.Problem, batch: int) -> Any:
    """One batch of inputs."""
    return problem.split("train").inputs[:batch].float().numpy()


def rooflines(problem: ep.Problem, mask: Mask, k: int, batch: int, peak: float, copy: float) -> tuple[float, float]:
    """Seconds that K dense networks need at the matrix peak, and K sparse ones at peak or bandwidth."""
    pixels, _ = counts(problem.module(), problem.split("train").inputs.shape[1:])
    layers = list(zip(problem.space.names, problem.space.sizes, mask.counts, strict=True))
    dense = sum(6 * size * pixels[name] for name, size, _ in layers) * batch * k
    survivors = sum(6 * count * pixels[name] for name, _, count in layers) * batch * k
    # each number a layer leaves is written and read once, and so is its gradient; a survivor's value and index are read for
    # three products, its gradient is written and read, value and momentum are read and written
    moved = (activations(problem, batch) + 48 * mask.count) * k
    return dense / peak, max(survivors / peak, moved / copy)


def main() -> None:
    """Measure, print a table, write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="lenet-300-100 at three sparsities only")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument("--only", nargs="*", help="models to measure")
    options = parser.parse_args()
    whole = not options.quick and not options.only
    more: dict[str, Any] = {"peak_rss_mb_of_1000_masks": memory()} if whole else {}  # first: a child inherits its parent's peak
    peak, copy = matrix_peak(), bandwidth()
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, peak {peak / 1e9:.0f} GFLOP/s, copy {copy / 1e9:.1f} GB/s")
    print(f"{'model':14} {'sparsity':>8} {'K':>4} {'loop':>9} {'dense':>9} {'sparse':>9} us/ind  x loop  /roof  /survivors  MB")
    rows = []
    for name, sparsity, k, batch in QUICK if options.quick else FULL:
        if options.only and name not in options.only:
            continue
        row = measure(name, sparsity, k, batch, peak=peak, copy=copy, budget=4 if options.quick else 10)
        rows.append(row)
        each = [row[key] / k * 1e6 for key in ("loop_s", "dense_s", "sparse_s")]
        print(
            f"{name:14} {sparsity:8} {k:4} {each[0]:9.1f} {each[1]:9.1f} {each[2]:9.1f}        {row['ratio_loop']:6.1f}  "
            f"{row['ratio_roofline']:5.3f}  {row['ratio_survivor_roofline']:5.1f}  {row['peak_rss_mb']:.0f}",
            flush=True,
        )  # fmt: skip
    if whole:
        more |= {"over_k": over_k(), "over_survivors": fits(rows)}
        print(json.dumps(more, indent=1))
    if options.json:
        machine = {
            "threads": torch.get_num_threads(),
            "peak_gflops": peak / 1e9,
            "copy_gb_s": copy / 1e9,
            "torch": torch.__version__,
        }
        with open(options.json, "w") as file:
            json.dump({"machine": machine, "rows": rows, **more}, file, indent=1)


if __name__ == "__main__":
    main()
