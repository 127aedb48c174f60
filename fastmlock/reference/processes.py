"""What processes do: system calls with their argument checks, permissions and error numbers (KERNEL.md 2.1 to 2.3).
Byte addresses become page numbers here."""
from __future__ import annotations

from errno import EAGAIN, EBUSY, EFAULT, EINVAL, ENOENT, ENOMEM, ENOSYS, EPERM

from ..scenario import system as abi
from ..scenario.system import NotSupported
from . import (
    brk,
    filemap,
    gup,
    hugetlb,
    ksm,
    madvise,
    memory,
    mlock,
    mmap,
    mremap,
    shmem,
    swap,
    truncate,
)
from .state import (
    HPAGE_PMD_NR,
    VM_GROWSDOWN,
    VM_HUGETLB,
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
    Task,
)
from .traits import traits_of

PAGE_SHIFT, PAGE_SIZE = 12, 4096
WORD = (1 << 64) - 1
TASK_SIZE = (1 << 47) - PAGE_SIZE
OK = (0, 0)
MS_ASYNC, MS_INVALIDATE, MS_SYNC = 1, 2, 4


def _pages_up(length: int) -> int:
    """PAGE_ALIGN() in 64 bits, in pages: it may wrap to 0."""
    return (length + PAGE_SIZE - 1 & WORD) >> PAGE_SHIFT


def _huge_up(pages: int) -> int:
    """Rounded up to whole huge pages."""
    return -(-pages // HPAGE_PMD_NR) * HPAGE_PMD_NR


def _answer(err: int) -> tuple[int, int]:
    return (-1, err) if err else OK


class Processes:
    """The processes of one machine, which runs one kernel."""

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
        if flags & abi.MAP_HUGETLB and backing is not None and backing.fs != "hugetlb":
            return -1, EINVAL
        if flags & abi.MAP_HUGETLB or (backing is not None and backing.fs == "hugetlb"):
            pages, pgoff = _huge_up(pages), offset >> PAGE_SHIFT
            if start % HPAGE_PMD_NR:
                return -1, EINVAL
            if pgoff > 1 << 24 and not pgoff % HPAGE_PMD_NR:
                raise NotSupported(f"a file offset of {pgoff} pages")
            if start + pages > TASK_SIZE >> PAGE_SHIFT:
                return -1, ENOMEM
            if backing is None:
                backing = File(-1, "hugetlb", pages)
                self._shared_anon.append(backing)
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

    def mmap_special(self, pid: int, addr: int, length: int, prot: int, flags: int, what: str) -> tuple[int, int]:
        """A shared mapping of secret memory, of the ring of a packet socket, or of physical memory."""
        pages = _pages_up(length)
        if what == "secret" and not self.traits.secretmem:
            return -1, ENOSYS
        if not flags & abi.MAP_SHARED and what != "secret":
            raise NotSupported(f"a private mapping of {what}")
        self._enter(pid)
        file = File(len(self._files), what, pages, unevictable=what == "secret")
        self._files.append(file)
        self._shared_anon.append(file)
        for index in range(pages if what == "packet" else 0):
            page = self.k.alloc_page()
            page.mapping, page.index = file, index
            file.pages[index] = page
        return self.mmap(pid, addr, length, prot, flags, file.number, 0)

    def _close_ring(self, file: File) -> None:
        """The pages of a packet socket go with it."""
        for page in file.pages.values():
            page.mapping = None
            swap.put_page(self.k, page)
        file.pages.clear()

    def _user_mode_again(self) -> None:
        """What fput() puts off to the end of the call: shared anonymous memory that nobody maps is evicted."""
        for file in [file for file in self._shared_anon if not file.i_mmap.vmas]:
            self._shared_anon.remove(file)
            if file.fs == "hugetlb":
                hugetlb.hugetlbfs_evict_inode(self.k, file)
                continue
            if file.fs == "packet":
                self._close_ring(file)
                continue
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
        old, new = _pages_up(old_len), _pages_up(new_len)
        vma = task.mm.lookup(addr >> PAGE_SHIFT)
        if vma is not None and vma.flags & VM_HUGETLB and self.traits.hugetlb_mremap:
            old, new = _huge_up(old), _huge_up(new)
            if (addr | new_addr) >> PAGE_SHIFT & HPAGE_PMD_NR - 1 or new > old:
                return -1, EINVAL
        ret, err = mremap.do_mremap(self.k, task, addr >> PAGE_SHIFT, old, new, flags, new_addr >> PAGE_SHIFT)
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
        if vma is not None and pte is not None and not vma.accessible and self.traits.protnone_hides:
            return -ENOENT, 0
        if vma is None or (pte is not None and pte.page.zero):
            return -EFAULT, 0
        if vma.secretmem and pte is not None and self.traits.move_pages_efault:
            return -ENOENT, 0
        if pte is None:
            nothing = vma.file is None and addr >> PAGE_SHIFT not in task.mm.swapped
            return -EFAULT if nothing and self.traits.move_pages_efault else -ENOENT, 0
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
