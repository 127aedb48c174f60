"""What the documents show is what the program does."""
from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from fastmlock import System
from fastmlock.scenario import parse
from fastmlock.scenario.run import run

ROOT = Path(__file__).parent.parent


def test_readme_sessions() -> None:
    failed, tried = doctest.testfile(str(ROOT / "README.md"), module_relative=False,
                                     optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried >= 8 and not failed


@pytest.mark.parametrize("module", ["fastmlock.system", "fastmlock.studies.storm"])
def test_module_sessions(module: str) -> None:
    import importlib

    found = importlib.import_module(module)
    failed, tried = doctest.testmod(found)
    assert tried and not failed


@pytest.mark.parametrize(("name", "least"), [("tour.md", 6), ("snapshot.md", 2)])
def test_the_program_prints_what_the_page_shows(tmp_path: Path, capsys, monkeypatch, name: str, least: int) -> None:
    """Indented blocks that begin with a command, as at a prompt; the rest of the block is its output."""
    import re
    import shlex

    from fastmlock.cli import main

    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / name).read_text()
    sessions = re.findall(r"^    \$ fastmlock (.*)\n((?:    .*\n|\n(?=    ))*)", page, re.MULTILINE)
    assert len(sessions) == page.count("$ fastmlock") >= least
    for command, shown in sessions:
        assert main(shlex.split(command)) == 0, command
        printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
        assert printed == [line.removeprefix("    ") for line in shown.splitlines()], command


def test_links_lead_somewhere() -> None:
    import re

    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_word_of_a_scenario_is_documented() -> None:
    from fastmlock.scenario.language import CONTROLLER, PROCESS

    text = (ROOT / "docs" / "scenarios.md").read_text().replace("\\|", "|")
    for usage, _ in [*CONTROLLER.values(), *PROCESS.values()]:
        assert f"\n| `{usage}` |" in text, usage


@pytest.mark.parametrize("path", sorted((ROOT / "docs/nondeterminism").glob("*.txt")), ids=lambda path: path.stem)
def test_programs_that_a_real_kernel_answers_twice_run(path: Path) -> None:
    system = System(path.stem.partition("-")[0])
    scenario = parse(path.read_text(), path.name)
    assert len(list(run(scenario, system))) == len(scenario.commands) + 1
