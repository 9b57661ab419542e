"""The command line: `evoprune run`, `compare`, `list`. Results go to stdout, everything else to stderr.

Exit codes: 0 done, 1 the run failed, 2 wrong arguments, 130 interrupted. What is slow to import is imported when it is needed.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from evoprune.errors import EvopruneError, InputError, UnknownName

if TYPE_CHECKING:
    from evoprune.methods.registry import Method

__all__ = ["app", "main"]

app = typer.Typer(
    name="evoprune",
    help="Evolutionary search of sparse neural networks at initialization.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Data = Annotated[str, typer.Option(help="Data set: a name of `evoprune list datasets`, or the path of an .npz.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder of the named data sets; else EVOPRUNE_DATA.", show_default=False)]
Model = Annotated[str, typer.Option(help="Model: a name of `evoprune list models`.")]
Epochs = Annotated[int, typer.Option(help="Epochs on the path of the returned network.")]
Options = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the method or of training; repeatable.")
]
Engine = Annotated[str, typer.Option(help="auto, loop, dense or sparse.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the whole log, and where an unexpected error came from.")]

NAMED = {"data", "data_root", "model", "sparsity", "epochs", "seed", "engine", "device"}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script. A usage error is one line, as every other wrong input."""
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="evoprune", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):  # what click raises for wrong usage, wherever typer keeps click
            raise
        message = " ".join(error.format_message().split()).rstrip(".")
        if message:  # it is empty after the help that a bare `evoprune` shows
            path = getattr(getattr(error, "ctx", None), "command_path", "evoprune")
            _say_error(f"{message}: {path} --help shows the usage")
        code = 2
    sys.exit(code or 0)


# ---- run ---------------------------------------------------------------------------------------------------------


@app.command()
def run(
    method: Annotated[str, typer.Argument(help="A name of `evoprune list methods`.", show_default=False)],
    data: Data = "digits",
    model: Model = "lenet-300-100",
    sparsity: Annotated[str | None, typer.Option(help="Share of the prunable weights to remove.", show_default="0.95")] = None,
    epochs: Epochs = 10,
    seed: Annotated[int, typer.Option(help="Of initial weights, masks, batches and search.")] = 0,
    set_: Options = None,
    test: Annotated[bool, typer.Option("--test", help="Open the test split at the end.")] = False,
    engine: Engine = "auto",
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder: absent, empty, or of the same arguments.", show_default="runs/<time>-<method>-<hash>"),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    data_root: DataRoot = None,
    verbose: Verbose = False,
) -> None:
    """Run one METHOD and keep its ticket, history and cost in a folder."""
    with reporting(verbose, kept="nothing but its log is kept: run the same command to start again"):
        from evoprune.methods import METHODS
        from evoprune.problems.problem import Problem
        from evoprune.runs import run as run_method

        chosen = METHODS[method]
        options = {"epochs": epochs, "seed": seed, "engine": engine, "device": device, **parse_options(set_ or [], [chosen])[0]}
        if sparsity is not None:
            options["sparsity"] = number(sparsity)
        problem = Problem(model, data, seed=seed, data_root=data_root)
        with epochs_shown(method):
            result = run_method(chosen, problem, out=out, test=test, **options)
        if json_:
            print(json.dumps(result, allow_nan=False))
        else:
            show_result(result)


