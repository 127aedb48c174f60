"""The machine's state: pages, ptes, vmas, address spaces, per-cpu batches, counters (KERNEL.md 1).

Addresses are page numbers everywhere below `system.py`. A page's reference count is real: every pte, the page
cache, every batch entry and every caller that holds the page adds one, and a page is gone when it reaches 0.
"""
from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from ..scenario.system import HEAP
from .traits import Traits

if TYPE_CHECKING:
    from .ksm import RmapItem

VM_READ, VM_WRITE, VM_EXEC, VM_SHARED = 0x1, 0x2, 0x4, 0x8
VM_MAYREAD, VM_MAYWRITE, VM_MAYEXEC, VM_MAYSHARE = 0x10, 0x20, 0x40, 0x80
VM_GROWSDOWN, VM_PFNMAP, VM_LOCKED, VM_IO = 0x100, 0x400, 0x2000, 0x4000
VM_SEQ_READ, VM_RAND_READ, VM_DONTCOPY, VM_DONTEXPAND = 0x8000, 0x10000, 0x20000, 0x40000
VM_LOCKONFAULT, VM_ACCOUNT, VM_NORESERVE, VM_HUGETLB = 0x80000, 0x100000, 0x200000, 0x400000
VM_WIPEONFORK, VM_MIXEDMAP = 0x2000000, 0x10000000
VM_HUGEPAGE, VM_NOHUGEPAGE, VM_MERGEABLE = 0x20000000, 0x40000000, 0x80000000
VM_ACCESS = VM_READ | VM_WRITE | VM_EXEC
VM_SPECIAL = VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP
VM_LOCKED_MASK = VM_LOCKED | VM_LOCKONFAULT

PTRS_PER_PTE = 512
CONTENT_UNKNOWN = 256       # of a page that came back from swap: any byte
HPAGE_PMD_NR = 512
LIST_LINKAGE = -1      # what lru_word holds when it is list pointers or belongs to an isolator: no count

EVENTS = ("culled", "scanned", "rescued", "mlocked", "munlocked", "cleared", "stranded")
LISTS = ("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable")

FIRST_FRAME = 0x1000


def pmd_start(addr: int) -> int:
    """First address of the pmd that `addr` lies in."""
    return addr - addr % PTRS_PER_PTE


@dataclass(eq=False, repr=False, slots=True)
class Page:
    """struct page. `lru_word` is the second word of the LRU linkage, which patch 06 overlays with mlock_count."""

    pfn: int
    refcount: int = 1
    mapcount: int = 0
    mapping: File | None = None          # page cache pages
    anon_vma: AnonVma | None = None      # anonymous pages
    index: int = 0
    lru_word: int = LIST_LINKAGE
    on_list: str | None = None             # the list it is accounted on
    lru: bool = False
    unevictable: bool = False
    mlocked: bool = False
    active: bool = False
    referenced: bool = False
    dirty: bool = False
    swapbacked: bool = False
    readahead: bool = False
    exclusive: bool = False                # PG_anon_exclusive (5.19)
    zero: bool = False                     # the shared zero page, or the huge one
    # a THP: references, list and PG_mlocked are its head's; each page counts the ptes that map it
    head: Page | None = None               # of a tail
    tails: list[Page] = field(default_factory=list)     # of a head
    pmd_mapcount: int = 0                  # of a head: huge pmds that map it
    double_map: bool = False               # of a head: a pmd maps it here and ptes there (to 6.1)
    partially_mapped: bool = False         # of a head: waits to be split
    hugetlb: bool = False                  # of a head: of hugetlb's pool
    restore_reserve: bool = False          # of such: reserved again when it is back there
    content: int = 0                       # the byte that its user wrote, all others being zero; or CONTENT_UNKNOWN
    ksm: list[RmapItem] | None = None      # of a KSM page: the places that were merged, the last one first
    swap: SwapEntry | None = None          # PG_swapcache, and which slot

    @property
    def anon(self) -> bool:
        return self.anon_vma is not None or self.ksm is not None

    @property
    def folio(self) -> Page:
        """compound_head()."""
        return self.head if self.head is not None else self

    @property
    def compound(self) -> bool:
        return self.head is not None or bool(self.tails)

    @property
    def nr(self) -> int:
        """Base pages: 512 of a THP's head."""
        return 1 + len(self.tails)

    @property
    def maps(self) -> int:
        """page_mapcount(): by ptes, and as part of a THP by pmds."""
        return self.mapcount + self.folio.pmd_mapcount

    @property
    def subpages(self) -> list[Page]:
        """All pages of a THP, from its head on."""
        return [self, *self.tails]

    @property
    def total_maps(self) -> int:
        """total_mapcount() of a head: a pmd counts once."""
        return self.pmd_mapcount + sum(page.mapcount for page in self.subpages)


