"""Executors: the same results whoever trains, and a lost worker costs at most the sub-batch it held."""

from __future__ import annotations

import copy
import importlib.util
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from deap import base

import evoprune as ep
from evoprune.criteria import CRITERIA, _registered
from evoprune.errors import EvopruneError, InputError, TrainingFailed
from evoprune.evolution.executors.base import Serial, make_executor
from evoprune.evolution.executors.processes import HELD, ProcessExecutor
from evoprune.evolution.trainer import Trainer
from evoprune.masks.sampling import random_masks
from evoprune.training.population import Population
from tests.tiny import mlp

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def made(executor: Any = None, **options: Any) -> base.Toolbox:
    defaults = {"sparsity": 0.8, "epochs": 40, "batch_size": 8, "engine": "dense", "chunk": 2, "seed": 4}
    return ep.make_toolbox(mlp(), executor=executor, **{**defaults, **options})


def generation(toolbox: base.Toolbox, n: int = 8) -> list[tuple[float, ...]]:
    return list(toolbox.map(toolbox.evaluate, toolbox.population(n=n)))


@pytest.fixture(scope="module")
def expected() -> list[tuple[float, ...]]:
    return generation(made())


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessExecutor]:
    executor = ProcessExecutor(min(2, CORES))
    yield executor
    executor.close()


@pytest.fixture
def overfitting() -> Iterator[None]:
    """A criterion of a user's own, which other tests of all criteria do not meet."""
    from tests.evolution.gaps import overfitting

    CRITERIA._entries["overfitting"] = overfitting
    yield
    del CRITERIA._entries["overfitting"]


def alive(executor: ProcessExecutor) -> list[int]:
    processes = executor._pool._processes if executor._pool is not None else None
    return list(processes or ())


