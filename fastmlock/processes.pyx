# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""What processes do: system calls, faults, signals. (Errors that the kernel finds before it takes a lock are found
here.)"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from fastmlock.flows.frame cimport *
from fastmlock.mm.filemap cimport add_to_page_cache, delete_from_page_cache
from fastmlock.mm.hugetlb cimport hugetlbfs_evict_inode
from fastmlock.mm.page cimport put_page_testzero
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.vma cimport find_vma, mm_alloc, vm_start_gap, vma_is_secretmem
from fastmlock.state.types cimport *

import errno as _errno

from fastmlock.scenario.system import NotSupported
from fastmlock.state.layout import K

DEF_MASK = (1 << 64) - 1
TASK_SIZE = (1 << 47) - 4096
cdef enum:
    MMAP_BASE = 0x7fffff7ff     # page above the highest mapping: 8 MiB and a gap below the end
_SPECIAL = {"secret": MAPPING_SECRETMEM, "packet": MAPPING_RING, "devmem": MAPPING_MEM}
_BEHAVIOUR = (0, 1, 2, 10, 11, 12, 13, 14, 15, 18, 19)         # advice that is a vma flag
_ADVICE = _BEHAVIOUR + (3, 4, 8, 9, 20, 21)


cdef inline int64_t pages_up(object length):
    """PAGE_ALIGN in 64 bits, in pages: it may wrap to 0."""
    return <int64_t>(((length + 4095) & DEF_MASK) >> 12)


cdef inline int64_t word(object number):
    """An unsigned 64-bit number as a flow's argument."""
    return <int64_t><uint64_t>number


