"""`evoprune report`: a folder of runs as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evoprune.cli.application import Verbose, app
from evoprune.cli.console import output, reporting

__all__ = ["report"]


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --out of a run or a comparison, or a folder above.")],
    out: Annotated[Path | None, typer.Option(help="The file to write; DIR/report.html unless given.", show_default=False)] = None,
    verbose: Verbose = False,
) -> None:
    """Write one self-contained HTML page about all finished runs in DIR."""
    with reporting(verbose):
        from evoprune.pages import report as write_report

        output().print(str(write_report(folder, out=out)), markup=False, highlight=False, soft_wrap=True)
