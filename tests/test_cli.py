"""The command line: exit statuses, one line per error, and no half-written file."""
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from fake_system import FakeSystem

from fastmlock import cli
from fastmlock.cli.output import output
from fastmlock.kernels import RELEASES
from fastmlock.scenario import recordings
from fastmlock.scenario.system import NotSupported

TESTS = Path(__file__).parent
SMALL = "file F tmpfs 4\np0 mmap A F shared rw 0 4\np0 touch A 0 4 r\n"
WITH_FAKE = f"""
import sys, types
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]
from fake_system import FakeSystem
sys.modules["fastmlock.system"] = types.SimpleNamespace(System=FakeSystem)
from fastmlock.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    """Puts the small system where the compiled model is looked for, and runs in an empty folder."""
    monkeypatch.setitem(sys.modules, "fastmlock.system", types.SimpleNamespace(System=FakeSystem))
    monkeypatch.setitem(sys.modules, "fastmlock.reference", types.SimpleNamespace(ReferenceSystem=FakeSystem))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.txt"
    path.write_text(SMALL)
    return str(path)


def error_of(capsys):
    """What was written to stderr: one line, and nothing on stdout."""
    captured = capsys.readouterr()
    assert captured.err.endswith("\n") and captured.err.count("\n") == 1
    assert captured.out == ""
    return captured.err


def start(*arguments, **options):
    """A shell ignores SIGINT for what it runs in the background, and these tests with it: the process does not."""
    return subprocess.Popen([sys.executable, "-c", WITH_FAKE, *arguments], stderr=subprocess.PIPE,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options)


# ---- run


def test_run_prints_records(small, capsys):
    assert cli.main(["run", small, "--kernel", "6.1"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert records[0]["kernel"] == "6.1"
    assert [record["cmd"] for record in records[1:]] == SMALL.splitlines()
    assert cli.main(["run", small, "--kernel", "6.1", "--reference"]) == 0


def test_run_knows_the_recorded_scenarios(capsys):
    assert cli.main(["run", "s01_one_locker", "--kernel", "6.1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(recordings.load("6.1", "s01_one_locker"))


def test_run_to_a_file(small, tmp_path, capsys):
    assert cli.main(["run", small, "--kernel", "6.1", "-o", "out.jsonl"]) == 0
    assert capsys.readouterr().out == ""
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "small.txt"]


def test_run_against_a_file(small, tmp_path, capsys):
    assert cli.main(["run", small, "--kernel", "6.1", "-o", "out.jsonl"]) == 0
    assert cli.main(["run", small, "--kernel", "6.1", "--against", "out.jsonl"]) == 0
    assert capsys.readouterr().out == "steps 3, equal 3, equal with soft flags 3\n"
    text = (tmp_path / "out.jsonl").read_text().replace('"ret": 4', '"ret": 3')
    (tmp_path / "other.jsonl").write_text(text)
    assert cli.main(["run", small, "--kernel", "6.1", "--against", "other.jsonl", "-o", "third.jsonl"]) == 1
    assert capsys.readouterr().out == (
        "step 3: p0 touch A 0 4 r\n    ret: model 4, real 3\nsteps 3, equal 2, equal with soft flags 2\n")
    assert (tmp_path / "third.jsonl").read_text() == (tmp_path / "out.jsonl").read_text()


def test_run_against_a_recorded_kernel(capsys):
    assert cli.main(["run", "s01_one_locker", "--kernel", "5.17-rc2", "--against", "5.17-rc2"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("steps ")


@pytest.mark.parametrize("arguments, message", [
    ([], "required: COMMAND"),
    (["dance"], "invalid choice"),
    (["run"], "required"),
    (["run", "small.txt"], "--kernel"),
    (["run", "small.txt", "--kernel", "4.4"], "no kernel '4.4'"),
    (["run", "none.txt", "--kernel", "6.1"], "none.txt: cannot be read: No such file"),
    (["run", ".", "--kernel", "6.1"], ".: not a file"),
    (["run", "bad.txt", "--kernel", "6.1"], "bad.txt:2: unknown command 'jump'"),
    (["run", "small.txt", "--kernel", "6.1", "-o", "none/out"], "none/out: No such file"),
    (["run", "small.txt", "--kernel", "6.1", "-o", "."], "Is a directory"),
    (["run", "small.txt", "--kernel", "6.1", "--against", "none"], "none: No such file"),
    (["run", "small.txt", "--kernel", "6.1", "--against", "bad.txt"], "bad.txt:1: not JSON"),
    (["run", "small.txt", "--kernel", "6.1", "--against", "6.1"], "'small' is not recorded on 6.1"),
    (["conformance", "--kernel", "4.4"], "no recordings of kernel '4.4'"),
    (["conformance", "--scenario", "nothing*"], "no recorded scenario 'nothing*'"),
    (["kernels", "4.4"], "no kernel '4.4'"),
])
def test_bad_input_is_one_line_and_status_2(arguments, message, small, tmp_path, capsys):
    (tmp_path / "bad.txt").write_text("snap\njump\n")
    assert cli.main(arguments) == 2
    assert message in error_of(capsys)


def test_not_supported_is_status_3_and_leaves_no_file(small, tmp_path, capsys, monkeypatch):
    def touch(*arguments):
        raise NotSupported("touch")
    monkeypatch.setattr(FakeSystem, "touch", touch)
    (tmp_path / "out").write_text("before")
    assert cli.main(["run", small, "--kernel", "6.1", "-o", "out"]) == 3
    assert error_of(capsys) == "not supported: touch\n"
    assert (tmp_path / "out").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "small.txt"]


def test_errors_of_the_program_are_status_70(small, capsys, monkeypatch):
    monkeypatch.setattr(FakeSystem, "touch", lambda *arguments: 1 / 0)
    assert cli.main(["run", small, "--kernel", "6.1"]) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_model_that_is_not_built_is_told(small, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastmlock.system", None)
    assert cli.main(["run", small, "--kernel", "6.1"]) == 2
    assert "pip install -e ." in error_of(capsys)


@pytest.mark.parametrize("command", [[], ["run"], ["conformance"], ["kernels"]])
def test_help(command, capsys):
    assert cli.main([*command, "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: " + " ".join(["fastmlock", *command]))


# ---- conformance and kernels


def test_conformance(capsys):
    assert cli.main(["conformance", "--kernel", "6.1", "--kernel", "5.17-rc2", "--scenario", "s0[12]*"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["kernel", "6.1", "5.17-rc5"]
    assert any(line.startswith("6.1 s01_one_locker step ") for line in lines)
    assert cli.main(["conformance", "--kernel", "6.1", "--scenario", "s01*", "--verbose", "--reference"]) == 1
    assert len(capsys.readouterr().out.splitlines()) > 10


def test_conformance_of_what_is_not_supported(capsys, monkeypatch):
    def spawn(*arguments, **options):
        raise NotSupported("everything")
    monkeypatch.setattr(FakeSystem, "spawn", spawn)
    assert cli.main(["conformance", "--kernel", "6.1", "--scenario", "s01*"]) == 3
    assert "not supported: everything\n    6.1: s01_one_locker" in capsys.readouterr().out


def test_kernels(capsys):
    assert cli.main(["kernels"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(RELEASES)
    assert cli.main(["kernels", "5.17-rc2+03"]) == 0
    assert " p01-p03 " in capsys.readouterr().out


# ---- files and signals


def test_output_appears_complete_or_not_at_all(tmp_path):
    with output("file") as stream:
        stream.write("x")
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").read_text() == "x"
    with pytest.raises(KeyboardInterrupt), output("file") as stream:
        stream.write("y")
        raise KeyboardInterrupt
    assert (tmp_path / "file").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_output_follows_links_and_leaves_devices_alone(tmp_path):
    (tmp_path / "link").symlink_to("file")
    with output("link") as stream:
        stream.write("x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "x"
    with output(os.devnull) as stream:
        stream.write("x")
    assert not Path(os.devnull).is_file()


def test_standard_input(small):
    with open(small, "rb") as stream, start("run", "-", "--kernel", "6.1", stdin=stream,
                                            stdout=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, len(out.splitlines()), err) == (0, 4, b"")


def test_a_reader_that_leaves_ends_it_quietly(tmp_path):
    (tmp_path / "long.txt").write_text("file F tmpfs 4096\n" + "snap\n" * 500)
    with start("run", "long.txt", "--kernel", "6.1", stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


def test_a_full_disk_is_told(small):
    with open("/dev/full", "wb") as full, start("run", small, "--kernel", "6.1", stdout=full) as process:
        err = process.stderr.read()
        assert (process.wait(60), err.count(b"\n")) == (2, 1)
        assert b"No space left on device" in err


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_no_file(tmp_path, number, status):
    (tmp_path / "long.txt").write_text("file F tmpfs 4096\np0-71 mmap A F shared r 0 4096\n" + "snap\n" * 500)
    with start("run", "long.txt", "--kernel", "6.1", "-o", "out") as process:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob(".out.*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        err = process.stderr.read()
        assert process.wait(60) == status
    assert err.count(b"\n") <= 1
    assert [path.name for path in tmp_path.iterdir()] == ["long.txt"]
