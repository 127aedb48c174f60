"""The running kernel under the protocol of `fastmlock.scenario.system.SystemUnderTest`."""
from __future__ import annotations

import ctypes
import os
import resource
import struct
from contextlib import suppress
from errno import EIO

from fastmlock import kernels
from fastmlock.scenario.observe import COUNTERS
from fastmlock.scenario.system import HEAP, MAP_FIXED, MAP_SHARED, PAGE_SIZE, PROT_READ, NotSupported

from . import layout, proc
from .machine import Machine
from .worker import OP_SYSCALL, OP_TOUCH, Worker, WorkerGone

SYS = {"mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "pread64": 17, "pwrite64": 18, "mremap": 25, "msync": 26,
       "mincore": 27, "madvise": 28, "shmget": 29, "shmat": 30, "shmctl": 31, "fsync": 74, "ftruncate": 77,
       "setresuid": 117, "setresgid": 119, "mlock": 149, "munlock": 150, "mlockall": 151, "munlockall": 152,
       "setrlimit": 160, "remap_file_pages": 216, "fadvise64": 221, "exit_group": 231, "move_pages": 279,
       "fallocate": 285, "mlock2": 325}
"""x86-64 numbers of the system calls that a worker makes."""
RLIMIT_MEMLOCK, MADV_WILLNEED, MADV_PAGEOUT, POSIX_FADV_DONTNEED = 8, 3, 21, 4
PUNCH_HOLE_KEEP_SIZE, MPOL_MF_MOVE = 3, 2
IPC_CREAT, IPC_RMID, IPC_SET, SHM_LOCK, SHM_UNLOCK = 0o1000, 0, 1, 11, 12
SYS_PROCESS_MRELEASE = 448
STACK_LIMIT = 8 << 20
OBSERVERS = 0x20000000000
"""Where the controller maps the files that it watches with mincore(), which neither touches nor counts them."""
OBSERVER_STEP = 0x10000000
SEGMENTS = 0x40000000000
"""Where the controller has its segments of shared memory attached, untouched, so that they go when it does."""
UNKNOWN_PFN = -1
_libc = ctypes.CDLL(None)


