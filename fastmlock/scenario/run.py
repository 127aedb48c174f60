"""Runs a scenario on a system and says after each command what it left behind.

The records are the recordings' own: ``for record in run(scenario, system): print(json.dumps(record))``
writes what the recorder would have written on a kernel that does what the system does. The rules that
lie between a command and the system calls it makes (the address of a new region, what mremap does to
the regions, what fork copies, the reply of a process that is dead) are the recorder's.

System calls get addresses and lengths as unsigned 64-bit numbers.
"""
from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from . import commands as c
from . import races
from .image import LIKELIEST, PROCESS_BYTES, Chance, Host, Image
from .language import ScenarioError
from .observe import File, Observer, Region, changes, length
from .system import (
    HEAP, MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MREMAP_FIXED, NotSupported, PAGE_SIZE,
    SystemUnderTest,
)

FIRST_ADDRESS = 0x100000000000
ADDRESS_STEP = 0x10000000
UNSIGNED = 2**64 - 1
ERRNO_NAMES = {**errno.errorcode, errno.EAGAIN: "EAGAIN", errno.EDEADLK: "EDEADLK",
               errno.EOPNOTSUPP: "EOPNOTSUPP"}

Record = dict[str, object]


@dataclass(frozen=True)
class Reply:
    """What a command answered: value, errno (0 for none), signal (0 for none)."""

    ret: int = 0
    err: int = 0
    sig: int = 0


DEAD = Reply(-1, errno.ESRCH)


@dataclass
class _Process:
    pid: int | None = None
    regions: list[Region] = field(default_factory=list)

    def region(self, name: str) -> Region | None:
        return next((region for region in self.regions if region.name == name), None)

    def set_region(self, region: Region) -> int:
        """Puts `region` in place of the one of that name, or at the end; -> its place."""
        for at, old in enumerate(self.regions):
            if old.name == region.name:
                self.regions[at] = region
                return at
        self.regions.append(region)
        return len(self.regions) - 1


def run(scenario: c.Scenario, system: SystemUnderTest, *, kernel: str = "", image: bool = False,
        forget_lost: bool = False, chance: Chance = LIKELIEST, real: Sequence[Record] = (),
        watch: Callable[[Runner], None] | None = None) -> Iterator[Record]:
    """Runs `scenario` on a fresh `system`; yields step 0, then one record per command.

    `kernel` is the release named by step 0. With `image` the processes have the recorder's own memory beside the
    regions (`fastmlock.scenario.image`, with this `chance`), where the system can give it to them and no
    process does what the recorder's cannot (exec); `real`
    are the records whose printing filled its buffers, if not those of this run. The recorder shows a page of a file
    by the pfn last seen, even where another page has taken its place since; with `forget_lost` a page that has left
    the cache is unknown again, so that records do not depend on which frames the kernel gives out. `watch` is called
    after each step. Raises `ScenarioError` where a command needs a region that was never mapped, `NotSupported` where
    the system has no such path.
    """
    runner = Runner(scenario, system, image=image, forget_lost=forget_lost, chance=chance)
    printed = {record["step"]: record for record in real}
    start = before = runner.start(kernel, printed.get(0))
    yield runner.step_0(kernel)
    for step, command in enumerate(scenario.commands, 1):
        reply = runner.step(command)
        now = runner.count()
        record: Record = {"step": step, "cmd": command.text, "ret": reply.ret,
                          "err": ERRNO_NAMES.get(reply.err, "E?") if reply.err else ""}
        if reply.sig:
            record["sig"] = reply.sig
        record["dv"], record["dvs"] = changes(now, start), changes(now, before)
        if runner.image:
            begun = runner.image.printed
            runner.image.prints(length({key: value for key, value in {**record, **printed.get(step, {})}.items()
                                        if key in record}) - len("}"))
        record.update(runner.look())
        if runner.image:
            runner.image.printed_all(begun, printed.get(step, record))
        before = now
        if watch is not None:
            watch(runner)
        yield record