@pytest.mark.parametrize(("fits", "expected_size"), [(100, 100), (4096, 512)])
def test_a_search_on_a_gpu_takes_what_fits_and_tries_no_more_than_a_chunk_holds(
    fits: int, expected_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial of thousands of networks would take longer than a search of sixteen."""
    one = SimpleNamespace(device=torch.device("cuda"), engine=SimpleNamespace(name="dense", rows=512))
    monkeypatch.setattr(Trainer, "_population", lambda *_: one)

    def largest(*_: Any, most: int = 4096, **__: Any) -> int:
        return min(fits, most)

    monkeypatch.setattr("evoprune.evolution.trainer.largest_population", largest)
    assert made().map.trainer.plan() == ("dense", expected_size)


# ---- processes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 3])
def test_worker_processes_give_the_same_results(chunk: int, pool: ProcessExecutor, expected: list[Any], tmp_path: Path) -> None:
    toolbox = made(pool, chunk=chunk, journal=tmp_path / "run.jsonl")
    assert generation(toolbox) == expected
    assert len(ep.read_journal(tmp_path / "run.jsonl")) == toolbox.map.trained == 8
    again = made(journal=tmp_path / "run.jsonl")
    assert generation(again) == expected
    assert again.map.trained == 0


def test_worker_processes_take_the_fused_step_too(pool: ProcessExecutor) -> None:
    """Another path differs in the last bits."""
    options = {"engine": "sparse", "epochs": 3}
    for problem in (mlp(), copy.deepcopy(mlp()), pickle.loads(pickle.dumps(mlp()))):
        assert Population(problem, random_masks(problem.space, 2, sparsity=0.8), horizon=1, engine="sparse")._fused() is not None
    assert generation(made(pool, **options)) == generation(made(**options))


def test_inherited_weights_travel_to_workers(pool: ProcessExecutor) -> None:
    results = []
    for executor in (None, pool):
        toolbox = made(executor, inherit="weights")
        individuals = toolbox.population(n=3)
        list(toolbox.map(toolbox.evaluate, individuals))
        children = [toolbox.mutate(toolbox.clone(one))[0] for one in individuals]
        results.append(list(toolbox.map(toolbox.evaluate, children)))
    assert results[0] == results[1]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")
def test_killed_worker_costs_its_sub_batch(pool: ProcessExecutor, expected: list[Any]) -> None:
    made(pool, epochs=1).map.batch(made().population(n=1))  # the workers are up
    toolbox, killed = made(pool), []

    def kill() -> None:
        while not toolbox.map.trained:
            time.sleep(0.001)
        worker = alive(pool)[0]
        os.kill(worker, signal.SIGKILL)
        killed.append((worker, toolbox.map.trained))

    thread = threading.Thread(target=kill)
    thread.start()
    assert generation(toolbox) == expected
    thread.join()
    [(worker, trained)] = killed
    assert trained < 8, "it was over before a worker was killed"
    assert worker not in alive(pool)
    assert toolbox.map.trained == 8, "what was finished is not trained again"


def test_toolboxes_on_one_executor_keep_its_workers(pool: ProcessExecutor) -> None:
    """Islands take turns; workers that start anew each time would take longer than a short generation."""
    seeds = range(HELD + 2)
    islands, alone = ([made(executor, epochs=2, seed=seed) for seed in seeds] for executor in (pool, None))
    generation(made(pool, epochs=2), n=2)
    workers = alive(pool)
    for order in (seeds[:2], seeds, seeds[1::-1]):  # more of them than a worker holds problems
        for seed in order:
            assert generation(islands[seed], n=3) == generation(alone[seed], n=3)
    assert alive(pool) == workers


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")
def test_workers_that_are_started_anew_are_sent_what_they_lack(pool: ProcessExecutor) -> None:
    first, second = made(pool, epochs=2, seed=1), made(pool, epochs=2, seed=2)
    expected = [generation(made(epochs=2, seed=seed)) for seed in (1, 2)]
    generation(first, n=1)
    generation(second, n=1)
    for worker in alive(pool):
        os.kill(worker, signal.SIGKILL)
    assert [generation(made(pool, epochs=2, seed=seed)) for seed in (1, 2)] == expected


def test_a_problem_of_the_users_script_and_one_that_is_not_take_turns(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import evoprune as ep, torch\n"
        "from evoprune.evolution.executors.processes import ProcessExecutor\n"
        "from tests.tiny import mlp, table\n"
        "class Own(torch.nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(torch.nn.Linear(6, 8), torch.nn.Linear(8, 3))\n"
        "if __name__ == '__main__':\n"
        "    executor, values = ProcessExecutor(1), []\n"
        "    problems = [mlp(), ep.Problem(Own, table()), mlp()]\n"
        "    for how in (executor, None):\n"
        "        boxes = [ep.make_toolbox(one, sparsity=0.5, epochs=1, batch_size=8, engine='dense', executor=how, seed=1)"
        " for one in problems]\n"
        "        values.append([list(box.map(box.evaluate, box.population(n=2))) for box in boxes])\n"
        "    assert values[0] == values[1]\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


class Clumsy(Exception):
    """As a user writes them: it pickles, and what comes out cannot be made again."""

    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"{what} {number}")


class ClumsyKernel(RuntimeError):
    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"{what} {number}")


class Locked(Exception):
    """One that does not even pickle."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.lock = threading.Lock()


ERRORS: dict[str, Callable[[], Exception]] = {
    "mistake": lambda: Clumsy("a mistake in line", 3),
    "kernel": lambda: ClumsyKernel("no kernel", 3),
    "locked": lambda: Locked("a mistake behind a lock"),
}


@dataclass(frozen=True, eq=False)
class Failing(Trainer):
    """As one whose user's code fails in training."""

    error: str = ""

    def train(self, jobs: Any) -> Any:
        raise ERRORS[self.error]()


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        ("mistake", EvopruneError, "^Clumsy: a mistake in line 3$"),
        ("locked", EvopruneError, "^Locked: a mistake behind a lock$"),
        ("kernel", TrainingFailed, "all 1 evaluations failed.*: ClumsyKernel: no kernel 3"),
    ],
)
def test_an_error_that_cannot_travel_says_what_it_was_and_kills_no_worker(
    error: str, kind: type[Exception], said: str, pool: ProcessExecutor
) -> None:
    generation(made(pool, epochs=1), n=1)
    workers, toolbox = alive(pool), made(pool, epochs=1, retries=1)
    toolbox.map.trainer = Failing(**vars(toolbox.map.trainer), error=error)
    with pytest.raises(kind, match=said):
        generation(toolbox, n=1)
    assert alive(pool) == workers


