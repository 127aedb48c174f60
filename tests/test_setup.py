"""What a fresh machine relies on: the two commands of the README, and the files that they need."""
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_readme_names_the_two_commands():
    commands = re.findall(r"^    (bash \.ci/\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert commands[:2] == ["bash .ci/storm", "bash .ci/test"]
    for command in commands:
        assert (ROOT / command.removeprefix("bash ")).is_file()
    assert "bash .ci/test" in (ROOT / ".ci" / "run").read_text()


def test_bootstrap_tells_how_it_is_used():
    run = subprocess.run([sys.executable, ROOT / ".ci" / "bootstrap.py"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert "bootstrap.py test" in run.stderr


def test_bootstrap_tells_what_is_missing(tmp_path):
    """A Python without pip, and so without venv: one line that names what to install."""
    code = ("import importlib.util, runpy, subprocess, sys\n"
            "importlib.util.find_spec = lambda name: None\n"
            "subprocess.run = lambda *a, **k: type('Done', (), {'returncode': 1})\n"
            f"sys.argv = ['bootstrap.py', 'test']\nrunpy.run_path({str(ROOT / '.ci' / 'bootstrap.py')!r}, "
            "run_name='__main__')")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                         env={"FASTMLOCK_VENV": str(tmp_path / "venv"), "PATH": ""})
    assert run.returncode == 2
    assert "apt-get install python3-venv" in run.stderr.splitlines()[-1]


def test_configuration():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["name"] == "fastmlock"
    asv = json.loads((ROOT / "asv.conf.json").read_text())
    assert (ROOT / asv["benchmark_dir"]).is_dir()


@pytest.mark.parametrize("module", ["fastmlock", "fastmlock.cli", "fastmlock.scenario"])
def test_imports_are_light(module):
    """Nothing that is slow to import comes in before it is used."""
    code = f"import sys, {module}; print([name for name in ('matplotlib', 'pyarrow', 'numba') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout == "[]\n", run.stderr
