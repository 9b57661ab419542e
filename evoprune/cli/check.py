"""`evoprune check`: a ticket beside its controls, and what the search found, in words."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from evoprune.cli.application import DataRoot, Device, Engine, Options, Verbose, app
from evoprune.cli.bars import epochs_shown
from evoprune.cli.console import output, print_table, reporting
from evoprune.cli.typed import parse_options
from evoprune.errors import EvopruneError, InputError
from evoprune.words import counted

if TYPE_CHECKING:
    from evoprune.evidence.check import Check

__all__ = ["check"]


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    seeds: Annotated[int, typer.Option(help="Times that the ticket and its controls are trained.")] = 5,
    epochs: Annotated[int | None, typer.Option(help="Of each; those of the run unless given.", show_default=False)] = None,
    difference: Annotated[
        float | None,
        typer.Option(help="The smallest gain that matters; 0.002 of an accuracy, 2% of a loss unless given.", show_default=False),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Search again too: survivors by lot, best of k, shuffled labels.")
    ] = False,
    set_: Options = None,
    engine: Engine = "auto",
    device: Device = "auto",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    data_root: DataRoot = None,
    verbose: Verbose = False,
) -> None:
    """Train a ticket beside its controls and say what the search found; keeps check.csv, check.json and check.png in RUN."""
    with reporting(verbose, kept="nothing is kept") as console:
        from evoprune.evidence.check import check as check_ticket
        from evoprune.problems.problem import Problem
        from evoprune.runs import read_result
        from evoprune.runs.results import RESULT

        if not (folder / RESULT).is_file():
            raise InputError(
                f"{folder} holds no finished run: give the --out of evoprune run, or a folder in runs/ of a comparison"
            )
        if not os.access(folder, os.W_OK):
            raise InputError(f"{folder} is read-only, and the check would be kept there: make it writable, or check a copy")
        described = read_result(folder / RESULT)["arguments"].get("problem", {})
        problem = Problem.from_description(described, data_root=data_root)
        own = parse_options(set_ or [], [], command=check, arguments=("source", "problem"), function=check_ticket)
        options = {"engine": engine, "device": device, **own}
        with epochs_shown("check", console):
            found = check_ticket(
                folder, seeds=seeds, epochs=epochs, search=search, difference=difference, problem=problem, **options
            )
        paths: list[Path] = []
        try:
            paths = found.save(folder)
        except EvopruneError as error:
            raise EvopruneError(f"the check is shown but not kept: {error}") from error
        finally:  # what took long to find is shown, also where it cannot be kept
            if json_:
                print(json.dumps({**found.as_dict(), "files": [str(path) for path in paths]}, allow_nan=False))
            else:
                show_check(found, paths)


def show_check(found: Check, paths: Sequence[Path]) -> None:
    """Verdict and table on stdout, and where everything lies."""
    from evoprune.evidence.tables import plus_minus

    metric, console = found.about["metric"], output()
    table = Table("control", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for header in ("networks", f"validation {metric}{' in %' if metric == 'accuracy' else ''}", "gain of the ticket", "p (Holm)"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("the ticket is")
    own = math.nan if found.about["ticket"] is None else found.about["ticket"]
    table.add_row("the ticket", str(found.seeds), plus_minus(own, math.nan, metric), "", "", "")
    for row in found.table.to_dict("records"):
        gain = plus_minus(row["gain"], (row["gain_high"] - row["gain_low"]) / 2, metric, "+")
        p = "" if row["p_holm"] != row["p_holm"] else f"{row['p_holm']:.2g}"
        name = str(row["control"]).replace("_", " ")
        table.add_row(name, str(row["networks"]), plus_minus(row["mean"], math.nan, metric), gain, p, str(row["ticket_is"]))
    console.print(f"[bold]{escape(str(found.verdict))}[/]: {escape(found.verdict.because)}", highlight=False)
    print_table(console, table, ["", *(str(name).replace("_", " ") for name in found.table["control"])])
    size = f"{counted(found.seeds, 'seed')}, {counted(found.epochs, 'epoch')}"
    told = f"{size}; ± half of the 95% t interval, paired by seed; larger gains are better"
    console.print(told, style="dim", highlight=False)
    for path in paths:
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)
