"""`evoprune compare`: many runs side by side, as a table on stdout and files in a folder."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand

from evoprune.cli.application import DataRoot, Device, Engine, Epochs, Options, Verbose, app
from evoprune.cli.bars import runs_shown
from evoprune.cli.console import output, print_table, reporting
from evoprune.cli.typed import number, parse_options, parts
from evoprune.errors import EvopruneError, InputError
from evoprune.words import counted

if TYPE_CHECKING:
    import pandas as pd

    from evoprune.compare import Comparison

__all__ = ["compare"]

ARGUMENTS = ("methods", "problem", "sparsities", "progress")


class CompareCommand(TyperCommand):
    """`compare`, which refuses a word right after `--equal-cost`: it would become one more method without a sign."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The usual, behind that."""
        methods_first = bool(args) and not args[0].startswith("-")
        for flag, word in pairwise(args):
            if flag == "--equal-cost" and methods_first and not word.startswith("-"):
                raise typer.BadParameter(
                    f"--equal-cost takes no value: say what it should cost with --cost-of {word}, or give methods before options",
                    ctx=ctx,
                )
        return super().parse_args(ctx, args)


@app.command(cls=CompareCommand)
def compare(
    methods: Annotated[list[str], typer.Argument(metavar="METHOD", help="Names of `evoprune list methods`.")],
    data: Annotated[
        str, typer.Option(metavar="NAMES", help="Data sets: names of `evoprune list datasets`, or .npz files.")
    ] = "digits",
    model: Annotated[str, typer.Option(metavar="NAMES", help="Models: names of `evoprune list models`.")] = "lenet-300-100",
    sparsity: Annotated[str, typer.Option(metavar="SHARES", help="One or several, as in 0.9,0.95,0.98.")] = "0.95",
    seeds: Annotated[int, typer.Option(help="Runs of each method at each sparsity.")] = 5,
    epochs: Epochs = 10,
    set_: Options = None,
    test: Annotated[bool, typer.Option("--test/--no-test", help="Open the test split once, after the last run.")] = True,
    equal_cost: Annotated[
        bool, typer.Option("--equal-cost", help="Stretch or shorten each method's final training until ledgers agree.")
    ] = False,
    cost_of: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET",
            help="At equal cost what they agree on: a METHOD, epochs of the dense network, or, unless given, dearest.",
            show_default=False,
        ),
    ] = None,
    engine: Engine = "auto",
    device: Device = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Processes; unless given cores / threads, fewer where memory is short.", show_default=False)
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of each process; results are the same for any --workers.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder: absent, empty, or of the same comparison; unless given runs/<time>-compare-<hash>.", show_default=False
        ),
    ] = None,
    data_root: DataRoot = None,
    verbose: Verbose = False,
) -> None:
    """Run METHODS at several sparsities and seeds: a table, a picture, and every run. Goes on where it was stopped."""
    kept = f"finished runs are kept in {out}: run the same command to go on" if out else "nothing is kept"
    with reporting(verbose, kept=kept, level=logging.WARNING) as console:
        from evoprune.compare import compare as compare_methods
        from evoprune.methods import METHODS
        from evoprune.problems.problem import Problem

        for name in methods:
            if not isinstance(number(name), str):
                raise InputError(f"{name!r} is no method: several values of an option are joined by commas, as in 0.9,0.95")
        options = parse_options(set_ or [], [METHODS[name] for name in methods], command=compare, arguments=ARGUMENTS)
        problems = [Problem(one, other, data_root=data_root) for one in parts(model) for other in parts(data)]
        with runs_shown(console) as progress:
            comparison = compare_methods(
                methods,
                problems,
                sparsities=[number(part.strip()) for part in sparsity.split(",")],
                seeds=seeds,
                out=out,
                test=test,
                equal_cost=number("dearest" if cost_of is None else cost_of) if equal_cost or cost_of is not None else None,
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
            again = "run the same command" if out else f"run the same command with --out {comparison.folder}"
            raise EvopruneError(f"{counted(len(comparison.failures), 'run')} failed ({names}): {again} to try them again")


def show_comparison(comparison: Comparison) -> None:
    """A table of each model and data set on stdout, and where everything lies."""
    console = output()
    for (model, data), runs in comparison.results.groupby(["model", "data"], sort=False):
        summary = comparison.summary
        _show_table(console, runs, summary[(summary["model"] == model) & (summary["data"] == data)])
    for path in comparison.files:
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)


def _show_table(console: Console, runs: pd.DataFrame, summary: pd.DataFrame) -> None:
    from evoprune.evidence.tables import cost_words

    tested, baseline = runs["test_score"].notna().all(), "random" in set(summary["method"])
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("sparsity", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for header in ["survivors", "validation", *(["test"] if tested else []), *(["minus random"] if baseline else []), "cost"]:
        table.add_column(header, justify="right", no_wrap=True)
    if baseline:
        table.add_column("against random")
    previous = None
    for row in summary.to_dict("records"):
        asked = "outcome" if row["sparsity"] != row["sparsity"] else f"{row['sparsity']:.4g}"
        if previous not in (None, asked):
            table.add_section()
        table.add_row(asked if asked != previous else "", *_cells(row, tested=bool(tested), baseline=baseline))
        previous = asked
    console.print(f"[bold]{escape(_about(runs))}[/]", highlight=False)
    print_table(console, table, _names(summary) if baseline else ())
    seeds = runs["seed"].nunique()
    interval = "± half of the 95% t interval, differences paired by seed" if seeds > 1 else "one seed: no intervals"
    console.print(f"{interval}; words from paired t tests with Holm's correction", style="dim", highlight=False)
    told = filter(None, ("cost in epochs of the dense network, losers included", cost_words(summary)))
    console.print("; ".join(told), style="dim", highlight=False)


def _names(summary: pd.DataFrame) -> list[str]:
    """What each row is about."""
    asked = ["" if value != value else f" at sparsity {value:.4g}" for value in summary["sparsity"]]
    return [f"{method}{at}" for method, at in zip(summary["method"], asked, strict=True)]


def _about(runs: pd.DataFrame) -> str:
    metric, seeds, epochs = runs["metric"].iloc[0], runs["seed"].nunique(), sorted(runs["epochs"].unique())
    lasting = counted(epochs[0], "epoch") if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]} epochs"
    where = f"{runs['data'].iloc[0]}, {runs['model'].iloc[0]}"
    return f"{where}, {counted(seeds, 'seed')}, {lasting}, {metric}{' in %' if metric == 'accuracy' else ''}"


def _cells(row: Mapping[Hashable, Any], *, tested: bool, baseline: bool) -> Iterator[str]:
    """What a row shows after its sparsity."""
    from evoprune.evidence.tables import plus_minus

    metric = str(row["metric"])
    yield str(row["method"])
    yield f"{row['survivors']:,.0f}"
    for kind in ("val", "test") if tested else ("val",):
        yield plus_minus(row[f"{kind}_mean"], (row[f"{kind}_high"] - row[f"{kind}_low"]) / 2, metric)
    if baseline:
        missing = row["difference"] != row["difference"]
        half = (row["difference_high"] - row["difference_low"]) / 2
        yield "" if missing else plus_minus(row["difference"], half, metric, "+")
    yield f"{row['dense_equivalent_epochs']:.3g}"
    if baseline:
        yield str(row["words"])
