"""The profiler of the simulated kernel: it changes nothing, and what it sees is what the machine accounts for."""
from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from fastmlock.cli import main
from fastmlock.flows.ids import FLOWS, SYMBOLS
from fastmlock.machine import callstack
from fastmlock.machine.callstack import ASLEEP, READY, SPINNING
from fastmlock.machine.layout import ENUMS
from fastmlock.machine.profiler import Profiler
from fastmlock.studies.profile import TRACE_TASKS, Profile, write
from fastmlock.studies.storm import Storm, run

STORMS = [
    Storm(procs=24, pages=600, cpus=24),
    Storm(procs=24, pages=600, cpus=4, stagger_ns=0),
    Storm(procs=6, pages=600, cpus=8, order="in-turn"),
    Storm(procs=2, pages=600, mappers=31, cpus=16, bystanders=6),
    Storm(procs=8, pages=600, cpus=8, leave="munlock"),
]


def profiled(storm, kernel, samples=100):
    profiler = Profiler(samples)
    return run(storm, kernel, profiler=profiler), profiler


@pytest.mark.parametrize("kernel", ["5.17-rc2", "5.18"])
@pytest.mark.parametrize("storm", STORMS)
def test_looking_changes_nothing_and_sees_every_task_for_as_long_as_it_lives(storm, kernel):
    plain = run(storm, kernel)
    result, profiler = profiled(storm, kernel)
    assert result.record(host=False) == plain.record(host=False)
    assert (result.exit_ns == plain.exit_ns).all() and (result.lock_stat == plain.lock_stat).all()

    tasks = profiler.machine.tasks
    windows = profiler.times_ns // profiler.every_ns
    assert (np.diff(windows) >= 1).all()
    for task in profiler.names:
        begin, end = int(tasks[task]["start_ns"]), int(tasks[task]["exit_ns"])
        seen = profiler.times_ns[profiler.seen[:, task] > 0]
        assert ((seen > begin) & (seen <= end)).all()
        inside = (windows * profiler.every_ns >= begin) & ((windows + 1) * profiler.every_ns <= end)
        assert (profiler.seen[inside, task] > 0).all()


@pytest.mark.parametrize("samples", [1, 7, 100])
def test_between_the_wanted_number_of_looks_and_twice_as_many(samples):
    _, profiler = profiled(STORMS[0], "5.18", samples)
    assert samples <= len(profiler.times_ns) <= 2 * samples
    assert profiler.every_ns > 1024


def test_a_run_shorter_than_that_keeps_its_first_window():
    _, profiler = profiled(STORMS[0], "5.18", 10**6)
    assert profiler.every_ns == 1024
    assert len(profiler.times_ns) == pytest.approx(profiler.machine.now_ns / 1024, abs=3)


@pytest.mark.parametrize("kernel", ["5.17-rc2", "5.18"])
def test_the_shares_are_those_of_the_machines_accounts(kernel):
    """Two ways to the same thing: time is charged as it passes, and seen by looking."""
    storm = Storm(procs=48, pages=1200, cpus=48)
    result, profiler = profiled(storm, kernel, 2000)
    lives = result.exit_ns.sum()
    spins = sum(ns for frames, ns in Profile.of(profiler, kernel).folded().items()
                if frames[-1] == "native_queued_spin_lock_slowpath" and frames[-2].endswith("[lru_lock]"))
    assert spins / lives == pytest.approx(result.doing["lru_lock"] / lives, abs=0.02)
    assert spins > 0.3 * lives


def test_sleepers_are_seen_asleep_and_the_others_of_a_cpu_waiting_for_it():
    _, profiler = profiled(Storm(procs=1, pages=600, mappers=63, cpus=16, bystanders=8), "5.17-rc2")
    asleep = {stack.frames[-2:] for stack in profiler.stacks if stack.state == ASLEEP}
    assert ("rwsem_down_write_slowpath", "schedule") in asleep
    assert all(last in ("schedule", "io_schedule") for _, last in asleep)
    _, profiler = profiled(Storm(procs=12, pages=600, cpus=2), "5.18")
    ready = [stack for stack in profiler.stacks if stack.state == READY]
    assert ready and all(stack.frames[-1] == "[waits for a CPU]" for stack in ready)


