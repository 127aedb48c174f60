"""The verdict of `detect`, on models of kernels whose true answer is known."""
from __future__ import annotations

import json

import pytest

from fastmlock import System, kernels
from fastmlock.cli import main
from fastmlock.live import detect
from fastmlock.live.detect import Answer, Evidence, verdict

SERIES = [f"5.17-rc2+{n:02}" for n in range(1, 14)]
EXPECTED = {
    "5.10": ("no", None), "5.17-rc2": ("no", None), **{name: ("in part", None) for name in SERIES[:9]},
    **{name: ("yes", 15) for name in SERIES[9:]}, "5.18": ("yes", 15), "6.1": ("yes", 15), "6.12": ("yes", 31),
    "6.18": ("yes", 31)}


@pytest.mark.parametrize("kernel", kernels.RELEASES)
def test_each_release_is_told(kernel: str) -> None:
    found = detect.detect(lambda: System(kernel))
    assert (found.reworked, found.batch) == EXPECTED[kernel], str(found)


@pytest.mark.parametrize("patches, after", [
    (1, {"pairs"}), (2, {"pairs", "prot_none"}), (4, {"pairs", "prot_none", "faultaround"}),
    (7, {"pairs", "prot_none", "faultaround", "culled", "hole"})])
def test_the_points_of_the_series_differ_where_their_patches_say(patches: int, after: set[str]) -> None:
    found = detect.detect(lambda: System(f"5.17-rc2+{patches:02}"))
    assert {one.name for one in found.evidence if one.answer == Answer.AFTER} == after


def evidence(**answers: Answer) -> list[Evidence]:
    names = [probe.__name__.removeprefix("probe_") for _, probe in detect.PROBES]
    return [Evidence(name, "", "", answers.get(name, Answer.AFTER), 31 if name == "batch" else None) for name in names]


def test_too_few_clear_answers_give_no_verdict() -> None:
    unclear = Answer.UNCLEAR
    assert verdict(evidence(pairs=unclear, hole=unclear, culled=unclear)).reworked == "unclear"
    one = verdict(evidence(pairs=unclear))
    assert one.reworked == "yes" and "unclear: pairs" in one.reason


def test_lru_add_batch_is_not_taken_for_the_mlock_batch() -> None:
    found = verdict(evidence(culled=Answer.BEFORE))
    assert found.reworked == "in part" and found.batch is None and "10 (batch)" in found.reason


def test_a_probe_that_cannot_run_is_unclear() -> None:
    class Refusing(System):
        def mlock2(self, pid, addr, length, flags):  # type: ignore[no-untyped-def]
            return -1, 38

    found = detect.detect(lambda: Refusing("6.1"))
    assert {one.name for one in found.evidence if one.answer == Answer.UNCLEAR} == {"prot_none", "faultaround", "batch"}
    assert found.reworked == "unclear"


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "--kernel", "5.10", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["reworked"] == "no" and len(found["evidence"]) == len(detect.PROBES)
    assert main(["detect", "--kernel", "6.12"]) == 0
    assert "mlock batch: 31 pages" in capsys.readouterr().out
