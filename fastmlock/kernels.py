"""What differs between kernels: named traits, and the table of releases made of them.

A kernel is a choice of traits, resolved once into integers that the compiled paths test; there is one
implementation of every path. `get("5.17-rc2+07")` gives the series' base with its first seven patches.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace

PATCHES = {
    "p01": "mm/munlock: delete page_mlock() and all its works",
    "p02": "mm/munlock: delete FOLL_MLOCK and FOLL_POPULATE",
    "p03": "mm/munlock: delete munlock_vma_pages_all(), allow oomreap",
    "p04": "mm/munlock: rmap call mlock_vma_page() munlock_vma_page()",
    "p05": "mm/munlock: replace clear_page_mlock() by final clearance",
    "p06": "mm/munlock: maintain page->mlock_count while unevictable",
    "p07": "mm/munlock: mlock_pte_range() when mlocking or munlocking",
    "p08": "mm/migrate: __unmap_and_move() push good newpage to LRU",
    "p09": "mm/munlock: delete smp_mb() from __pagevec_lru_add_fn()",
    "p10": "mm/munlock: mlock_page() munlock_page() batch by pagevec",
    "p11": "mm/munlock: page migration needs mlock pagevec drained",
    "p12": "mm/thp: collapse_file() do try_to_unmap(TTU_BATCH_FLUSH)",
    "p13": "mm/thp: shrink_page_list() avoid splitting VM_LOCKED THP",
}


class UnknownKernel(ValueError):
    """No kernel of that name."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a kernel does where kernels differ; 0 and 1 are no and yes. Sources: the series' patches and the
    releases' own changes, as named."""

    p01: int = 0
    p02: int = 0
    p03: int = 0
    p04: int = 0
    p05: int = 0
    p06: int = 0
    p07: int = 0
    p08: int = 0
    p09: int = 0
    p10: int = 0
    p11: int = 0
    p12: int = 0
    p13: int = 0
    pvec_size: int = 15             #: slots used of each LRU batch (31 from 6.9)
    mlock_pvec_size: int = 15       #: slots used of the mlock batch
    drain_on_populate: int = 0      #: lru_add_drain() at the end of populate (ece369c7e104, 5.18)
    special_check: int = 0          #: mlock_vma_page() tests all of VM_SPECIAL (c8263bd60500, 5.18)
    gather_drains: int = 1          #: freeing after a TLB flush drains the local batches (through 6.12)
    munmap_drains: int = 1          #: munmap and exit drain locally before zapping (through 6.12)
    madv_populate: int = 1          #: MADV_POPULATE_READ and _WRITE (5.14)
    madv_dontneed_locked: int = 0   #: MADV_DONTNEED_LOCKED (9457056ac426, 5.18)
    madv_collapse: int = 0          #: MADV_COLLAPSE (6.1)
    lru_lock_per_memcg: int = 1     #: one lru_lock per lruvec, not per node (5.11)
    i_mmap_read_truncate: int = 0   #: truncation zaps with i_mmap_rwsem shared (2c8659951654, 5.18)
    exit_mmap_read: int = 0         #: exit unmaps under mmap_lock for read (6.0)
    unlink_batch: int = 1           #: file VMAs unlinked under one i_mmap_rwsem write lock (8 from 6.11)
    smaps_lf: int = 0               #: VmFlags shows LOCKONFAULT as "lf" (6.6)
    large_folio: int = 0            #: mlock rules for large folios (6.7)
    lru_clear_at_queue: int = 0     #: LRU batches clear PG_lru when queueing (33dfe9204f29, 6.11 to 6.16)
    cow_reuse_refcount: int = 0     #: 5.18's COW: drain, then reuse by reference count
    anon_exclusive: int = 0         #: PG_anon_exclusive decides reuse at COW (5.19)
    rmap_trylock: int = 0           #: reclaim only trylocks the rmap locks (5.19)
    delayed_rmap: int = 0           #: dirty file ptes leave the rmap when the gather is flushed (6.2)
    dontunmap_any: int = 1          #: MREMAP_DONTUNMAP beyond private anonymous memory (5.13)
    populate_walks_holes: int = 1   #: MADV_POPULATE passes over holes; from 6.9 it stops, and drains if refused
    populate_checks_first: int = 0  #: a populate that is refused does not drain (6.9)
    mremap_positive_efault: int = 1 #: mremap of no vma answers 14 as if it were an address (5.16 to 5.18)
    dirty_ptes: int = 0             #: a writable entry of a dirty page is born dirty (6.18, seen on 6.18.44)
    mremap_many: int = 0            #: MREMAP_FIXED moves a range of several VMAs (6.17)
    merge_unfaulted: int = 0        #: a VMA without anon_vma takes in one that has a single one (6.16)
    pread_marks_next: int = 0       #: a sequential read does not mark its next page accessed (not 5.11 to 5.18)
    child_runs_first: int = 0 #: after a fork the child writes before its parent does (EEVDF, 6.6)
    write_prefaults: int = 1 #: write() faults its buffer in before it looks the page up (through 6.15)
    drop_caches_drains: int = 0 #: drop_caches drains every CPU first (6.0)
    remove_maywrite: int = 0 #: MADV_REMOVE asks whether a shared mapping may be written, not whether it is (6.7)
    dontunmap_accounts: int = 0 #: MREMAP_DONTUNMAP of a locked mapping adds to locked_vm (6.15)
    mprotect_uncharges: int = 0 #: read-only anonymous memory without anon_vma loses VM_ACCOUNT (6.6)
    mremap_checks_first: int = 0 #: mremap looks at the old VMA before it unmaps anything (6.17)
    random_is_old: int = 0   #: zapping a MADV_RANDOM VMA marks nothing accessed either (6.3)
    release_reverses: int = 1 #: release_pages() frees its last page first (through 6.8)
    release: int = 517              #: major * 100 + minor, for reports
    rlimit_memlock: int = 64 << 10  #: default soft RLIMIT_MEMLOCK in bytes (8 MiB from 5.16)

    def array_fields(self) -> dict[str, int]:
        """name -> value, in the order of the compiled record."""
        return asdict(self)


