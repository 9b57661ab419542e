"""A search that is killed and started again ends like one that was left alone, and trains nothing twice."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from tests.evolution.killing import LOOPS, Campaign, ids
from tests.tiny import mlp

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")


@pytest.mark.parametrize("inherit", [None, "weights"])
@pytest.mark.parametrize("loop", LOOPS)
def test_killed_and_resumed_equals_uninterrupted(loop: str, inherit: str | None, tmp_path: Path) -> None:
    options = {"inherit": inherit, **({"mutate": "mutGuided"} if loop == "eaSimple" else {})}
    campaign = Campaign(loop, mlp(), tmp_path, options)
    expected, seconds = campaign.whole()
    assert campaign.until_done(random.Random(loop), seconds, kills=10 if loop == "eaMuPlusLambda" else 2) == expected
    assert campaign.killed, "no attempt was still running when it was killed"
    assert not campaign.repeated, "finished trainings were started again"
    whole, killed = ids(tmp_path / "whole.jsonl"), ids(tmp_path / "killed.jsonl")
    assert len(set(killed)) == len(killed)
    assert set(killed) == set(whole)
