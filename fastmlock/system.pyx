# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""One simulated machine with one kernel, as Python uses it: processes, files, system calls, and what they leave.

    >>> from fastmlock import System
    >>> s = System("6.1")
    >>> file = s.create_file("tmpfs", 8)
    >>> p, q = s.spawn(), s.spawn()
    >>> for pid in (p, q):
    ...     addr, _ = s.mmap(pid, 0x100000000000, 8 * 4096, 3, 0x1 | 0x10, file, 0)
    ...     _ = s.mlock(pid, addr, 8 * 4096)
    >>> s.page(s.cached(file, 0))
    (2, 'LUMRDs', 2)
    >>> int(s.pages["mapcount"].max())
    2

Everything here runs untimed: every lock is granted at once. The timed machine (`fastmlock.machine`) runs the same
compiled flows.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from fastmlock.flows.frame cimport *
from fastmlock.flows.hotplug cimport online_pages
from fastmlock.flows.step cimport flow_start, run_untimed
from fastmlock.mm.filemap cimport find_get_page
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.vma cimport find_vma, mm_alloc, vm_start_gap
from fastmlock.state.debug cimport CHECKS
from fastmlock.state.types cimport *

import errno as _errno

import numpy as np

from fastmlock import kernels
from fastmlock.scenario import memcg
from fastmlock.scenario.system import CPU_SWITCH, NotSupported
from fastmlock.audit.consistency import problems
from fastmlock.state.layout import K
from fastmlock.state.world import ModelError

DEF_MASK = (1 << 64) - 1
TASK_SIZE = (1 << 47) - 4096
cdef enum:
    MMAP_BASE = 0x7fffff7ff     # page above the highest mapping: 8 MiB and a gap below the end
_HARMLESS_SYSCTLS = frozenset(f"/proc/sys/vm/{name}" for name in (
    "stat_refresh", "stat_interval", "swappiness", "vfs_cache_pressure", "compact_unevictable_allowed",
    "zone_reclaim_mode", "overcommit_memory"))
THP_ENABLED = "/sys/kernel/mm/transparent_hugepage/enabled"
_THP = {"never": THP_NEVER, "madvise": THP_MADVISE, "always": THP_ALWAYS}
_BEHAVIOUR = (0, 1, 2, 10, 11, 12, 13, 14, 15, 18, 19)         # advice that is a vma flag
_ADVICE = _BEHAVIOUR + (3, 4, 8, 9, 20, 21)


NOT_MODELLED = {
    <int>F_SYS_MREMAP: "mremap", <int>F_SYS_MADVISE: "madvise", <int>F_SYS_MPROTECT: "mprotect",
    <int>F_COLLAPSE: "collapse of memory that is swapped out",
    <int>F_SHRINK_PAGE: "reclaim of a lazily freed huge page",
    <int>F_COLLAPSE_FILE: "MADV_COLLAPSE of a file",
    <int>F_COMPACT: "compaction",
    <int>F_ACCESS_REMOTE_VM: "a look from outside at memory that the process itself may not use so",
    <int>F_MIGRATE: "migration of a KSM page",
    <int>F_SHRINK_LIST: "a scan of a list with huge pages",
}


cdef inline int64_t pages_up(object length):
    """PAGE_ALIGN in 64 bits, in pages: it may wrap to 0."""
    return <int64_t>(((length + 4095) & DEF_MASK) >> 12)


cdef inline int64_t word(object number):
    """An unsigned 64-bit number as a flow's argument."""
    return <int64_t><uint64_t>number


# the numbers of the flows that Python starts by name
from fastmlock.flows.ids import FLOWS as _FLOWS
if _FLOWS["F_SYS_EXIT"] != F_SYS_EXIT or _FLOWS["F_COMPACT"] != F_COMPACT:
    raise ImportError("flow numbers differ between frame.pxd as compiled and as read")