class Runner:
    """Carries out the commands of one scenario on one system."""

    def __init__(self, scenario: c.Scenario, system: SystemUnderTest, *, image: bool = False,
                 forget_lost: bool = False, chance: Chance = LIKELIEST) -> None:
        self.scenario, self.system = scenario, system
        self.cpus = int(getattr(system, "cpus", 2))
        self.worker_cpu = int(getattr(system, "worker_cpu", 0))
        self.controller_cpu = int(getattr(system, "controller_cpu", 1))
        self.processes = [_Process() for _ in range(c.MAX_PROCESSES)]
        self.files: list[File] = []
        self.observer = Observer(system, self.files, forget_lost=forget_lost)
        self.next_address = FIRST_ADDRESS
        self.image: Image | None = None
        if image and isinstance(system, Host) and not any(isinstance(one, c.Exec) for one in scenario.commands):
            self.image = Image(system, scenario.commands[-1].line if scenario.commands else 0, chance)

    def step_0(self, kernel: str) -> Record:
        """What says where this was run."""
        return {"step": 0, "cmd": "", "kernel": kernel, "drain": 0, "kcore": 1,
                "wcpu": self.worker_cpu, "kcpu": self.controller_cpu}

    def start(self, kernel: str = "", printed: Record | None = None) -> dict[str, int]:
        """Starts the processes that no fork makes; -> the counters before the first command. `printed`: step 0 as
        the recorder printed it, if not for this `kernel`."""
        if self.scenario.swap_pages:
            swapon = getattr(self.system, "swapon", None)
            if swapon is None:
                raise NotSupported("swap on this system")
            swapon(self.scenario.swap_pages)
        for number in self.scenario.processes:
            self.processes[number].pid = (self.image.spawn(number, self.worker_cpu) if self.image
                                          else self.system.spawn(cpu=self.worker_cpu))
        self.system.drain_all()
        if self.image:
            self.image.start(printed or self.step_0(kernel))
        return dict(self.system.vmstat())

    def count(self) -> dict[str, int]:
        """The counters now."""
        if self.image:
            self.image.count()
        return self.system.vmstat()

    def living(self) -> list[tuple[int, int, list[Region]]]:
        """(number, pid, regions) of each process that is there."""
        return [(number, process.pid, process.regions) for number, process in enumerate(self.processes)
                if process.pid is not None and self._alive(process)]

    def look(self) -> dict[str, object]:
        """What stands now: the "p" and "f" of a record."""
        there = self.living()
        return self.observer.look(there, self.image)

    def step(self, command: c.Command) -> Reply:
        """Carries out one command, in each of its processes in turn.

        The reply is that of the first process, or of the last one that answered -1.
        """
        if not isinstance(command, c.ProcessCommand):
            return CONTROLLER[type(command)](self, command)
        if isinstance(command, c.Exit) and len(command.procs) > 1:
            for number in command.procs:
                self._receives(self.processes[number])
                self._gone(self.processes[number], number)
            return Reply()
        replies = [self._reply(command, number) for number in command.procs]
        return next((reply for reply in reversed(replies) if reply.ret == -1), replies[0])

    # ---- processes

    def _reply(self, command: c.ProcessCommand, number: int) -> Reply:
        reply = self._in_process(command, number)
        process = self.processes[number]
        if self.image and process.pid is not None and self._alive(process):
            self.image.wait(process.pid)
        return reply

    def _in_process(self, command: c.ProcessCommand, number: int) -> Reply:
        process = self.processes[number]
        if not isinstance(command, c.Kill):
            self._receives(process)
        if isinstance(command, (c.Exit, c.Kill)):
            return self._gone(process, number)
        if isinstance(command, c.Mmap):
            return self._mmap(command, number, process)
        if isinstance(command, c.Brk):
            return self._brk(command, number, process)
        region = self._region(command, number, process)
        if isinstance(command, c.Mremap) and region is not None:
            return self._mremap(command, number, process, region)
        if process.pid is None or not self._alive(process):
            return DEAD
        if isinstance(command, c.Fork):
            return self._fork(command, process, process.pid)
        if isinstance(command, c.Exec):
            return self._exec(process, process.pid)
        if region is not None:
            if self.image and isinstance(command, c.Touch):
                self.image.touch(process.pid)
            reply = Reply(*ON_REGION[type(command)](self.system, command, process.pid, region))
            if self.image and reply.sig:
                self.image.signal(process.pid)
            return reply
        return Reply(*ON_PROCESS[type(command)](self, command, process.pid))

    def _receives(self, process: _Process) -> None:
        """A worker that is alive reads its command."""
        if self.image and process.pid is not None and self._alive(process):
            self.image.command(process.pid)

    def _alive(self, process: _Process) -> bool:
        if process.pid is not None and not self.system.alive(process.pid):
            process.pid = None
        return process.pid is not None

    def _gone(self, process: _Process, number: int) -> Reply:
        """Ends a process. Its regions stay known by name, as the recorder keeps them."""
        if process.pid is None or not self._alive(process):
            return DEAD
        self.system.exit(process.pid)
        process.pid = None
        if self.image:
            self.image.process(number)
        return Reply()

    def _fork(self, command: c.Fork, process: _Process, pid: int) -> Reply:
        child = self.image.fork(pid) if self.image else self.system.fork(pid)
        self.processes[command.child] = _Process(child, [replace(region) for region in process.regions])
        if self.image:
            self.image.process(command.child, PROCESS_BYTES)
        return Reply()

    def _exec(self, process: _Process, pid: int) -> Reply:
        """A real loader's pages have passed through the batches when it is done: so all is drained behind it."""
        self.system.exec(pid)
        process.regions.clear()
        self.system.drain_all()
        return Reply()

    # ---- regions

    def _region(self, command: c.ProcessCommand, number: int, process: _Process) -> Region | None:
        name = getattr(command, "region", None)
        return None if name is None else self._need(command, number, process, name)

    def _need(self, command: c.Command, number: int, process: _Process, name: str) -> Region:
        region = process.region(name)
        if region is None:
            raise ScenarioError(self.scenario.name, command.line, f"p{number} has no region {name} here",
                                "what should have mapped it failed; leave this command out")
        return region

    def _new_address(self) -> int:
        if self.image:
            self.image.new_address()
        address = self.next_address
        self.next_address += ADDRESS_STEP
        return address

    def _mmap(self, command: c.Mmap, number: int, process: _Process) -> Reply:
        flags = command.sharing | command.flags
        if command.at is not None:
            under = self._need(command, number, process, command.at[0])
            address = (under.addr + command.at[1] * PAGE_SIZE) & UNSIGNED
            flags |= MAP_FIXED
        else:
            address = self._new_address()
            flags |= MAP_FIXED_NOREPLACE
        if process.pid is None or not self._alive(process):
            return DEAD
        file = None if command.file is None else self._file(command.file)
        if command.special:
            ret, err = self._mmap_special(command, process.pid, address, flags)
        else:
            ret, err = self.system.mmap(process.pid, address, command.pages * PAGE_SIZE, command.prot,
                                        flags | (MAP_ANONYMOUS if file is None else 0),
                                        None if file is None else self.files[file].id, command.offset * PAGE_SIZE)
        if ret == -1:
            return Reply(ret, err)
        self._keep(process, number, Region(command.region, ret, command.pages, file, command.offset, command.shared))
        return Reply()

    def _mmap_special(self, command: c.Mmap, pid: int, address: int, flags: int) -> tuple[int, int]:
        mmap = getattr(self.system, "mmap_special", None)
        if mmap is None:
            raise NotSupported(f"mapping {command.special} on this system")
        ret, err = mmap(pid, address, command.pages * PAGE_SIZE, command.prot, flags, command.special)
        return int(ret), int(err)

    def _keep(self, process: _Process, number: int, region: Region) -> None:
        place = process.set_region(region)
        if self.image:
            self.image.region(number, place)

    def _brk(self, command: c.Brk, number: int, process: _Process) -> Reply:
        """-> the pages that the heap has then"""
        if process.pid is None or not self._alive(process):
            return DEAD
        end, _ = self.system.brk(process.pid, HEAP + command.pages * PAGE_SIZE)
        pages = (end - HEAP) // PAGE_SIZE
        self._keep(process, number, Region(command.region, HEAP, pages, None, 0, False))
        return Reply(pages)

    def _mremap(self, command: c.Mremap, number: int, process: _Process, region: Region) -> Reply:
        new_address = self._new_address() if command.flags & MREMAP_FIXED else 0
        if process.pid is None or not self._alive(process):
            return DEAD
        address = _address(region, command.offset)
        ret, err = self.system.mremap(process.pid, address, _bytes(command.old_pages),
                                      _bytes(command.new_pages), command.flags, new_address)
        if ret == -1:
            return Reply(ret, err)
        self._keep(process, number, Region(command.target, ret, command.new_pages, region.file,
                                           region.offset + command.offset, region.shared))
        return Reply(0 if ret == address else 1)

    # ---- files

    def _file(self, name: str) -> int:
        return next(number for number, file in enumerate(self.files) if file.name == name)

    def file_id(self, name: str) -> int:
        return self.files[self._file(name)].id

    def create_file(self, command: c.CreateFile) -> Reply:
        if self.image:
            self.image.create(len(self.files), command.sparse or command.fs == "hugetlb")
        more: dict[str, Any] = {"owner": command.owner} if command.owner else {}
        if command.huge:
            more["huge"] = True
        file = self.system.create_file(command.fs, command.pages, sparse=command.sparse, **more)
        seen = -1 if command.fs == "hugetlb" else command.pages
        self.files.append(File(command.name, file, seen))
        if self.image:
            self.image.created(file, command.fs, command.name)
        self.system.drain_all()
        return Reply()

    def set_cpu(self, command: c.SetCpu, pid: int) -> tuple[int, int]:
        """A cpu that the machine has not, or not now, changes nothing, and 0 is answered all the same."""
        is_online = getattr(self.system, "cpu_is_online", None)
        if command.cpu < self.cpus and (is_online is None or is_online(command.cpu)):
            self.system.set_cpu(pid, command.cpu)
        return 0, 0

    def khugepaged(self) -> Reply:
        khugepaged = getattr(self.system, "khugepaged", None)
        if khugepaged is None:
            raise NotSupported("khugepaged on this system")
        return Reply(*khugepaged())

    def drain(self) -> Reply:
        self.system.drain_all()
        return Reply(self.image.drain_answer() if self.image else 0)


