"""SHM_LOCK and SHM_UNLOCK, msync, mmap without an address."""
from __future__ import annotations

import errno

import pytest

from fastmlock import kernels
from fastmlock.reference import ReferenceSystem
from fastmlock.system import System

AT, PAGE = 0x100000000000, 4096


def event(s: System, name: str) -> int:
    return s.vmstat()[f"unevictable_pgs_{name}"]


@pytest.mark.parametrize("kernel", sorted(kernels.RELEASES))
def test_unlock_rescues_what_nothing_else_keeps(kernel: str) -> None:
    s = System(kernel, check=True)
    file = s.create_file("tmpfs", 20, sparse=True)
    p = s.spawn()
    assert s.shm_lock(p, file) == (0, 0) == s.shm_lock(p, file)
    s.mmap(p, AT, 20 * PAGE, 3, 0x11, file, 0)
    s.touch(p, AT, 20, True)                            # new pages of an unevictable mapping
    s.drain_all()
    assert event(s, "culled") == 20 == s.vmstat()["nr_unevictable"] and s.vmstat()["nr_mlock"] == 0
    s.mlock(p, AT, 5 * PAGE)
    s.drain_all()
    marked = s.vmstat()["nr_mlock"]
    assert s.shm_unlock(p, file) == (0, 0) == s.shm_unlock(p, file)
    assert event(s, "scanned") == 20 and event(s, "rescued") == 20 - marked
    assert s.vmstat()["nr_unevictable"] == marked


def test_shm_lock_keeps_munlocked_pages_unevictable() -> None:
    s = System("6.1", check=True)
    file = s.create_file("tmpfs", 4)
    p = s.spawn()
    s.mmap(p, AT, 4 * PAGE, 3, 0x11, file, 0)
    s.mlock(p, AT, 4 * PAGE)
    s.shm_lock(p, file)
    s.munlock(p, AT, 4 * PAGE)
    s.drain_all()
    assert s.vmstat()["nr_mlock"] == 0 and s.vmstat()["nr_unevictable"] == 4 and event(s, "rescued") == 0


def test_limits() -> None:
    s = System("6.1")
    small, large, disk = s.create_file("tmpfs", 4), s.create_file("tmpfs", 5), s.create_file("ext4", 1)
    p = s.spawn()
    s.set_rlimit_memlock(p, 8 * PAGE)
    s.setuid(p, 1000)
    assert s.shm_lock(p, small) == (0, 0) and s.shm_lock(p, large) == (-1, errno.ENOMEM)
    s.shm_unlock(p, small)
    assert s.shm_lock(p, large) == (0, 0) and s.shm_lock(p, disk) == (-1, errno.EINVAL)
    s.set_rlimit_memlock(p, 0)
    assert s.shm_lock(p, small) == (-1, errno.EPERM)


def test_msync() -> None:
    s = System("6.1", check=True)
    file, disk = s.create_file("tmpfs", 8), s.create_file("ext4", 8)
    p = s.spawn()
    s.mmap(p, AT, 4 * PAGE, 3, 0x11, file, 0)
    s.mmap(p, AT + 6 * PAGE, 2 * PAGE, 3, 0x11, disk, 0)
    assert s.msync(p, AT, 4 * PAGE, 4) == (0, 0) == s.msync(p, AT, 0, 1)
    assert s.msync(p, AT, 8 * PAGE, 1) == (-1, errno.ENOMEM)            # a hole
    assert s.msync(p, AT, PAGE, 5) == s.msync(p, AT + 1, PAGE, 4) == s.msync(p, AT, PAGE, 8) == (-1, errno.EINVAL)
    s.mlock(p, AT, PAGE)
    assert s.msync(p, AT, PAGE, 2) == (-1, errno.EBUSY) and s.msync(p, AT + PAGE, PAGE, 2) == (0, 0)
    s.touch(p, AT + 6 * PAGE, 1, True)
    s.mmap(p, AT + 9 * PAGE, PAGE, 3, 0x32, None, 0)
    s.touch(p, AT + 9 * PAGE, 1, True)
    assert "D" in s.page(s.cached(disk, 0))[1]
    listed = s.vmstat()["nr_inactive_anon"]
    assert s.msync(p, AT + 6 * PAGE, PAGE, 4) == (0, 0)                 # written, which drains the cpu
    assert "D" not in s.page(s.cached(disk, 0))[1] and s.vmstat()["nr_inactive_anon"] == listed + 1
    s.touch(p, AT + 6 * PAGE, 1, True)                                  # a fault again
    assert "D" in s.page(s.cached(disk, 0))[1]


def test_a_segment_is_locked_by_its_owner() -> None:
    for model in (System, ReferenceSystem):
        s = model("6.1")
        mine, other = s.create_file("shm", 4, owner=1000), s.create_file("shm", 4)
        p, root = s.spawn(), s.spawn()
        s.set_rlimit_memlock(p, 6 * PAGE)
        s.setuid(p, 1000)
        assert s.shm_lock(p, other) == s.shm_unlock(p, other) == (-1, errno.EPERM)
        assert s.shm_lock(p, mine) == (0, 0) and s.mmap(p, AT, 6 * PAGE, 3, 0x32, None, 0) == (AT, 0)
        assert s.mlock(p, AT, 6 * PAGE) == (0, 0)                       # that account is the process's
        assert s.shm_unlock(p, mine) == (0, 0) == s.shm_lock(root, mine)
        s.set_rlimit_memlock(p, 3 * PAGE)
        assert s.shm_unlock(p, mine) == (0, 0) and s.shm_lock(p, mine) == (-1, errno.ENOMEM)
        s.set_rlimit_memlock(p, 0)
        assert s.shm_lock(p, mine) == (-1, errno.EPERM)


def test_mmap_finds_a_place() -> None:
    s = System("6.1", check=True)
    p = s.spawn()
    first, _ = s.mmap(p, 0, 4 * PAGE, 3, 0x22, None, 0)
    second, _ = s.mmap(p, 0, 2 * PAGE, 3, 0x22, None, 0)
    assert second == first - 2 * PAGE and len(s.vmas(p)) == 1          # below it, and merged with it
    assert s.mmap(p, AT + 5, PAGE, 3, 0x22, None, 0) == (AT, 0)       # a hint
    assert s.mmap(p, AT, PAGE, 3, 0x22, None, 0)[0] == second - PAGE  # one that is taken
    s.munmap(p, first, PAGE)
    assert s.mmap(p, 0, PAGE, 1, 0x22, None, 0)[0] == first           # the highest gap that fits
