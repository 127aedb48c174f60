"""Both models against what a live 6.18 did in scenarios that the recorder has no words for.

The archive was written by ``python -m fastmlock.live.record``; `fastmlock verify` runs the same scenarios on the kernel
that is there.
"""
from __future__ import annotations

import pytest

from fastmlock.live.image import Imaged
from fastmlock.reference import ReferenceSystem
from fastmlock.scenario import recordings
from fastmlock.scenario.compare import compare
from fastmlock.scenario.run import run
from fastmlock.system import System


@pytest.mark.parametrize("model", [System, ReferenceSystem], ids=["compiled", "plain"])
@pytest.mark.parametrize("name", recordings.live())
def test_live_recordings(name: str, model: type) -> None:
    scenario, real = recordings.live()[name]
    mine = list(run(scenario, Imaged(model("6.18")), forget_lost=True))
    comparison = compare(mine, real, counters=True)
    assert comparison.ok, [line for one in comparison.differing for line in one.lines()]
    # PG_referenced of the one zero page of a shared machine is flipped by get_user_pages() of any process
    assert all(text.endswith("z") for one in comparison.differing for text in one.soft)
    assert comparison.unsettled_state + comparison.unsettled_counters <= comparison.steps / 10
