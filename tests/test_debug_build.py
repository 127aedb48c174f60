"""A debug build (FASTMLOCK_DEBUG=1) stops where something does not hold; a release build has no such checks.

In a release build one test makes a debug build of its own, and has that go through this file and the invariants.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastmlock.state.world import DEBUG_BUILD, ModelError
from fastmlock.system import System

ROOT = Path(__file__).resolve().parent.parent

in_debug_build = pytest.mark.skipif(not DEBUG_BUILD, reason="a release build: made without FASTMLOCK_DEBUG=1")


def mapped() -> tuple[System, int, int]:
    system = System("6.1")
    file = system.create_file("tmpfs", 4)
    pid = system.spawn()
    system.mmap(pid, 0x100000000000, 4 * 4096, 3, 0x11, file, 0)
    system.mlock(pid, 0x100000000000, 4 * 4096)
    return system, pid, system.cached(file, 2)


@in_debug_build
@pytest.mark.parametrize("field, value, words", [("refcount", 0, "none left"), ("mapcount", 0, "fewer mappings")])
def test_a_broken_page_stops_the_run(field: str, value: int, words: str) -> None:
    system, pid, pfn = mapped()
    system.pages[field][pfn] = value
    with pytest.raises(ModelError, match=words):
        system.exit(pid)


@in_debug_build
def test_a_whole_one_does_not() -> None:
    system, pid, _ = mapped()
    system.exit(pid)


@pytest.mark.skipif(DEBUG_BUILD or "FASTMLOCK_DEBUG" in os.environ, reason="this is one, or should be")
def test_a_debug_build_goes_through_the_invariants(tmp_path: Path) -> None:
    for name in ("fastmlock", "tests"):         # the tests too: pytest imports what lies beside them
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    there = {**os.environ, "PYTHONPATH": str(tmp_path), "FASTMLOCK_DEBUG": "1"}
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=tmp_path, env=there, check=True)
    tests = [f"tests/{name}" for name in ("test_debug_build.py", "test_invariants.py", "test_hugetlb.py")]
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not recorded", *tests],
                         cwd=tmp_path, env=there, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert ", 1 skipped" in run.stdout, "only this test itself is left out there, so it was the debug build that ran"
