"""The running kernel as a system under test. Skipped, with the reason, where it may not be used."""
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmlock.live import LiveError, LiveSystem, Machine, machine as live_machine
from fastmlock.live.verify import verify
from fastmlock.live.worker import Worker
from fastmlock.reference import ReferenceSystem
from fastmlock.scenario import language, recordings
from fastmlock.scenario.run import run
from fastmlock.scenario.system import PAGE_SIZE, NotSupported

ANON, FILE, ADDRESS = 0x2 | 0x10 | 0x20, 0x1 | 0x10, 0x100000000000


@pytest.fixture
def machine() -> Iterator[Machine]:
    try:
        held = Machine()
    except LiveError as error:
        pytest.skip(f"the running kernel cannot be used: {error}")
    with held:
        yield held


def workers() -> set[str]:
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text() == "fastmlock-work\n":
                found.add(folder.name)
        except OSError:
            continue
    return found


def test_a_locked_page_is_seen_locked(machine: Machine) -> None:
    with LiveSystem(machine) as system:
        pid = system.spawn()
        assert system.mmap(pid, ADDRESS, 4 * PAGE_SIZE, 3, ANON, None, 0) == (ADDRESS, 0)
        assert system.mlock(pid, ADDRESS, 4 * PAGE_SIZE) == (0, 0)
        assert system.vm_lck(pid) == 16
        system.drain_all()
        kind, pfn = system.pte(pid, ADDRESS)
        assert kind == "a"
        if machine.frames.usable:
            mapcount, flags, count = system.page(pfn)
            assert (mapcount, count) == (1, -1) and {"L", "U", "M", "a"} <= set(flags)
        assert system.munlock(pid, ADDRESS, 4 * PAGE_SIZE) == (0, 0)
        assert system.vm_lck(pid) == 0


def test_errors_and_signals_come_back(machine: Machine) -> None:
    with LiveSystem(machine) as system:
        pid = system.spawn()
        file = system.create_file("tmpfs", 2)
        assert system.mlock(pid, ADDRESS, PAGE_SIZE) == (-1, 12)
        assert system.touch(pid, ADDRESS, 1, False) == (0, signal.SIGSEGV)
        system.mmap(pid, ADDRESS, 4 * PAGE_SIZE, 3, FILE, file, 0)
        assert system.touch(pid, ADDRESS, 4, True) == (2, signal.SIGBUS)
        assert [bool(system.cached(file, index)) for index in range(3)] == [True, True, False]


def test_a_fork_has_its_parents_memory_and_outlives_it(machine: Machine) -> None:
    with LiveSystem(machine) as system:
        parent = system.spawn()
        system.mmap(parent, ADDRESS, PAGE_SIZE, 3, ANON, None, 0)
        system.touch(parent, ADDRESS, 1, True)
        child = system.fork(parent)
        assert system.pte(parent, ADDRESS) == system.pte(child, ADDRESS)
        system.exit(parent)
        assert not system.alive(parent) and system.alive(child)
        assert system.touch(child, ADDRESS, 1, True) == (1, 0)


def test_a_killed_process_answers_esrch(machine: Machine) -> None:
    with LiveSystem(machine) as system:
        pid = system.spawn()
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while system.alive(pid) and time.monotonic() < deadline:
            pass
        assert not system.alive(pid)


@pytest.mark.parametrize("scenario", ["s01_one_locker", "s08_fork_no_inherit", "s09_mlockall", "s13_truncate",
                                      "s17_rlimit", "s19_holes", "s29_map_locked"])
def test_the_reference_agrees_with_the_running_kernel(machine: Machine, scenario: str) -> None:
    if live_machine.model_release(machine.release) != "6.18":
        pytest.skip(f"recorded rules are of 6.18, not of {machine.release}")
    result, = verify([recordings.scenario(scenario)], machine, lambda: ReferenceSystem("6.18"))
    assert result.ok, result.outcome and str(result.outcome.difference)
    assert result.outcome is not None and result.outcome.steps > 5 and not result.outcome.unsupported


def test_a_wrong_model_is_told_from_the_running_kernel(machine: Machine) -> None:
    if live_machine.model_release(machine.release) != "6.18":
        pytest.skip(f"recorded rules are of 6.18, not of {machine.release}")
    result, = verify([recordings.scenario("s10_onfault")], machine, lambda: ReferenceSystem("5.10"))
    assert not result.ok and result.outcome is not None and result.outcome.difference is not None