@dataclass(eq=False, repr=False, slots=True)
class Pte:
    """A present page-table entry, or a migration entry while a page moves."""

    page: Page
    write: bool = False
    young: bool = False
    dirty: bool = False
    migration: bool = False


class Pmd(Pte):
    """A huge pmd: one entry for a THP, or for the huge zero page."""


@dataclass(eq=False, repr=False, slots=True)
class SwapEntry:
    """A slot in use: swap_map's count of who refers to it, and its page in the swap cache."""

    slot: int
    count: int = 0
    page: Page | None = None
    shadow: bool = False                   # reclaim took the page away


@dataclass(eq=False, repr=False, slots=True)
class SwapPte:
    """A swap entry in a page table."""

    entry: SwapEntry
    exclusive: bool = False                # of a page that was this process's alone (5.19)


@dataclass(eq=False, repr=False)
class SwapArea:
    """A swap device that is switched on."""

    pages: int
    slots: dict[int, SwapEntry] = field(default_factory=dict)
    next: dict[int, int] = field(default_factory=dict)      # per cpu, the slot it takes next
    clusters_used: int = 0


@dataclass(eq=False, repr=False)
class IntervalTree:
    """Vmas ordered by vm_pgoff; an equal start goes behind all its equals (KERNEL.md 1.5)."""

    vmas: list[Vma] = field(default_factory=list)

    def insert(self, vma: Vma) -> None:
        self.vmas.insert(bisect_right([v.pgoff for v in self.vmas], vma.pgoff), vma)

    def insert_after(self, vma: Vma, prev: Vma) -> None:
        self.vmas.insert(self.vmas.index(prev) + 1, vma)

    def remove(self, vma: Vma) -> None:
        self.vmas.remove(vma)

    def overlapping(self, first: int, last: int) -> list[Vma]:
        return [v for v in self.vmas if v.pgoff <= last and v.pgoff + v.pages > first]


@dataclass(eq=False, repr=False)
class AnonVma:
    """An anon_vma with its interval tree; `above` is that of the process its own was forked from."""

    tree: IntervalTree = field(default_factory=IntervalTree)
    above: AnonVma | None = None

    @property
    def root(self) -> AnonVma:
        return self if self.above is None else self.above.root


@dataclass(eq=False, repr=False)
class File:
    """An inode with its address_space; a segment of shared memory is one too."""

    number: int
    fs: str                                # "tmpfs", "rootfs", "ext4", "shm", "hugetlb", "shmem" (anonymous), or what
                                           # a process maps of its own: "secret", "packet", "devmem"
    size: int                              # i_size, in pages
    pages: dict[int, Page] = field(default_factory=dict)
    shadows: set[int] = field(default_factory=set)      # indices whose page reclaim evicted
    swapped: dict[int, SwapEntry] = field(default_factory=dict)     # tmpfs: what lies on the swap device
    i_mmap: IntervalTree = field(default_factory=IntervalTree)
    unevictable: bool = False              # SHM_LOCK
    huge: bool = False                     # tmpfs mounted huge=always
    owner: int | None = None               # of a segment; None is everybody
    reserved: set[int] = field(default_factory=set)     # hugetlb: pages that shared mappings have reserved
    ra: ReadAhead = field(default_factory=lambda: ReadAhead())      # of the controller's descriptor
    prev_pos: int = -1                     # of the controller's descriptor: the page behind its last read
    ino: int = field(default_factory=count().__next__)      # the later made, the higher
    allocated: bool = False                # on the disk it has blocks

    @property
    def shmem(self) -> bool:
        return self.fs != "ext4"


@dataclass(eq=False)
class ResvMap:
    """What a private mapping of huge pages, and all that is split off it, has used up of its reservations."""

    used: set[int] = field(default_factory=set)


@dataclass(eq=False)
class HugetlbPool:
    """The huge pages of hugetlb."""

    free: list[Page] = field(default_factory=list)          # the next to be used last
    total: int = 0
    reserved: int = 0
    surplus: int = 0                       # of total: given up when they are freed


@dataclass(eq=False, repr=False)
class ReadAhead:
    """struct file_ra_state: the window that was read last through one open file, in pages. Its page `async_size` before
    the end is marked."""

    start: int = 0
    size: int = 0
    async_size: int = 0


@dataclass(eq=False, repr=False)
class OpenFile:
    """struct file. Every mmap() opens its file anew; splits, copies and children share it."""

    ra: ReadAhead = field(default_factory=ReadAhead)


