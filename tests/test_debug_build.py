"""A debug build (FASTMLOCK_DEBUG=1) stops where something does not hold; a release build has no such checks."""
from __future__ import annotations

import pytest

from fastmlock.state.world import DEBUG_BUILD, ModelError
from fastmlock.system import System

pytestmark = pytest.mark.skipif(not DEBUG_BUILD, reason="a release build: made without FASTMLOCK_DEBUG=1")


def mapped() -> tuple[System, int, int]:
    system = System("6.1")
    file = system.create_file("tmpfs", 4)
    pid = system.spawn()
    system.mmap(pid, 0x100000000000, 4 * 4096, 3, 0x11, file, 0)
    system.mlock(pid, 0x100000000000, 4 * 4096)
    return system, pid, system.cached(file, 2)


@pytest.mark.parametrize("field, value, words", [("refcount", 0, "none left"), ("mapcount", 0, "fewer mappings")])
def test_a_broken_page_stops_the_run(field: str, value: int, words: str) -> None:
    system, pid, pfn = mapped()
    system.pages[field][pfn] = value
    with pytest.raises(ModelError, match=words):
        system.exit(pid)


def test_a_whole_one_does_not() -> None:
    system, pid, _ = mapped()
    system.exit(pid)
