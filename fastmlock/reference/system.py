"""The system calls: argument checks, permissions, error numbers (KERNEL.md 2.1 to 2.3), and what can be seen from
outside. Byte addresses become page numbers here."""
from __future__ import annotations

from errno import EAGAIN, EBUSY, EFAULT, EINVAL, ENOENT, ENOMEM, EPERM, ESRCH

from ..scenario import memcg
from ..scenario import system as abi
from ..scenario.system import NotSupported
from . import (
    brk,
    filemap,
    gup,
    hotplug,
    huge_memory,
    khugepaged,
    ksm,
    madvise,
    memory,
    migrate,
    mlock,
    mmap,
    mremap,
    shmem,
    swap,
    swapfile,
    truncate,
    vmscan,
)
from .state import (
    HPAGE_PMD_NR,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_LOCKED_MASK,
    VM_LOCKONFAULT,
    VM_NORESERVE,
    VM_READ,
    VM_WRITE,
    Batches,
    File,
    Kernel,
    Mm,
    Page,
    Task,
    Vma,
)
from .traits import traits_of

PAGE_SHIFT, PAGE_SIZE = 12, 4096
WORD = (1 << 64) - 1
TASK_SIZE = (1 << 47) - PAGE_SIZE
OK = (0, 0)
MS_ASYNC, MS_INVALIDATE, MS_SYNC = 1, 2, 4
_HARMLESS_SYSCTLS = frozenset(f"/proc/sys/vm/{name}" for name in (
    "stat_refresh", "stat_interval", "swappiness", "vfs_cache_pressure", "compact_unevictable_allowed",
    "zone_reclaim_mode", "overcommit_memory"))


def _pages_up(length: int) -> int:
    """PAGE_ALIGN() in 64 bits, in pages: it may wrap to 0."""
    return (length + PAGE_SIZE - 1 & WORD) >> PAGE_SHIFT


def _answer(err: int) -> tuple[int, int]:
    return (-1, err) if err else OK


