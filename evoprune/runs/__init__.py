"""The run folder: one run's arguments, result, ticket, history and log; written atomically, answered from disk when asked again.

A folder holds `result.json` (last, so that its presence means finished), `ticket.safetensors`, `history.csv`, `trace.csv`,
`journal.jsonl` where a method keeps one, and `log.txt`, whose first line names the arguments.
"""

from evoprune.runs.arguments import Arguments, default_sparsity
from evoprune.runs.folder import RunFolder, open_test, run
from evoprune.runs.logs import logging_to
from evoprune.runs.results import load_runs, read_result

__all__ = ["Arguments", "RunFolder", "default_sparsity", "load_runs", "logging_to", "open_test", "read_result", "run"]