def show_result(result: Mapping[str, Any]) -> None:
    """One run as tables on stderr."""
    ledger, asked = result["ledger"], result["sparsity"]
    facts = Table.grid(padding=(0, 2))
    facts.add_row("sparsity", f"{result['sparsity_obtained']:.2%} ({'an outcome' if asked is None else f'{asked:.2%} asked'})")
    facts.add_row("survivors", f"{result['survivors']:,} of {result['prunable']:,}")
    facts.add_row(f"validation {result['metric']}", _score(result["val_score"], result["metric"]))
    locked = result["test_score"] is None
    facts.add_row(
        f"test {result['metric']}", "locked: --test opens it" if locked else _score(result["test_score"], result["metric"])
    )
    facts.add_row("cost", f"{ledger['dense_equivalent_epochs']:.3g} dense epochs, {ledger['samples']:,} samples")
    facts.add_row("time", f"{ledger['wall_s']:.1f} s on {ledger['device']}, engine {ledger['engine']}")
    facts.add_row("folder", escape(str(result["out"])))
    layers = Table("layer", "shape", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("survivors", "of", "kept"):
        layers.add_column(column, justify="right")
    for layer in result["layers"]:
        shape = " x ".join(map(str, layer["shape"]))
        share = f"{layer['survivors'] / layer['prunable']:.2%}"
        layers.add_row(layer["name"], shape, f"{layer['survivors']:,}", f"{layer['prunable']:,}", share)
    console = errors()
    console.print(f"[bold]{result['method']}[/] on {result['data']}, {result['model']}, seed {result['seed']}", highlight=False)
    console.print(facts, highlight=False)
    console.print(layers, highlight=False)


def _score(value: float | None, metric: str) -> str:
    if value is None:
        return "not a number"
    return f"{value:.2%}" if metric == "accuracy" else f"{value:.4g}"


# ---- list --------------------------------------------------------------------------------------------------------


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, models, datasets, operators or criteria.", show_default=False)],
) -> None:
    """Show what can be chosen by name."""
    with reporting():
        if what not in LISTS:
            raise UnknownName("list", what, LISTS)
        headers, rows = LISTS[what]()
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for index, header in enumerate(headers):
            numbers = all(isinstance(row[index], int) for row in rows)
            table.add_column(header, no_wrap=index == 0, justify="right" if numbers else "left", overflow="fold")
        for row in rows:
            table.add_row(*(f"{cell:,}" if isinstance(cell, int) else escape(cell) for cell in row))
        output().print(table, highlight=False)


Rows = tuple[Sequence[str], list[tuple[str | int, ...]]]


def _methods() -> Rows:
    from evoprune.methods import METHODS

    return ("method", "what it does", "options"), [
        (name, method.summary, ", ".join(f"{key}={value}" for key, value in method.options.items()))
        for name, method in METHODS.items()
    ]


def _models() -> Rows:
    from evoprune.problems.models import model_table

    columns = ("name", "doc", "input", "prunable")
    return ("model", "what it is", "input", "prunable"), [tuple(row[column] for column in columns) for row in model_table()]


def _datasets() -> Rows:
    from evoprune.problems.datasets import DATASETS

    npz = ("FILE.npz", "arrays x_train, y_train, x_test, y_test; no labels to reconstruct")
    return ("data set", "what it is"), [*((name, first_line(load.__doc__)) for name, load in DATASETS.items()), npz]


def _operators() -> Rows:
    from evoprune.evolution.operators import OPERATORS

    return ("operator", "what it does"), [(name, first_line(operator.__doc__)) for name, operator in OPERATORS.items()]


def _criteria() -> Rows:
    from evoprune.criteria import CRITERIA

    return ("criterion", "fitter is", "what it is"), [
        (name, {"max": "larger", "min": "smaller"}[entry.direction], entry.doc) for name, entry in CRITERIA.items()
    ]


LISTS = {"methods": _methods, "models": _models, "datasets": _datasets, "operators": _operators, "criteria": _criteria}


def first_line(doc: str | None) -> str:
    """Of a docstring."""
    return (doc or "").strip().partition("\n")[0]


# ---- what the user typed -----------------------------------------------------------------------------------------


def number(text: str) -> Any:
    """A sparsity as a number; what is none stays a text, to be refused where sparsities are checked."""
    try:
        return float(text)
    except ValueError:
        return text


def parse_options(settings: Sequence[str], methods: Sequence[Method]) -> list[dict[str, Any]]:
    """`key=value` texts as options, one mapping a method; each goes to every method that knows it.

    Raises `UnknownName` for an option that no method knows, `InputError` for a value of the wrong kind.
    """
    from evoprune.training.options import Training

    parsed: list[dict[str, Any]] = [{} for _ in methods]
    seen: set[str] = set()
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise InputError(f"--set {setting!r} is not usable: give KEY=VALUE, such as --set k=16")
        if key in NAMED:
            raise InputError(f"--set {setting!r} is not usable: give it as --{key.replace('_', '-')} {text}")
        if key in seen:
            raise InputError(f"--set {key}=… is given twice: give one value")
        seen.add(key)
        takers = [m for m in methods if key in m.options or key in Training.__dataclass_fields__]
        if not takers:
            known = {*Training.__dataclass_fields__, *(name for m in methods for name in m.options)} - NAMED
            kind = f"option of {methods[0].name}" if len(methods) == 1 else "option of these methods"
            raise UnknownName(kind, key, known)
        for options, method in zip(parsed, methods, strict=True):
            if method in takers:
                options[key] = coerced(key, text.strip(), _hint(method, key))
    return parsed


