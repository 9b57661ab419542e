"""Executors: who trains the sub-batches of a generation. Results are the same whoever does."""

from evoprune.evolution.executors.base import Executor, Serial, make_executor

__all__ = ["Executor", "Serial", "make_executor"]