def _address(region: Region, offset: int, skip_bytes: int = 0) -> int:
    return (region.addr + offset * PAGE_SIZE + skip_bytes) & UNSIGNED


def _bytes(pages: int) -> int:
    return pages * PAGE_SIZE & UNSIGNED


def _written(answer: tuple[int, int]) -> Reply:
    """A file of /proc written: 0 or the negative errno is the value."""
    return Reply(-answer[1])


def _range_call(system: SystemUnderTest, command: c.RangeCall, pid: int, region: Region) -> tuple[int, int]:
    address = _address(region, command.offset, command.skip_bytes)
    length = _bytes(command.pages) if command.length_bytes is None else command.length_bytes & UNSIGNED
    if command.verb == "mlock2":
        return system.mlock2(pid, address, length, command.flags)
    call: Callable[[int, int, int], tuple[int, int]] = getattr(system, command.verb)
    return call(pid, address, length)


def _touch(system: SystemUnderTest, command: c.Touch, pid: int, region: Region) -> tuple[int, int, int]:
    if command.pages <= 0:
        return 0, 0, 0
    done, signal = system.touch(pid, _address(region, command.offset), command.pages, command.write)
    return done, 0, signal


def _madvise(system: SystemUnderTest, command: c.Madvise, pid: int, region: Region) -> tuple[int, int]:
    return system.madvise(pid, _address(region, command.offset), _bytes(command.pages), command.advice)


