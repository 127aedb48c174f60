"""The right to run scenarios on this machine's kernel: what must hold first, and what is to be put back after."""
from __future__ import annotations

import ctypes
import os
import platform
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress

from fastmlock import kernels
from fastmlock.scenario.system import PAGE_SIZE, NotSupported

from .build import worker_fd
from .errors import LiveError
from .proc import STAT_REFRESH, Frames

MIB = 1 << 20
MEMORY_WANTED = 256 * MIB
"""Available bytes below which nothing is run: a scenario locks at most a few MiB, and others must not feel it."""
BUSY, BUSY_SECONDS = 0.1, 0.5
EXT4_MAGIC = 0xEF53
READ_AHEAD_KB = 128
"""How far the model reads ahead: the kernel's default."""
KSM, KSM_SCANS = "/sys/kernel/mm/ksm", 6
CAP_IPC_LOCK, CAP_SYS_RESOURCE = 14, 24
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 1, 6
_libc = ctypes.CDLL(None, use_errno=True)


class Machine:
    """Holds the running kernel for scenarios, one after another: ``with Machine() as machine: LiveSystem(machine)``.

    Parameters
    ----------
    disturb : bool
        allow what touches the whole machine: compact, dropcaches, sysctl (its values are put back at the end)

    Raises
    ------
    LiveError
        where the kernel cannot be used, or where using it could harm
    """

    def __init__(self, *, disturb: bool = False) -> None:
        self.disturb = disturb
        for reason in _wrong_machine():
            raise LiveError(reason)
        self._lock = _machine_lock()
        for reason in obstacles():
            self._lock.close()
            raise LiveError(reason)
        self._affinity = os.sched_getaffinity(0)
        self._sysctls: dict[str, str] = {}
        self.frames = Frames()
        self.tmpfs: int | None = None
        try:
            self.root = os.geteuid() == 0
            self.can_lock, self.can_raise = _capability(CAP_IPC_LOCK), _capability(CAP_SYS_RESOURCE)
            self.release = platform.release()
            cpus = sorted(self._affinity)
            self.worker_cpu, self.controller_cpu = cpus[0], cpus[1 % len(cpus)]
            self.refresh = os.access(STAT_REFRESH, os.W_OK) and self.root
            self.swap = _swap_is_on()
            self.tmpfs = _detached_tmpfs() if self.root else None
            folder = tempfile.gettempdir()
            self.ext4 = folder if _filesystem(folder) == EXT4_MAGIC else None
            self.read_ahead_kb = _read_ahead_kb(folder)
            worker_fd()
            # the observer's own page faults shall not fill the batches of the workers' cpu
            os.sched_setaffinity(0, set(cpus[2:]) or {self.controller_cpu})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Puts everything back; may be called twice."""
        for path, value in self._sysctls.items():
            with suppress(OSError):
                _write(path, value)
        self._sysctls.clear()
        self.frames.close()
        if self.tmpfs is not None:
            os.close(self.tmpfs)
            self.tmpfs = None
        os.sched_setaffinity(0, self._affinity)
        self._lock.close()

    # ---- files: none of them has a name, so that nothing can stay behind

    def open_file(self, fs: str, pages: int) -> int:
        """A descriptor of an empty file. Raises `NotSupported` where the machine has no such file system."""
        if fs == "ext4":
            if self.ext4 is None:
                raise NotSupported(f"a file on ext4: {tempfile.gettempdir()} is on another file system")
            return os.open(self.ext4, os.O_TMPFILE | os.O_RDWR, 0o666)
        if self.tmpfs is not None:
            return os.open(".", os.O_TMPFILE | os.O_RDWR, 0o666, dir_fd=self.tmpfs)
        if _memfd_is_huge():
            raise NotSupported("a tmpfs file without root where shmem_enabled gives huge pages")
        return os.memfd_create("fastmlock")

    def can_have_segments(self) -> None:
        """Raises `NotSupported` where a segment of shared memory cannot be made, or not with small pages."""
        if not self.root:
            raise NotSupported("a segment of shared memory on a live machine without root")
        if _memfd_is_huge():
            raise NotSupported("a segment of shared memory where shmem_enabled gives huge pages")

    # ---- what touches the whole machine

    def write_sysctl(self, path: str, value: str) -> int:
        """-> errno. Raises `NotSupported` unless the machine was opened with `disturb`."""
        if path == STAT_REFRESH and self.refresh:
            _write(path, value)
            return 0
        if not self.disturb:
            raise NotSupported(f"{path} on a live machine, which disturbs all its programs (--disturb allows it)")
        if not path.startswith("/proc/sys/vm/") or ".." in path:
            raise NotSupported(f"sysctl {path}: only those of /proc/sys/vm/")
        try:
            if path not in self._sysctls and path.rpartition("/")[2] not in ("compact_memory", "drop_caches"):
                with open(path) as stream:
                    self._sysctls[path] = stream.read()
            _write(path, value)
        except OSError as error:
            return error.errno or 1
        return 0

    def ksm(self, run: int) -> None:
        """Lets ksmd scan until it has met every page often enough, or unmerges. NotSupported without `disturb`,
        and where other programs (an emulator, say) have memory that would be merged too."""
        if any(_is_mergeable(folder) for folder in os.listdir("/proc") if folder.isdigit()):
            raise NotSupported("ksm on a live machine where other programs have mergeable memory")
        if not self.disturb or not os.access(f"{KSM}/run", os.W_OK):
            raise NotSupported("ksm on a live machine, which disturbs all of it (--disturb allows it, for root)")
        for name, value in (("pages_to_scan", "100000"), ("sleep_millisecs", "0"), ("smart_scan", "0"),
                            ("use_zero_pages", "0"), ("run", "0")):
            path = f"{KSM}/{name}"
            if os.path.exists(path):
                if path not in self._sysctls:
                    with open(path) as stream:
                        self._sysctls[path] = stream.read()
                _write(path, value)
        _write(f"{KSM}/run", str(run))
        if run == 1:
            def scans() -> int:
                return _number(f"{KSM}/full_scans")
            until = scans() + KSM_SCANS
            while scans() < until:
                time.sleep(0.002)
        _write(f"{KSM}/run", "0")

    # ---- what it is, and what cannot be seen

    def disturbed(self) -> bool:
        """Whether the workers' cpu was busy for more than `BUSY` of `BUSY_SECONDS` while no scenario ran on it."""
        before = _busy_ticks(self.worker_cpu)
        time.sleep(BUSY_SECONDS)
        return (_busy_ticks(self.worker_cpu) - before) / os.sysconf("SC_CLK_TCK") > BUSY * BUSY_SECONDS

    @property
    def model(self) -> str:
        """The model's release for this kernel: its own, or the newest that is not newer."""
        return model_release(self.release)

    def blind(self) -> Iterator[str]:
        """What could not be looked at here, one line each."""
        if not self.frames.usable:
            yield "flags and mapcounts of pages: /proc/kpageflags and /proc/kpagecount need root"
        if not self.refresh:
            yield "nr_mlock, nr_unevictable, list sizes: exact only after /proc/sys/vm/stat_refresh, which needs root"
        if not self.can_lock:
            yield "processes with CAP_IPC_LOCK: this one has it not, so none of them starts with it"
        if not self.can_raise:
            yield "RLIMIT_MEMLOCK above its hard limit: that needs CAP_SYS_RESOURCE"
        yield "mlock_count: the kernel shows it nowhere"
        if self.ext4 is None:
            yield "files on ext4: the temporary folder is on another file system"
        elif self.read_ahead_kb != READ_AHEAD_KB:
            yield (f"what reading a file on ext4 brings in: its device reads {self.read_ahead_kb} KiB ahead, the model "
                   f"{READ_AHEAD_KB} (/sys/class/bdi/*/read_ahead_kb)")
        if not self.disturb:
            yield "compact, dropcaches, sysctl: they disturb the whole machine (--disturb allows them)"
        if self.swap:
            yield "pageout: swap is on, and how much is swapped is not the scenario's"


