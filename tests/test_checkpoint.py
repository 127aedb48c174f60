"""A storm that is killed goes on from its checkpoint and ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fastmlock.cli import main
from fastmlock.studies.checkpoint import RECORDS, Checkpoint
from fastmlock.studies.storm import Storm, prepare, run


def same(result) -> str:
    return (
        json.dumps(result.record(host=False), sort_keys=True)
        + str(result.exit_ns.tolist())
        + str(result.lock_stat.tolist())
    )


@pytest.mark.parametrize("order", ["together", "in-turn"])
@pytest.mark.parametrize("kernel", ["5.17-rc2", "5.18"])
@pytest.mark.parametrize("stop_at", [1, 3])
def test_broken_off_and_resumed_is_the_same(tmp_path, monkeypatch, kernel: str, order: str, stop_at: int) -> None:
    monkeypatch.setattr("fastmlock.studies.storm.SLICE_EVENTS", 1500)
    storm = Storm(
        procs=6,
        pages=800,
        cpus=8,
        order=order,
        survivor="after",
        bystanders=int(order == "together"),
        locks=("spin=ticket",),
    )
    whole = same(run(storm, kernel))
    seen = 0

    def interrupt(what: str, share: float) -> None:
        nonlocal seen
        seen += "exit" in what
        if seen == stop_at:
            raise KeyboardInterrupt

    kept = Checkpoint(tmp_path, storm, kernel)
    with pytest.raises(KeyboardInterrupt):
        run(storm, kernel, interrupt, kept)
    assert kept.exists()
    assert same(run(storm, kernel, checkpoint=Checkpoint(tmp_path, storm, kernel))) == whole
    assert not kept.exists()


@pytest.mark.parametrize("stop_at", [1, 4, 8])
def test_broken_off_while_it_is_set_up(tmp_path, monkeypatch, stop_at: int) -> None:
    storm = Storm(procs=5, pages=300, cpus=6, mappers=2, survivor="before", bystanders=1)
    whole = same(run(storm, "5.18"))
    seen: list[str] = []

    def interrupt(what: str, share: float) -> None:
        seen.append(what)
        if len(seen) == stop_at:
            raise KeyboardInterrupt

    kept = Checkpoint(tmp_path, storm, "5.18")
    with pytest.raises(KeyboardInterrupt):
        run(storm, "5.18", interrupt, kept)
    assert kept.exists() and not kept.timed()
    monkeypatch.setattr(Checkpoint, "due", lambda self: True)       # each process that comes is kept
    seen.clear()
    resumed = run(storm, "5.18", lambda what, share: seen.append(what), checkpoint=Checkpoint(tmp_path, storm, "5.18"))
    assert same(resumed) == whole
    assert sum("locking" in what for what in seen) == 8 - stop_at
    assert not kept.exists()


def test_two_kernels_are_kept_at_once(tmp_path, monkeypatch) -> None:
    """As two threads do it: one checkpoint is written while another is being written."""
    storm = Storm(procs=2, pages=10, cpus=2)
    one, other = (Checkpoint(tmp_path, storm, kernel) for kernel in ("5.17-rc2", "5.18"))
    systems = [prepare(storm, kernel)[:2] for kernel in ("5.17-rc2", "5.18")]
    save = np.save
    saved = 0

    def save_and_write_the_other(path, array) -> None:
        nonlocal saved
        save(path, array)
        saved += 1
        if saved == 3:
            other.write(*systems[1], {})

    monkeypatch.setattr("fastmlock.studies.checkpoint.np.save", save_and_write_the_other)
    one.write(*systems[0], {})
    assert one.timed() and other.timed()
    one.remove()
    assert not one.exists() and other.exists()


def test_another_storm_does_not_take_it(tmp_path) -> None:
    one = Checkpoint(tmp_path, Storm(procs=2, pages=10, cpus=2), "5.18")
    other = Checkpoint(tmp_path, Storm(procs=2, pages=11, cpus=2), "5.18")
    assert one.path != other.path


def test_another_build_does_not_take_it(tmp_path, monkeypatch) -> None:
    storm = Storm(procs=2, pages=10, cpus=2)
    one = Checkpoint(tmp_path, storm, "5.18")
    monkeypatch.setattr("fastmlock.studies.checkpoint.RECORDS", RECORDS[:2])
    assert Checkpoint(tmp_path, storm, "5.18").path != one.path


def test_killed_and_resumed(tmp_path) -> None:
    """SIGKILL at whatever moment after the first checkpoint."""
    size = ["storm", "--procs", "24", "--pages", "3000", "--kernels", "5.17-rc2"]
    options = [*size, "--checkpoint", str(tmp_path / "kept"), "--checkpoint-s", "0.05", "-o", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-m", "fastmlock", *options],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("kept/*/meta.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob("kept/*/meta.json"))
    assert main([*options, "--resume"]) == 0
    assert main([*size, "-o", str(tmp_path / "again")]) == 0
    resumed, again = (
        json.loads((tmp_path / name / "storm.json").read_text())["results"][0] for name in ("out", "again")
    )
    host = ("host_setup_s", "host_run_s", "nbytes")
    assert {k: v for k, v in resumed.items() if k not in host} == {k: v for k, v in again.items() if k not in host}
    assert not list(tmp_path.glob("kept/*"))


def test_resume_needs_a_place(capsys) -> None:
    assert main(["storm", "--resume"]) == 2
    assert "--checkpoint" in capsys.readouterr().err