cdef class Processes(KernelEntry):
    """The processes of a machine and their system calls: (value, 0), or (-1, errno)."""

    # ------------------------------------------------------------ processes
    @property
    def nr_tasks(self):
        """Task records in use; processes are 1 to nr_tasks - 1."""
        return self.w.nr_tasks

    def spawn(self, *, int cpu=0, int memcg=0, node=None):
        """A new process on `cpu`: root, with the kernel's default RLIMIT_MEMLOCK and nothing mapped. The pages it
        brings in are charged to the memory cgroup `memcg` and come from `node`, or (None) from the node of its cpu. ->
        pid"""
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
        limit_bytes = min(limit_bytes, <int64_t>0x7fffffffffffffff)
        if limit_bytes > t.rlimit_memlock and t.uid:
            return -1, _errno.EPERM
        t.rlimit_memlock = limit_bytes
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
        """As mmap(2). Without MAP_FIXED and MAP_FIXED_NOREPLACE `addr` is a hint, and the place is the hint if it is
        free, else the highest gap below the stack that fits, as a process without address randomisation has it."""
        cdef int64_t pages = pages_up(length)
        if not length:
            return -1, _errno.EINVAL
        if not pages or pages << 12 > TASK_SIZE:
            return -1, _errno.ENOMEM
        if offset % 4096 or addr % 4096 and flags & (0x10 | 0x100000):
            return -1, _errno.EINVAL
        if flags & 0x40000 or self.w.mappings[<int>(file or 0)].kind == MAPPING_HUGETLB:
            return self.mmap_hugetlb(pid, addr, (pages + 511) & ~511, prot, flags, file, offset >> 12)
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

    def mmap_special(self, int pid, addr, length, int prot, int flags, str what):
        """A shared mapping of something of the process's own: "secret", memory of memfd_secret(); "packet", the ring of
        a packet socket; "devmem", physical memory."""
        pages = pages_up(length)
        if what == "secret" and not self.w.tr.secretmem:
            return -1, _errno.ENOSYS
        if not flags & 1 and what != "secret":
            raise NotSupported(f"a private mapping of {what}")
        self.make_room(2 * pages)
        mapping = self.new_mapping(pages, True)
        self.w.mappings[mapping].kind = _SPECIAL[what]
        self.w.mappings[mapping].unevictable = what == "secret"
        self.shared_anon.add(mapping)
        for index in range(pages if what == "packet" else 0):
            add_to_page_cache(self.w, &self.w.tasks[pid], mapping, index)
        return self.mmap(pid, addr, length, prot, flags & ~0x20, mapping, 0)

    def close_ring(self, int pid, int mapping):
        """The pages of a packet socket go with it."""
        for index in range(self.w.mappings[mapping].capacity):
            page = self.cached(mapping, index)
            delete_from_page_cache(self.w, mapping, index, False)
            if put_page_testzero(self.w, page):
                self.enter(pid, F_FREE_PAGE, page)

    def mmap_hugetlb(self, int pid, addr, long pages, int prot, int flags, file, long pgoff):
        """A mapping of huge pages from the pool: MAP_HUGETLB, which makes a file for it, or one of a hugetlbfs file."""
        if file is not None and self.w.mappings[<int>file].kind != MAPPING_HUGETLB or addr >> 12 & 511:
            return -1, _errno.EINVAL
        if not flags & (0x10 | 0x100000):
            raise NotSupported("huge pages of hugetlb at a place of the kernel's choice")
        if (addr >> 12) + pages > TASK_SIZE >> 12 or pages > 1 << 26:       # more than any pool has
            return -1, _errno.ENOMEM
        mapping = self.new_hugetlb(pages) if file is None else file
        if file is None:
            self.shared_anon.add(mapping)
        if not pgoff & 511:
            if pgoff > 1 << 24:
                raise NotSupported(f"a file offset of {pgoff} pages")
            self.grow_hugetlb(mapping, pgoff + pages)
        resv = 0 if flags & 1 else self.new_resv(mapping)
        self.make_room(pages)
        return self.unmapping(pid, self.call(pid, F_SYS_MMAP, addr, pages << 12, prot | <long>resv << 3 | <long>flags << 32,
                                             mapping | pgoff << 20))

    cdef tuple unmapping(self, int pid, tuple answer):
        """What fput() puts off until the task leaves the kernel: shared anonymous memory that nobody maps is
        evicted."""
        for mapping in [m for m in self.shared_anon if not self.w.mappings[<int>m].nr_vmas]:
            self.shared_anon.remove(mapping)
            if self.w.mappings[<int>mapping].kind == MAPPING_HUGETLB:
                hugetlbfs_evict_inode(self.w, mapping)
                continue
            if self.w.mappings[<int>mapping].kind == MAPPING_RING:
                self.close_ring(pid, mapping)
                continue
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
        """As msync(2). MS_SYNC of a disk file that is shared and dirty drains the process's cpu, nothing else
        drains."""
        if flags & ~7 or addr % 4096 or flags & 1 and flags & 4:
            return -1, _errno.EINVAL
        pages = pages_up(length)
        if length and not pages or (addr >> 12) + pages > 1 << 52:
            return -1, _errno.ENOMEM
        return self.call(pid, F_SYS_MSYNC, addr >> 12, (addr >> 12) + pages, flags)

    def shm_lock(self, int pid, int file):
        """shmctl(SHM_LOCK) on a segment, or on a tmpfs file taken for one that is everybody's: accounted to the user,
        and its mapping marked unevictable; pages are culled when they next reach a list."""
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
        if self.is_hugetlb(pid, addr) and self.w.tr.hugetlb_mremap:
            # whole huge pages; nothing is reserved for more of them
            old, new = (old + 511) & ~511, (new + 511) & ~511
            if (addr | new_addr) >> 12 & 511 or new > old:
                return -1, _errno.EINVAL
        if new > TASK_SIZE >> 12:
            return -1, _errno.ENOMEM
        if (addr >> 12) + old > TASK_SIZE >> 12:
            return self.mremap_beyond(pid, addr, old, new, flags, new_addr)
        self.make_room(max(old, new))
        self.reserve(vmas=16, nodes=64, avcs=64)
        return self.unmapping(pid, self.call(pid, F_SYS_MREMAP, addr, old, new | <long>flags << 40, new_addr))

    cdef bint is_hugetlb(self, int pid, addr):
        return (self.w.vmas[self.find(pid, addr)].flags & VM_HUGETLB) != 0

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
        """move_pages(2) of one page, to the node it is on if no other is named: drains every cpu. -> (status, 0),
        status 0 or the node, or minus an errno: EACCES for a page that others map too, EBUSY for one that cannot be
        moved."""
        if node is not None and not 0 <= node < self.w.nr_nodes:
            return -_errno.ENODEV, 0
        self.call(pid, F_SYS_DRAIN_ALL)
        kind, pfn = self.pte(pid, addr)
        vma = self.find(pid, addr)
        if vma and kind != "-" and self.w.tr.protnone_hides \
                and not self.w.vmas[vma].flags & (VM_READ | VM_WRITE | VM_EXEC):
            return -_errno.ENOENT, 0
        if not vma or pfn == self.w.zero_page:
            return -_errno.EFAULT, 0
        if kind == "-":
            anonymous = not self.w.vmas[vma].mapping
            return -_errno.EFAULT if anonymous and self.w.tr.move_pages_efault else -_errno.ENOENT, 0
        if kind == "s" or self.w.tr.move_pages_efault and vma_is_secretmem(self.w, &self.w.vmas[vma]):
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
