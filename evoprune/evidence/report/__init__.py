"""One self-contained HTML page about many runs."""

from evoprune.evidence.report.commands import command, settings
from evoprune.evidence.report.material import Material
from evoprune.evidence.report.page import page

__all__ = ["Material", "command", "page", "settings"]