def _read_ahead_kb(folder: str) -> int:
    """Of the device that a folder is on; 0 where that is not said."""
    device = os.stat(folder).st_dev
    try:
        with open(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb") as stream:
            return int(stream.read())
    except (OSError, ValueError):
        return 0


def _wrong_machine() -> Iterator[str]:
    """Why no scenario can run here at all."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        yield f"the worker processes need Linux on x86-64, not {sys.platform} on {platform.machine()}"
        return
    if os.sysconf("SC_PAGESIZE") != PAGE_SIZE:
        yield f"pages have {os.sysconf('SC_PAGESIZE')} bytes here, not {PAGE_SIZE}"


def obstacles() -> Iterator[str]:
    """Why scenarios should not run here, one line each; nothing if they may."""
    if len(os.sched_getaffinity(0)) < 2:
        yield "two cpus are needed, one for the processes and one for who watches them"
    available = _available()
    if available is not None and available < MEMORY_WANTED:
        yield f"only {available // MIB} MiB of memory are available; {MEMORY_WANTED // MIB} are wanted"
    room = _cgroup_room()
    if room is not None and room < MEMORY_WANTED:
        yield f"the control group's memory limit leaves {room // MIB} MiB; {MEMORY_WANTED // MIB} are wanted"
    for name in ("RLIMIT_AS", "RLIMIT_DATA"):
        soft, _ = resource.getrlimit(getattr(resource, name))
        if soft != resource.RLIM_INFINITY and soft < MEMORY_WANTED:
            yield f"{name} is {soft // MIB} MiB; {MEMORY_WANTED // MIB} are wanted"


def model_release(release: str) -> str:
    """"6.18.44-cloud" -> "6.18"; a release the model lacks -> the newest one before it. Raises `LiveError`."""
    def number(name: str) -> tuple[int, int]:
        major, minor = name.split("-")[0].split(".")[:2]
        return int(major), int("".join(ch for ch in minor if ch.isdigit()))
    known = [name for name in kernels.RELEASES if "+" not in name]
    older = [name for name in known if number(name) <= number(release)]
    if not older:
        raise LiveError(f"kernel {release} is older than every release of the model")
    return max(older, key=number)


def _available() -> int | None:
    with suppress(OSError), open("/proc/meminfo") as stream:
        for line in stream:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _cgroup_room() -> int | None:
    """Bytes left under the tightest memory limit of this process's control groups, v1 or v2; None without a limit."""
    room: list[int] = []
    with suppress(OSError), open("/proc/self/cgroup") as stream:
        for line in stream:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if controllers in ("", "memory"):
                base = "/sys/fs/cgroup/memory" if controllers else "/sys/fs/cgroup"
                names = (("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers
                         else ("memory.max", "memory.current"))
                parts = path.strip("/").split("/")
                for depth in range(len(parts) + 1):
                    folder = os.path.join(base, *parts[:depth])
                    with suppress(OSError, ValueError):
                        limit, usage = (_number(os.path.join(folder, name)) for name in names)
                        room.append(limit - usage)
    least = min(room, default=None)
    return None if least is None or least > 1 << 50 else least


def _number(path: str) -> int:
    with open(path) as stream:
        return int(stream.read())       # "max" is none: ValueError


def _busy_ticks(cpu: int) -> int:
    """Clock ticks in which a cpu was neither idle nor waiting for a disk."""
    with open("/proc/stat") as stream:
        for line in stream:
            name, *ticks = line.split()
            if name == f"cpu{cpu}":
                return sum(map(int, ticks[:8])) - int(ticks[3]) - int(ticks[4])
    return 0


def _capability(number: int) -> bool:
    with suppress(OSError), open("/proc/self/status") as stream:
        for line in stream:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _swap_is_on() -> bool:
    with suppress(OSError), open("/proc/swaps") as stream:
        return len(stream.readlines()) > 1
    return False


def _memfd_is_huge() -> bool:
    with suppress(OSError), open("/sys/kernel/mm/transparent_hugepage/shmem_enabled") as stream:
        return any(f"[{word}]" in stream.read() for word in ("always", "within_size", "force"))
    return False


def _is_mergeable(pid: str) -> bool:
    """Whether a process that is no worker has memory for KSM, where the kernel tells (6.16)."""
    with suppress(OSError):
        with open(f"/proc/{pid}/comm") as stream:
            if stream.read() == "fastmlock-work\n":
                return False
        with open(f"/proc/{pid}/ksm_stat") as stream:
            return "ksm_mergeable: yes" in stream.read()
    return False


def _write(path: str, value: str) -> None:
    with open(path, "w") as stream:
        stream.write(value)


def _machine_lock() -> socket.socket:
    """Held by one program of the machine at a time: its counters are the machine's. Ends with the process."""
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lock.bind("\0fastmlock-live")
    except OSError:
        lock.close()
        raise LiveError("another fastmlock is running on this kernel; its counters would mix") from None
    return lock


def _filesystem(folder: str) -> int:
    """The magic number of the file system that `folder` is on, 0 if it cannot be told."""
    buffer = (ctypes.c_long * 32)()
    return int(buffer[0]) if not _libc.statfs(os.fsencode(folder), buffer) else 0


def _detached_tmpfs() -> int | None:
    """A tmpfs without huge pages that is mounted nowhere: it goes when the descriptor is closed. None if refused."""
    def call(number: int, *args: object) -> int:
        return int(_libc.syscall(ctypes.c_long(number), *args))
    context = call(_SYS_FSOPEN, b"tmpfs", 1)
    if context < 0:
        return None
    try:
        for key, value in ((b"huge", b"never"), (b"mode", b"0777")):
            call(_SYS_FSCONFIG, context, _FSCONFIG_SET_STRING, key, value, 0)
        if call(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0):
            return None
        mount = call(_SYS_FSMOUNT, context, 1, 0)
        return mount if mount >= 0 else None
    finally:
        os.close(context)