@dataclass(eq=False, repr=False)
class Vma:
    """vm_area_struct, [start, end) in pages."""

    mm: Mm
    start: int
    end: int
    flags: int
    pgoff: int
    file: File | None = None
    anon_vma: AnonVma | None = None
    chain: list[AnonVma] = field(default_factory=list)   # every anon_vma it is linked to
    name: str | None = None                              # of the hidden part of a process
    vm_file: OpenFile | None = None                      # through which it maps `file`
    swap_readahead: tuple[int, int, int] = (0, 0, 4)     # last address swapped in, window, hits since
    resv: ResvMap | None = None                          # hugetlb: of a private mapping with reservations
    resv_unmapped: bool = False                          # pages were taken from it: no fault brings any back

    @property
    def pages(self) -> int:
        return self.end - self.start

    def index(self, addr: int) -> int:
        """linear_page_index()."""
        return addr - self.start + self.pgoff

    def address(self, index: int) -> int:
        return index - self.pgoff + self.start

    @property
    def secretmem(self) -> bool:
        """vma_is_secretmem()."""
        return self.file is not None and self.file.fs == "secret"

    @property
    def private(self) -> bool:
        return not self.flags & VM_SHARED

    @property
    def accessible(self) -> bool:
        return bool(self.flags & VM_ACCESS)

    @property
    def pte_write_default(self) -> bool:
        """Whether vm_page_prot has the write bit: shared, writable, and nobody wants to hear of writes."""
        return (self.flags & (VM_WRITE | VM_SHARED)) == VM_WRITE | VM_SHARED and (
            self.file is None or self.file.shmem)


@dataclass(eq=False, repr=False)
class Mm:
    """mm_struct with its page table, which is one dictionary."""

    vmas: list[Vma] = field(default_factory=list)
    ptes: dict[int, Pte] = field(default_factory=dict)
    pmds: dict[int, Pmd] = field(default_factory=dict)      # huge ones, by their first address
    tables: set[int] = field(default_factory=set)           # first addresses of the page tables that there are
    swapped: dict[int, SwapPte] = field(default_factory=dict)
    locked_vm: int = 0
    dontunmapped: bool = False              # MREMAP_DONTUNMAP left locked_vm above what is locked
    def_flags: int = 0
    brk: int = HEAP                         # in bytes

    @property
    def total_vm(self) -> int:
        return sum(v.pages for v in self.vmas)

    def find_vma(self, addr: int) -> Vma | None:
        """The first vma that ends above addr."""
        for v in self.vmas:
            if v.end > addr:
                return v
        return None

    def lookup(self, addr: int) -> Vma | None:
        v = self.find_vma(addr)
        return v if v is not None and v.start <= addr else None

    def prev(self, vma: Vma) -> Vma | None:
        i = self.vmas.index(vma)
        return self.vmas[i - 1] if i else None

    def next(self, vma: Vma) -> Vma | None:
        i = self.vmas.index(vma) + 1
        return self.vmas[i] if i < len(self.vmas) else None

    def link(self, vma: Vma) -> None:
        self.vmas.insert(bisect_right([v.start for v in self.vmas], vma.start), vma)

    def present(self, start: int, end: int) -> Iterator[tuple[int, Pte]]:
        """Entries of [start, end) in address order."""
        if end - start <= len(self.ptes):
            keys = [a for a in range(start, end) if a in self.ptes]
        else:
            keys = sorted(a for a in self.ptes if start <= a < end)
        for a in keys:
            if a in self.ptes:
                yield a, self.ptes[a]


    def huge_pmds(self, start: int, end: int) -> list[tuple[int, Pmd]]:
        """Huge pmds that touch [start, end), in address order."""
        return [(at, self.pmds[at]) for at in sorted(self.pmds) if at < end and at + PTRS_PER_PTE > start]

    def huge_pmd(self, addr: int) -> Pmd | None:
        return self.pmds.get(pmd_start(addr))

    def pmd_none(self, addr: int) -> bool:
        return pmd_start(addr) not in self.pmds and pmd_start(addr) not in self.tables


@dataclass(eq=False, repr=False)
class Task:
    """A process as far as memory locking cares: its mm, its cpu, its rights."""

    pid: int
    mm: Mm
    cpu: int
    rlimit: int                            # RLIMIT_MEMLOCK, soft and hard
    uid: int = 0
    alive: bool = True

    @property
    def cap_ipc_lock(self) -> bool:
        return self.uid == 0


