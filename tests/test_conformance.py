"""The compiled model against every recorded step of every real kernel that ships with the package."""
from __future__ import annotations

from collections import Counter

import pytest

from fastmlock.scenario import conformance, recordings
from fastmlock.scenario.commands import CreateFile
from fastmlock.system import System

#: the paths of the first vertical slice; a scenario of these must agree in every step on the kernels below
SLICE = {"file", "mmap", "munmap", "touch", "fork", "mlock", "mlock2", "munlock", "exit", "kill", "cpu", "rlimit",
         "setuid", "drain", "ldrain", "snap", "procs"}
KERNELS = ("5.10", "5.17-rc5", "6.1")


def verbs(scenario: str) -> set[str]:
    """The words that a scenario's commands begin with."""
    out = set()
    for command in recordings.scenario(scenario).commands:
        words = command.text.split()
        out.add(words[1] if words[0][0] == "p" and words[0][1:2].isdigit() else words[0])
    return out


def test_words_are_read_as_meant() -> None:
    assert "mlock" in verbs("s01_one_locker") and "file" in verbs("s01_one_locker")
    assert any(isinstance(c, CreateFile) for c in recordings.scenario("s01_one_locker").commands)


@pytest.mark.parametrize("kernel", KERNELS)
def test_slice_agrees_at_every_step(kernel: str, capsys) -> None:
    pairs = [(k, s) for k, s in conformance.choose([kernel], []) if verbs(s) <= SLICE]
    assert len(pairs) >= 17
    results = list(conformance.check_all(pairs, lambda name: System(name)))
    unsupported = [result for result in results if result.unsupported]
    wrong = list(conformance.differences([result for result in results if not result.ok], steps=1))
    steps = sum(result.comparison.steps for result in results)
    soft = sum(result.comparison.equal_soft for result in results)
    with capsys.disabled():
        print(f"\n{kernel}: {len(results)} scenarios, {steps} steps equal in every hard field, {soft} in the soft ones "
              f"too; not supported: {', '.join(r.scenario for r in unsupported) or 'none'}")
    assert not wrong and not unsupported and steps > 150


def test_nothing_is_left_out_in_silence(capsys) -> None:
    """Every recorded scenario runs on every kernel or is refused by name; where it does not agree it is named."""
    results = list(conformance.check_all(conformance.choose([], []), lambda name: System(name)))
    assert Counter(r.kernel for r in results) == {k: len(recordings.scenarios(k)) for k in recordings.kernels()}
    steps = sum(r.comparison.steps for r in results)
    equal = sum(r.comparison.equal for r in results)
    with capsys.disabled():
        print(f"\nall kernels: {equal} of {steps} recorded steps equal in every hard field")
        for result in results:
            if result.unsupported:
                print(f"  not supported: {result.kernel} {result.scenario}: {result.unsupported}")
    assert equal >= 0.93 * steps
