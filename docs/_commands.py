"""The command line as tables, from the commands themselves."""

from __future__ import annotations

import html
from typing import Any

from _tables import table

__all__ = ["commands"]


def commands() -> str:
    """One section a command: what it does, how it is called, its options."""
    import typer

    from evoprune.cli import app

    # typer's commands are click's; their classes have changed places between versions, so that none is named here
    found: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    return "\n\n".join(_command(name, command) for name, command in found.items())


def _command(name: str, command: Any) -> str:
    given = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    words = [f"{one.metavar or one.name.upper()}{'…' if one.nargs != 1 else ''}" for one in given]
    call = " ".join(["evoprune", name, *words, *(["[OPTIONS]"] if options else [])])
    rows = [(f"`{word}`", one.help, "") for word, one in zip(words, given, strict=True)]
    rows += [(_spelt(option), html.escape(option.help, quote=False), _default(option)) for option in options]
    return "\n\n".join([f"## `evoprune {name}`", command.help, f"```text\n{call}\n```", table(("", "", "default"), rows)])


def _spelt(option: Any) -> str:
    value = "" if option.is_flag else f" {option.metavar or option.opts[0].strip('-').upper()}"
    return ", ".join(f"`{spelling}{value}`" for spelling in [*option.opts, *option.secondary_opts])


def _default(option: Any) -> str:
    """Of a pair of flags the one that holds; what is nothing by default has it in its words."""
    if option.is_flag:
        return f"`{option.opts[0]}`" if option.secondary_opts else ""
    return "" if option.default is None else f"`{option.default}`"
