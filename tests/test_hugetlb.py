"""hugetlb, beside the recordings own-hugetlb-*: both models in random programs, and that mlock leaves nothing
behind at any point of the series (docs/conformance.md)."""
from __future__ import annotations

from typing import Any

import pytest

from fastmlock import System, kernels
from fastmlock.fuzz.generate import HUGETLB, program
from fastmlock.fuzz.pair import against_exact
from fastmlock.reference import ReferenceSystem
from fastmlock.scenario import ScenarioError, parse
from fastmlock.scenario.run import run

MODELS = pytest.mark.parametrize("model", [System, ReferenceSystem], ids=["compiled", "plain"])


@pytest.mark.parametrize("kernel", ["5.10", "5.17-rc2", "5.18", "6.1", "6.12", "6.18"])
def test_both_models_agree_in_random_programs(kernel: str) -> None:
    """The compiled one is looked over after every call."""
    for index in range(12):
        outcome = against_exact(program("hugetlb", index, HUGETLB).splitlines(),
                                lambda: System(kernel, check=True), lambda: ReferenceSystem(kernel))
        assert outcome.difference is None, (index, outcome.difference)


PROGRAM = """
sysctl /proc/sys/vm/nr_hugepages 6
p0 mlockall future
p0 mmap A anon private rw 0 1024 hugetlb
p0 mmap B anon shared rw 0 512 hugetlb locked
p0 mlock A 0 1024
p0 fork p1
p1 mlock A 0 100
p0 munlockall
p0 exit
p1 exit
"""


@MODELS
@pytest.mark.parametrize("kernel", kernels.SERIES)
def test_mlock_populates_and_marks_nothing(kernel: str, model: Any) -> None:
    """No event is counted, nothing is accounted to the process, all pages come back."""
    records: list[Any] = list(run(parse(PROGRAM), model(kernel)))
    assert all(not name.startswith(("unevictable", "nr_mlock")) for record in records[1:] for name in record["dv"])
    assert all(process["VmLck"] == 0 for record in records[1:] for process in record["p"].values())
    assert records[3]["dvs"] == {"HugePages_Free": -2} and records[-1]["dv"] == {"HugePages_Free": 6}
    shown = records[3]["p"]["p0"]["reg"]["A"]
    assert shown["vma"] == [[0, 1024, "rd wr ht", 0, 0]]
    assert [run[2:4] for run in shown["pg"]] == [["a", 1]]


def test_what_can_only_be_mapped_is_only_mapped() -> None:
    for line, why in (("truncate H 0", "only be mapped"), ("fwrite H 0 1", "only be mapped"),
                      ("file I hugetlb 100", "multiple of 512"), ("p0 mmap A H shared rw 0 512 hugetlb", "anonymous")):
        with pytest.raises(ScenarioError, match=why):
            parse(f"procs 1\nfile H hugetlb 512\n{line}\n")