def _mprotect(system: SystemUnderTest, command: c.Mprotect, pid: int, region: Region) -> tuple[int, int]:
    return system.mprotect(pid, _address(region, command.offset), _bytes(command.pages), command.prot)


def _msync(system: SystemUnderTest, command: c.Msync, pid: int, region: Region) -> tuple[int, int]:
    return system.msync(pid, _address(region, command.offset), _bytes(command.pages), command.flags)


def _remap_pages(system: SystemUnderTest, command: c.RemapPages, pid: int, region: Region) -> tuple[int, int]:
    return system.remap_file_pages(pid, _address(region, command.offset), _bytes(command.pages), 0,
                                   command.file_offset, command.flags)


def _peek(system: SystemUnderTest, command: c.Peek, pid: int, region: Region) -> tuple[int, int]:
    return system.peek(pid, _address(region, command.offset), command.write)


def _swapoff(system: SystemUnderTest) -> Reply:
    swapoff = getattr(system, "swapoff", None)
    if swapoff is None:
        raise NotSupported("swapoff on this system")
    return Reply(*swapoff())


def _offline(system: SystemUnderTest, command: c.Offline, pid: int, region: Region) -> tuple[int, int]:
    offline = getattr(system, "offline_block", None)
    if offline is None:
        raise NotSupported("memory offline on this system")
    ret, err = offline(pid, _address(region, command.offset))
    return int(ret), int(err)


def _move_pages(system: SystemUnderTest, command: c.MovePages, pid: int, region: Region) -> tuple[int, int]:
    return system.move_pages(pid, _address(region, command.offset))


