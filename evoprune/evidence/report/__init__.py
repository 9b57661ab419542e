"""One self-contained HTML page about many runs."""

from evoprune.evidence.report.commands import agree, check_command, command, made_by_hand, settings
from evoprune.evidence.report.material import Material
from evoprune.evidence.report.page import page

__all__ = ["Material", "agree", "check_command", "command", "made_by_hand", "page", "settings"]