class LiveSystem:
    """One run of a scenario on the kernel of `machine`. Close it, or use it as a context manager.

    Processes are real; the numbers given out for them are their real process ids. The protocol's methods raise
    `NotSupported` for what is not done on a live machine, and OSError where /proc refuses.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.cpus = 2
        self.worker_cpu, self.controller_cpu = 0, 1
        self._real_cpu = (machine.worker_cpu, machine.controller_cpu)
        traits = kernels.get(machine.model)
        self.smaps_shows_lf = bool(traits.smaps_lf)
        self._limit = traits.rlimit_memlock
        self._workers: dict[int, Worker] = {}
        self._hard: dict[int, int] = {}                # RLIMIT_MEMLOCK by process, in bytes
        self._files: list[tuple[int, int]] = []        # descriptor, pages at its creation
        self._segments: dict[int, int] = {}            # file -> id of the segment
        self._pagemaps: dict[int, proc.Pagemap] = {}
        self._in_cache: dict[int, bytes] = {}
        try:
            self._controller = self._workers.pop(self.spawn(cpu=self.controller_cpu))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LiveSystem:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all processes and gives back all files; may be called twice."""
        self._forget()
        workers = [*self._workers.values(), *([self._controller] if hasattr(self, "_controller") else [])]
        self._workers.clear()
        for worker in workers:
            if worker.pidfd >= 0:
                worker.kill()
        for worker in workers:
            if worker.pidfd >= 0:
                worker.wait()
        for fd, _ in self._files:
            os.close(fd)
        self._files = []

    # ------------------------------------------------------------ calls

    def _forget(self) -> None:
        """What was seen is no longer true."""
        for pagemap in self._pagemaps.values():
            pagemap.close()
        self._pagemaps.clear()
        self._in_cache.clear()

    def _raw(self, worker: Worker, name: str, *args: int, data: bytes = b"", fd: int | None = None, fd_arg: int = 0,
             answer: int = 0) -> tuple[int, bytes]:
        self._forget()
        ret, _, out = worker.request(OP_SYSCALL, SYS[name], args, data=data, fd=fd, fd_arg=fd_arg, answer=answer)
        return ret, out

    def _call(self, pid: int, name: str, *args: int, data: bytes = b"", fd: int | None = None,
              fd_arg: int = 0) -> tuple[int, int]:
        """A system call of a process -> (ret, errno); ESRCH if the process did not live to answer."""
        try:
            return _answer(self._raw(self._workers[pid], name, *args, data=data, fd=fd, fd_arg=fd_arg)[0])
        except WorkerGone:
            self._reap(pid)
            return -1, 3

    def _control(self, name: str, *args: int, data: bytes = b"", fd: int | None = None) -> tuple[int, int]:
        return _answer(self._raw(self._controller, name, *args, data=data, fd=fd)[0])

    # ------------------------------------------------------------ processes

    def spawn(self, *, cpu: int = 0) -> int:
        worker = Worker.start()
        self._workers[worker.pid] = worker
        os.sched_setaffinity(worker.pid, {self._real_cpu[cpu]})
        worker.request(OP_TOUCH, 0, (0, 0, 0))         # it has laid itself out
        with suppress(ValueError, OSError):
            resource.prlimit(worker.pid, resource.RLIMIT_STACK, (STACK_LIMIT, STACK_LIMIT))
        soft, hard = resource.prlimit(worker.pid, resource.RLIMIT_MEMLOCK)
        if (soft, hard) != (self._limit, self._limit):
            limit = self._limit if self.machine.root or hard < 0 else min(self._limit, hard)
            with suppress(ValueError, OSError):
                resource.prlimit(worker.pid, resource.RLIMIT_MEMLOCK, (limit, limit))
        self._hard[worker.pid] = resource.prlimit(worker.pid, resource.RLIMIT_MEMLOCK)[1] & 2**64 - 1
        return worker.pid

    def fork(self, pid: int) -> int:
        self._forget()
        child = self._workers[pid].fork()
        self._workers[child.pid] = child
        self._hard[child.pid] = self._hard[pid]
        return child.pid

    def exit(self, pid: int) -> None:
        self._forget()
        worker = self._workers[pid]
        with suppress(WorkerGone):
            worker.request(OP_SYSCALL, SYS["exit_group"], (0,))
        self._reap(pid)

    def _reap(self, pid: int) -> None:
        self._workers.pop(pid).wait()

    def alive(self, pid: int) -> bool:
        if pid in self._workers and self._workers[pid].ended():
            self._reap(pid)
        return pid in self._workers

    def exec(self, pid: int) -> None:
        self._forget()
        self._workers[pid].exec()

    def set_cpu(self, pid: int, cpu: int) -> None:
        os.sched_setaffinity(pid, {self._real_cpu[cpu]})

    def set_rlimit_memlock(self, pid: int, limit_bytes: int) -> tuple[int, int]:
        if not self.machine.can_raise and limit_bytes > self._hard[pid]:
            raise NotSupported("a higher RLIMIT_MEMLOCK on a live machine without CAP_SYS_RESOURCE")
        limits = struct.pack("=2Q", limit_bytes, limit_bytes)
        ret, err = self._call(pid, "setrlimit", RLIMIT_MEMLOCK, layout.DATA, data=limits)
        if not err:
            self._hard[pid] = limit_bytes
        return ret, err

    def setuid(self, pid: int, uid: int) -> tuple[int, int]:
        ret, err = self._call(pid, "setresgid", uid, uid, uid)
        return (ret, err) if err else self._call(pid, "setresuid", uid, uid, uid)

    # ------------------------------------------------------------ system calls

    def mmap(self, pid: int, addr: int, length: int, prot: int, flags: int, file: int | None,
             offset: int) -> tuple[int, int]:
        """The file is opened anew, as a process would: neighbours mapped through one open file would merge."""
        if file is None:
            return self._call(pid, "mmap", addr, length, prot, flags, -1, offset)
        fd = os.open(f"/proc/self/fd/{self._files[file][0]}", os.O_RDWR)
        try:
            return self._call(pid, "mmap", addr, length, prot, flags, -1, offset, fd=fd, fd_arg=4)
        finally:
            os.close(fd)

    def brk(self, pid: int, addr: int) -> tuple[int, int]:
        if self._call(pid, "brk", 0)[0] < HEAP:
            raise NotSupported("a heap on a live machine where prctl(PR_SET_MM_MAP) is refused")
        return self._call(pid, "brk", addr)

    def remap_file_pages(self, pid: int, addr: int, length: int, prot: int, pgoff: int, flags: int) -> tuple[int, int]:
        return self._call(pid, "remap_file_pages", addr, length, prot, pgoff, flags)

    def peek(self, pid: int, addr: int, write: bool) -> tuple[int, int]:
        fd = os.open(f"/proc/{pid}/mem", os.O_RDWR)
        try:
            if addr >= 1 << 63:
                return -1, EIO
            return self._control("pwrite64" if write else "pread64", 0, layout.DATA, 1, addr, data=b"\0", fd=fd)
        finally:
            os.close(fd)

    def munmap(self, pid: int, addr: int, length: int) -> tuple[int, int]:
        return self._call(pid, "munmap", addr, length)

    def mremap(self, pid: int, addr: int, old_len: int, new_len: int, flags: int, new_addr: int) -> tuple[int, int]:
        return self._call(pid, "mremap", addr, old_len, new_len, flags, new_addr)

    def mprotect(self, pid: int, addr: int, length: int, prot: int) -> tuple[int, int]:
        return self._call(pid, "mprotect", addr, length, prot)

    def madvise(self, pid: int, addr: int, length: int, advice: int) -> tuple[int, int]:
        if advice == MADV_PAGEOUT and self.machine.swap:
            raise NotSupported("pageout on a live machine with swap")
        return self._call(pid, "madvise", addr, length, advice)

    def msync(self, pid: int, addr: int, length: int, flags: int) -> tuple[int, int]:
        return self._call(pid, "msync", addr, length, flags)

    def mlock(self, pid: int, addr: int, length: int) -> tuple[int, int]:
        return self._call(pid, "mlock", addr, length)

    def mlock2(self, pid: int, addr: int, length: int, flags: int) -> tuple[int, int]:
        return self._call(pid, "mlock2", addr, length, flags)

    def munlock(self, pid: int, addr: int, length: int) -> tuple[int, int]:
        return self._call(pid, "munlock", addr, length)

    def mlockall(self, pid: int, flags: int) -> tuple[int, int]:
        return self._call(pid, "mlockall", flags)

    def munlockall(self, pid: int) -> tuple[int, int]:
        return self._call(pid, "munlockall")

    def touch(self, pid: int, addr: int, pages: int, write: bool) -> tuple[int, int]:
        self._forget()
        done, signal, _ = self._workers[pid].request(OP_TOUCH, 0, (addr, pages, int(write)))
        return done, signal

    def move_pages(self, pid: int, addr: int) -> tuple[int, int]:
        return self._move_pages(self._workers[pid], addr)

    def _move_pages(self, worker: Worker, addr: int) -> tuple[int, int]:
        data = struct.pack("=QiiI", addr, 0, -999, 0)
        ret, out = self._raw(worker, "move_pages", 0, 1, layout.DATA, layout.DATA + 8, layout.DATA + 12, MPOL_MF_MOVE,
                             data=data, answer=16)
        return _answer(ret) if ret < 0 else (struct.unpack_from("=i", out, 12)[0], 0)

    def local_drain(self, pid: int) -> tuple[int, int]:
        return self._call(pid, "madvise", layout.DRAIN, PAGE_SIZE, MADV_WILLNEED)

    # ------------------------------------------------------------ the controller

    def create_file(self, fs: str, pages: int, *, sparse: bool = False, owner: int = 0, huge: bool = False) -> int:
        if huge:
            raise NotSupported("huge pages of files on the running kernel")
        if fs == "hugetlb":
            raise NotSupported("a file on hugetlbfs on the running kernel")
        number = len(self._files)
        fd = self._open_segment(number, pages, owner) if fs == "shm" else self.machine.open_file(fs, pages)
        self._files.append((fd, pages))
        if fs != "shm":
            os.fchmod(fd, 0o666)
        if sparse and fs != "shm":
            self._control("ftruncate", 0, pages * PAGE_SIZE, fd=fd)
        elif sparse:
            pass
        else:
            self.pwrite(number, 0, pages)
            if fs == "ext4":
                self._control("fsync", 0, fd=fd)
        ret, _ = self._raw(self._controller, "mmap", OBSERVERS + number * OBSERVER_STEP, max(pages, 1) * PAGE_SIZE,
                           PROT_READ, MAP_SHARED | MAP_FIXED, -1, 0, fd=fd, fd_arg=4)
        if ret < 0:
            raise OSError(-ret, os.strerror(-ret))
        self.drain_all()
        return number

    def _open_segment(self, number: int, pages: int, owner: int) -> int:
        """A segment that nobody can find and that goes with the controller; its file, by the mapping of it."""
        self.machine.can_have_segments()
        def control(name: str, *args: int, data: bytes = b"") -> int:
            ret, err = self._control(name, *args, data=data)
            if err:
                raise OSError(err, os.strerror(err))
            return ret
        segment, at = control("shmget", 0, pages * PAGE_SIZE, IPC_CREAT | 0o666), SEGMENTS + number * OBSERVER_STEP
        try:
            control("shmat", segment, at, 0)
            if owner:
                of_owner = struct.pack("=6I88x", 0, owner, owner, 0, 0, 0o666)      # struct shmid64_ds
                control("shmctl", segment, IPC_SET, layout.DATA, data=of_owner)
        finally:
            control("shmctl", segment, IPC_RMID, 0)
        self._segments[number] = segment
        return os.open(f"/proc/{self._controller.pid}/map_files/{at:x}-{at + pages * PAGE_SIZE:x}", os.O_RDWR)

    def shm_lock(self, pid: int, file: int) -> tuple[int, int]:
        return self._call(pid, "shmctl", self._segments[file], SHM_LOCK, 0)

    def shm_unlock(self, pid: int, file: int) -> tuple[int, int]:
        return self._call(pid, "shmctl", self._segments[file], SHM_UNLOCK, 0)

    def ksm(self, run: int) -> tuple[int, int]:
        self._forget()
        self.machine.ksm(run)
        self.drain_all()
        return 0, 0

    def oom_kill(self, pid: int) -> None:
        """SIGKILL, and process_mrelease(), which is the OOM reaper called by hand."""
        self._forget()
        worker = self._workers[pid]
        worker.kill()
        _libc.syscall(SYS_PROCESS_MRELEASE, worker.pidfd, 0)
        self._reap(pid)

    def drain_all(self) -> None:
        self._move_pages(self._controller, layout.DATA)

    def truncate(self, file: int, pages: int) -> tuple[int, int]:
        return self._control("ftruncate", 0, pages * PAGE_SIZE, fd=self._files[file][0])

    def punch(self, file: int, offset: int, pages: int) -> tuple[int, int]:
        return self._control("fallocate", 0, PUNCH_HOLE_KEEP_SIZE, offset * PAGE_SIZE, pages * PAGE_SIZE,
                             fd=self._files[file][0])

    def fadvise_dontneed(self, file: int, offset: int, pages: int) -> tuple[int, int]:
        return self._control("fadvise64", 0, offset * PAGE_SIZE, pages * PAGE_SIZE, POSIX_FADV_DONTNEED,
                             fd=self._files[file][0])

    def pwrite(self, file: int, offset: int, pages: int) -> tuple[int, int]:
        return self._each_page("pwrite64", file, offset, pages)

    def pread(self, file: int, offset: int, pages: int) -> tuple[int, int]:
        return self._each_page("pread64", file, offset, pages)

    def _each_page(self, name: str, file: int, offset: int, pages: int) -> tuple[int, int]:
        answer = 0, 0
        for index in range(offset, offset + pages):
            answer = self._control(name, 0, layout.DATA, PAGE_SIZE, index * PAGE_SIZE, fd=self._files[file][0])
        return answer

    def compact(self) -> tuple[int, int]:
        return self.sysctl("/proc/sys/vm/compact_memory", "1")

    def drop_caches(self, what: int) -> tuple[int, int]:
        return self.sysctl("/proc/sys/vm/drop_caches", str(what))

    def sysctl(self, path: str, value: str) -> tuple[int, int]:
        self._forget()
        err = self.machine.write_sysctl(path, value)
        return (-1 if err else 0), err

    # ------------------------------------------------------------ what can be seen

    def vmstat(self) -> dict[str, int]:
        """The machine's counters; without root those that are exact without folding, the events."""
        names = COUNTERS if self.machine.refresh else tuple(name for name in COUNTERS if "_pgs_" in name)
        return proc.vmstat(names, refresh=self.machine.refresh)

    def vm_lck(self, pid: int) -> int:
        return proc.status_kb(pid, "VmLck")

    def vmas(self, pid: int) -> list[tuple[int, int, int, int, int]]:
        return proc.smaps(pid)

    def pte(self, pid: int, addr: int) -> tuple[str, int]:
        if pid not in self._pagemaps:
            self._pagemaps[pid] = proc.Pagemap(pid)
        return proc.pte_of(self._pagemaps[pid].entry(addr))

    def page(self, pfn: int) -> tuple[int, str, int]:
        """Without root: nothing is known, (-1, "", -1)."""
        return self.machine.frames.page(pfn) if self.machine.frames.usable else (-1, "", -1)

    def file_pages(self, file: int) -> int:
        return os.fstat(self._files[file][0]).st_size // PAGE_SIZE

    def cached(self, file: int, index: int) -> int:
        """`UNKNOWN_PFN` for a page in the page cache: only a mapping shows where it lies."""
        known = self._in_cache.get(file)
        if known is None:
            pages = max(self._files[file][1], 1)
            ret, known = self._raw(self._controller, "mincore", OBSERVERS + file * OBSERVER_STEP, pages * PAGE_SIZE,
                                   layout.DATA, answer=pages)
            if ret < 0:
                raise OSError(-ret, os.strerror(-ret))
            self._in_cache[file] = known
        return UNKNOWN_PFN if index < len(known) and known[index] & 1 else 0


def _answer(ret: int) -> tuple[int, int]:
    return (-1, -ret) if -4096 < ret < 0 else (ret, 0)
