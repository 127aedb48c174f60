"""Times the running kernel's own operations, per page, through ctypes. Needs no privilege: it stays below 4 MiB."""
from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PAGE = mmap.PAGESIZE
PAGES = 768
MADV_NOHUGEPAGE = 15

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
for _name in ("mlock", "munlock", "munmap"):
    getattr(_libc, _name).argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
MADV_COLD = 20
MADV_POPULATE_READ = 22
LRU_GEN = Path("/sys/kernel/mm/lru_gen/enabled")
#: of two processes that lock the same file at once, each from another moment on
MEETINGS = 12


class MeasureError(OSError):
    """The kernel refused an operation; the text is one line."""


@dataclass(frozen=True)
class Measured:
    """One operation, ns per page (or per call): the lower quartile, since noise only adds; of what two CPUs do at once
    the median over many meetings, since it depends on how they meet. And the 10th and 90th percentile of the
    repetitions."""

    ns: float
    low_ns: float
    high_ns: float
    repetitions: int

    @classmethod
    def of(cls, samples: list[float], quantile: float = 0.25) -> Measured:
        low, ns, high = np.quantile(samples, [0.1, quantile, 0.9])
        return cls(float(ns), float(low), float(high), len(samples))


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise MeasureError(number, f"{what}: {os.strerror(number)}")


def _map(fd: int = -1) -> int:
    flags = mmap.MAP_SHARED if fd >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address = _libc.mmap(None, PAGES * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise MeasureError(ctypes.get_errno(), "mmap")
    _libc.madvise(address, PAGES * PAGE, MADV_NOHUGEPAGE)
    return int(address)


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - begin) / PAGES


def _touch(address: int) -> None:
    """Writes a byte of each page from user mode, one fault each, without Python's own time for each page."""
    view = (ctypes.c_char * (PAGES * PAGE)).from_address(address)
    np.frombuffer(memoryview(view), np.uint8)[::PAGE] = 1


def measure(repetitions: int = 25, cpu: int | None = None) -> dict[str, Measured]:
    """All operations on one CPU, and the shared ones on two if this process may use two. Keys: syscall, fault_shared,
    fault_anon, unmap_anon, populate (MADV_POPULATE_READ of pages that are there and active), deactivate (not where LRU
    lists have generations instead), mlock_anon, munlock_anon, mlock_shared, munlock_shared, and with two CPUs
    mlock_shared_2 and munlock_shared_2. Raises MeasureError."""
    allowed = sorted(os.sched_getaffinity(0))
    cpus = [allowed[0] if cpu is None else cpu, *(c for c in allowed if c != (allowed[0] if cpu is None else cpu))]
    try:
        os.sched_setaffinity(0, {cpus[0]})
        samples: dict[str, list[float]] = {}
        two_lists = not LRU_GEN.exists() or int(LRU_GEN.read_text(), 16) == 0
        fd = os.memfd_create("fastmlock-calibrate")
        try:
            os.ftruncate(fd, PAGES * PAGE)
            keep = _map(fd)
            _touch(keep)                                        # so that the page cache has them all
            for warm in range(-3, repetitions):
                found = _round(fd)
                if two_lists:
                    found["deactivate"] = _deactivate()
                for name, ns in found.items():
                    if warm >= 0:
                        samples.setdefault(name, []).append(ns)
            _libc.munmap(keep, PAGES * PAGE)
            if len(cpus) > 1:
                samples.update(_two(fd, cpus[1], repetitions))
        finally:
            os.close(fd)
    finally:
        os.sched_setaffinity(0, set(allowed))
    return {name: Measured.of(values, 0.5 if name.endswith("_2") else 0.25) for name, values in samples.items()}


def _lock_both(address: int, prefix: str) -> dict[str, float]:
    size = PAGES * PAGE
    return {f"mlock_{prefix}": _timed(lambda: _check(_libc.mlock(address, size), "mlock")),
            f"munlock_{prefix}": _timed(lambda: _check(_libc.munlock(address, size), "munlock"))}


def _round(fd: int) -> dict[str, float]:
    out = {}
    begin = time.perf_counter_ns()
    for _ in range(200):
        os.getppid()
    out["syscall"] = (time.perf_counter_ns() - begin) / 200
    address = _map()
    out["fault_anon"] = _timed(lambda: _touch(address))
    out.update(_lock_both(address, "anon"))
    out["unmap_anon"] = _timed(lambda: _libc.munmap(address, PAGES * PAGE))
    address = _map(fd)
    out["fault_shared"] = _timed(lambda: _touch(address))
    out["populate"] = _timed(lambda: _check(_libc.madvise(address, PAGES * PAGE, MADV_POPULATE_READ), "MADV_POPULATE"))
    out.update(_lock_both(address, "shared"))
    _libc.munmap(address, PAGES * PAGE)
    return out


def _deactivate() -> float:
    """MADV_COLD of active pages, less that of the same pages when it finds them inactive: what moving a page from one
    LRU list to another takes. Before, their entries lose the young bit, and three looks make them active again."""
    address = _map()
    _touch(address)

    def advise(advice: int) -> float:
        return _timed(lambda: _check(_libc.madvise(address, PAGES * PAGE, advice), "madvise"))

    for advice in (MADV_COLD, MADV_POPULATE_READ, MADV_POPULATE_READ, MADV_POPULATE_READ):
        advise(advice)
    out = advise(MADV_COLD) - advise(MADV_COLD)
    _libc.munmap(address, PAGES * PAGE)
    return out


def _two(fd: int, other: int, repetitions: int) -> dict[str, list[float]]:
    """`_meeting` several times, since two loops of one length keep the distance at which they have met."""
    samples: dict[str, list[float]] = {}
    for _ in range(MEETINGS):
        for name, ns in _meeting(fd, other, repetitions).items():
            samples.setdefault(name, []).extend(ns)
    return samples


def _meeting(fd: int, other: int, repetitions: int) -> dict[str, list[float]]:
    """The same file locked and unlocked by another process on another CPU in a loop meanwhile. Only rounds count in
    which the other got through one of its own, so that a busy machine does not pass for an idle second CPU."""
    counter = mmap.mmap(-1, PAGE)
    progress = np.frombuffer(counter, np.int64)
    address = _map(fd)
    _touch(address)
    size = PAGES * PAGE
    child = os.fork()
    if child == 0:
        try:
            os.sched_setaffinity(0, {other})
            mine = _map(fd)
            _touch(mine)
            stop = time.monotonic() + 20
            while time.monotonic() < stop and os.getppid() != 1:
                _libc.mlock(mine, size)
                _libc.munlock(mine, size)
                progress[0] += 1
        finally:
            os._exit(0)
    samples: dict[str, list[float]] = {}
    try:
        time.sleep(0.05)
        for _ in range(40 * repetitions):
            before = int(progress[0])
            found = _lock_both(address, "shared_2")
            if progress[0] > before:
                for name, ns in found.items():
                    samples.setdefault(name, []).append(ns)
            if len(samples.get("mlock_shared_2", ())) == repetitions:
                break
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        _libc.munmap(address, size)
    return samples if len(samples.get("mlock_shared_2", ())) == repetitions else {}
