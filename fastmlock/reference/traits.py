"""What differs between kernels, as one frozen table of named traits.

Everything else in this package is one implementation that asks these traits and never a kernel's name.
The thirteen patches of the series each have their own flag (KERNEL.md 3), so that a kernel "5.17-rc2+07"
is the base with the first seven flags set.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any


class CowReuse(Enum):
    """When `do_wp_page` may keep an anonymous page instead of copying it."""

    REFCOUNT = 1    # 5.9: only if nobody else, not even a per-cpu batch, holds a reference
    DRAIN = 2       # 5.18: the local batches are drained first
    EXCLUSIVE = 3   # 5.19: PG_anon_exclusive answers at once, else as DRAIN


@dataclass(frozen=True)
class Traits:
    """One kernel. The defaults are 5.17-rc2, the base of the series."""

    name: str
    release: int = 517                      # major * 100 + minor
    # --- the thirteen patches (09 and 12 change no state that an untimed model can show)
    p01_no_page_mlock: bool = False         # nobody walks the rmap on munlock; munlock clears the vma flags only
    p02_no_foll_mlock: bool = False         # GUP marks nothing; populate skips LOCKONFAULT
    p03_zap_locked: bool = False            # munmap and exit leave VM_LOCKED set while they zap
    p04_rmap_mlocks: bool = False           # rmap add mlocks, rmap removal munlocks
    p05_final_clearance: bool = False       # PG_mlocked is cleared, and CLEARED counted, at free only
    p06_mlock_count: bool = False           # page->mlock_count while unevictable
    p07_range_walk: bool = False            # mlock and munlock walk the page tables
    p08_newpage_lru_first: bool = False     # migration queues the new page before restoring its ptes
    p09_no_barrier: bool = False
    p10_mlock_batch: bool = False           # per-cpu mlock batch
    p11_migration_drains: bool = False      # migration drains the mlock batch per pte
    p12_collapse_ttu: bool = False
    p13_referenced_restores: bool = False   # page_referenced() marks a page found in a locked vma
    # --- batches
    pagevec_size: int = 15                  # 31 from 6.9
    mlock_pagevec_size: int = 15            # the mlock batch's: the same, unless a kernel's name says another
    flush_drains: bool = True               # freeing the pages of an mmu_gather first drains locally (to 6.12)
    unmap_drains: bool = True               # munmap, exit and single-vma zaps start with a local drain (to 6.12)
    release_reverses: bool = True           # release_pages() frees its last page first (to 6.8)
    # --- memory.c, gup.c
    populate_drains: bool = False           # 5.18: local drain at the end of populate and MADV_POPULATE
    mlock_refuses_special: bool = False     # 5.18: mlock_vma_page() looks at all of VM_SPECIAL, not VM_IO alone
    cow_reuse: CowReuse = CowReuse.REFCOUNT
    cow_frees_swap_cache: bool = True       # 5.14: a COW's old page that nobody maps any more leaves the swap cache
    zap_keeps_swap: bool = True             # to 5.17, not in stable 5.10: truncation passes over swap entries
    swapin_marks: bool = True               # to 6.10: a page read in from swap is mlocked where it is mapped first
    swapin_writable: bool = False           # 6.11: a page that is this process's alone is mapped writable on a read too
    shmem_swapin_direct: bool = False       # tmpfs too reads past the swap cache (6.15)
    lru_cache_disable: bool = True          # 5.13: while memory goes offline every addition to a batch is processed
    delayed_rmap: bool = False              # 6.2: dirty file ptes lose their rmap only when the gather flushes
    # --- system calls
    madv_populate: bool = True              # 5.14
    populate_walks_holes: bool = True       # to 6.8: MADV_POPULATE passes holes like any advice; later it stops at
                                            # the first, and drains even where it is refused
    populate_checks_first: bool = False     # a refused populate does not even drain
    madv_dontneed_locked: bool = False      # 5.18
    madv_collapse: bool = False             # 6.1
    dontunmap_any: bool = True              # 5.13: MREMAP_DONTUNMAP of other than private anonymous memory
    dontunmap_accounts: bool = False        # 6.15: MREMAP_DONTUNMAP adds to locked_vm (and never takes it away)
    dontunmap_unlinks: bool = True          # 5.12: MREMAP_DONTUNMAP of a whole vma leaves it without an anon_vma
    dontunmap_splits: bool = False          # stable 6.1 and 6.12: MREMAP_DONTUNMAP unlocks only what it moves
    mprotect_uncharges: bool = False        # 6.6: read-only anonymous memory without an anon_vma loses VM_ACCOUNT
    write_prefaults: bool = True            # to 6.15: write() faults its buffer in before it looks the page up
    drop_caches_drains: bool = False        # 6.12, not 6.1: drop_caches drains every cpu first
    remove_maywrite: bool = False           # 6.7 and stable: MADV_REMOVE asks whether a mapping may be written, not is
    mremap_positive_efault: bool = True     # 5.16 to 5.18: mremap of no vma answers 14 for an address
    merge_unfaulted: bool = False           # 6.16: a vma without anon_vma merges with one that has a single one
    dirty_ptes: bool = False                # 6.18: a writable pte of a dirty page is born dirty
    mremap_looks_first: bool = True         # 5.16: mremap fails at once where no vma is; 5.10 shrinks even that
    mremap_many: bool = False               # 6.17: MREMAP_FIXED moves a range of several vmas
    mremap_checks_first: bool = False       # 6.17: mremap looks at the old vma before it unmaps anything
    child_runs_first: bool = False          # 6.6 (EEVDF): after fork the child writes before its parent
    memlock_default: int = 8 << 20          # 5.16; 64 KiB before
    smaps_shows_lockonfault: bool = False   # 6.6
    around_spares_last: bool = False        # stable 6.12: fault-around begins no table with a disk file's last page
    read_past_end: bool = False             # through 5.10: a read behind the end of a disk file leaves a page there
    async_readahead: bool = False           # 6.11: a mark starts read-ahead by rules of its own
    readahead_huge: bool = False            # 5.18: a fault under MADV_HUGEPAGE reads two huge pages' worth of a file
    exec_readahead: bool = False            # 6.17: a fault of executable memory reads ahead of it within its vma
    disk_large_folios: bool = False         # 6.16: disk filesystems read ahead in large folios: refused
    pread_marks_next: bool = False          # reading on is seen from the last page read (5.11 to 5.18: from the next)
    readahead_from_last: bool = False       # through 5.10: and so does read-ahead
    ksm_unshares: bool = False              # 6.2: KSM pages are given up by a fault that writes nothing
    munmap_errors: bool = False             # 6.12: mmap over what cannot be unmapped answers why, not ENOMEM
    # --- memfd_secret
    secretmem: bool = True                  # 5.14
    secretmem_locks: bool = True            # not stable 6.1 and 6.12: its mappings are locked and accounted
    # --- huge pages of hugetlb
    hugetlb_mremap: bool = True             # 5.16: they can be moved
    hugetlb_dontneed: bool = False          # 5.18: they can be given up by MADV_DONTNEED
    hugetlb_ends_down: bool = False         # 6.1: of which the end is rounded down, not up
    hugetlb_restores: bool = False          # 6.9: what is unmapped is reserved again for who had reserved it
    hugetlb_lazy_fork: bool = False         # 6.0: fork leaves shared mappings to be faulted in again
    # --- transparent huge pages
    large_folio: bool = False               # 6.7: any pte of a THP that goes munlocks it; ptes of all of it mlock it
    folio_page_flags: bool = False          # 6.9: /proc/kpageflags shows of every page of a THP the flags of the whole
    walk_marks_thp: bool = True             # 5.15: the walk for other lockers marks a THP of a file too
    partial_dirties: bool = True            # 5.17: a hole in a THP dirties what is left of it
    collapse_ptes: bool = False             # 6.1: ptes of a THP that a pmd could map are collapsed too
    retract_all: bool = False               # 6.6: collapse of a file takes everybody's page tables
    nohuge_no_pmd: bool = False             # 6.12: MADV_NOHUGEPAGE keeps pmds from mapping a file's THPs
    shmem_swaps_whole: bool = False         # 6.12: a THP of tmpfs is reclaimed without being split: refused
    split_smaller: bool = False             # 6.15: truncation splits a THP into large folios: refused
    huge_pmd_accessed: bool = False         # 6.13: zapping a young huge pmd of a file marks it accessed
    split_zeroes: bool = False              # 6.12: splitting a THP gives its zero-filled pages up for the zero page
    huge_zero_cow: bool = False             # 6.13: a write to the huge zero page gets a THP
    pt_reclaim: bool = False                # 6.14: MADV_DONTNEED of all that a page table covers frees the table
    cow_reuse_large: bool = False           # 6.15: a THP all of whose references are one mm's ptes is not copied
    collapse_read_only: bool = False        # 6.17: memory that may not be written is collapsed too
    mlock_whole_folio: bool = False         # 6.17: adding all ptes of a THP at once mlocks it
    locked_count_clamps: bool = False       # 6.1: locked pages are counted to the last address where a length wraps
    brk_finds_vma: bool = False             # 6.1: brk shrinks nothing where no vma is, and answers the old break
    madvise_eagain: bool = True             # 5.17: advice that would need one vma too many answers EAGAIN
    protnone_hides: bool = False            # 6.1 to 6.11: looking up a page of PROT_NONE memory finds nothing
    move_pages_efault: bool = True          # not 6.12: anonymous memory that is not there is EFAULT
    gup_populates_stack: bool = True        # to 6.4, not stable 6.1: a locked stack that
                                            # get_user_pages() extends is populated
    random_is_old: bool = False             # 6.3: zapping a MADV_RANDOM vma marks nothing accessed either


_SERIES = ("p01_no_page_mlock", "p02_no_foll_mlock", "p03_zap_locked", "p04_rmap_mlocks", "p05_final_clearance",
           "p06_mlock_count", "p07_range_walk", "p08_newpage_lru_first", "p09_no_barrier", "p10_mlock_batch",
           "p11_migration_drains", "p12_collapse_ttu", "p13_referenced_restores")


def _table() -> dict[str, Traits]:
    base = Traits(name="5.17-rc2")
    points = [base]
    for n, flag in enumerate(_SERIES, 1):
        on: Any = {flag: True}
        points.append(replace(points[-1], name=f"5.17-rc2+{n:02}", **on))
    v510 = replace(base, name="5.10", release=510, madv_populate=False, remove_maywrite=True,
                   dontunmap_any=False, memlock_default=64 << 10, mremap_positive_efault=False,
                   mremap_looks_first=False, pread_marks_next=True, cow_frees_swap_cache=False,
                   zap_keeps_swap=False, lru_cache_disable=False, madvise_eagain=False, hugetlb_mremap=False,
                   secretmem=False, walk_marks_thp=False, partial_dirties=False,
                   read_past_end=True, readahead_from_last=True, dontunmap_unlinks=False)
    v518 = replace(points[-1], name="5.18", release=518, populate_drains=True, mlock_refuses_special=True,
                   cow_reuse=CowReuse.DRAIN, madv_dontneed_locked=True, zap_keeps_swap=False,
                   hugetlb_dontneed=True, readahead_huge=True)
    v61 = replace(v518, name="6.1", release=601, cow_reuse=CowReuse.EXCLUSIVE, madv_collapse=True, collapse_ptes=True,
                  remove_maywrite=True, mremap_positive_efault=False, pread_marks_next=True, protnone_hides=True,
                  brk_finds_vma=True, gup_populates_stack=False, hugetlb_ends_down=True,
                  hugetlb_lazy_fork=True, secretmem_locks=False, locked_count_clamps=True,
                  dontunmap_splits=True)
    v612 = replace(v61, name="6.12", release=612, pagevec_size=31, mlock_pagevec_size=31, release_reverses=False,
                   delayed_rmap=True, smaps_shows_lockonfault=True, random_is_old=True, populate_walks_holes=False,
                   large_folio=True, folio_page_flags=True, split_zeroes=True, retract_all=True,
                   nohuge_no_pmd=True, shmem_swaps_whole=True,
                   populate_checks_first=True, mprotect_uncharges=True, child_runs_first=True,
                   async_readahead=True, around_spares_last=True,
                   ksm_unshares=True, swapin_marks=False, swapin_writable=True, drop_caches_drains=True,
                   move_pages_efault=False, hugetlb_restores=True, munmap_errors=True, protnone_hides=False)
    v618 = replace(v612, name="6.18", release=618, flush_drains=False, unmap_drains=False, merge_unfaulted=True,
                   disk_large_folios=True, exec_readahead=True,
                   dirty_ptes=True, mremap_many=True, mremap_checks_first=True, dontunmap_accounts=True,
                   huge_zero_cow=True, pt_reclaim=True, cow_reuse_large=True, collapse_read_only=True,
                   mlock_whole_folio=True, huge_pmd_accessed=True, split_smaller=True,
                   secretmem_locks=True,
                   write_prefaults=False, shmem_swapin_direct=True, dontunmap_splits=False)
    return {t.name: t for t in (v510, *points, v518, v61, v612, v618)}


KERNELS: dict[str, Traits] = _table()


def traits_of(kernel: str) -> Traits:
    """The traits of a kernel by name; a recording's "5.17-rc5" is this table's "5.17-rc2". "6.1+mlock_pvec_size=1" is
    6.1 with an mlock batch of that many slots."""
    name, _, size = kernel.replace("5.17-rc5", "5.17-rc2").partition("+mlock_pvec_size=")
    try:
        return replace(KERNELS[name], mlock_pagevec_size=int(size)) if size else KERNELS[name]
    except KeyError:
        raise ValueError(f"unknown kernel {kernel!r}; known: {', '.join(KERNELS)}") from None