@dataclass(eq=False, repr=False)
class Batches:
    """The per-cpu batches (KERNEL.md 1.4), in the order of a drain."""

    lru_add: list[Page] = field(default_factory=list)
    lru_deactivate_file: list[Page] = field(default_factory=list)
    lru_deactivate: list[Page] = field(default_factory=list)
    lru_lazyfree: list[Page] = field(default_factory=list)
    activate: list[Page] = field(default_factory=list)
    mlock: list[tuple[str, Page]] = field(default_factory=list)     # ("mlock" | "new" | "munlock", page)


@dataclass(eq=False, repr=False)
class Kernel:
    """One simulated machine. `cpu` is where the running task is; whoever enters the kernel sets it."""

    traits: Traits
    cpus: list[Batches]
    cpu: int = 0
    pages: dict[int, Page] = field(default_factory=dict)
    next_pfn: int = FIRST_FRAME
    nr_mlock: int = 0
    events: dict[str, int] = field(default_factory=lambda: dict.fromkeys(EVENTS, 0))
    lists: dict[str, dict[Page, None]] = field(default_factory=lambda: {name: {} for name in LISTS})   # tail first
    max_map_count: int = 65530
    buddy_cached: bool = False              # ext4: its buddy cache, an inode like the files', has pages
    lru_disabled: bool = False              # lru_cache_disable(): batches are processed at every addition
    offline_frames: set[int] = field(default_factory=set)
    swap: SwapArea | None = None            # None: no swap device is on
    swapin_hits: int = 4                    # tmpfs: pages read ahead and wanted since, and the window before that
    swapin_prev: int = 0
    swapin_window: int = 0
    free_frames: list[list[int]] = field(default_factory=list)      # per cpu, the next to be used last
    free_huge: list[int] = field(default_factory=list)              # first frames of free THPs
    hugetlb: HugetlbPool = field(default_factory=HugetlbPool)
    zero_page: Page = field(default_factory=lambda: Page(pfn=0x10, zero=True))
    huge_zero_page: Page = field(default_factory=lambda: Page(pfn=0x11, zero=True))
    thp_enabled: str = "never"              # /sys/kernel/mm/transparent_hugepage/enabled

    def __post_init__(self) -> None:
        self.free_frames = [[] for _ in self.cpus]

    @property
    def batches(self) -> Batches:
        return self.cpus[self.cpu]

    def count(self, event: str, n: int = 1) -> None:
        """count_vm_events(UNEVICTABLE_PG...)."""
        self.events[event] += n

    def alloc_page(self) -> Page:
        """The frame that this cpu freed last, if any is left (the allocator's per-cpu lists), else a new one."""
        frames = self.free_frames[self.cpu]
        if not frames:
            frames.append(self.next_pfn)
            self.next_pfn += 1
        page = Page(pfn=frames.pop())
        self.pages[page.pfn] = page
        return page

    def alloc_huge_page(self) -> Page:
        """A THP: 512 frames in a row."""
        if self.free_huge:
            first = self.free_huge.pop()
        else:
            first, self.next_pfn = self.next_pfn, self.next_pfn + HPAGE_PMD_NR
        head = Page(pfn=first)
        head.tails = [Page(pfn=first + i, refcount=0, head=head) for i in range(1, HPAGE_PMD_NR)]
        self.pages.update((page.pfn, page) for page in head.subpages)
        return head

    def free_page(self, page: Page) -> None:
        for one in page.subpages:
            del self.pages[one.pfn]
        (self.free_huge if page.tails else self.free_frames[self.cpu]).append(page.pfn)


def page_lru(page: Page) -> str:
    """Which list the flags say a page belongs to."""
    if page.unevictable:
        return "unevictable"
    return ("active_" if page.active else "inactive_") + ("anon" if page.swapbacked else "file")


def folio_mark_dirty(page: Page) -> None:
    """`set_page_dirty`: written by a process. PG_readahead is PG_reclaim too, which a page that is dirtied loses."""
    page.dirty, page.readahead = True, False


def add_page_to_lru_list(k: Kernel, page: Page, *, tail: bool = False) -> None:
    """Put the page at the head of its list. Off the unevictable list the linkage overwrites any mlock_count, and so it
    does on that list too while it is still threaded (before patch 06)."""
    page.on_list = page_lru(page)
    pages = k.lists[page.on_list]
    if tail:
        k.lists[page.on_list] = {page: None, **pages}
    else:
        pages[page] = None
    if not (k.traits.p06_mlock_count and page.unevictable):
        page.lru_word = LIST_LINKAGE


def del_page_from_lru_list(k: Kernel, page: Page) -> None:
    assert page.on_list is not None
    del k.lists[page.on_list][page]
    page.on_list = None
