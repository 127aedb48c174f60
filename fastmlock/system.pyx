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
from fastmlock.mm.filemap cimport find_get_page
from fastmlock.mm.hugetlb cimport set_max_huge_pages
from fastmlock.mm.page cimport page_compound
from fastmlock.state.debug cimport CHECKS
from fastmlock.state.types cimport *

import errno as _errno

from fastmlock import kernels
from fastmlock.scenario import memcg
from fastmlock.scenario.system import CPU_SWITCH, FAR, NotSupported
from fastmlock.state.layout import K

_HARMLESS_SYSCTLS = frozenset(f"/proc/sys/vm/{name}" for name in (
    "stat_refresh", "stat_interval", "swappiness", "vfs_cache_pressure", "compact_unevictable_allowed",
    "zone_reclaim_mode", "overcommit_memory"))
BLOCK = 32768                   # page frames of a memory block
NR_HUGEPAGES = "/proc/sys/vm/nr_hugepages"
THP_ENABLED = "/sys/kernel/mm/transparent_hugepage/enabled"
_THP = {"never": THP_NEVER, "madvise": THP_MADVISE, "always": THP_ALWAYS}


cdef class System(Processes):
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
        after every call, all that must hold is looked at (`fastmlock.audit.consistency`), and ModelError raised with
        what does not; the default of a debug build

    Raises
    ------
    fastmlock.kernels.UnknownKernel, ValueError
    """

    def __init__(self, kernel="5.17-rc2", int cpus=2, int worker_cpu=0, int controller_cpu=1, *, int nodes=1,
                 int memcgs=1, dict capacity=None, bint check=CHECKS):
        traits = kernels.get(kernel) if isinstance(kernel, str) else kernel
        Processes.__init__(self, traits, cpus=cpus, nodes=nodes, memcgs=memcgs, capacity=capacity)
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
        self.fs = {}
        self.ksm_mms = []
        self.ksmd = None
        self.room = {}
        self.controller = self.spawn(cpu=self.controller_cpu)
        self.checking = check

    # ------------------------------------------------------------ files and the controller
    def create_file(self, str fs, long pages, *, bint sparse=False, bint observe=True,
                    bint interleave=False, int owner=0, bint huge=False):
        """A file on "tmpfs" (mounted huge=always, if `huge`; "rootfs" is another one, mounted before all others) or
        "ext4", or the "shm" segment of a user `owner`, written page by page unless `sparse`; or one on "hugetlb", which
        can only be mapped, and is never observed. With `observe` the controller maps it, as the recorder does, and
        never touches it. With `interleave` page i lies on node i modulo their number, else all lie where their writer
        ran. -> file number"""
        if fs not in ("tmpfs", "ext4", "shm", "hugetlb", "rootfs"):
            raise NotSupported(f"a file on {fs}")
        if huge and fs != "tmpfs":
            raise NotSupported(f"huge pages of {fs}")
        if pages < 0:
            raise ValueError(f"a file of {pages} pages")
        if fs == "hugetlb":
            return self.new_hugetlb(pages)
        if huge:
            self.need_huge()
        file = self.new_mapping(pages, fs != "ext4", huge)
        if fs == "shm":
            self.shm_owner[file] = owner
        self.w.mappings[file].interleave = interleave
        self.make_room(pages)
        if not sparse:
            self.call(self.controller, F_FILE_WRITE, file, 0, pages, fs == "ext4")
        if fs == "ext4":
            self.w.mappings[file].allocated = not sparse
            self.w.buddy_cached |= "ext4" not in self.fs.values()       # the first blocks of all
        self.fs[file] = fs
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
            pages = (pages | 511) + 1 if m.huge else pages
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

    cdef int base_pages(self, int file) except -1:
        """NotSupported for a file of huge pages."""
        if self.w.mappings[file].kind == MAPPING_HUGETLB:
            raise NotSupported("changing, reading or writing a file on hugetlbfs, which is mapped")
        return 0

    def truncate(self, int file, long pages):
        self.base_pages(file)
        if pages < 0:
            return -1, _errno.EINVAL
        self.grow_file(file, pages)
        return self.call(self.controller, F_TRUNCATE, file, pages, <long>1 << 40, pages)

    def punch(self, int file, long offset, long pages):
        self.base_pages(file)
        if offset < 0 or pages <= 0:
            return -1, _errno.EINVAL
        return self.call(self.controller, F_TRUNCATE, file, offset, offset + pages, -1)

    def fadvise_dontneed(self, int file, long offset, long pages):
        if self.w.mappings[file].kind != MAPPING_FILE:
            return 0, 0
        return self.call(self.controller, F_FADVISE, file, offset, offset + pages if pages else <long>1 << 40, 1)

    def pwrite(self, int file, long offset, long pages):
        self.base_pages(file)
        self.grow_file(file, offset + pages)
        self.make_room(pages)
        self.call(self.controller, F_FILE_WRITE, file, offset, pages, 0)
        return (4096 if pages > 0 else 0), 0

    def pread(self, int file, long offset, long pages):
        self.base_pages(file)
        if self.w.tr.read_past_end and not self.w.mappings[file].shmem and pages > 0:
            if offset + pages > self.w.mappings[file].size + FAR:
                raise NotSupported(f"a read more than {FAR} pages behind the end of a disk file, which leaves a page there")
            self.grow_file(file, offset + pages)
        self.make_room(pages + 64)
        done, _ = self.call(self.controller, F_FILE_READ, file, offset, pages)
        return (4096 if pages > 0 and done == pages else 0), 0

    def compact(self):
        self.make_room(self.w.pages_used + self.w.pages_nfree)     # no other cpu's free frames need be taken
        return self.call(self.controller, F_COMPACT)

    def reclaim(self, long pages):
        """One pass of reclaim: at most `pages` of each active and each inactive list of files and, with swap, of
        anonymous memory and tmpfs. -> (freed, 0)"""
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

    # ------------------------------------------------------------ hugetlb
    def set_nr_hugepages(self, long pages):
        """/proc/sys/vm/nr_hugepages: so many huge pages of 2 MiB are set aside for hugetlb. Those in use beyond the
        number are given up when they are freed."""
        if pages < 0:
            return -1, _errno.EINVAL
        self.need_huge()
        self.reserve(pages=512 * max(0, pages - self.w.hugetlb_total))
        set_max_huge_pages(self.w, pages)
        self.check()
        return 0, 0

    @property
    def hugetlb(self):
        """The pool in huge pages: HugePages_Total, _Free, _Rsvd and _Surp of /proc/meminfo."""
        return self.w.hugetlb_total, self.w.hugetlb_free, self.w.hugetlb_resv, self.w.hugetlb_surplus

    def new_hugetlb(self, long pages):
        """A file of huge pages, `pages` base pages long, with the record of what of it is reserved next to it. -> its
        number"""
        self.need_huge()
        mapping = self.new_mapping(pages + 511 >> 9, True)
        self.w.mappings[mapping].kind = MAPPING_HUGETLB
        self.w.mappings[mapping].size = pages
        self.new_resv(mapping)
        return mapping

    def new_resv(self, int mapping):
        """An empty record of what is reserved of a file of huge pages. -> its number"""
        resv = self.new_mapping(self.w.mappings[mapping].capacity, False)
        self.w.mappings[resv].kind = MAPPING_RESV
        return resv

    def grow_hugetlb(self, int mapping, long pages):
        """Room for so many base pages of a file of huge pages, and in what is reserved of it."""
        self.grow_file(mapping, pages + 511 >> 9)
        self.grow_file(mapping + 1, pages + 511 >> 9)

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
        """A cpu is unplugged: its tasks move to the first one, its batches are drained, what it has counted is
        another's. Or it comes back, empty. The first cpu has no switch. -> (ret, errno)"""
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
        """The frames [first, first + pages) leave the machine; what is in them, locked or not, moves to others. EBUSY
        if something cannot be moved (the zero page, a page that somebody holds); then all stay. -> (ret, errno)"""
        if first < 1 or pages < 0 or first + pages > self.w.pages_used:
            return -1, _errno.EINVAL
        self.make_room(pages)
        return (-1, _errno.EBUSY) if self.call(self.controller, F_OFFLINE, first, first + pages)[0] else (0, 0)

    def offline_block(self, int pid, addr):
        """The memory block of 128 MiB that a process's page lies in leaves the machine, as by "offline" to the block's
        file in /sys; the zero pages are not in it. EINVAL where there is no page. -> (ret, errno)"""
        pfn = self.pte(pid, addr)[1]
        first = max(pfn // BLOCK * BLOCK, 1)
        if not pfn or self.w.pages[<long>pfn].flags & PG_reserved:
            return -1, _errno.EINVAL
        pages = min(first // BLOCK * BLOCK + BLOCK, self.w.pages_used) - first
        self.make_room(pages)
        return (-1, _errno.EBUSY) if self.call(self.controller, F_OFFLINE, first, first + pages, 0, 1)[0] else (0, 0)

    def online_pages(self, long first, long pages):
        """Frames that had left are free memory again."""
        if first < 1 or pages < 0 or first + pages > self.w.pages_used:
            return -1, _errno.EINVAL
        online_pages(self.w, first, first + pages)
        return 0, 0

    def huge_beyond_end(self, int file):
        """A THP at the end of the file is only partly within, which tmpfs's own shrinker looks for."""
        cdef Mapping *m = &self.w.mappings[file]
        cdef uint32_t page = find_get_page(self.w, file, m.size) if m.huge and m.size & 511 else 0
        return page != 0 and page_compound(self.w, page)

    def swapoff(self):
        """swapoff(2) of the swap device: all that lies there comes back, into locked VMAs too. EINVAL if none is on. (A
        real one is refused where memory would not suffice: the model takes what it needs.) -> (ret, errno)"""
        if not self.w.swap_pages:
            return -1, _errno.EINVAL
        self.make_room(self.w.swap_used)
        return self.call(self.controller, F_SWAPOFF)

    def drop_caches(self, int what):
        if not 1 <= what <= 4:
            return -1, _errno.EINVAL
        if what & 2 and any(self.huge_beyond_end(file) for file in range(1, self.w.mappings_used)):
            raise NotSupported("drop_caches of a huge page that lies partly behind the end of its file")
        if what & 2 and self.w.huge_zero:
            self.call(self.controller, F_SPLIT_DEFERRED)        # among the shrinkers of slab objects
        if what & 1:
            if self.w.tr.drop_caches_drains:
                self.drain_all()
            self.drop_pagecache()
        return 0, 0

    cdef int drop_pagecache(self) except -1:
        """iterate_supers(drop_pagecache_sb): the file systems in the order in which they were mounted, the files of
        each newest first. The kernel's own shared memory comes first; the root has many files, so that dropping them
        drains; so does ext4's buddy cache behind its files."""
        cdef int file
        for fs in ("shm", "rootfs", "tmpfs", "ext4"):
            for file in range(self.w.mappings_used - 1, 0, -1):
                if self.w.mappings[file].kind == MAPPING_FILE and self.fs.get(file, "shm") == fs:
                    self.call(self.controller, F_FADVISE, file, 0, <long>1 << 40, 0)
            if fs == "rootfs" or (fs == "ext4" and self.w.buddy_cached):
                self.call(self.controller, F_DRAIN, self.controller_cpu)
        self.w.buddy_cached = 0
        return 0

    def sysctl(self, str path, str value):
        if path == "/proc/sys/vm/compact_memory":
            return self.compact()
        if path == "/proc/sys/vm/drop_caches":
            return self.drop_caches(int(value))
        if path == "/proc/sys/vm/max_map_count":
            self.w.max_map_count = int(value)
        elif path == NR_HUGEPAGES:
            return self.set_nr_hugepages(int(value))
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
