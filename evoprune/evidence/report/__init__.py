"""One self-contained HTML page about many runs."""

from evoprune.evidence.report.commands import check_command, command, settings
from evoprune.evidence.report.material import Material
from evoprune.evidence.report.page import page

__all__ = ["Material", "check_command", "command", "page", "settings"]
