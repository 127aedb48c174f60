"""What `fastmlock run --brief` shows of a scenario."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmlock import System
from fastmlock.cli import main
from fastmlock.fuzz.generate import Profile, program
from fastmlock.fuzz.pair import runnable
from fastmlock.scenario import parse
from fastmlock.scenario.brief import side_by_side
from fastmlock.scenario.run import run

TWO = "file F tmpfs 2\np0-1 mmap A F shared r 0 2\np0-1 mlock A 0 2\ndrain\np0 munlock A 0 1\nsnap\n"


def records(text: str, kernel: str) -> list[dict[str, object]]:
    return list(run(parse(text, "<test>"), System(kernel), kernel=kernel))


def test_two_kernels_below_each_other() -> None:
    lines = list(side_by_side({kernel: records(TWO, kernel) for kernel in ("5.17-rc2", "6.1")}))
    assert lines[-4:] == [
        "p0 munlock A 0 1",
        "    5.17-rc2  nr_unevictable -1, mlocked +1, p0 VmLck 4 kB; F [0] UM mapped 2 [1] LUM mapped 2",
        "    6.1       p0 VmLck 4 kB; F [0] LUM mapped 2 count 1 [1] LUM mapped 2 count 2",
        "snap"]


def test_one_kernel_has_no_name_and_what_is_alike_is_said_once() -> None:
    one = list(side_by_side({"6.1": records(TWO, "6.1")}))
    same = list(side_by_side({name: records(TWO, "6.1") for name in "abc"}))
    assert "    p0 VmLck 4 kB; F [0] LUM mapped 2 count 1 [1] LUM mapped 2 count 2" in one
    assert [line.replace("    all  ", "    ") for line in same] == one


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_every_command_has_its_line_and_every_change_of_a_counter_is_there(index: int) -> None:
    lines = runnable(program("brief", index, Profile()).splitlines(), lambda: System("6.1"))[0]
    steps = records("\n".join(lines) + "\n", "6.1")
    shown = list(side_by_side({"6.1": steps}))
    assert [line for line in shown if not line.startswith("    ")] == [str(step["cmd"]) for step in steps[1:]]
    text = "\n".join(shown)
    changes = sum("active" not in name for step in steps[1:] for name in step["dvs"])       # type: ignore[attr-defined]
    assert sum(text.count(f"{name} {sign}") for name in (
        "nr_mlock", "nr_unevictable", "culled", "scanned", "rescued", " mlocked", "munlocked", "cleared", "stranded")
        for sign in "+-") == changes


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "two.txt"
    path.write_text(TWO)
    out = tmp_path / "out.txt"
    assert main(["run", str(path), "--kernel", "5.18", "--kernel", "5.17-rc2", "--brief", "-o", str(out)]) == 0
    assert out.read_text().splitlines()[0] == "file F tmpfs 2"
    assert main(["run", str(path), "--kernel", "5.18"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["kernel"] == "5.18"


@pytest.mark.parametrize("options", [
    ["--kernel", "5.18"], ["--brief", "--kernel", "6.1"], ["--brief", "--kernel", "6.99"],
    ["--brief", "--show", "smaps"], ["--brief", "--against", "6.1"]])
def test_what_cannot_be_is_said_in_one_line(options: list[str], tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "two.txt"
    path.write_text(TWO)
    assert main(["run", str(path), "--kernel", "6.1", *options]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and not said.out
