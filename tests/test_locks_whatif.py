"""Other locks than the kernel's: they exclude as they must, lose nobody, and are refused by name."""
from __future__ import annotations

import numpy as np
import pytest

from fastmlock.cli import main
from fastmlock.machine.locks import LOCKS, LockError, lock_options
from fastmlock.machine.loops import loop_machine
from fastmlock.machine.topology import Topology
from fastmlock.state.layout import K
from fastmlock.studies.storm import Storm, run

OPTIONS = [f"{name}={value}" for name, values in LOCKS.items() for value in values]


def spin(kind: str, cpus: int, nodes: int = 2, rounds: int = 300, **loop: int):
    topology = Topology.preset("icelake-8375c", cpus=cpus, nodes=nodes)
    machine = loop_machine(topology, rounds=rounds, traits=lock_options([f"spin={kind}"]),
                           **{"think_ns": 0, "hold_ns": 100, **loop})
    machine.run()
    return machine


@pytest.mark.parametrize("kind", LOCKS["spin"])
@pytest.mark.parametrize("cpus", [2, 3, 8, 40])
def test_every_spinlock_serves_everybody_one_at_a_time(kind: str, cpus: int) -> None:
    machine = spin(kind, cpus)
    stat = machine.lock_stat[K.LK_TEST_SPIN, 1]
    assert stat["acquisitions"] == 300 * cpus
    assert stat["holdtime_total"] <= machine.end_ns()
    assert machine.live == 0


def test_ticket_and_test_and_set_collapse_and_the_queue_does_not() -> None:
    rate = {kind: {n: 300 * n / spin(kind, n, 1).end_ns() for n in (4, 32)} for kind in ("queued", "ticket", "test-and-set")}
    assert rate["queued"][32] > 0.9 * rate["queued"][4]
    assert rate["ticket"][32] < 0.5 * rate["ticket"][4]
    assert rate["test-and-set"][32] < 0.5 * rate["test-and-set"][4]


def test_test_and_set_is_unfair() -> None:
    waits = {kind: spin(kind, 16, 1).lock_stat[K.LK_TEST_SPIN, 1]["waittime_max"] for kind in ("ticket", "test-and-set")}
    assert waits["test-and-set"] > 2 * waits["ticket"]


def test_cna_stays_on_its_node_and_is_faster_for_it() -> None:
    queued, cna = spin("queued", 32, think_ns=200, exponential=True), spin("cna", 32, think_ns=200, exponential=True)
    assert cna.end_ns() < 0.85 * queued.end_ns()


def rw(option: str, read_percent: int, cpus: int = 16, tasks: int | None = None):
    machine = loop_machine(Topology.preset("icelake-8375c", cpus=cpus, nodes=2), kind="rwsem", rounds=200, think_ns=500,
                           hold_ns=300, read_percent=read_percent, tasks=tasks, exponential=True,
                           traits=lock_options([option]))
    machine.run()
    return machine


@pytest.mark.parametrize("option", ["i_mmap=bravo", "i_mmap=percpu"])
@pytest.mark.parametrize("read_percent", [0, 50, 95, 100])
@pytest.mark.parametrize("tasks", [16, 50])
def test_a_biased_rwsem_lets_everybody_through(option: str, read_percent: int, tasks: int) -> None:
    machine = rw(option, read_percent, tasks=tasks)
    stat = machine.lock_stat[K.LK_TEST_RWSEM]
    assert stat["acquisitions"].sum() == 200 * tasks and machine.live == 0
    sem = machine.arrays["test_rwsems"][0]
    assert sem["count"] == 0 and sem["fast"] == 0 and sem["revoker"] == 0
    assert stat["holdtime_total"][1] <= machine.end_ns()           # one writer at a time


def test_biased_readers_do_not_share_a_line() -> None:
    plain, bravo = rw("i_mmap=plain", 100), rw("i_mmap=bravo", 100)
    assert bravo.end_ns() < 0.8 * plain.end_ns() and bravo.transfers < plain.transfers / 10


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kernel", ["5.17-rc2", "5.18"])
def test_a_storm_ends_with_every_lock(option: str, kernel: str) -> None:
    result = run(Storm(procs=12, pages=300, cpus=8, nodes=2, locks=(option,), stagger_ns=5000, survivor="after"), kernel)
    assert result.watchdog == {"hung task": 0, "soft lockup": 0, "rcu stall": 0}
    assert result.nr_mlock <= 300 and np.all(result.exit_ns > 0)
    assert result.record()["locks"] == option


@pytest.mark.parametrize("option", ["x", "spin", "spin=", "spin=fair", "rwsem=4.0", "=", "i_mmap"])
def test_a_lock_that_there_is_not(option: str, capsys, tmp_path, monkeypatch) -> None:
    with pytest.raises(LockError):
        lock_options([option])
    monkeypatch.chdir(tmp_path)
    assert main(["storm", "--lock", option]) == 2
    told = capsys.readouterr()
    assert "--lock" in told.err and told.err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_lock_stat_is_printed(capsys, tmp_path) -> None:
    assert main(["storm", "--procs", "6", "--pages", "200", "--lock-stat", "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "con-bounces" in out and "&mapping->i_mmap_rwsem-R:" in out
    assert "avg wait" in out and "&mm->mmap_lock-W:" in out