def _hint(method: Method, key: str) -> Any:
    """The annotation of an option, None where there is none to be had."""
    from typing import get_type_hints

    from evoprune.training.options import Training

    try:
        return get_type_hints(method.function if key in method.options else Training).get(key)
    except NameError:
        return None


def literal(text: str) -> Any:
    """What a text stands for: none, a boolean, a whole number, a number, a list (2,4,8), else a name."""
    if "," in text:
        return [literal(part.strip()) for part in text.split(",") if part.strip()]
    words = {"none": None, "null": None, "true": True, "false": False, "yes": True, "no": False}
    if text.lower() in words:
        return words[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return text


def coerced(key: str, text: str, hint: Any) -> Any:
    """`text` as a value of the annotated kind. Raises `InputError` for another kind; whatever is not annotated passes."""
    from typing import get_args, get_origin

    lists = (Sequence, list, tuple)
    union = hint is not None and get_origin(hint) not in (None, *lists)
    value, expected = literal(text), []
    for kind in get_args(hint) if union else (hint,):
        if get_origin(kind) in lists:
            if isinstance(value, list):
                return value
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return [value]
            expected.append("a list such as 2,4,8")
        elif kind not in KINDS:
            return value
        elif kind is str:
            return text
        elif type(value) is kind or (kind is float and type(value) is int):
            return value
        else:
            expected.append(KINDS[kind])
    raise InputError(f"{key}={text!r} is not usable: give {' or '.join(expected)}")


KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a name", type(None): "none"}


# ---- what the user sees ------------------------------------------------------------------------------------------


def output() -> Console:
    """Standard output; wide enough for a table when it is no terminal."""
    return _console(stderr=False)


def errors() -> Console:
    """Standard error."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 160, soft_wrap=False)


@contextmanager
def reporting(verbose: bool = False, *, kept: str = "") -> Iterator[None]:
    """Turn whatever goes wrong into one line and an exit code, and show the log (all of it when `verbose`)."""
    console = errors()
    handler = _Lines(console, logging.DEBUG if verbose else logging.INFO)
    logger = logging.getLogger("evoprune")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(handler.level)
    try:
        yield
    except InputError as error:
        _fail(console, str(error), 2, verbose)
    except EvopruneError as error:
        _fail(console, str(error), 1, verbose)
    except KeyboardInterrupt:
        _fail(console, f"interrupted; {kept}" if kept else "interrupted", 130, False)
    except (typer.Exit, BrokenPipeError):
        raise
    except Exception as error:
        _fail(console, f"{type(error).__name__}: {error} (unexpected; --verbose shows where)", 1, verbose)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _fail(console: Console, message: str, code: int, verbose: bool) -> None:
    if verbose and code == 1:
        console.print(traceback.format_exc(), markup=False, highlight=False)
    _say_error(message)
    raise typer.Exit(code)


def _say_error(message: str) -> None:
    console = errors()
    console.print("error:", style="bold red", end=" ")
    console.print(" ".join(message.split()), markup=False, highlight=False, soft_wrap=True)


class _Lines(logging.Handler):
    """Each different message once, above the progress bar."""

    def __init__(self, console: Console, level: int) -> None:
        super().__init__(level)
        self.console, self.seen = console, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self.seen:
            self.seen.add(text)
            self.console.print(
                text, style="yellow" if record.levelno >= logging.WARNING else "dim", markup=False, highlight=False
            )


class _Epochs(logging.Handler):
    """Moves a progress bar by what `evoprune.progress` says."""

    def __init__(self, progress: Progress, task: TaskID, method: str) -> None:
        super().__init__(logging.DEBUG)
        self.progress, self.task_id, self.method = progress, task, method

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and len(record.args) == 3:
            epoch, horizon, networks = record.args
            several = f", {networks} networks" if networks != 1 else ""
            self.progress.update(self.task_id, completed=epoch, total=horizon, description=f"{self.method}{several}")  # type: ignore[arg-type]


@contextmanager
def epochs_shown(method: str) -> Iterator[None]:
    """A progress bar of the epochs in training, on a terminal."""
    logger = logging.getLogger("evoprune.progress")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("epoch"), MofNCompleteColumn())
    console = errors()
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal, transient=True) as progress:
        handler = _Epochs(progress, progress.add_task(method, total=None), method)
        before = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.level, logger.propagate = before