def test_workers_leave_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # without `if __name__ == "__main__"`: nothing in it is needed by the workers
    script.write_text(
        "import evoprune as ep, os, sys\n"
        "from tests.tiny import mlp\n"
        "box = ep.make_toolbox(mlp(), sparsity=0.8, epochs=1, batch_size=8, engine='dense', executor=1, seed=1)\n"
        "list(box.map(box.evaluate, box.population(n=2)))\n"
        "print(*box.map.executor._pool._processes, flush=True)\n"
        "sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        workers = [int(word) for word in process.stdout.readline().split()]
        assert len(workers) == 1
        process.kill()
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(psutil.pid_exists(worker) for worker in workers)


def test_impossible_executors_are_refused() -> None:
    with pytest.raises(InputError, match="cores"):
        ProcessExecutor(CORES, threads=2)
    with pytest.raises(InputError, match="workers=0"):
        make_executor(0)
    with pytest.raises(InputError, match=r"executor=.*is not usable"):
        make_executor("processes")
    assert isinstance(make_executor(None), Serial)
    assert make_executor(np.int64(1)).workers == 1


def test_problem_that_cannot_be_sent_says_so() -> None:
    problem = mlp()
    toolbox = ep.make_toolbox(problem, sparsity=0.8, epochs=1, executor=1, engine="dense", batch_size=8)
    problem_of = toolbox.map.trainer.problem
    problem_of.trap = lambda: None
    try:
        with pytest.raises(InputError, match="cannot be sent to worker processes"):
            generation(toolbox, n=2)
    finally:
        del problem_of.trap


# ---- Ray -----------------------------------------------------------------------------------------------------------------


@needs_ray
def test_cluster_that_is_not_there_is_a_clear_error() -> None:
    from evoprune.evolution.executors.ray import RayExecutor

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match="no Ray cluster answers at address="):
            RayExecutor(address=f"127.0.0.1:{port}")
    with pytest.raises(InputError, match="threads=0"):
        RayExecutor(threads=0)


def test_missing_ray_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from evoprune.evolution.executors.ray import RayExecutor

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="pip install ray"):
        RayExecutor()


