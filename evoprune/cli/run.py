"""`evoprune run`: one method, kept in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from evoprune.cli.application import Data, DataRoot, Device, Engine, Epochs, Model, Options, Verbose, app
from evoprune.cli.bars import epochs_shown
from evoprune.cli.console import errors, print_table, reporting
from evoprune.cli.typed import number_or_range, parse_options

__all__ = ["run"]


@app.command()
def run(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="A name of `evoprune list methods`.")],
    data: Data = "digits",
    model: Model = "lenet-300-100",
    sparsity: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Of the prunable weights, to remove; 0.95 unless given. evolve takes a range, as in 0.9,0.98.",
            show_default=False,
        ),
    ] = None,
    epochs: Epochs = 10,
    seed: Annotated[int, typer.Option(help="Of initial weights, masks, batches and search.")] = 0,
    set_: Options = None,
    test: Annotated[bool, typer.Option("--test", help="Open the test split at the end.")] = False,
    engine: Engine = "auto",
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder: absent, empty, or of the same arguments; unless given runs/<time>-<method>-<hash>.", show_default=False
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    data_root: DataRoot = None,
    verbose: Verbose = False,
) -> None:
    """Run one METHOD and keep its ticket, history and cost in a folder."""
    with reporting(verbose, kept="nothing is kept") as console:
        from evoprune.methods import METHODS
        from evoprune.problems.problem import Problem
        from evoprune.runs import run as run_method

        chosen = METHODS[method]
        own = parse_options(set_ or [], [chosen], command=run, arguments=("method", "problem"))
        options = {"epochs": epochs, "seed": seed, "engine": engine, "device": device, **own}
        if sparsity is not None:
            options["sparsity"] = number_or_range(sparsity)
        problem = Problem(model, data, seed=seed, data_root=data_root)
        with epochs_shown(method, console):
            result = run_method(chosen, problem, out=out, test=test, **options)
        if json_:
            print(json.dumps(result, allow_nan=False))
        else:
            show_result(result)


def show_result(result: Mapping[str, Any]) -> None:
    """One run as tables on stderr, and where it lies; a narrow terminal breaks lines and cuts nothing."""
    console = errors()
    about = f"on {result['data']}, {result['model']}, seed {result['seed']}"
    console.print(f"[bold]{result['method']}[/] {escape(about)}", highlight=False)
    console.print(_facts(result), highlight=False)
    print_table(console, _layers(result))
    console.print(str(result["out"]), markup=False, highlight=False, soft_wrap=True)


def _facts(result: Mapping[str, Any]) -> Table:
    from evoprune.evidence.samples import opened

    ledger, asked = result["ledger"], result["arguments"]["options"]["sparsity"]
    facts = Table.grid(Column(overflow="fold"), Column(overflow="fold"), padding=(0, 2))
    facts.add_row("sparsity", f"{result['sparsity_obtained']:.2%} ({_asked(asked)})")
    facts.add_row("survivors", f"{result['survivors']:,} of {result['prunable']:,}")
    facts.add_row(f"validation {result['metric']}", _score(result["val_score"], result["metric"]))
    tested = _score(result["test_score"], result["metric"]) if opened(result) else "locked: --test opens it"
    facts.add_row(f"test {result['metric']}", tested)
    facts.add_row("cost", f"{ledger['dense_equivalent_epochs']:.3g} dense epochs, {ledger['samples']:,} samples")
    facts.add_row("time", f"{ledger['wall_s']:.1f} s on {ledger['device']}, engine {ledger['engine']}")
    return facts


def _layers(result: Mapping[str, Any]) -> Table:
    layers = Table("layer", "shape", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("survivors", "of", "kept"):
        layers.add_column(column, justify="right")
    for layer in result["layers"]:
        shape = " x ".join(map(str, layer["shape"]))
        share = f"{layer['survivors'] / layer['prunable']:.2%}"
        layers.add_row(escape(layer["name"]), shape, f"{layer['survivors']:,}", f"{layer['prunable']:,}", share)
    return layers


def _asked(sparsity: float | Sequence[float] | None) -> str:
    if sparsity is None:
        return "an outcome"
    bounds = sparsity if isinstance(sparsity, Sequence) else [sparsity]
    return f"{' to '.join(f'{one:.2%}' for one in bounds)} asked"


def _score(value: float | None, metric: str) -> str:
    """As people read it."""
    if value is None:
        return "not a number"
    return f"{value:.2%}" if metric == "accuracy" else f"{value:.4g}"