TRAIT_NAMES = [field.name for field in fields(Traits)]


def with_patches(base: Traits, first: int) -> Traits:
    """`base` with the first `first` patches of the series."""
    return replace(base, **{f"p{n:02}": 1 for n in range(1, first + 1)})


_V5_10 = Traits(release=510, madv_populate=0, lru_lock_per_memcg=0, dontunmap_any=0, pread_marks_next=1,
                mremap_positive_efault=0)
_V5_17 = Traits(release=517, rlimit_memlock=8 << 20)
_V5_18 = replace(with_patches(_V5_17, 13), release=518, drain_on_populate=1, special_check=1,
                 madv_dontneed_locked=1, i_mmap_read_truncate=1, cow_reuse_refcount=1)
_V6_1 = replace(_V5_18, release=601, drop_caches_drains=1, madv_collapse=1, exit_mmap_read=1, rmap_trylock=1,
               anon_exclusive=1, mremap_positive_efault=0, pread_marks_next=1)
_V6_12 = replace(_V6_1, release=612, pvec_size=31, mlock_pvec_size=31, smaps_lf=1, unlink_batch=8,
                 large_folio=1, delayed_rmap=1, populate_walks_holes=0, populate_checks_first=1,
                 child_runs_first=1, remove_maywrite=1, mprotect_uncharges=1, random_is_old=1, release_reverses=0)
_V6_18 = replace(_V6_12, release=618, gather_drains=0, munmap_drains=0, merge_unfaulted=1, mremap_many=1,
                 dirty_ptes=1, write_prefaults=0, dontunmap_accounts=1, mremap_checks_first=1)

RELEASES: dict[str, Traits] = {
    "5.10": _V5_10,
    "5.17-rc2": _V5_17,
    **{f"5.17-rc2+{n:02}": with_patches(_V5_17, n) for n in range(1, 14)},
    "5.18": _V5_18,
    "6.1": _V6_1,
    "6.12": _V6_12,
    "6.18": _V6_18,
}


def get(name: str) -> Traits:
    """The traits of a kernel. Raises UnknownKernel with the names there are."""
    try:
        return RELEASES[name]
    except KeyError:
        raise UnknownKernel(f"no kernel {name!r}; there are {', '.join(RELEASES)}") from None
