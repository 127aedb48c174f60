"""Both models against every recorded step of every real kernel that ships with the package.

A step may differ only where EXPLAINED says so, and must differ there: nothing is tolerated, nothing is left out in
silence. docs/conformance.md tells the reasons at length.
"""
from __future__ import annotations

import pytest

from fastmlock.reference import ReferenceSystem
from fastmlock.scenario import conformance, recordings
from fastmlock.system import System

HOST_ZERO_PAGE = "PG_referenced of the one zero page of a shared machine"
REFAULT = "refault distance against the machine's own active file pages"
OWN_TEXT = "how far the machine had used the recorder's program file"
OWN_MEMORY = "one of the recorder's own pages"
ZERO_PAGE = "PG_referenced of the one zero page, left behind by the scenario before"

#: (kernel, scenario) -> steps that differ in hard fields, steps that differ in soft ones only, why
EXPLAINED: dict[tuple[str, str], tuple[set[int], set[int], str]] = {
    ("5.10", "s20_pageout_ext4"): (set(), {18, 19}, REFAULT),
    **{(f"5.17-rc5+{n}", "s09_mlockall"): (set(), {4}, OWN_TEXT) for n in ("02", "03")},
    ("5.10", "s31o3_swapoff_tmpfs"): (set(), set(range(11, 16)), REFAULT),
    ("6.12", "s31o1_swapoff"): (set(), {8, 9}, REFAULT),
    ("5.10", "s31j_memory_high"): ({28}, set(), OWN_MEMORY),
    **{(kernel, "s31r20"): (set(), set(range(26, 31)), ZERO_PAGE) for kernel in ("6.1", "6.12")},
    ("host-6.18", "s10_onfault"): (set(), set(range(22, 28)), HOST_ZERO_PAGE),
    ("host-6.18", "s16_madvise_locked"): (set(), set(range(42, 46)), HOST_ZERO_PAGE),
}


def test_every_recording_is_in_the_table() -> None:
    pairs = conformance.choose([], [])
    there = sum(len(recordings.scenarios(kernel)) for kernel in recordings.kernels())
    assert len(pairs) == there == 989 + 101 + 208 + 98 + 19 + 58 + 12 + 180 + 72
    assert set(EXPLAINED) <= set(pairs)


@pytest.mark.parametrize("model", [System, ReferenceSystem], ids=["compiled", "plain"])
@pytest.mark.parametrize("kernel", recordings.kernels())
def test_recordings(kernel: str, model: type, capsys: pytest.CaptureFixture[str]) -> None:
    wrong: list[str] = []
    steps = hard = soft = 0
    for result in conformance.check_all(conformance.choose([kernel], []), model):
        assert not result.unsupported and not result.failure, (result.scenario, result.unsupported, result.failure)
        steps += result.comparison.steps
        hard += result.comparison.equal
        soft += result.comparison.equal_soft
        hard_steps = {one.step for one in result.comparison.differing if one.hard}
        soft_steps = {one.step for one in result.comparison.differing if not one.hard}
        expected = EXPLAINED.get((kernel, result.scenario), (set(), set(), ""))
        if (hard_steps, soft_steps) != expected[:2]:
            wrong.append(f"{result.scenario}: differs in {sorted(hard_steps)} and softly {sorted(soft_steps)}")
            wrong += conformance.differences([result], steps=2)
    with capsys.disabled():
        print(f"\n{model.__name__}, {kernel}: {steps} steps compared, {hard} equal in every hard field, {soft} in the "
              "soft ones too; not supported: none")
    assert not wrong, "\n".join(wrong)
    assert soft >= 0.99 * steps
