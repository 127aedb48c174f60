"""pytest-benchmark: hot paths beside the bare event loop, in one process.

    python -m pytest benches -m benchmark --benchmark-group-by=group
"""
from __future__ import annotations

import pytest

from benches.bench_mm import ADDRESS, AFTER, BASE, mapped
from fastmlock import probe
from fastmlock.flows.ids import FLOWS
from fastmlock.machine.bare import bare_loop
from fastmlock.studies.storm import SLICE_EVENTS, Storm, prepare

pytestmark = pytest.mark.benchmark


@pytest.mark.benchmark(group="bare loop")
@pytest.mark.parametrize("cpus", [16, 64, 256])
def test_bare_loop(benchmark, cpus: int) -> None:
    benchmark(bare_loop, cpus, 100_000)


@pytest.mark.benchmark(group="pagevec drain")
def test_pagevec_drain(benchmark) -> None:
    system, file, (pid,) = mapped(AFTER, 64, 1)
    benchmark(probe.pagevec_drain, system, pid, file, 1000)


@pytest.mark.benchmark(group="pte range walk")
@pytest.mark.parametrize("kernel", [BASE, AFTER])
@pytest.mark.parametrize("pages", [1024, 16384])
def test_pte_range_walk(benchmark, kernel: str, pages: int) -> None:
    system, _, (pid,) = mapped(kernel, pages, 1)

    def both() -> None:
        system.mlock(pid, ADDRESS, pages * 4096)
        system.munlock(pid, ADDRESS, pages * 4096)

    benchmark(both)


@pytest.mark.benchmark(group="rmap walk")
@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("vmas", [16, 1024])
def test_rmap_walk(benchmark, vmas: int, literal: bool) -> None:
    system, file, _ = mapped(BASE, 1, vmas)
    benchmark(probe.rmap_walk, system, file, 0, 1000, literal)


@pytest.mark.benchmark(group="storm")
@pytest.mark.parametrize("kernel", [BASE, AFTER])
@pytest.mark.parametrize("cpus", [16, 64])
def test_storm(benchmark, kernel: str, cpus: int) -> None:
    storm = Storm(procs=cpus, cpus=cpus, pages=2048)

    def setup():
        _, machine, leavers = prepare(storm, kernel)
        for i, pid in enumerate(leavers):
            machine.start(pid, i * storm.stagger_ns, flow=FLOWS["F_SYS_EXIT"])
        return (machine,), {}

    def go(machine) -> None:
        while machine.run(max_events=SLICE_EVENTS):
            pass

    benchmark.pedantic(go, setup=setup, rounds=5)
