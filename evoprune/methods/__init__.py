"""Methods: one file each; importing this package registers every one of them."""

from importlib import import_module
from pkgutil import iter_modules

from evoprune.methods.registry import METHODS, Method, method
from evoprune.registry import as_table

for _module in sorted(module.name for module in iter_modules(__path__)):
    import_module(f"{__name__}.{_module}")  # a new file is a new method, with no line to add here

__all__ = ["METHODS", "Method", "method"]

as_table(__name__, METHODS)