def _reclaim(runner: Runner, command: c.Reclaim) -> Reply:
    reclaim = getattr(runner.system, "reclaim", None)
    if reclaim is None:
        raise NotSupported("reclaim on this system")
    return Reply(*reclaim(command.pages))


def _oom_kill(runner: Runner, command: c.OomKill) -> Reply:
    process = runner.processes[command.victim]
    if process.pid is None or not runner.system.alive(process.pid):
        return DEAD
    runner.system.oom_kill(process.pid)
    process.pid = None
    return Reply()


def _shm_lock(runner: Runner, command: c.ShmLock, pid: int) -> tuple[int, int]:
    call = runner.system.shm_lock if command.lock else runner.system.shm_unlock
    return call(pid, runner.file_id(command.segment))


def _reap(runner: Runner, command: c.Reap) -> Reply:
    reap, pid = getattr(runner.system, "reap", None), runner.processes[command.victim].pid
    if reap is None:
        raise NotSupported("reap on this system")
    return DEAD if pid is None else Reply(*reap(pid))


def _file_range(runner: Runner, command: c.FileRange) -> Reply:
    system, file = runner.system, runner.file_id(command.file)
    if command.verb == "punch":
        return Reply(*system.punch(file, command.offset, command.pages))
    if command.verb == "fadvise":
        ret, err = system.fadvise_dontneed(file, command.offset, command.pages)
        return Reply(err if err else ret)
    if not command.pages:
        return Reply()
    if command.verb == "fwrite":
        if runner.image:
            runner.image.copies_from(file, command.offset)
        return Reply(*system.pwrite(file, command.offset, command.pages))
    if not runner.image or command.offset >= system.file_pages(file):
        return Reply(*system.pread(file, command.offset, command.pages))
    reply = system.pread(file, command.offset, 1)
    runner.image.copies_to()                # the page is there before the buffer needs to be
    if command.pages > 1:
        reply = system.pread(file, command.offset + 1, command.pages - 1)
    return Reply(*reply)


# Which call carries out which command; `Any` because each takes the command's own class.
ON_REGION: dict[type, Callable[..., tuple[int, ...]]] = {
    c.RangeCall: _range_call, c.Touch: _touch, c.Madvise: _madvise, c.Mprotect: _mprotect,
    c.Msync: _msync, c.MovePages: _move_pages, c.RemapPages: _remap_pages, c.Peek: _peek,
    c.Offline: _offline,
}
ON_PROCESS: dict[type, Callable[..., tuple[int, int]]] = {
    c.MlockAll: lambda runner, command, pid: runner.system.mlockall(pid, command.flags),
    c.MunlockAll: lambda runner, command, pid: runner.system.munlockall(pid),
    c.Rlimit: lambda runner, command, pid: runner.system.set_rlimit_memlock(
        pid, command.limit_bytes & UNSIGNED),
    c.ShmLock: lambda runner, command, pid: _shm_lock(runner, command, pid),
    c.Setuid: lambda runner, command, pid: runner.system.setuid(pid, command.uid),
    c.SetCpu: Runner.set_cpu,
    c.LocalDrain: lambda runner, command, pid: (runner.image or runner.system).local_drain(pid),
}
CONTROLLER: dict[type, Callable[..., Reply]] = {
    c.CreateFile: Runner.create_file,
    c.Truncate: lambda runner, command: Reply(
        *runner.system.truncate(runner.file_id(command.file), command.pages)),
    c.FileRange: _file_range,
    c.Drain: lambda runner, command: runner.drain(),
    c.Khugepaged: lambda runner, command: runner.khugepaged(),
    c.Compact: lambda runner, command: _written(runner.system.compact()),
    c.Reclaim: lambda runner, command: _reclaim(runner, command),
    c.Swapoff: lambda runner, command: _swapoff(runner.system),
    c.Reap: lambda runner, command: _reap(runner, command),
    c.Ksm: lambda runner, command: _written(runner.system.ksm(command.run)),
    c.OomKill: lambda runner, command: _oom_kill(runner, command),
    c.DropCaches: lambda runner, command: _written(runner.system.drop_caches(command.what)),
    c.Sysctl: lambda runner, command: _written(runner.system.sysctl(command.path, command.value)),
    c.Sleep: lambda runner, command: Reply(),
    c.Snap: lambda runner, command: Reply(),
    c.Race: races.run,
}
