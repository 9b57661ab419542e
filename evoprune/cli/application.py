"""The application that the commands join, and the options that several of them share."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Data", "DataRoot", "Device", "Engine", "Epochs", "Model", "Options", "Verbose", "app"]

app = typer.Typer(
    name="evoprune",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"evoprune {metadata.version('evoprune')}")
        raise typer.Exit


@app.callback()
def evoprune(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Evolutionary search of sparse neural networks at initialization."""


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