class ReferenceSystem:
    """One machine, one kernel; the protocol of `fastmlock.scenario.system.SystemUnderTest`."""

    def __init__(self, kernel: str = "5.17-rc2", cpus: int = 2, worker_cpu: int = 0, controller_cpu: int = 1) -> None:
        self.kernel = kernel
        self.traits = traits_of(kernel)
        self.cpus, self.worker_cpu, self.controller_cpu = cpus, worker_cpu, controller_cpu
        self.k = Kernel(self.traits, [Batches() for _ in range(cpus)])
        self.smaps_shows_lf = self.traits.smaps_shows_lockonfault
        self.release = self.traits.release
        self.child_runs_first = self.traits.child_runs_first
        self.write_prefaults = self.traits.write_prefaults
        self.controller = 0
        self._controller = Mm()
        self._tasks = {self.controller: Task(self.controller, self._controller, controller_cpu,
                                             self.traits.memlock_default)}
        self._files: list[File] = []
        self._shared_anon: list[File] = []
        self._ksmd = ksm.Ksmd()
        self._offline_cpus: set[int] = set()
        self._shm_locked: dict[int, int] = {}           # segment -> user that locked it
        self._shm_held: dict[int, int] = {}             # user -> pages
        self._next_observer = 0x200000000
        self.k.cpu = controller_cpu

    # ------------------------------------------------------------ entering the kernel
    def _enter(self, pid: int) -> Task:
        task = self._tasks[pid]
        self.k.cpu = task.cpu
        return task

    def _control(self) -> Kernel:
        self.k.cpu = self._tasks[self.controller].cpu
        return self.k

    # ------------------------------------------------------------ processes
    def spawn(self, *, cpu: int = 0) -> int:
        pid = len(self._tasks)
        self._tasks[pid] = Task(pid, Mm(), cpu, self.traits.memlock_default)
        return pid

    def fork(self, pid: int) -> int:
        parent = self._enter(pid)
        child = len(self._tasks)
        mm = mmap.dup_mmap(self.k, parent.mm)
        self._tasks[child] = Task(child, mm, parent.cpu, parent.rlimit, parent.uid)
        if parent.mm in self._ksmd.mms:
            self._ksmd.mms.append(mm)
        return child

    def exit(self, pid: int) -> None:
        task = self._enter(pid)
        task.alive = False
        self._exit_mmap(task.mm)
        self._user_mode_again()

    def exec(self, pid: int) -> None:
        """A new address space; the old one goes as at exit. Limit, user and capabilities stay."""
        task = self._enter(pid)
        old, task.mm = task.mm, Mm()
        self._exit_mmap(old)
        self._user_mode_again()

    def _exit_mmap(self, mm: Mm) -> None:
        self._ksmd.mms = [other for other in self._ksmd.mms if other is not mm]
        mmap.exit_mmap(self.k, mm)

    def set_cpu(self, pid: int, cpu: int) -> None:
        self._tasks[pid].cpu = cpu

    def set_rlimit_memlock(self, pid: int, limit_bytes: int) -> tuple[int, int]:
        """Soft and hard limit alike; only root may raise the hard one."""
        task = self._enter(pid)
        if limit_bytes > task.rlimit and task.uid:
            return -1, EPERM
        task.rlimit = limit_bytes
        return OK

    def setuid(self, pid: int, uid: int) -> tuple[int, int]:
        """All user and group ids; leaving root loses every capability."""
        task = self._enter(pid)
        if task.uid and uid != task.uid:
            return -1, EPERM
        task.uid = uid
        return OK

    # ------------------------------------------------------------ mmap and friends
    def mmap(self, pid: int, addr: int, length: int, prot: int, flags: int, file: int | None,
             offset: int) -> tuple[int, int]:
        task = self._enter(pid)
        fixed = bool(flags & (abi.MAP_FIXED | abi.MAP_FIXED_NOREPLACE))
        pages = _pages_up(length)
        if not length:
            return -1, EINVAL
        if not pages or pages << PAGE_SHIFT > TASK_SIZE:
            return -1, ENOMEM
        if not fixed:
            raise NotSupported("mmap at an address of the kernel's choice")
        if addr % PAGE_SIZE or offset % PAGE_SIZE:
            return -1, EINVAL
        if addr > TASK_SIZE - (pages << PAGE_SHIFT):
            return -1, ENOMEM
        start, shared = addr >> PAGE_SHIFT, bool(flags & abi.MAP_SHARED)
        backing, pgoff = (None, start) if file is None else (self._files[file], offset >> PAGE_SHIFT)
        if backing is None and shared:
            backing, pgoff = File(-1, "shmem", pages), 0
            self._shared_anon.append(backing)
        vm_flags = mmap.calc_vm_flags(prot, shared) | (VM_NORESERVE if flags & abi.MAP_NORESERVE else 0)
        vm_flags |= VM_GROWSDOWN if flags & abi.MAP_GROWSDOWN else 0
        err = mmap.do_mmap(self.k, task, start, pages, vm_flags, backing, pgoff,
                           fixed=bool(flags & abi.MAP_FIXED), noreplace=bool(flags & abi.MAP_FIXED_NOREPLACE),
                           map_locked=bool(flags & abi.MAP_LOCKED), populate=bool(flags & abi.MAP_POPULATE))
        self._user_mode_again()
        return (-1, err) if err else (addr, 0)

    def _user_mode_again(self) -> None:
        """What fput() puts off to the end of the call: shared anonymous memory that nobody maps is evicted."""
        for file in [file for file in self._shared_anon if not file.i_mmap.vmas]:
            self._shared_anon.remove(file)
            truncate.truncate_inode_pages_range(self.k, file, 0, truncate.FAR)

    def munmap(self, pid: int, addr: int, length: int) -> tuple[int, int]:
        task = self._enter(pid)
        if addr % PAGE_SIZE or addr > TASK_SIZE or length > TASK_SIZE - addr or not length:
            return -1, EINVAL
        start = addr >> PAGE_SHIFT
        err = mmap.do_munmap(self.k, task.mm, start, start + _pages_up(length))
        self._user_mode_again()
        return _answer(err)

    def mremap(self, pid: int, addr: int, old_len: int, new_len: int, flags: int,
               new_addr: int) -> tuple[int, int]:
        task = self._enter(pid)
        if addr % PAGE_SIZE or (flags & abi.MREMAP_FIXED and new_addr % PAGE_SIZE):
            return -1, EINVAL
        ret, err = mremap.do_mremap(self.k, task, addr >> PAGE_SHIFT, _pages_up(old_len), _pages_up(new_len), flags,
                                    new_addr >> PAGE_SHIFT)
        self._user_mode_again()
        if err:
            return -1, err
        return (EFAULT if ret == EFAULT else ret << PAGE_SHIFT), 0

    def mprotect(self, pid: int, addr: int, length: int, prot: int) -> tuple[int, int]:
        task = self._enter(pid)
        if addr % PAGE_SIZE:
            return -1, EINVAL
        if not length:
            return OK
        start, pages = addr >> PAGE_SHIFT, _pages_up(length)
        if not pages or start + pages > 1 << 52:
            return -1, ENOMEM
        return _answer(mmap.do_mprotect(self.k, task.mm, start, start + pages, prot))

    def madvise(self, pid: int, addr: int, length: int, advice: int) -> tuple[int, int]:
        task = self._enter(pid)
        if not madvise.madvise_behavior_valid(self.k, advice) or addr % PAGE_SIZE:
            return -1, EINVAL
        if advice == madvise.MERGEABLE and task.mm not in self._ksmd.mms:
            self._ksmd.mms.append(task.mm)
        start, pages = addr >> PAGE_SHIFT, _pages_up(length)
        if (length and not pages) or start + pages >= 1 << 52:
            return -1, EINVAL
        if not pages:
            return OK
        return _answer(madvise.do_madvise(self.k, task.mm, start, start + pages, advice))

    def brk(self, pid: int, addr: int) -> tuple[int, int]:
        return brk.brk(self.k, self._enter(pid), addr), 0

    def remap_file_pages(self, pid: int, addr: int, length: int, prot: int, pgoff: int, flags: int) -> tuple[int, int]:
        task = self._enter(pid)
        start, pages = addr >> PAGE_SHIFT, length >> PAGE_SHIFT
        if prot or not pages or start + pages >= 1 << 52:
            return -1, EINVAL
        err = mmap.remap_file_pages(self.k, task, start, pages, pgoff, nonblock=bool(flags & abi.MAP_NONBLOCK))
        self._user_mode_again()
        return _answer(err)

    def peek(self, pid: int, addr: int, write: bool) -> tuple[int, int]:
        """The controller looks at a page of the process through /proc/PID/mem."""
        controller = self._enter(self.controller)
        mm, page = self._tasks[pid].mm, addr >> PAGE_SHIFT
        vma = mm.find_vma(page)
        if vma is not None and (page >= vma.start or vma.flags & VM_GROWSDOWN) and not (
                vma.flags & (VM_WRITE if write else VM_READ)):
            raise NotSupported("a look from outside at memory that the process itself may not use so")
        err = brk.access_remote_vm(self.k, controller, mm, page, write)
        return (-1, err) if err else (1, 0)

    def msync(self, pid: int, addr: int, length: int, flags: int) -> tuple[int, int]:
        """MS_SYNC of a shared disk file writes its pages; MS_INVALIDATE refuses locked vmas."""
        task = self._enter(pid)
        if flags & ~7 or addr % PAGE_SIZE or (flags & MS_ASYNC and flags & MS_SYNC):
            return -1, EINVAL
        start = addr >> PAGE_SHIFT
        end = start + _pages_up(length)
        if end >= 1 << 52:                      # in bytes it has wrapped
            return -1, ENOMEM
        covered = start
        for vma in [v for v in task.mm.vmas if v.start < end and v.end > start]:
            if flags & MS_INVALIDATE and vma.flags & VM_LOCKED:
                return -1, EBUSY
            if flags & MS_SYNC and vma.file is not None and not vma.private and not vma.file.shmem:
                first = vma.index(max(start, vma.start))
                filemap.vfs_fsync_range(self.k, vma.file, first, vma.index(min(end, vma.end)))
            covered = vma.end if vma.start <= covered else covered
        return OK if covered >= end else (-1, ENOMEM)

    def shm_lock(self, pid: int, file: int) -> tuple[int, int]:
        """SHM_LOCK: accounted to the user, not to the process; the pages are culled when they next reach a list."""
        task, segment = self._enter(pid), self._files[file]
        if not segment.shmem:
            return -1, EINVAL
        if not self._owns(task, segment) or not mmap.can_do_mlock(task):
            return -1, EPERM
        if file in self._shm_locked:
            return OK
        held = self._shm_held.get(task.uid, 0) + segment.size
        if held > task.rlimit >> PAGE_SHIFT and not task.cap_ipc_lock:
            return -1, ENOMEM
        self._shm_held[task.uid] = held
        self._shm_locked[file] = task.uid
        segment.unevictable = True
        return OK

    def shm_unlock(self, pid: int, file: int) -> tuple[int, int]:
        task, segment = self._enter(pid), self._files[file]
        if not segment.shmem:
            return -1, EINVAL
        if not self._owns(task, segment):
            return -1, EPERM
        if file in self._shm_locked:
            self._shm_held[self._shm_locked.pop(file)] -= segment.size
            segment.unevictable = False
            shmem.shmem_unlock_mapping(self.k, segment)
        return OK

    @staticmethod
    def _owns(task: Task, segment: File) -> bool:
        return task.cap_ipc_lock or segment.owner in (None, task.uid)

    # ------------------------------------------------------------ mlock and friends
    def mlock(self, pid: int, addr: int, length: int) -> tuple[int, int]:
        return self._do_mlock(pid, addr, length, VM_LOCKED)

    def mlock2(self, pid: int, addr: int, length: int, flags: int) -> tuple[int, int]:
        if flags & ~abi.MLOCK_ONFAULT:
            self._enter(pid)
            return -1, EINVAL
        return self._do_mlock(pid, addr, length, VM_LOCKED | (VM_LOCKONFAULT if flags else 0))

    @staticmethod
    def _range(addr: int, length: int) -> tuple[int, int]:
        """Start rounded down; the length plus what was cut off rounded up, which may wrap to 0."""
        return addr >> PAGE_SHIFT, _pages_up(length + addr % PAGE_SIZE & WORD)

    def _do_mlock(self, pid: int, addr: int, length: int, flags: int) -> tuple[int, int]:
        """`do_mlock` (2.1): permission, limit, flags, then populate; a failed populate leaves the lock."""
        task = self._enter(pid)
        mm = task.mm
        if not mmap.can_do_mlock(task):
            return -1, EPERM
        start, pages = self._range(addr, length)
        limit = task.rlimit >> PAGE_SHIFT
        want = pages + mm.locked_vm
        if want > limit and not task.cap_ipc_lock:
            want -= mlock.count_mm_mlocked_page_nr(self.k, mm, start, pages)
        if want > limit and not task.cap_ipc_lock:
            return -1, ENOMEM
        if pages and start + pages >= 1 << 52:
            return -1, EINVAL
        if err := mlock.apply_vma_lock_flags(self.k, mm, start, start + pages, flags):
            return -1, err
        err = gup.mm_populate(self.k, mm, start, start + pages, ignore_errors=False)
        return _answer({EFAULT: ENOMEM, ENOMEM: EAGAIN}.get(err, err))

    def munlock(self, pid: int, addr: int, length: int) -> tuple[int, int]:
        task = self._enter(pid)
        start, pages = self._range(addr, length)
        if pages and start + pages >= 1 << 52:
            return -1, EINVAL
        return _answer(mlock.apply_vma_lock_flags(self.k, task.mm, start, start + pages, 0))

    def mlockall(self, pid: int, flags: int) -> tuple[int, int]:
        task = self._enter(pid)
        mm = task.mm
        if not flags or flags & ~7 or flags == abi.MCL_ONFAULT:
            return -1, EINVAL
        if not mmap.can_do_mlock(task):
            return -1, EPERM
        current = bool(flags & abi.MCL_CURRENT)
        if current and mm.total_vm > task.rlimit >> PAGE_SHIFT and not task.cap_ipc_lock:
            return -1, ENOMEM
        add = VM_LOCKED | (VM_LOCKONFAULT if flags & abi.MCL_ONFAULT else 0)
        mm.def_flags &= ~VM_LOCKED_MASK
        if flags & abi.MCL_FUTURE:
            mm.def_flags |= add
        if current:
            mlock.apply_mlockall_flags(self.k, mm, add)
            gup.mm_populate(self.k, mm, 0, TASK_SIZE >> PAGE_SHIFT)
        return OK

    def munlockall(self, pid: int) -> tuple[int, int]:
        task = self._enter(pid)
        task.mm.def_flags &= ~VM_LOCKED_MASK
        mlock.apply_mlockall_flags(self.k, task.mm, 0)
        return OK

    # ------------------------------------------------------------ other acts of a process
    def touch(self, pid: int, addr: int, pages: int, write: bool) -> tuple[int, int]:
        task = self._enter(pid)
        for done in range(pages):
            if signal := memory.user_access(self.k, task, (addr >> PAGE_SHIFT) + done, write, done & 255):
                return done, signal
        return pages, 0

    def move_pages(self, pid: int, addr: int) -> tuple[int, int]:
        """move_pages(2) of one page to the node it is on: a drain of every cpu, and the page's status."""
        task = self._enter(pid)
        swap.lru_add_drain_all(self.k)
        vma = task.mm.lookup(addr >> PAGE_SHIFT)
        pte = task.mm.huge_pmd(addr >> PAGE_SHIFT) or task.mm.ptes.get(addr >> PAGE_SHIFT)
        if vma is None or (pte is not None and pte.page.zero):
            return -EFAULT, 0
        if pte is None:
            return -EFAULT if vma.file is None and self.traits.move_pages_efault else -ENOENT, 0
        return OK

    def local_drain(self, pid: int) -> tuple[int, int]:
        """lru_add_drain() on the process's cpu."""
        self._enter(pid)
        swap.lru_add_drain(self.k)
        return OK

    def map_special(self, pid: int, addr: int, length: int, vm_flags: int) -> None:
        """A mapping of the kernel's own, with just these vm_flags."""
        start = addr >> PAGE_SHIFT
        mmap.mmap_region(self.k, self._tasks[pid].mm, start, _pages_up(length), vm_flags, None, start)

    # ------------------------------------------------------------ the controller
    def create_file(self, fs: str, pages: int, *, sparse: bool = False, observe: bool = True, owner: int = 0,
                    huge: bool = False) -> int:
        """Written page by page (a disk file is synced), then (`observe`) mapped by the controller, which never touches
        it."""
        if fs not in ("tmpfs", "ext4", "shm"):
            raise NotSupported(f"a file on {fs}")
        if huge:
            raise NotSupported("huge pages of files")
        k = self._control()
        file = File(len(self._files), fs, pages if sparse else 0, owner=owner if fs == "shm" else None)
        self._files.append(file)
        for index in range(0 if sparse else pages):
            self._write(file, index)
        if not sparse and not file.shmem:
            self._sync(file)
        size = max(pages, 1)
        self._next_observer += size + 0x1000
        if observe:
            mmap.mmap_region(k, self._controller, self._next_observer, size,
                             mmap.calc_vm_flags(abi.PROT_READ, shared=True), file, 0)
        swap.lru_add_drain_all(k)
        return file.number

    def _write(self, file: File, index: int) -> None:
        (shmem.shmem_file_write if file.shmem else filemap.generic_perform_write)(self.k, file, index)

    @staticmethod
    def _sync(file: File) -> None:
        for page in file.pages.values():
            page.dirty = False

    def swapon(self, pages: int) -> None:
        """A swap device of so many pages, a ram disk, is switched on."""
        swapfile.swapon(self.k, pages)

    def drain_all(self) -> None:
        swap.lru_add_drain_all(self._control())

    def truncate(self, file: int, pages: int) -> tuple[int, int]:
        k = self._control()
        if pages < 0:
            return -1, EINVAL
        truncate.truncate_setsize(k, self._files[file], pages)
        return OK

    def punch(self, file: int, offset: int, pages: int) -> tuple[int, int]:
        k = self._control()
        if offset < 0 or pages <= 0:
            return -1, EINVAL
        truncate.punch_hole(k, self._files[file], offset, offset + pages - 1)
        return OK

    def fadvise_dontneed(self, file: int, offset: int, pages: int) -> tuple[int, int]:
        k = self._control()
        truncate.fadvise_dontneed(k, self._files[file], offset, truncate.FAR if pages == 0 else offset + pages - 1)
        return OK

    def pwrite(self, file: int, offset: int, pages: int) -> tuple[int, int]:
        self._control()
        for index in range(offset, offset + pages):
            self._write(self._files[file], index)
        return PAGE_SIZE if pages > 0 else 0, 0

    def pread(self, file: int, offset: int, pages: int) -> tuple[int, int]:
        k, backing = self._control(), self._files[file]
        ret = 0
        for index in range(offset, offset + pages):
            ret = PAGE_SIZE if index < backing.size else 0
            if ret:
                (shmem.shmem_file_read if backing.shmem else filemap.filemap_read)(k, backing, index)
        return ret, 0

    def compact(self) -> tuple[int, int]:
        migrate.compact(self._control())
        return OK

    def reap(self, pid: int) -> tuple[int, int]:
        k = self._control()
        if not self._tasks[pid].alive:
            return -1, ESRCH
        memory.oom_reap_task_mm(k, self._tasks[pid].mm)
        return OK

    def ksm(self, run: int) -> tuple[int, int]:
        """/sys/kernel/mm/ksm/run."""
        k = self._control()
        if k.swap is not None:
            raise NotSupported("KSM beside swap")
        if run == 1:
            ksm.ksm_run(k, self._ksmd)
        elif run:
            ksm.unmerge_and_remove_all_rmap_items(k, self._ksmd)
            swap.lru_add_drain_all(k)
        return OK

    def oom_kill(self, pid: int) -> None:
        """Killed, and the OOM reaper is faster than its exit."""
        self.reap(pid)
        self.exit(pid)

    def khugepaged(self) -> tuple[int, int]:
        """Two whole scans of khugepaged."""
        k = self._control()
        khugepaged.khugepaged_do_scan(k, [mm for mm in self.address_spaces() if mm is not self._controller])
        return OK

    def reclaim(self, pages: int) -> tuple[int, int]:
        """One pass of reclaim over at most so many pages of each list. -> (freed, 0)"""
        k = self._control()
        return (-1, EINVAL) if pages < 0 else (vmscan.shrink_lists(k, pages), 0)

    # ------------------------------------------------------------ what leaves the machine
    def set_cpu_online(self, cpu: int, online: bool) -> tuple[int, int]:
        """Unplugs a cpu, whose tasks move to the first one, or brings it back; the first one has no switch."""
        if not 0 < cpu < self.cpus:
            return -1, ENOENT
        if online:
            self._offline_cpus.discard(cpu)
        elif cpu not in self._offline_cpus:
            self._offline_cpus.add(cpu)
            for task in self._tasks.values():
                task.cpu = 0 if task.cpu == cpu else task.cpu
            hotplug.page_alloc_cpu_dead(self._control(), cpu)
        return OK

    def cpu_is_online(self, cpu: int) -> bool:
        return 0 <= cpu < self.cpus and cpu not in self._offline_cpus

    def offline_pages(self, first: int, pages: int) -> tuple[int, int]:
        """Frames that exist leave the machine."""
        return OK if hotplug.offline_pages(self._control(), first, pages) else (-1, EBUSY)

    def drop_caches(self, what: int) -> tuple[int, int]:
        """Bit 0: the page cache. Bit 1: slab objects, among them inodes of files that nobody holds; none here."""
        k = self._control()
        if not 1 <= what <= 4:
            return -1, EINVAL
        if what & 2:
            huge_memory.deferred_split_scan(k)
        if what & 1:
            vmscan.drop_pagecache(k, [*self._files, *self._shared_anon])
        return OK

    def sysctl(self, path: str, value: str) -> tuple[int, int]:
        k = self._control()
        if path == "/proc/sys/vm/max_map_count":
            k.max_map_count = int(value)
        elif path == "/sys/kernel/mm/transparent_hugepage/enabled":
            if value not in ("never", "madvise", "always"):
                return -1, EINVAL
            k.thp_enabled = value
        elif path == "/proc/sys/vm/compact_memory":
            return self.compact()
        elif path == "/proc/sys/vm/drop_caches":
            return self.drop_caches(int(value))
        elif switch := abi.CPU_SWITCH.fullmatch(path):
            return self.set_cpu_online(int(switch[1]), value == "1") if value in ("0", "1") else (-1, EINVAL)
        elif path == memcg.HIGH:
            return memcg.high(value, lambda: vmscan.reclaim_all(k))
        elif path == memcg.RECLAIM:
            return memcg.reclaim(value, self.release, lambda: vmscan.reclaim_all(k))
        elif path not in _HARMLESS_SYSCTLS:
            raise NotSupported(f"sysctl {path}")
        return OK

    def address_spaces(self) -> list[Mm]:
        """The controller's and those of the living."""
        return [task.mm for task in self._tasks.values() if task.alive]

    # ------------------------------------------------------------ what can be seen
    def alive(self, pid: int) -> bool:
        return self._tasks[pid].alive

    def vmstat(self) -> dict[str, int]:
        out = {"nr_mlock": self.k.nr_mlock}
        out.update({f"unevictable_pgs_{name}": n for name, n in self.k.events.items()})
        out.update({f"nr_{name}": sum(page.nr for page in pages) for name, pages in self.k.lists.items()})
        return out

    def vm_lck(self, pid: int) -> int:
        return self._tasks[pid].mm.locked_vm * PAGE_SIZE >> 10

    def vmas(self, pid: int) -> list[tuple[int, int, int, int, int]]:
        return [self._smaps(v) for v in self._tasks[pid].mm.vmas]

    def file_of(self, pid: int, addr: int) -> int | None:
        """The file that the vma at `addr` maps, None for private anonymous memory; shared has no number, -1."""
        vma = self._tasks[pid].mm.lookup(addr >> PAGE_SHIFT)
        if vma is None or vma.file is None:
            return None
        return vma.file.number if vma.file in self._files else -1

    @staticmethod
    def _smaps(vma: Vma) -> tuple[int, int, int, int, int]:
        """Locked is the proportional share of the present pages of a locked vma, with smaps' own rounding."""
        pss = rss = 0
        pages = [pte.page for _, pte in vma.mm.present(vma.start, vma.end)]
        for _, pmd in vma.mm.huge_pmds(vma.start, vma.end):
            pages += pmd.page.subpages
        for page in pages:
            if not page.zero:
                rss += PAGE_SIZE
                pss += (PAGE_SIZE << 12) // max(page.maps, 1)
        locked = pss >> 22 if vma.flags & VM_LOCKED else 0
        return vma.start << PAGE_SHIFT, vma.end << PAGE_SHIFT, vma.flags, locked, rss >> 10

    def pte(self, pid: int, addr: int) -> tuple[str, int]:
        mm, at = self._tasks[pid].mm, addr >> PAGE_SHIFT
        pmd = mm.huge_pmd(at)
        if pmd is not None:
            page = pmd.page if pmd.page.zero else pmd.page.subpages[at % HPAGE_PMD_NR]
            return "a" if page.anon else "f", page.pfn       # pagemap takes the huge zero page for a file's
        pte = mm.ptes.get(at)
        if at in mm.swapped:
            return "s", 0
        if pte is None:
            return "-", 0
        if pte.migration:
            return "s", 0
        return "a" if pte.page.anon or pte.page.zero else "f", pte.page.pfn

    def page(self, pfn: int) -> tuple[int, str, int]:
        """A frame that has been freed shows no flags."""
        page = next((zero for zero in (self.k.zero_page, self.k.huge_zero_page) if zero.pfn == pfn), None)
        if page is not None:
            return 0, ("R" if page.referenced else "") + ("Tz" if page is self.k.huge_zero_page else "z"), -1
        page = self.k.pages.get(pfn)
        if page is None:
            return 0, "", -1
        counted = self.traits.p06_mlock_count and page.lru and page.unevictable
        return page.maps, _flag_letters(self.k, page), page.lru_word if counted else -1

    def file_pages(self, file: int) -> int:
        return self._files[file].size

    def cached(self, file: int, index: int) -> int:
        """What mincore() sees: the page cache, and for what is swapped out the swap cache."""
        backing = self._files[file]
        page = backing.swapped[index].page if index in backing.swapped else backing.pages.get(index)
        return page.pfn if page is not None else 0


def _flag_letters(k: Kernel, page: Page) -> str:
    """In the recordings' order LUMARDasSWKiTBz. From 6.9 every page of a THP shows the flags of the whole; before, a
    tail has few of its own."""
    if page.head is not None:
        if not k.traits.folio_page_flags:
            return ("a" if page.anon else "") + ("T" if page.anon or page.head.lru else "")
        page = page.head
    shown = ((page.lru, "L"), (page.unevictable, "U"), (page.mlocked, "M"), (page.active, "A"),
             (page.referenced, "R"), (page.dirty, "D"), (page.anon, "a"), (page.swapbacked, "s"),
             (page.swap is not None, "S"), (bool(page.tails), "T"))
    return "".join(letter for on, letter in shown if on)
