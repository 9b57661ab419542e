"""The command line: `evoprune run`, `compare`, `check`, `report`, `list`. Results go to stdout, everything else to stderr.

Exit codes: 0 done, 1 the run failed, 2 wrong arguments, 130 interrupted. What is slow to import is imported when it is needed.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
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
    TimeRemainingColumn,
)
from rich.table import Table

from evoprune.errors import EvopruneError, InputError, UnknownName

if TYPE_CHECKING:
    from evoprune.compare import Comparison
    from evoprune.evidence.check import Check
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
    method: Annotated[str, typer.Argument(metavar="METHOD", help="A name of `evoprune list methods`.")],
    data: Data = "digits",
    model: Model = "lenet-300-100",
    sparsity: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Of the prunable weights, to remove.", show_default="0.95")
    ] = None,
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
        options = {"epochs": epochs, "seed": seed, "engine": engine, "device": device, **parse_options(set_ or [], [chosen])}
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


# ---- compare -----------------------------------------------------------------------------------------------------


@app.command()
def compare(
    methods: Annotated[list[str], typer.Argument(metavar="METHOD…", help="Names of `evoprune list methods`.")],
    data: Data = "digits",
    model: Model = "lenet-300-100",
    sparsity: Annotated[str, typer.Option(metavar="SHARES", help="One or several, as in 0.9,0.95,0.98.")] = "0.95",
    seeds: Annotated[int, typer.Option(help="Runs of each method at each sparsity.")] = 5,
    epochs: Epochs = 10,
    set_: Options = None,
    test: Annotated[bool, typer.Option("--test/--no-test", help="Open the test split once, after the last run.")] = True,
    engine: Engine = "auto",
    device: Device = "auto",
    workers: Annotated[int | None, typer.Option(help="Processes.", show_default="cores / threads")] = None,
    threads: Annotated[int, typer.Option(help="Threads of each process; results are the same for any --workers.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder: absent, empty, or of the same comparison.", show_default="runs/<time>-compare-<hash>"),
    ] = None,
    data_root: DataRoot = None,
    verbose: Verbose = False,
) -> None:
    """Run METHODS at several sparsities and seeds: a table, a picture, and every run. Goes on where it was stopped."""
    kept = f"finished runs are kept in {out}: run the same command to go on" if out else "finished runs are kept in runs/"
    with reporting(verbose, kept=kept, level=logging.WARNING):
        from evoprune.compare import compare as compare_methods
        from evoprune.methods import METHODS
        from evoprune.problems.problem import Problem

        options = parse_options(set_ or [], [METHODS[name] for name in methods])
        asked = [number(part.strip()) for part in sparsity.split(",")]
        with runs_shown() as progress:
            comparison = compare_methods(
                methods,
                Problem(model, data, data_root=data_root),
                sparsities=asked,
                seeds=seeds,
                out=out,
                test=test,
                workers=workers,
                threads=threads,
                progress=progress,
                epochs=epochs,
                engine=engine,
                device=device,
                **options,
            )
        show_comparison(comparison)
        if comparison.failures:
            names = ", ".join(comparison.failures)
            raise EvopruneError(f"{len(comparison.failures)} runs failed ({names}): run the same command to try them again")


def show_comparison(comparison: Comparison) -> None:
    """The table on stdout, and where everything lies."""
    summary, results = comparison.summary, comparison.results
    metric, tested = results["metric"].iloc[0], results["test_score"].notna().all()
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("sparsity", no_wrap=True)
    table.add_column("method")
    baseline = "random" in set(summary["method"])
    for header in ["survivors", "validation", *(["test"] if tested else []), *(["minus random"] if baseline else []), "cost"]:
        table.add_column(header, justify="right", no_wrap=True)
    previous = None
    for row in summary.to_dict("records"):
        asked = "outcome" if row["sparsity"] != row["sparsity"] else f"{row['sparsity']:.4g}"
        if previous not in (None, asked):
            table.add_section()
        cells = [_mean(row, "val", metric), *([_mean(row, "test", metric)] if tested else [])]
        cells += [_difference(row, metric)] if baseline else []
        first = asked if asked != previous else ""
        table.add_row(first, str(row["method"]), f"{row['survivors']:,.0f}", *cells, f"{row['dense_equivalent_epochs']:.3g}")
        previous = asked
    console = output()
    about = ", ".join(str(results[name].iloc[0]) for name in ("data", "model"))
    seeds = results["seed"].nunique()
    about += f", {seeds} seed{'s' if seeds > 1 else ''}, {results['epochs'].iloc[0]} epochs, {metric}"
    about += " in %" if metric == "accuracy" else ""
    console.print(f"[bold]{escape(about)}[/]", highlight=False)
    console.print(table, highlight=False)
    interval = "± half of the 95% t interval, differences paired by seed" if seeds > 1 else "one seed: no intervals"
    console.print(f"{interval}; cost in epochs of the dense network, losers included", style="dim", highlight=False)
    for path in comparison.files:
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)


def _mean(row: Mapping[Hashable, Any], kind: str, metric: str) -> str:
    mean, half = row[f"{kind}_mean"], (row[f"{kind}_high"] - row[f"{kind}_low"]) / 2
    text = f"{mean * 100:.2f}" if metric == "accuracy" else f"{mean:.4g}"
    if half != half:
        return text
    return f"{text} ± {half * 100:.2f}" if metric == "accuracy" else f"{text} ± {half:.2g}"


def _difference(row: Mapping[Hashable, Any], metric: str) -> str:
    mean, half = row["difference"], (row["difference_high"] - row["difference_low"]) / 2
    if mean != mean:
        return ""
    scale, form = (100, "+.2f") if metric == "accuracy" else (1, "+.3g")
    text = f"{mean * scale:{form}}"
    return text if half != half else f"{text} ± {half * scale:{form.lstrip('+')}}"


# ---- check and report ---------------------------------------------------------------------------------------------


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    seeds: Annotated[int, typer.Option(help="Times that the ticket and its controls are trained.")] = 5,
    epochs: Annotated[int | None, typer.Option(help="Of each.", show_default="those of the run")] = None,
    difference: Annotated[
        float | None, typer.Option(help="The smallest gain that matters.", show_default="0.002 of an accuracy, 2% of a loss")
    ] = None,
    set_: Options = None,
    engine: Engine = "auto",
    device: Device = "auto",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    data_root: DataRoot = None,
    verbose: Verbose = False,
) -> None:
    """Train a ticket beside its controls and say what the search found; keeps check.csv, check.json and check.png in RUN."""
    with reporting(verbose, kept="nothing is kept"):
        from evoprune.evidence.check import check as check_ticket
        from evoprune.problems.problem import Problem
        from evoprune.runs import RESULT, read_result

        if not (folder / RESULT).is_file():
            raise InputError(
                f"{folder} holds no finished run: give the --out of evoprune run, or a folder in runs/ of a comparison"
            )
        described = read_result(folder / RESULT)["arguments"].get("problem", {})
        problem = Problem.from_description(described, data_root=data_root)
        options = {"engine": engine, "device": device, **parse_options(set_ or [], [])}
        with epochs_shown("check"):
            found = check_ticket(folder, seeds=seeds, epochs=epochs, difference=difference, problem=problem, **options)
        paths = found.save(folder)
        if json_:
            print(json.dumps({**found.as_dict(), "files": [str(path) for path in paths]}, allow_nan=False))
        else:
            show_check(found, paths)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --out of a run or a comparison, or a folder above.")],
    out: Annotated[Path | None, typer.Option(help="The file to write.", show_default="DIR/report.html")] = None,
    verbose: Verbose = False,
) -> None:
    """Write one self-contained HTML page about all finished runs in DIR."""
    with reporting(verbose):
        from evoprune.pages import report as write_report

        output().print(str(write_report(folder, out=out)), markup=False, highlight=False, soft_wrap=True)


def show_check(found: Check, paths: Sequence[Path]) -> None:
    """Verdict and table on stdout, and where everything lies."""
    metric, console = found.about["metric"], output()
    table = Table("control", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for header in ("networks", f"validation {metric}", "gain of the ticket", "p (Holm)"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("the ticket is")
    table.add_row("the ticket", str(found.seeds), _score(found.about["ticket"], metric), "", "", "")
    for row in found.table.to_dict("records"):
        shown: dict[Hashable, Any] = {
            "difference": row["gain"],
            "difference_low": row["gain_low"],
            "difference_high": row["gain_high"],
        }
        p = "" if row["p_holm"] != row["p_holm"] else f"{row['p_holm']:.2g}"
        score = _score(None if row["mean"] != row["mean"] else row["mean"], metric)
        name = str(row["control"]).replace("_", " ")
        table.add_row(name, str(row["networks"]), score, _difference(shown, metric), p, str(row["ticket_is"]))
    console.print(f"[bold]{escape(str(found.verdict))}[/]: {escape(found.verdict.because)}", highlight=False)
    console.print(table, highlight=False)
    told = f"{found.seeds} seeds, {found.epochs} epochs; ± half of the 95% t interval, paired by seed; larger gains are better"
    console.print(told, style="dim", highlight=False)
    for path in paths:
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)


# ---- list --------------------------------------------------------------------------------------------------------


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="methods, models, datasets, operators or criteria.")],
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


def parse_options(settings: Sequence[str], methods: Sequence[Method]) -> dict[str, Any]:
    """`key=value` texts as options, each of the kind that the first method that knows it expects.

    Raises `InputError` for what is no option or of the wrong kind; unknown ones are left to whoever takes them.
    """
    parsed: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise InputError(f"--set {setting!r} is not usable: give KEY=VALUE, such as --set k=16")
        if key in NAMED:
            raise InputError(f"--set {setting!r} is not usable: give it as --{key.replace('_', '-')}")
        if key in parsed:
            raise InputError(f"--set {key}=… is given twice: give one value")
        parsed[key] = coerced(key, text.strip(), _hint(methods, key))
    return parsed


def _hint(methods: Sequence[Method], key: str) -> Any:
    """The annotation of an option, None where there is none to be had."""
    from typing import get_type_hints

    from evoprune.training.options import Training

    takers = [method.function for method in methods if key in method.options]
    try:
        return get_type_hints(takers[0] if takers else Training).get(key)
    except NameError:  # an annotation that is imported for type checkers alone
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

    union = hint is not None and get_origin(hint) not in (None, *LISTS_OF)
    kinds = get_args(hint) if union else (hint,)
    value, expected = literal(text), []
    for kind in sorted(kinds, key=_rank):
        if get_origin(kind) in LISTS_OF:
            names = str in get_args(kind)
            if names and ("," in text or str not in kinds):
                return [part.strip() for part in text.split(",") if part.strip()]
            if not names and (isinstance(value, list) or type(value) in (int, float)):
                return value if isinstance(value, list) else [value]
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


def _rank(kind: Any) -> int:
    """What fits few texts is asked first: none, numbers, lists, and any text is a name."""
    from typing import get_origin

    return 0 if kind is type(None) else 2 if get_origin(kind) in LISTS_OF else 3 if kind is str else 1


LISTS_OF = (Sequence, list, tuple)
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
def reporting(verbose: bool = False, *, kept: str = "", level: int = logging.INFO) -> Iterator[None]:
    """Turn whatever goes wrong into one line and an exit code, and show the log (all of it when `verbose`)."""
    console = errors()
    handler = _Lines(console, logging.DEBUG if verbose else level)
    logger = logging.getLogger("evoprune")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(handler.level, logging.INFO))
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


@contextmanager
def runs_shown() -> Iterator[Callable[[int, int], None]]:
    """A progress bar of finished runs with the time left, on a terminal; gives the function that moves it."""
    console = errors()
    columns = (
        TextColumn("runs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True, speed_estimate_period=600) as bar:
        task = bar.add_task("runs", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
