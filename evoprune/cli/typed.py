"""What the user typed, as values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from evoprune.errors import InputError

if TYPE_CHECKING:
    from evoprune.methods.registry import Method

__all__ = ["coerced", "literal", "number", "number_or_range", "parse_options", "parts"]


def parts(text: str) -> list[str]:
    """What stands between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def number(text: str) -> Any:
    """A sparsity as a number; what is none stays a text, to be refused where sparsities are checked."""
    try:
        return float(text)
    except ValueError:
        return text


def number_or_range(text: str) -> Any:
    """A sparsity, or the lowest and the highest with a comma between."""
    return tuple(number(part.strip()) for part in text.split(",")) if "," in text else number(text)


def parse_options(
    settings: Sequence[str],
    methods: Sequence[Method],
    *,
    command: Callable[..., object] | None = None,
    arguments: Collection[str] = (),
    function: Callable[..., object] | None = None,
) -> dict[str, Any]:
    """`key=value` texts as options, each of the kind that the first method that knows it expects.

    command: whose own options are not set so. arguments: names that it passes on otherwise. function: that
    takes options of its own.
    Raises `InputError` for what is no option or of the wrong kind; unknown ones are left to whoever takes them.
    """
    from evoprune.methods.registry import hint
    from evoprune.training.options import Training

    parsed: dict[str, Any] = {}
    takers = [*(method.function for method in methods), *([] if function is None else [function])]
    named = () if command is None else inspect.signature(command).parameters
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise InputError(f"--set {setting!r} is not usable: give KEY=VALUE, such as --set k=16")
        if key in arguments:
            raise InputError(f"--set {setting!r} is not usable: {key} is no option of a method or of training, leave it out")
        if key in named:
            raise InputError(f"--set {setting!r} is not usable: give it as --{key.replace('_', '-')}")
        if key in parsed:
            raise InputError(f"--set {key}=… is given twice: give one value")
        taker = next((one for one in takers if key in inspect.signature(one).parameters), Training)
        parsed[key] = coerced(key, text.strip(), hint(taker, key))
    return parsed


def literal(text: str) -> Any:
    """What a text stands for: none, a boolean, a whole number, a number, a list (2,4,8), else a name."""
    if "," in text:
        return [literal(part) for part in parts(text)]
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
                return parts(text)
            if not names and (isinstance(value, list) or type(value) in (int, float)):
                return value if isinstance(value, list) else [value]
            expected.append("a list such as 2,4,8")
        elif kind not in KINDS:
            return text if str in kinds else value
        elif kind is str:
            return text
        elif type(value) is kind or (kind is float and type(value) is int):
            return value
        else:
            expected.append(KINDS[kind])
    raise InputError(f"{key}={text!r} is not usable: give {' or '.join(expected)}")


def _rank(kind: Any) -> int:
    """What fits few texts is asked first: none, numbers, lists, what is not known here, and any text is a name."""
    from typing import get_origin

    listed = get_origin(kind) in LISTS_OF
    return 0 if kind is type(None) else 2 if listed else 4 if kind is str else 1 if kind in KINDS else 3


LISTS_OF = (Sequence, list, tuple)
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a name", type(None): "none"}
