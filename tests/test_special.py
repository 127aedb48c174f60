"""Mappings that mlock passes over, beside the recordings own-special-* (docs/conformance.md): secret memory, a driver's
pages, physical memory."""
from __future__ import annotations

from typing import Any

import pytest

from fastmlock import System, kernels
from fastmlock.fuzz.generate import SPECIAL, program
from fastmlock.fuzz.pair import against_exact
from fastmlock.reference import ReferenceSystem
from fastmlock.scenario import parse
from fastmlock.scenario.run import run

MODELS = pytest.mark.parametrize("model", [System, ReferenceSystem], ids=["compiled", "plain"])


@pytest.mark.parametrize("kernel", ["5.10", "5.17-rc2", "5.17-rc2+08", "5.18", "6.1", "6.12", "6.18"])
def test_both_models_agree_in_random_programs(kernel: str) -> None:
    for index in range(12):
        outcome = against_exact(program("special", index, SPECIAL).splitlines(), lambda: System(kernel),
                                lambda: ReferenceSystem(kernel))
        assert outcome.difference is None, (index, outcome.difference)


RING = """
p0 mlockall future
p0 mmap R packet shared rw 0 8
drain
p0 munmap R 0 8
drain
"""


@MODELS
@pytest.mark.parametrize("kernel", [*kernels.SERIES, "5.18", "6.1"])
def test_a_drivers_pages_are_marked_without_the_special_check(kernel: str, model: Any) -> None:
    """c8263bd60500: while the driver's mmap method maps its pages, mlockall(MCL_FUTURE) has VM_LOCKED on the vma. From
    patch 04 on mapping a page marks it, although the vma will not be locked, until the page ends. Mended in 5.18."""
    point = int(kernel.partition("+")[2] or 0) if kernel in kernels.SERIES else 0
    records: list[Any] = list(run(parse(RING), model(kernel)))
    marked = 8 if point >= 4 else 0
    assert records[3]["dv"].get("nr_mlock", 0) == marked and records[3]["p"]["p0"]["VmLck"] == 0
    assert records[5]["dv"].get("nr_mlock", 0) == 0
    assert records[5]["dv"].get("unevictable_pgs_cleared", 0) == marked


SECRET = """
procs 1
p0 rlimit memlock 65536
p0 setuid 1000
p0 mmap S secret shared rw 0 17
p0 mmap S secret shared rw 0 16
p0 munlock S 0 16
p0 mlock S 0 16
"""


@MODELS
@pytest.mark.parametrize("kernel", ["5.17-rc2", "5.17-rc2+13", "5.18", "6.18"])
def test_secret_memory_is_locked_by_nature(kernel: str, model: Any) -> None:
    """As a live 6.18 does it: the limit counts, munlock is passed over, and mlock fails to populate."""
    records: list[Any] = list(run(parse(SECRET), model(kernel)))
    assert [(record["ret"], record["err"]) for record in records[3:]] == [
        (-1, "EAGAIN"), (0, ""), (0, ""), (-1, "ENOMEM")]
    assert all(record["p"]["p0"]["VmLck"] == 64 for record in records[4:])
    assert records[-1]["p"]["p0"]["reg"]["S"]["vma"] == [[0, 16, "rd wr sh lo", 0, 0]]


@MODELS
def test_a_kernel_without_the_call(model: Any) -> None:
    records: list[Any] = list(run(parse("p0 mmap S secret shared rw 0 4\n"), model("5.10")))
    assert (records[1]["ret"], records[1]["err"]) == (-1, "ENOSYS")