def test_what_disturbs_others_is_refused(machine: Machine) -> None:
    before = Path("/proc/sys/vm/swappiness").read_text()
    with LiveSystem(machine) as system:
        for act in (system.compact, lambda: system.drop_caches(1),
                    lambda: system.sysctl("/proc/sys/vm/swappiness", "1")):
            with pytest.raises(NotSupported, match="disturb"):
                act()
    assert Path("/proc/sys/vm/swappiness").read_text() == before
    assert any("disturb" in line for line in machine.blind())


def test_nothing_is_left_behind(machine: Machine) -> None:
    files, affinity = set(os.listdir("/proc/self/fd")), os.sched_getaffinity(0)
    mounts = Path("/proc/mounts").read_text()
    there = workers()
    scenario = language.parse("file F tmpfs 8\nfile G tmpfs 4 sparse\np0-2 mmap A F shared rw 0 8 locked\np0 fork p4\n"
                              "p1 exit\np2 kill\n")
    with LiveSystem(machine) as system:
        assert len(list(run(scenario, system))) == 7
        assert len(workers() - there) >= 3
    deadline = time.monotonic() + 60                # the last one is reaped by init
    while not workers() <= there and time.monotonic() < deadline:
        time.sleep(0.01)
    assert workers() <= there
    assert set(os.listdir("/proc/self/fd")) == files
    assert (os.sched_getaffinity(0), Path("/proc/mounts").read_text()) == (affinity, mounts)


PARENT = """
import time
from fastmlock.live import LiveSystem, Machine
with Machine() as machine, LiveSystem(machine) as system:
    pid = system.spawn(); child = system.fork(pid)
    print(pid, child, system._controller.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(end: signal.Signals) -> None:
    try:
        Machine().close()
    except LiveError as error:
        pytest.skip(f"the running kernel cannot be used: {error}")
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True)
    assert parent.stdout is not None
    try:
        pids = parent.stdout.readline().split()
        assert len(pids) == 3 and set(pids) <= workers()
        parent.send_signal(end)
    except BaseException:
        parent.kill()
        raise
    finally:
        parent.wait()
    deadline = time.monotonic() + 60
    while set(pids) & workers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(pids) & workers()


def test_only_one_at_a_time(machine: Machine) -> None:
    with pytest.raises(LiveError, match="another fastmlock"):
        Machine()


def test_it_refuses_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_machine, "MEMORY_WANTED", 1 << 60)
    monkeypatch.setattr(live_machine, "_machine_lock", socket.socket)      # whoever else is running
    monkeypatch.setattr(live_machine.os, "sched_getaffinity", lambda pid: {0, 1})
    with pytest.raises(LiveError, match="MiB of memory are available"):
        Machine()


def test_the_tightest_control_group_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = {"/proc/self/cgroup": "4:memory:/a/b\n0::/\n",
             "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
             "/sys/fs/cgroup/memory/memory.usage_in_bytes": "5",
             "/sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1000",
             "/sys/fs/cgroup/memory/a/memory.usage_in_bytes": "900",
             "/sys/fs/cgroup/memory.max": "max", "/sys/fs/cgroup/memory.current": "7"}
    for path, text in texts.items():
        place = tmp_path / path.strip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def pretended(path, *args, **kwargs):  # type: ignore[no-untyped-def]
        return open(tmp_path / str(path).strip("/"), *args, **kwargs)

    monkeypatch.setattr(live_machine, "open", pretended, raising=False)
    assert live_machine._cgroup_room() == 100


def test_model_releases() -> None:
    told = {name: live_machine.model_release(name) for name in
            ("6.18.44-fc", "6.19.0", "6.17.1", "6.1.0-56-cloud-amd64", "5.19.2", "5.17.0", "5.10.1", "7.2-rc1")}
    assert told == {"6.18.44-fc": "6.18", "6.19.0": "6.18", "6.17.1": "6.12", "6.1.0-56-cloud-amd64": "6.1",
                    "5.19.2": "5.18", "5.17.0": "5.17-rc2", "5.10.1": "5.10", "7.2-rc1": "6.18"}
    with pytest.raises(LiveError, match="older"):
        live_machine.model_release("4.19.1")


def test_a_worker_without_a_parent_socket_ends(machine: Machine) -> None:
    worker = Worker.start()
    worker.channel.close()
    worker.wait()
    assert worker.pidfd == -1