def test_what_is_seen_of_the_rework_is_the_rework():
    storm = Storm(procs=1, pages=1024, mappers=63, cpus=2)
    functions = {}
    for kernel in ("5.17-rc2", "5.18"):
        _, profiler = profiled(storm, kernel)
        functions[kernel] = {frame for stack in profiler.stacks for frame in stack.frames}
    assert {"munlock_vma_pages_range", "__munlock_pagevec", "page_mlock"} <= functions["5.17-rc2"]
    assert not {"munlock_vma_pages_range", "__munlock_pagevec", "page_mlock"} & functions["5.18"]
    assert "mlock_pagevec" in functions["5.18"]


def test_the_state_follows_from_the_stack():
    for storm in STORMS:
        _, profiler = profiled(storm, "5.17-rc2")
        frames = [stack.frames for stack in profiler.stacks]
        assert len(frames) == len(set(frames))


def test_every_phase_of_a_wait_and_every_flow_has_a_name():
    named = {ENUMS["Phase"][name] for name in ("PH_STEP", "PH_REQ", "PH_SPIN", "PH_DELAY")} | set(callstack._WAITS)
    assert named == set(ENUMS["Phase"].values())
    assert set(SYMBOLS) == set(FLOWS.values())
    assert all(symbol.isidentifier() and symbol == symbol.lower() for symbol in SYMBOLS.values())


def test_files_are_whole_the_same_each_time_and_add_up(tmp_path):
    storm = Storm(procs=100, pages=200, cpus=32, mappers=2, bystanders=3)
    contents = []
    for name in ("one", "two"):
        _, profiler = profiled(storm, "5.17-rc2")
        profile = Profile.of(profiler, "5.17-rc2")
        contents.append([Path(path).read_bytes() for path in write(profile, str(tmp_path / name))])
    assert contents[0] == contents[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "one.folded", "one.trace.json.gz", "two.folded", "two.trace.json.gz"]

    folded = [line.rsplit(" ", 1) for line in contents[0][0].decode().splitlines()]
    seen = int((profiler.seen > 0).sum())
    assert sum(int(ns) for _, ns in folded) == seen * profiler.every_ns
    assert {line.split(";")[0] for line, _ in folded} <= {"leaver", "bystander"}

    trace = json.loads(gzip.decompress(contents[0][1]))["traceEvents"]
    slices = [event for event in trace if event["ph"] == "X"]
    tracks = {event["tid"] for event in slices}
    assert len(tracks) == TRACE_TASKS < len(profiler.names)
    for track in tracks:                        # nested, and the outermost as long as the task was seen
        open_: list[tuple[float, float]] = []
        outermost = 0.0
        for event in sorted((e for e in slices if e["tid"] == track), key=lambda e: (e["ts"], -e["dur"])):
            begin, end = event["ts"], event["ts"] + event["dur"]
            while open_ and open_[-1][1] <= begin + 1e-6:
                open_.pop()
            assert not open_ or end <= open_[-1][1] + 1e-6
            if not open_:
                outermost += event["dur"]
            open_.append((begin, end))
        looks = int((profiler.seen[:, track] > 0).sum())
        assert outermost == pytest.approx(looks * profiler.every_ns / 1000)
    counters = [event for event in trace if event["ph"] == "C"]
    assert sum(sum(event["args"].values()) for event in counters) == seen
    assert sum(event["args"]["spinning"] for event in counters) == sum(
        profiler.stacks[number].state == SPINNING for number in profiler.seen.ravel() if number)


def test_the_command_prints_writes_and_draws(tmp_path, capsys):
    assert main(["storm", "--procs", "4", "--pages", "300", "--profile", "50", "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "where the tasks' time goes" in out and "leaver" in out and "munlock_vma_pages_range" in out
    seen = {f"storm-{kernel}.{kind}" for kernel in ("5.17-rc2", "5.18") for kind in ("folded", "trace.json.gz")}
    assert {path.name for path in tmp_path.iterdir()} == {"storm.parquet", "storm.json", "storm-profile.png", *seen}


@pytest.mark.parametrize("options", [["--profile", "0"], ["--profile", "--procs", "2,4"],
                                     ["--profile", "--checkpoint", "there"],
                                     ["--profile", "--sure", "5"], ["--profile", "--until", "hung-task"]])
def test_what_cannot_be_is_said_in_one_line(options, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["storm", "--pages", "64", *options]) == 2
    err = capsys.readouterr().err
    assert "--profile" in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())
