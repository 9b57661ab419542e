"""What a comparison's setup was, read off its finished runs: each keeps all of its options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evoprune.formats import as_json
from evoprune.methods.registry import METHODS
from evoprune.training.options import Training

__all__ = ["rebuilt"]


def rebuilt(runs: Iterable[tuple[str, Mapping[str, Any]]], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The setup that the finished runs (name of the problem, content of `result.json`) were made by.

    asked: the setup of a call, for what no run tells: the target of equal cost, and then the usual epochs; problems of which
    the first seed is not finished. Each run that is asked for is held against its own arguments anyway.
    """
    shared: dict[str, Any] = {}
    methods: dict[str, dict[str, Any]] = {}
    problems: dict[str, Any] = {}
    for name, result in runs:
        options, method = result["arguments"]["options"], METHODS[result["method"]]
        shared |= _changed(options, Training().as_dict())
        shared["epochs"] = options["epochs"]
        methods[method.name] = _changed(options, method.options)
        described = result["arguments"]["problem"]
        if described["seed"] == 0:
            problems[name] = described
        elif name in asked["problems"]:
            problems.setdefault(name, asked["problems"][name])
    if not methods:
        return dict(asked)
    if asked["equal_cost"] is not None:
        shared["epochs"] = asked["options"]["epochs"]
    return {**asked, "problems": problems, "options": shared, "methods": methods}


def _changed(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `defaults` that are not at their default, as JSON gives them back."""
    plain = as_json(dict(defaults))
    return {name: options[name] for name in plain if name in options and options[name] != plain[name]}
