"""One machine and its kernel: files, the controller, what leaves the machine, and what can be seen from outside."""
from __future__ import annotations

from errno import EBUSY, EINVAL, ENOENT, ESRCH

from ..scenario import memcg
from ..scenario import system as abi
from ..scenario.system import FAR, NotSupported
from . import (
    filemap,
    hotplug,
    huge_memory,
    hugetlb,
    khugepaged,
    ksm,
    memory,
    migrate,
    mmap,
    shmem,
    swap,
    swapfile,
    swapoff,
    truncate,
    vmscan,
)
from .processes import OK, PAGE_SHIFT, PAGE_SIZE, Processes
from .state import (
    FIRST_FRAME,
    HPAGE_PMD_NR,
    VM_LOCKED,
    VM_PFNMAP,
    File,
    Kernel,
    Mm,
    Page,
    Vma,
)

_HARMLESS_SYSCTLS = frozenset(f"/proc/sys/vm/{name}" for name in (
    "stat_refresh", "stat_interval", "swappiness", "vfs_cache_pressure", "compact_unevictable_allowed",
    "zone_reclaim_mode", "overcommit_memory"))
BLOCK = 32768           # page frames of a memory block


class ReferenceSystem(Processes):
    """One machine, one kernel; the protocol of `fastmlock.scenario.system.SystemUnderTest`."""

    # ------------------------------------------------------------ the controller
    def create_file(self, fs: str, pages: int, *, sparse: bool = False, observe: bool = True, owner: int = 0,
                    huge: bool = False) -> int:
        """Written page by page (a disk file is synced), then (`observe`) mapped by the controller, which never touches
        it."""
        if fs not in ("tmpfs", "ext4", "shm", "hugetlb", "rootfs"):
            raise NotSupported(f"a file on {fs}")
        if huge and fs != "tmpfs":
            raise NotSupported(f"huge pages of {fs}")
        k = self._control()
        file = File(len(self._files), fs, pages if sparse else 0, huge=huge, owner=owner if fs == "shm" else None)
        self._files.append(file)
        if fs == "hugetlb":
            file.size = pages
            return file.number
        for index in range(0 if sparse else pages):
            self._write(file, index)
        if not file.shmem:
            self._sync(file)
            file.allocated = not sparse
            k.buddy_cached |= not any(other.fs == "ext4" for other in self._files[:-1])     # the first blocks of all
        size = max(pages, 1)
        self._next_observer += size + 0x1000
        if observe:
            mmap.mmap_region(k, self._controller, self._next_observer, size,
                             mmap.calc_vm_flags(abi.PROT_READ, shared=True), file, 0)
        swap.lru_add_drain_all(k)
        return file.number

    def _file(self, number: int) -> File:
        """A file that can be changed, read and written."""
        if self._files[number].fs == "hugetlb":
            raise NotSupported("changing, reading or writing a file on hugetlbfs, which is mapped")
        return self._files[number]

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
        truncate.truncate_setsize(k, self._file(file), pages)
        return OK

    def punch(self, file: int, offset: int, pages: int) -> tuple[int, int]:
        k = self._control()
        if offset < 0 or pages <= 0:
            return -1, EINVAL
        truncate.punch_hole(k, self._file(file), offset, offset + pages - 1)
        return OK

    def fadvise_dontneed(self, file: int, offset: int, pages: int) -> tuple[int, int]:
        k = self._control()
        truncate.fadvise_dontneed(k, self._files[file], offset, truncate.FAR if pages == 0 else offset + pages - 1)
        return OK

    def pwrite(self, file: int, offset: int, pages: int) -> tuple[int, int]:
        self._control()
        for index in range(offset, offset + pages):
            self._write(self._file(file), index)
        return PAGE_SIZE if pages > 0 else 0, 0

    def pread(self, file: int, offset: int, pages: int) -> tuple[int, int]:
        k, backing = self._control(), self._file(file)
        ret = 0
        if k.traits.read_past_end and not backing.shmem and pages > 0 and offset + pages > backing.size + FAR:
            raise NotSupported(f"a read more than {FAR} pages behind the end of a disk file, which leaves a page there")
        for index in range(offset, offset + pages):
            ret = PAGE_SIZE if index < backing.size else 0
            if ret or (k.traits.read_past_end and not backing.shmem):
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

    def offline_block(self, pid: int, addr: int) -> tuple[int, int]:
        """The block of 32,768 frames that a process's page lies in goes offline, as far as there are any."""
        pfn = self.pte(pid, addr)[1]
        if pfn not in self.k.pages:
            return -1, EINVAL
        first = max(pfn - pfn % BLOCK, FIRST_FRAME)
        return self.offline_pages(first, min(pfn - pfn % BLOCK + BLOCK, self.k.next_pfn) - first)

    def swapoff(self) -> tuple[int, int]:
        """All that is swapped out comes back."""
        k = self._control()
        if k.swap is None:
            return -1, EINVAL
        swapoff.swapoff(k, [*self._files, *self._shared_anon], self.address_spaces()[::-1])
        return OK

    def drop_caches(self, what: int) -> tuple[int, int]:
        """Bit 0: the page cache. Bit 1: slab objects, among them inodes of files that nobody holds; none here."""
        k = self._control()
        if not 1 <= what <= 4:
            return -1, EINVAL
        if what & 2:
            if any(file.huge and file.size in file.pages and file.pages[file.size].compound for file in self._files):
                raise NotSupported("drop_caches of a huge page that lies partly behind the end of its file")
            huge_memory.deferred_split_scan(k)
        if what & 1:
            vmscan.drop_pagecache(k, [*self._files, *self._shared_anon])
        return OK

    def sysctl(self, path: str, value: str) -> tuple[int, int]:
        k = self._control()
        if path == "/proc/sys/vm/max_map_count":
            k.max_map_count = int(value)
        elif path == "/proc/sys/vm/nr_hugepages":
            if int(value) < 0:
                return -1, EINVAL
            hugetlb.set_max_huge_pages(k, int(value))
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
        out.update(HugePages_Free=len(self.k.hugetlb.free), HugePages_Rsvd=self.k.hugetlb.reserved)
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
            pages += [] if pmd.page.hugetlb else pmd.page.subpages
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
        vma = mm.lookup(at)
        if vma is not None and vma.flags & VM_PFNMAP:
            return "-", 0                   # which pagemap passes over
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
            thp = not page.head.hugetlb and (page.anon or page.head.lru)
            return ("a" if page.anon else "") + ("T" if thp else "")
        page = page.head
    shown = ((page.lru, "L"), (page.unevictable, "U"), (page.mlocked, "M"), (page.active, "A"),
             (page.referenced, "R"), (page.dirty, "D"), (page.anon, "a"), (page.swapbacked, "s"),
             (page.swap is not None, "S"), (bool(page.tails) and not page.hugetlb, "T"))
    return "".join(letter for on, letter in shown if on)