cdef class System(View):
    """A machine running `kernel`; the protocol of `fastmlock.scenario.system.SystemUnderTest`.

    Parameters
    ----------
    kernel : str
        a name of `fastmlock.kernels.RELEASES`, or a `Traits`
    cpus, nodes, memcgs : int
    worker_cpu, controller_cpu : int
        where new processes and the one that owns the files run
    capacity : dict
        see `WorldHandle`; arrays grow as they must
    check : bool
        after every call, all that must hold is looked at (`fastmlock.audit.consistency`), and ModelError raised with what
        does not; the default of a debug build

    Raises
    ------
    fastmlock.kernels.UnknownKernel, ValueError
    """

    def __init__(self, kernel="5.17-rc2", int cpus=2, int worker_cpu=0, int controller_cpu=1, *, int nodes=1,
                 int memcgs=1, dict capacity=None, bint check=CHECKS):
        traits = kernels.get(kernel) if isinstance(kernel, str) else kernel
        View.__init__(self, traits, cpus=cpus, nodes=nodes, memcgs=memcgs, capacity=capacity)
        self.kernel = kernel if isinstance(kernel, str) else "custom"
        self.checking = False
        self.shm_locked = {}
        self.offline_cpus = set()
        self.shm_held = {}
        self.shm_owner = {}
        self.cpus = cpus
        self.worker_cpu = min(worker_cpu, cpus - 1)
        self.controller_cpu = min(controller_cpu, cpus - 1)
        self.smaps_shows_lf = bool(traits.smaps_lf)
        self.release = traits.release
        self.child_runs_first = bool(traits.child_runs_first)
        self.write_prefaults = bool(traits.write_prefaults)
        self.next_observer = 0x200000000
        self.shared_anon = set()
        self.ksm_mms = []
        self.ksmd = None
        self.room = {}
        self.controller = self.spawn(cpu=self.controller_cpu)
        self.checking = check

    # ------------------------------------------------------------ entering the kernel
    cdef tuple call(self, int task, int flow, long a=0, long b=0, long c=0, long d=0):
        cdef World *w = self.w
        if task < 1 or task >= w.nr_tasks or not w.tasks[task].mm:
            raise ValueError(f"no process {task}")
        # what one call may need beyond its pages: a few VMAs, nodes and tables
        self.reserve(vmas=8 + self.nr_vmas(task), nodes=64 + 8 * self.nr_vmas(task), anon_vmas=16 + self.nr_vmas(task),
                     avcs=64 + 8 * self.nr_vmas(task))
        if self.deferred is not None:
            if task in self.deferred:
                raise ValueError(f"process {task} has a call under way")
            flow_start(w, task, flow, a, b, c, d)
            self.deferred.append(task)
            return 0, 0
        return self.enter(task, flow, a, b, c, d)

    cdef tuple enter(self, int task, int flow, long a=0, long b=0, long c=0, long d=0):
        cdef Task *t = &self.w.tasks[task]
        cdef World *w = self.w
        cdef int req
        with nogil:
            flow_start(w, task, flow, a, b, c, d)
            req = run_untimed(w, task)
        if req == REQ_ERROR:
            self.check()
        if self.checking:
            found = problems(self)
            if found:
                raise ModelError(f"after flow {flow} of process {task}: {'; '.join(found)}")
        return t.ret, t.err

    def check(self):
        """Raises NotSupported or ModelError if the last run could not go on."""
        if self.w.error == ERR_UNSUPPORTED:
            raise NotSupported(NOT_MODELLED.get(self.w.unsupported, f"flow {self.w.unsupported}"))
        View.check(self)

    # ------------------------------------------------------------ calls that race
    def defer(self):
        """From here on system calls are only begun, until `deferred_tasks` hands them over to a race."""
        self.deferred = []
        self.room = {}

    def begun(self):
        """The tasks whose calls were begun since `defer`, in order."""
        return list(self.deferred)

    def deferred_tasks(self):
        """The tasks whose calls were begun since `defer`, in order. Calls run at once again."""
        tasks, self.deferred = self.deferred, None
        self.room = {}
        return tasks

    def answer(self, int task):
        """What the task's last call answered: (ret, errno, signal)."""
        cdef Task *t = &self.w.tasks[task]
        return t.ret, t.err, t.sig

    def reserve(self, **need):
        """See `WorldHandle.reserve`; calls that are only begun need their room all at the same time."""
        if self.deferred is not None:
            for pool, count in need.items():
                self.room[pool] = self.room.get(pool, 0) + count
            need = self.room
        View.reserve(self, **need)

    cdef int nr_vmas(self, int task):
        return self.w.mms[self.w.tasks[task].mm].map_count

    cdef int make_room(self, long pages) except -1:
        """Room for so many pages mapped anew, at most one table for each 2 MiB they touch."""
        cdef long leaves = pages // 512 + 4
        if self.w.huge_zero:
            pages = (leaves + 2) * 512
            leaves *= 2
        # reading ahead may bring back all that is swapped out
        self.reserve(pages=pages + 64 + self.w.swap_used, leaves=leaves, ptes=leaves, tables=leaves // 512 + 8)
        return 0

    @property
    def fine(self):
        """Whether a timed run lets time pass after each page of a batch instead of after the whole batch."""
        return self.w.fine != 0

    @fine.setter
    def fine(self, bint on):
        self.w.fine = on

    # ------------------------------------------------------------ processes
    @property
    def nr_tasks(self):
        """Task records in use; processes are 1 to nr_tasks - 1."""
        return self.w.nr_tasks

    def spawn(self, *, int cpu=0, int memcg=0, node=None):
        """A new process on `cpu`: root, with the kernel's default RLIMIT_MEMLOCK and nothing mapped. The pages it brings in
        are charged to the memory cgroup `memcg` and come from `node`, or (None) from the node of its cpu. -> pid"""
        cdef World *w = self.w
        cdef Task *t
        self.reserve(tasks=1, mms=1)
        if cpu < 0 or cpu >= w.nr_cpus:
            raise ValueError(f"cpu {cpu}: there are {w.nr_cpus}")
        if cpu in self.offline_cpus:
            raise ValueError(f"cpu {cpu} is offline")
        if not 0 <= memcg < w.nr_lruvecs // w.nr_nodes:
            raise ValueError(f"memory cgroup {memcg}: there are {w.nr_lruvecs // w.nr_nodes}")
        if node is not None and not 0 <= node < w.nr_nodes:
            raise ValueError(f"node {node}: there are {w.nr_nodes}")
        pid = w.nr_tasks
        w.nr_tasks += 1
        t = &w.tasks[pid]
        t.pid = pid
        t.cpu = cpu
        t.mm = mm_alloc(w)
        t.depth = -1
        t.rlimit_memlock = w.tr.rlimit_memlock
        t.cap_ipc_lock = 1
        t.uid = 0
        t.memcg = memcg
        t.node = 0 if node is None else node + 1
        self.check()
        return pid

    def fork(self, int pid):
        """-> pid of the child"""
        cdef World *w = self.w
        cdef Task *p
        cdef Task *c
        child = self.spawn(cpu=w.tasks[pid].cpu)
        n = w.mms[w.tasks[pid].mm].rss + 512
        self.make_room(n)
        self.reserve(vmas=self.nr_vmas(pid) + 8, nodes=16 * (self.nr_vmas(pid) + 4), avcs=16 * (self.nr_vmas(pid) + 4),
                     leaves=w.leaves_used, ptes=w.ptes_used, tables=w.tables_used)
        p = &w.tasks[pid]
        c = &w.tasks[child]
        c.rlimit_memlock = p.rlimit_memlock
        c.cap_ipc_lock = p.cap_ipc_lock
        c.uid = p.uid
        c.memcg = p.memcg
        c.node = p.node
        self.call(pid, F_SYS_FORK, c.mm)
        if p.mm in self.ksm_mms:
            self.ksm_mms.append(c.mm)
        return child

    def exit(self, int pid):
        self.ksm_mms = [mm for mm in self.ksm_mms if mm != self.w.tasks[pid].mm]
        self.unmapping(pid, self.call(pid, F_SYS_EXIT))

    def exec(self, int pid):
        """execve: the process begins anew with nothing mapped."""
        self.reserve(mms=1)
        mm = mm_alloc(self.w)
        self.check()
        self.ksm_mms = [old for old in self.ksm_mms if old != self.w.tasks[pid].mm]
        self.unmapping(pid, self.call(pid, F_SYS_EXEC, mm))

    def alive(self, int pid):
        return self.w.tasks[pid].mm != 0

    def set_cpu(self, int pid, int cpu):
        if cpu < 0 or cpu >= self.w.nr_cpus:
            raise ValueError(f"cpu {cpu}: there are {self.w.nr_cpus}")
        if cpu in self.offline_cpus:
            raise ValueError(f"cpu {cpu} is offline")
        self.w.tasks[pid].cpu = cpu

    def set_rlimit_memlock(self, int pid, limit_bytes):
        """Soft and hard limit alike; only root may raise the hard one."""
        cdef Task *t = &self.w.tasks[pid]
        if limit_bytes > t.rlimit_memlock and t.uid:
            return -1, _errno.EPERM
        t.rlimit_memlock = min(limit_bytes, <int64_t>0x7fffffffffffffff)
        return 0, 0

    def setuid(self, int pid, int uid):
        """All user and group ids; leaving root loses every capability."""
        cdef Task *t = &self.w.tasks[pid]
        if t.uid and uid != t.uid:
            return -1, _errno.EPERM
        t.uid = uid
        t.cap_ipc_lock = uid == 0
        return 0, 0

    # ------------------------------------------------------------ mappings
    def mmap(self, int pid, addr, length, int prot, int flags, file, offset):
        """As mmap(2). Without MAP_FIXED and MAP_FIXED_NOREPLACE `addr` is a hint, and the place is the hint if it is free,
        else the highest gap below the stack that fits, as a process without address randomisation has it."""
        cdef int64_t pages = pages_up(length)
        if not length:
            return -1, _errno.EINVAL
        if not pages or pages << 12 > TASK_SIZE:
            return -1, _errno.ENOMEM
        if offset % 4096 or addr % 4096 and flags & (0x10 | 0x100000):
            return -1, _errno.EINVAL
        if not flags & (0x10 | 0x100000):
            addr = self.unmapped_area(pid, addr & ~4095, pages << 12)
            if not addr:
                return -1, _errno.ENOMEM
            flags |= 0x100000
        if addr > TASK_SIZE - (pages << 12):
            return -1, _errno.ENOMEM
        self.make_room(pages)
        mapping, pgoff = (0, 0) if file is None else (file, offset >> 12)
        if file is None and flags & 1:
            mapping = self.new_mapping(pages, True)
            self.shared_anon.add(mapping)
        return self.unmapping(pid, self.call(pid, F_SYS_MMAP, addr, pages << 12, prot | <long>flags << 32,
                                             mapping | pgoff << 20))

    cdef tuple unmapping(self, int pid, tuple answer):
        """What fput() puts off until the task leaves the kernel: shared anonymous memory that nobody maps is evicted."""
        for mapping in [m for m in self.shared_anon if not self.w.mappings[<int>m].nr_vmas]:
            self.shared_anon.remove(mapping)
            self.enter(pid, F_TRUNCATE, mapping, 0, <long>1 << 40, -1)
        return answer

    def unmapped_area(self, int pid, hint, length):
        """Where a mapping of `length` bytes goes that asks for no place: byte address, 0 if there is no gap."""
        cdef World *w = self.w
        cdef uint32_t vma = w.mms[w.tasks[pid].mm].vma, last = 0
        cdef int64_t pages = length >> 12, top = MMAP_BASE, first = hint >> 12
        while vma:
            last = vma
            if first and vm_start_gap(&w.vmas[vma]) < first + pages and w.vmas[vma].end > first:
                first = 0
            vma = w.vmas[vma].next
        if first and first + pages <= TASK_SIZE >> 12:
            return first << 12
        while last and w.vmas[last].end > top - pages:
            top = min(top, vm_start_gap(&w.vmas[last]))
            last = w.vmas[last].prev
        return (top - pages) << 12 if top - pages >= 16 else 0

    def brk(self, int pid, addr):
        """As the system call: moves the end of the heap to `addr` if it can. -> (the break there is then, 0)"""
        if addr >= TASK_SIZE:
            return self.w.mms[self.w.tasks[pid].mm].brk, 0
        self.make_room(max(0, (addr - self.w.mms[self.w.tasks[pid].mm].brk >> 12) + 1))
        return self.call(pid, F_SYS_BRK, addr)

    def remap_file_pages(self, int pid, addr, length, int prot, pgoff, int flags):
        """As remap_file_pages(2), which is emulated since 4.0: mmap over a part of a shared mapping. pgoff in pages."""
        start, pages = addr >> 12, length >> 12
        if prot or not pages or start + pages >= 1 << 52 or pgoff + pages >= 1 << 64:
            return -1, _errno.EINVAL
        if not self.find(pid, addr):
            return -1, _errno.EINVAL
        if pgoff >= 1 << 40:
            raise NotSupported(f"a file offset of {pgoff} pages")
        self.make_room(pages)
        return self.call(pid, F_SYS_REMAP_FILE_PAGES, start, pages, pgoff, flags & 0x10000)

    def peek(self, int pid, addr, bint write):
        """Somebody else reads or writes one byte of the process's memory through /proc/PID/mem. -> (1, 0) or EIO"""
        if addr >= TASK_SIZE:
            return -1, _errno.EIO
        self.make_room(4096)
        return self.call(self.controller, F_ACCESS_REMOTE_VM, self.w.tasks[pid].mm, addr >> 12, write)

    def msync(self, int pid, addr, length, int flags):
        """As msync(2). MS_SYNC of a disk file that is shared and dirty drains the process's cpu, nothing else drains."""
        if flags & ~7 or addr % 4096 or flags & 1 and flags & 4:
            return -1, _errno.EINVAL
        pages = pages_up(length)
        if length and not pages or (addr >> 12) + pages > 1 << 52:
            return -1, _errno.ENOMEM
        return self.call(pid, F_SYS_MSYNC, addr >> 12, (addr >> 12) + pages, flags)

    def shm_lock(self, int pid, int file):
        """shmctl(SHM_LOCK) on a segment, or on a tmpfs file taken for one that is everybody's: accounted to the user, and its
        mapping marked unevictable; pages are culled when they next reach a list."""
        cdef Task *t = &self.w.tasks[pid]
        if not self.w.mappings[file].shmem:
            return -1, _errno.EINVAL
        if not t.cap_ipc_lock and (self.shm_owner.get(file, t.uid) != t.uid or not t.rlimit_memlock):
            return -1, _errno.EPERM
        if file in self.shm_locked:
            return 0, 0
        held = self.shm_held.get(t.uid, 0) + self.w.mappings[file].size
        if held > t.rlimit_memlock >> 12 and not t.cap_ipc_lock:
            return -1, _errno.ENOMEM
        self.shm_held[t.uid] = held
        self.shm_locked[file] = t.uid
        return self.call(pid, F_SYS_SHM_LOCK, file, 1)

    def shm_unlock(self, int pid, int file):
        """shmctl(SHM_UNLOCK): every page is looked at (SCANNED), those that nothing else keeps are rescued."""
        if not self.w.mappings[file].shmem:
            return -1, _errno.EINVAL
        if not self.w.tasks[pid].cap_ipc_lock and self.shm_owner.get(file, self.w.tasks[pid].uid) != self.w.tasks[pid].uid:
            return -1, _errno.EPERM
        if file not in self.shm_locked:
            return 0, 0
        self.shm_held[self.shm_locked.pop(file)] -= self.w.mappings[file].size
        return self.call(pid, F_SYS_SHM_LOCK, file, 0)

    def munmap(self, int pid, addr, length):
        if addr % 4096 or addr > TASK_SIZE or length > TASK_SIZE - addr or not length:
            return -1, _errno.EINVAL
        return self.unmapping(pid, self.call(pid, F_SYS_MUNMAP, addr, length))

    def mremap(self, int pid, addr, old_len, new_len, int flags, new_addr):
        if addr % 4096 or flags & 2 and new_addr % 4096:
            return -1, _errno.EINVAL
        old, new = pages_up(old_len), pages_up(new_len)
        if new > TASK_SIZE >> 12:
            return -1, _errno.ENOMEM
        if (addr >> 12) + old > TASK_SIZE >> 12:
            return self.mremap_beyond(pid, addr, old, new, flags, new_addr)
        self.make_room(max(old, new))
        self.reserve(vmas=16, nodes=64, avcs=64)
        return self.unmapping(pid, self.call(pid, F_SYS_MREMAP, addr, old, new | <long>flags << 40, new_addr))

    def mremap_beyond(self, int pid, addr, old, int64_t new, int flags, new_addr):
        """An old length beyond the end of all addresses: EINVAL from the munmap of what is cut off, after that of the
        destination; from 6.17 EFAULT before both where the mapping is too short for the new length."""
        cdef uint32_t vma
        if flags & ~5 & ~2 or flags & 2 and not flags & 1 or flags & 4 or not new:
            return -1, _errno.EINVAL
        if flags & 2 and new_addr < (addr + (old << 12)) % 2**64 and addr < new_addr + (new << 12):
            return -1, _errno.EINVAL
        vma = self.find(pid, addr)
        if self.w.tr.mremap_looks_first and not vma:
            return (_errno.EFAULT, 0) if self.w.tr.mremap_positive_efault else (-1, _errno.EFAULT)
        if flags & 2:
            if self.w.tr.mremap_checks_first and new > self.w.vmas[vma].end - (addr >> 12):
                return -1, _errno.EFAULT
            self.munmap(pid, new_addr, new << 12)
        return -1, _errno.EINVAL

    def mprotect(self, int pid, addr, length, int prot):
        if addr % 4096:
            return -1, _errno.EINVAL
        if not length:
            return 0, 0
        pages = pages_up(length)
        if not pages or (addr >> 12) + pages > 1 << 52:
            return -1, _errno.ENOMEM
        self.make_room(min(pages, 1 << 20))
        return self.call(pid, F_SYS_MPROTECT, addr >> 12, (addr >> 12) + pages, prot)

    def madvise(self, int pid, addr, length, int advice):
        cdef World *w = self.w
        valid = (w.tr.madv_populate if advice in (22, 23) else w.tr.madv_dontneed_locked if advice == 24
                 else w.tr.madv_collapse if advice == 25 else advice in _ADVICE)
        if not valid or addr % 4096:
            return -1, _errno.EINVAL
        if advice == 12 and self.w.tasks[pid].mm not in self.ksm_mms:
            self.ksm_mms.append(self.w.tasks[pid].mm)
        pages = pages_up(length)
        if length and not pages or (addr >> 12) + pages >= 1 << 52:
            return -1, _errno.EINVAL
        if advice == 25:
            self.need_huge()
        if not pages:
            return 0, 0
        self.make_room(min(pages, 1 << 20))
        return self.call(pid, F_SYS_MADVISE, addr >> 12, (addr >> 12) + pages, advice)

    def map_special(self, int pid, addr, length, vm_flags):
        """A mapping of the kernel's own (vvar, a driver's), with just these vm_flags."""
        if self.mmap(pid, addr, length, 0, 0x2 | 0x20 | 0x4000 | 0x100000, None, 0)[0] == -1:
            raise ValueError(f"no room for {length} bytes at {addr:#x}")
        self.w.vmas[self.find(pid, addr)].flags = vm_flags

    # ------------------------------------------------------------ locking
    def mlock(self, int pid, addr, length):
        return self.do_mlock(pid, addr, length, K.VM_LOCKED)

    def mlock2(self, int pid, addr, length, flags):
        if flags & ~1:
            return -1, _errno.EINVAL
        return self.do_mlock(pid, addr, length, K.VM_LOCKED | (K.VM_LOCKONFAULT if flags else 0))

    def do_mlock(self, int pid, addr, length, flags):
        pages = pages_up((length + addr % 4096) & DEF_MASK)
        self.make_room(min(pages, 1 << 22))
        return self.call(pid, F_SYS_MLOCK, word(addr & ~4095), word(pages << 12), flags)

    def munlock(self, int pid, addr, length):
        pages = pages_up((length + addr % 4096) & DEF_MASK)
        return self.call(pid, F_SYS_MUNLOCK, word(addr & ~4095), word(pages << 12))

    def mlockall(self, int pid, flags):
        self.make_room(self.w.mms[self.w.tasks[pid].mm].total_vm)
        return self.call(pid, F_SYS_MLOCKALL, flags)

    def munlockall(self, int pid):
        return self.call(pid, F_SYS_MUNLOCKALL)

    # ------------------------------------------------------------ other acts of a process
    def touch(self, int pid, addr, long pages, bint write):
        """Reads or writes one byte of each page. -> (pages done, signal or 0)"""
        self.make_room(pages)
        done, _ = self.call(pid, F_TOUCH, addr >> 12, pages, write)
        return done, self.w.tasks[pid].sig

    def move_pages(self, int pid, addr, node=None):
        """move_pages(2) of one page, to the node it is on if no other is named: drains every cpu. -> (status, 0), status
        0 or the node, or minus an errno: EACCES for a page that others map too, EBUSY for one that cannot be moved."""
        if node is not None and not 0 <= node < self.w.nr_nodes:
            return -_errno.ENODEV, 0
        self.drain_all()
        kind, pfn = self.pte(pid, addr)
        vma = self.find(pid, addr)
        if not vma or pfn == self.w.zero_page:
            return -_errno.EFAULT, 0
        if kind == "-":
            anonymous = not self.w.vmas[vma].mapping
            return -_errno.EFAULT if anonymous and self.w.tr.move_pages_efault else -_errno.ENOENT, 0
        if kind == "s":
            return -_errno.ENOENT, 0
        if node is None or self.w.pages[<long>pfn].node == node:
            return node or 0, 0
        if self.w.pages[<long>pfn].mapcount > 1:
            return -_errno.EACCES, 0
        self.make_room(1)
        return (node if self.call(pid, F_MOVE_PAGES, pfn, node + 1)[0] else -_errno.EBUSY), 0

    def local_drain(self, int pid):
        """lru_add_drain() on the process's cpu."""
        return self.call(pid, F_LOCAL_DRAIN)

    # ------------------------------------------------------------ files and the controller
    def new_mapping(self, long pages, bint shmem):
        cdef World *w = self.w
        cdef Mapping *m
        slots = max(pages, 1)
        self.reserve(mappings=1, cache=slots)
        mapping = w.mappings_used
        w.mappings_used += 1
        m = &w.mappings[mapping]
        m.base = w.cache_used
        m.capacity = slots
        m.size = pages
        m.shmem = shmem
        w.cache_used += slots
        return mapping

    def create_file(self, str fs, long pages, *, bint sparse=False, bint observe=True,
                    bint interleave=False, int owner=0, bint huge=False):
        """A file on "tmpfs" (mounted huge=always, if `huge`) or "ext4", or the "shm" segment of a user `owner`, written
        page by page unless `sparse`. With `observe` the controller maps it, as
        the recorder does, and never touches it. With `interleave` page i lies on node i modulo their number, else all
        lie where their writer ran. -> file number"""
        if fs not in ("tmpfs", "ext4", "shm"):
            raise NotSupported(f"a file on {fs}")
        if huge:
            raise NotSupported("huge pages of files")
        if pages < 0:
            raise ValueError(f"a file of {pages} pages")
        file = self.new_mapping(pages, fs != "ext4")
        if fs == "shm":
            self.shm_owner[file] = owner
        self.w.mappings[file].interleave = interleave
        self.make_room(pages)
        if not sparse:
            self.call(self.controller, F_FILE_WRITE, file, 0, pages, fs == "ext4")
        size = max(pages, 1)
        self.next_observer += size + 0x1000
        if observe:
            self.mmap(self.controller, self.next_observer << 12, size << 12, 1, 1 | 0x10, file, 0)
        self.drain_all()
        return file

    cdef int grow_file(self, int file, long pages) except -1:
        """Room in the page cache for `pages` pages of the file."""
        cdef Mapping *m = &self.w.mappings[file]
        if pages > m.capacity:
            old = self.cache[m.base:m.base + m.capacity].copy()
            self.reserve(cache=pages)
            m = &self.w.mappings[file]
            self.cache[self.w.cache_used:self.w.cache_used + len(old)] = old
            m.base = self.w.cache_used
            m.capacity = pages
            self.w.cache_used += pages
        return 0

    def drain_all(self):
        self.call(self.controller, F_SYS_DRAIN_ALL)

    def truncate(self, int file, long pages):
        if pages < 0:
            return -1, _errno.EINVAL
        self.grow_file(file, pages)
        return self.call(self.controller, F_TRUNCATE, file, pages, <long>1 << 40, pages)

    def punch(self, int file, long offset, long pages):
        if offset < 0 or pages <= 0:
            return -1, _errno.EINVAL
        return self.call(self.controller, F_TRUNCATE, file, offset, offset + pages, -1)

    def fadvise_dontneed(self, int file, long offset, long pages):
        return self.call(self.controller, F_FADVISE, file, offset, offset + pages if pages else <long>1 << 40, 1)

    def pwrite(self, int file, long offset, long pages):
        self.grow_file(file, offset + pages)
        self.make_room(pages)
        self.call(self.controller, F_FILE_WRITE, file, offset, pages, 0)
        return (4096 if pages > 0 else 0), 0

    def pread(self, int file, long offset, long pages):
        self.make_room(pages + 64)
        done, _ = self.call(self.controller, F_FILE_READ, file, offset, pages)
        return (4096 if pages > 0 and done == pages else 0), 0

    def compact(self):
        self.make_room(self.w.pages_used + self.w.pages_nfree)     # no other cpu's free frames need be taken
        return self.call(self.controller, F_COMPACT)

    def reclaim(self, long pages):
        """One pass of reclaim: at most `pages` of each active and each inactive list of files and, with swap, of anonymous
        memory and tmpfs. -> (freed, 0)"""
        if pages < 0:
            return -1, _errno.EINVAL
        return self.call(self.controller, F_SYS_RECLAIM, pages)

    def reclaim_all(self):
        """A memory cgroup gives up all it can, pass by pass over the lists. -> pages freed"""
        return self.call(self.controller, F_SYS_RECLAIM, -1)[0]

    def reap(self, int pid):
        """The OOM reaper takes what it may of a process that is killed; the process itself exits later. EAGAIN if its
        mmap_lock cannot be had."""
        if not self.alive(pid):
            return -1, _errno.ESRCH
        return self.call(self.controller, F_OOM_REAP, self.w.tasks[pid].mm)

    def ksm(self, int run):
        """/sys/kernel/mm/ksm/run: 1 merges all there is to merge, 2 gives every place a page of its own again."""
        from fastmlock.ksmd import Ksmd

        if self.w.swap_pages:
            raise NotSupported("KSM beside swap")
        if self.ksmd is None:
            self.ksmd = Ksmd(self)
        if run:
            (self.ksmd.run if run == 1 else self.ksmd.unmerge)()
        return 0, 0

    def set_thp(self, int enabled):
        """/sys/kernel/mm/transparent_hugepage/enabled."""
        self.w.thp_enabled = enabled
        if enabled:
            self.need_huge()

    def need_huge(self):
        """From here on there may be huge pages. The huge zero page is made, which says so."""
        cdef World *w = self.w
        if not w.huge_zero:
            self.reserve(pages=1)
            w.huge_zero = w.pages_used
            w.pages_used += 1
            w.pages[w.huge_zero].flags = K.PG_reserved | K.PG_uptodate | K.PG_head
            w.pages[w.huge_zero].refcount = 1

    def khugepaged(self):
        """Two whole scans of khugepaged: everything that it may collapse is collapsed. -> (0, 0)"""
        self.make_room(512 * self.w.leaves_used)
        return self.call(self.controller, F_KHUGEPAGED)

    def oom_kill(self, int pid):
        """The process is killed, and the OOM reaper is faster than its exit."""
        self.reap(pid)
        self.exit(pid)

    # ------------------------------------------------------------ what leaves the machine
    def set_cpu_online(self, int cpu, bint online):
        """A cpu is unplugged: its tasks move to the first one, its batches are drained, what it has counted is another's.
        Or it comes back, empty. The first cpu has no switch. -> (ret, errno)"""
        if not 0 < cpu < self.w.nr_cpus:
            return -1, _errno.ENOENT
        if online:
            self.offline_cpus.discard(cpu)
        elif cpu not in self.offline_cpus:
            for pid in range(1, self.w.nr_tasks):
                if self.w.tasks[<int>pid].cpu == cpu:
                    self.w.tasks[<int>pid].cpu = 0
            self.offline_cpus.add(cpu)
            self.call(self.controller, F_CPU_DEAD, cpu)
        return 0, 0

    def cpu_is_online(self, int cpu):
        return 0 <= cpu < self.w.nr_cpus and cpu not in self.offline_cpus

    def offline_pages(self, long first, long pages):
        """The frames [first, first + pages) leave the machine; what is in them, locked or not, moves to others. EBUSY if
        something cannot be moved (the zero page, a page that somebody holds); then all stay. -> (ret, errno)"""
        if first < 1 or pages < 0 or first + pages > self.w.pages_used:
            return -1, _errno.EINVAL
        self.make_room(pages)
        return (-1, _errno.EBUSY) if self.call(self.controller, F_OFFLINE, first, first + pages)[0] else (0, 0)

    def online_pages(self, long first, long pages):
        """Frames that had left are free memory again."""
        if first < 1 or pages < 0 or first + pages > self.w.pages_used:
            return -1, _errno.EINVAL
        online_pages(self.w, first, first + pages)
        return 0, 0

    def drop_caches(self, int what):
        if not 1 <= what <= 4:
            return -1, _errno.EINVAL
        if what & 2 and self.w.huge_zero:
            self.call(self.controller, F_SPLIT_DEFERRED)        # among the shrinkers of slab objects
        if what & 1:
            if self.w.tr.drop_caches_drains:
                self.drain_all()
            for file in range(1, self.w.mappings_used):
                self.call(self.controller, F_FADVISE, file, 0, <long>1 << 40, 0)
        return 0, 0

    def sysctl(self, str path, str value):
        if path == "/proc/sys/vm/compact_memory":
            return self.compact()
        if path == "/proc/sys/vm/drop_caches":
            return self.drop_caches(int(value))
        if path == "/proc/sys/vm/max_map_count":
            self.w.max_map_count = int(value)
        elif path == THP_ENABLED:
            if value not in _THP:
                return -1, _errno.EINVAL
            self.set_thp(_THP[value])
        elif switch := CPU_SWITCH.fullmatch(path):
            if value not in ("0", "1"):
                return -1, _errno.EINVAL
            return self.set_cpu_online(int(switch[1]), value == "1")
        elif path == memcg.HIGH:
            return memcg.high(value, self.reclaim_all)
        elif path == memcg.RECLAIM:
            return memcg.reclaim(value, self.release, self.reclaim_all)
        elif path not in _HARMLESS_SYSCTLS:
            raise NotSupported(f"sysctl {path}")
        return 0, 0