@needs_ray
@pytest.mark.slow
def test_ray_loses_a_worker_and_a_node_and_no_result(expected: list[Any], tmp_path: Path) -> None:
    """Two nodes; while a generation trains, a worker is killed on one, then the other is removed."""
    import ray
    from ray.cluster_utils import Cluster

    from evoprune.evolution.executors.ray import RayExecutor

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        with pytest.raises(InputError, match="no node of the Ray cluster has 64 CPU"):
            RayExecutor(threads=64)
        toolbox = made(RayExecutor(2), journal=tmp_path / "run.jsonl", chunk=1)

        def disturb() -> None:
            while toolbox.map.trained < 1:
                time.sleep(0.01)
            os.kill(next(_actors()), signal.SIGKILL)
            while toolbox.map.trained < 3:
                time.sleep(0.01)
            cluster.remove_node(second, allow_graceful=False)

        thread = threading.Thread(target=disturb)
        thread.start()
        assert generation(toolbox) == expected
        thread.join()
        assert toolbox.map.trained == len(ep.read_journal(tmp_path / "run.jsonl")) == 8
        toolbox.map.close()
    finally:
        ray.shutdown()
        cluster.shutdown()


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("overfitting")
def test_ray_gives_every_actor_a_gpu_of_its_own(expected: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that says it has two GPUs: Ray counts what it is told, and hides from an actor all GPUs but its own."""
    import ray

    from evoprune.evolution.executors.ray import RayExecutor

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # Ray starts no more GPUs than that shows
    try:
        ray.init(num_cpus=3, num_gpus=2, log_to_driver=False, include_dashboard=False)
        with pytest.raises(InputError, match="no node of the Ray cluster has 1 CPU, 3 GPU"):
            RayExecutor(gpus=3)
        with pytest.raises(InputError, match="gpus=-1"):
            RayExecutor(gpus=-1)
        assert RayExecutor(gpus=0.5).workers == 4
        state = random.getstate()
        executor = RayExecutor(gpus=1)
        assert random.getstate() == state
        assert executor.workers == 2
        toolbox = made(executor, chunk=4, device="cpu")
        assert generation(toolbox) == expected
        seen = [ray.get(actor.gpus.remote()) for actor in executor._idle]
        assert sorted(seen) == ["0", "1"], "two actors on one GPU, or an actor that sees both"
        toolbox.map.close()
        raced = {"criterion": "overfitting", "rungs": (1, 2), "epochs": 2, "device": "cpu"}
        assert generation(made(executor, **raced), 4) == generation(made(**raced), 4), "with a criterion of a user's own"
    finally:
        ray.shutdown()


NOTEBOOK = """
import torch
from torch import nn
import evoprune as ep
from evoprune.criteria import criterion
from evoprune.evolution.executors.ray import RayExecutor
from tests.tiny import table

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x.flatten(1))))

def own_loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1)

@criterion("min")
def twice(trace, masks):
    return 2 * trace.last("val_loss")

problem = ep.Problem(Net, table(), loss=own_loss, seed=0)
for executor in (None, RayExecutor(2)):
    for raced in ({}, {"rungs": (1, 2)}):
        options = {"sparsity": 0.5, "epochs": 2, "batch_size": 8, "engine": "dense", "criterion": "twice", "seed": 1}
        toolbox = ep.make_toolbox(problem, executor=executor, **options, **raced)
        print(list(toolbox.map(toolbox.evaluate, toolbox.population(n=4))))
        toolbox.map.close()
"""


@needs_ray
@pytest.mark.slow
def test_what_a_notebook_defines_goes_to_ray_workers() -> None:
    """Model, loss and criterion of a session that has no file."""
    done = subprocess.run(
        [sys.executable, "-"],
        input=NOTEBOOK,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        check=False,
    )
    assert not done.returncode, done.stderr
    alone, raced, *sent = done.stdout.splitlines()
    assert sent == [alone, raced]


def _actors() -> Iterator[int]:
    """Processes of actors on this machine."""
    for process in psutil.process_iter(["pid", "cmdline"]):
        if any("ray::_Worker" in word for word in process.info["cmdline"] or ()):
            yield process.info["pid"]


@pytest.mark.parametrize(
    "options", [{"criterion": "overfitting"}, {"criterion": "overfitting", "rungs": (1, 2)}, {"rungs": (1, 2)}]
)
@pytest.mark.usefixtures("overfitting")
def test_workers_judge_as_this_process_does(options: dict[str, Any], pool: ProcessExecutor) -> None:
    short = {"epochs": 2, **options}
    expected = generation(made(**short), 4)
    assert generation(made(pool, **short), 4) == expected


def test_a_criterion_goes_to_other_processes_by_name() -> None:
    for one in CRITERIA.values():
        assert pickle.loads(pickle.dumps(one)) is copy.deepcopy(one) is one
    with pytest.raises(InputError, match="registers no criterion 'absent' here"):
        _registered("evoprune.criteria", "absent")
