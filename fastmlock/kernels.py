"""What differs between kernels: named traits, and the table of releases made of them.

A kernel is a choice of traits, resolved once into integers that the compiled paths test; there is one
implementation of every path. `get("5.17-rc2+07")` gives the series' base with its first seven patches; any other
choice of patches and later fixes has a name too, see `parse`.
"""
from __future__ import annotations

import re
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

#: later changes that belong to the series, by the name of their trait
FIXES = {
    "drain_on_populate": "mm/munlock: add lru_add_drain() to fix memcg_stat_test (ece369c7e104)",
    "special_check": "mm/munlock: mlock_vma_page() check against VM_SPECIAL (c8263bd60500)",
    "local_lock": "mm/munlock: protect the per-CPU pagevec by a local_lock_t (adb11e78c5dc)",
    "i_mmap_read_truncate": "mm: unmap_mapping_range_tree() with i_mmap_rwsem shared (2c8659951654)",
    "madv_dontneed_locked": "mm: madvise: MADV_DONTNEED_LOCKED (9457056ac426)",
}

#: sizes that a kernel's name may set, and the largest each can have: the slots of a batch record
SIZES = {"mlock_pvec_size": 31}

#: trait -> (the traits it cannot be without, and why). Sources: the specification, section 3.
NEEDS: dict[str, tuple[tuple[str, ...], str]] = {
    "p04": (("p01", "p02", "p03"), (
        "rmap counts each page-table entry once, so the old munlock engine and the look-up's marking must be gone, and "
        "a vma must still be VM_LOCKED while it is zapped")),
    "p05": (("p04",), "until rmap removal munlocks, nothing but clear_page_mlock() unmarks an unmapped page"),
    "p06": (("p05",), (
        "clear_page_mlock() unmarks without looking at the count, and its isolation loses the count")),
    "p07": (("p06",), "a walk that takes locks back needs mlock_count to know whether another locker remains"),
    "p09": (("p07",), (
        "the barrier orders PG_lru against clear_page_mlock() without the lruvec lock; only 05 to 07 end that")),
    "p10": (("p07",), (
        "a batch entry is one count of mlock_count, and pages that are mapped already are counted by the walk")),
    "p11": (("p10",), "it drains the batch that 10 introduces"),
    "p13": (("p04",), "it restores a missed mark with 04's mlock_vma_page()"),
    "special_check": (("p04",), "it is a test in 04's mlock_vma_page()"),
    "local_lock": (("p10",), "it protects the batch that 10 introduces"),
}
#: (these together, need that, because)
NEEDS_TOGETHER = (
    (("p10", "p12"), "p11", "collapse freezes the page's references, and a batch that is not drained holds one"),
)


class UnknownKernel(ValueError):
    """No kernel of that name."""


class ImpossibleKernel(UnknownKernel):
    """A choice of patches that cannot work; the text is one line and says why."""


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
    local_lock: int = 0             #: the mlock batch has a local_lock (adb11e78c5dc, 5.18): without PREEMPT_RT, which
                                    #: the model has not, the same as the preempt_disable() it replaces
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
    cow_reuse_refcount: int = 0     #: 5.18's COW: drain, then reuse by reference count
    anon_exclusive: int = 0         #: PG_anon_exclusive decides reuse at COW (5.19)
    rmap_trylock: int = 0           #: reclaim only trylocks the rmap locks (5.19)
    delayed_rmap: int = 0           #: dirty file ptes leave the rmap when the gather is flushed (6.2)
    dontunmap_any: int = 1          #: MREMAP_DONTUNMAP beyond private anonymous memory (5.13)
    populate_walks_holes: int = 1   #: MADV_POPULATE passes over holes; from 6.9 it stops, and drains if refused
    populate_checks_first: int = 0  #: a populate that is refused does not drain (6.9)
    mremap_positive_efault: int = 1 #: mremap of no vma answers 14 as if it were an address (5.16 to 5.18)
    dirty_ptes: int = 0             #: a writable entry of a dirty page is born dirty (6.18, seen on 6.18.44)
    mremap_looks_first: int = 1     #: mremap fails at once where no VMA is; 5.10 shrinks what is not there (5.16)
    mremap_many: int = 0            #: MREMAP_FIXED moves a range of several VMAs (6.17)
    merge_unfaulted: int = 0        #: a VMA without anon_vma takes in one that has a single one (6.16)
    around_spares_last: int = 0     #: fault-around begins no page table with a disk file's last page (stable 6.12)
    read_past_end: int = 0          #: a read behind the end of a disk file leaves a page in the cache (through 5.10)
    async_ra: int = 0               #: a marker's read-ahead takes no random read or file's start for its own (6.11)
    ra_huge: int = 0                #: a fault under MADV_HUGEPAGE reads two huge pages' worth of the file (5.18)
    ra_exec: int = 0                #: a fault of executable memory reads ahead of it, within its VMA, not around (6.17)
    ra_large_folios: int = 0        #: disk filesystems read ahead in large folios (6.16): refused
    pread_marks_next: int = 0       #: a sequential read marks its next page accessed (not 5.11 to 5.18)
    ra_from_last: int = 0           #: a read that leaves a page out is no stream for read-ahead (through 5.10)
    child_runs_first: int = 0 #: after a fork the child writes before its parent does (EEVDF, 6.6)
    write_prefaults: int = 1 #: write() faults its buffer in before it looks the page up (through 6.15)
    drop_caches_drains: int = 0 #: drop_caches drains every CPU first (6.12 does, 6.1 not)
    remove_maywrite: int = 0 #: MADV_REMOVE asks whether a mapping may be written, not is (6.7, stable 5.10, 6.1)
    dontunmap_accounts: int = 0 #: MREMAP_DONTUNMAP of a locked mapping adds to locked_vm (6.15)
    dontunmap_unlinks: int = 1 #: MREMAP_DONTUNMAP of a whole mapping leaves it without anon_vma (5.12)
    dontunmap_splits: int = 0 #: MREMAP_DONTUNMAP of a part of a mapping unlocks that part alone (stable 6.1, 6.12)
    mprotect_uncharges: int = 0 #: read-only anonymous memory without anon_vma loses VM_ACCOUNT (6.6)
    mremap_checks_first: int = 0 #: mremap looks at the old VMA before it unmaps anything (6.17)
    random_is_old: int = 0   #: zapping a MADV_RANDOM VMA marks nothing accessed either (6.3)
    release_reverses: int = 1 #: release_pages() frees its last page first (through 6.8)
    ksm_unshares: int = 0    #: KSM pages are given up by a fault that writes nothing (6.2)
    folio_page_flags: int = 0       #: /proc/kpageflags shows of every page of a THP the flags of the whole (6.9)
    pt_reclaim: int = 0             #: MADV_DONTNEED of all that a page table covers frees the table (6.14)
    huge_zero_cow: int = 0          #: a write to the huge zero page gets a THP, not ptes (6.13)
    huge_pmd_accessed: int = 0      #: zapping a young huge pmd of a file marks it accessed (6.13)
    collapse_read_only: int = 0     #: memory that may not be written is collapsed too (6.17)
    cow_reuse_large: int = 0        #: a large folio all of whose references are one mm's maps is not copied (6.15)
    walk_marks_thp: int = 1         #: the walk for other lockers marks a THP of a file too (5.10 does not)
    split_smaller: int = 0          #: truncation splits a THP into large folios, not pages (6.15): refused
    shmem_swaps_whole: int = 0      #: a THP of tmpfs is reclaimed without being split (6.12): refused
    collapse_ptes: int = 0          #: ptes of a THP that a pmd could map are collapsed too (6.1)
    retract_all: int = 0            #: collapse of a file takes everybody's page tables, without mmap_lock (6.6)
    partial_dirties: int = 1        #: a hole in a THP of a file dirties what is left of it (5.17)
    nohuge_no_pmd: int = 0          #: MADV_NOHUGEPAGE keeps pmds from mapping a file's THPs (6.12)
    mlock_whole_folio: int = 0      #: rmap adding of all ptes of a large folio at once mlocks it (6.17)
    split_zeroes: int = 0           #: splitting a THP gives its zero-filled pages up for the zero page (6.12)
    cow_frees_swap_cache: int = 1 #: a COW's old page that nobody maps any more leaves the swap cache (5.14)
    zap_keeps_swap: int = 1  #: truncation passes over swap entries (through 5.17, not in stable 5.10)
    swapin_marks: int = 1    #: a page read in from swap is mlocked where it is mapped first (through 6.10)
    swapin_writable: int = 0 #: a page that is this process's alone is mapped writable on a read too (6.11)
    shmem_swapin_direct: int = 0 #: tmpfs too reads past the swap cache (6.15)
    locked_count_clamps: int = 0 #: a wrapping length: locked pages are counted to the last address (6.1)
    brk_finds_vma: int = 0   #: brk shrinks nothing where no vma is, and answers the old break (6.1)
    madvise_eagain: int = 1  #: advice that would need one VMA too many answers EAGAIN, not ENOMEM (5.17)
    protnone_hides: int = 0 #: looking up a page of PROT_NONE memory finds nothing (6.1 to 6.11)
    move_pages_efault: int = 1 #: move_pages of anonymous memory that is not there answers EFAULT, not ENOENT (6.12 not)
    gup_populates_stack: int = 1 #: a locked stack that get_user_pages extends is populated (to 6.4, not stable 6.1)
    secretmem: int = 1       #: memfd_secret() is there (5.14)
    secretmem_locks: int = 1 #: its mappings are VM_LOCKED and accounted (not on 6.1.192 and 6.12.117)
    hugetlb_mremap: int = 1  #: huge pages of hugetlb can be moved (5.16)
    hugetlb_dontneed: int = 0 #: and given up by MADV_DONTNEED: 1, rounded up to whole ones (5.18), 2, down (6.1)
    hugetlb_restores: int = 0 #: who has reserved a huge page has it reserved again when it is unmapped (6.9)
    hugetlb_lazy_fork: int = 0 #: fork leaves a shared mapping of them to be faulted in again (6.0)
    munmap_errors: int = 0   #: mmap over what cannot be unmapped answers why, not ENOMEM
    lru_cache_disable: int = 1 #: moving pages to another node or out of the machine holds no batches (5.13)
    release: int = 517              #: major * 100 + minor, for reports
    rlimit_memlock: int = 64 << 10  #: default soft RLIMIT_MEMLOCK in bytes (8 MiB from 5.16)

    def array_fields(self) -> dict[str, int]:
        """name -> value, in the order of the compiled record."""
        return asdict(self)


TRAIT_NAMES = [field.name for field in fields(Traits)]


def with_patches(base: Traits, first: int) -> Traits:
    """`base` with the first `first` patches of the series."""
    return replace(base, **{f"p{n:02}": 1 for n in range(1, first + 1)})


_V5_10 = Traits(release=510, remove_maywrite=1, madv_populate=0, lru_lock_per_memcg=0, dontunmap_any=0,
                pread_marks_next=1, mremap_positive_efault=0, mremap_looks_first=0, cow_frees_swap_cache=0,
                zap_keeps_swap=0, lru_cache_disable=0, madvise_eagain=0, hugetlb_mremap=0, secretmem=0,
                walk_marks_thp=0, partial_dirties=0, read_past_end=1, ra_from_last=1, dontunmap_unlinks=0)
_V5_17 = Traits(release=517, rlimit_memlock=8 << 20)
_V5_18 = replace(with_patches(_V5_17, 13), release=518, drain_on_populate=1, special_check=1, local_lock=1,
                 madv_dontneed_locked=1, i_mmap_read_truncate=1, cow_reuse_refcount=1,
                 zap_keeps_swap=0, hugetlb_dontneed=1, ra_huge=1)
_V6_1 = replace(_V5_18, release=601, remove_maywrite=1, madv_collapse=1, collapse_ptes=1, exit_mmap_read=1,
               brk_finds_vma=1, gup_populates_stack=0, hugetlb_dontneed=2, hugetlb_lazy_fork=1,
               secretmem_locks=0, locked_count_clamps=1, dontunmap_splits=1,
               rmap_trylock=1, anon_exclusive=1, mremap_positive_efault=0, pread_marks_next=1, protnone_hides=1)
_V6_12 = replace(_V6_1, release=612, pvec_size=31, mlock_pvec_size=31, smaps_lf=1, unlink_batch=8,
                 large_folio=1, delayed_rmap=1, populate_walks_holes=0, populate_checks_first=1,
                 folio_page_flags=1, split_zeroes=1, nohuge_no_pmd=1, retract_all=1, shmem_swaps_whole=1,
                 child_runs_first=1, mprotect_uncharges=1, random_is_old=1, release_reverses=0,
                 hugetlb_restores=1, munmap_errors=1, async_ra=1, around_spares_last=1,
                 ksm_unshares=1, swapin_marks=0, swapin_writable=1, drop_caches_drains=1, move_pages_efault=0,
                 protnone_hides=0)
_V6_18 = replace(_V6_12, release=618, gather_drains=0, munmap_drains=0, merge_unfaulted=1, mremap_many=1,
                 secretmem_locks=1,
                 pt_reclaim=1, huge_pmd_accessed=1, split_smaller=1, huge_zero_cow=1, cow_reuse_large=1,
                 collapse_read_only=1, mlock_whole_folio=1,
                 dirty_ptes=1, write_prefaults=0, dontunmap_accounts=1, mremap_checks_first=1,
                 shmem_swapin_direct=1, dontunmap_splits=0, ra_exec=1, ra_large_folios=1)

RELEASES: dict[str, Traits] = {
    "5.10": _V5_10,
    "5.17-rc2": _V5_17,
    **{f"5.17-rc2+{n:02}": with_patches(_V5_17, n) for n in range(1, 14)},
    "5.18": _V5_18,
    "6.1": _V6_1,
    "6.12": _V6_12,
    "6.18": _V6_18,
}
_BASES = [name for name in RELEASES if "+" not in name]

#: the fourteen points of the series
SERIES = [name for name in RELEASES if name.startswith("5.17-rc2")]


def get(name: str) -> Traits:
    """The traits of a kernel: a release, a point of the series, or any other choice (see `parse`). Raises
    UnknownKernel with the names there are, or ImpossibleKernel."""
    return RELEASES[name] if name in RELEASES else parse(name)


# ---- any other choice of patches
_NUMBERS = re.compile(r"(\d\d)(?:\.\.(\d\d))?")
_TERM = re.compile(r"([+-])([^+-]+)")
_SIZE = re.compile(r"(\w+)=(\d+)")


def parse(name: str) -> Traits:
    """The traits of BASE[+PATCHES][-PATCHES][+FIX][-FIX][+SIZE=N]..., BASE a release.

    PATCHES is NN for the series' first NN patches, NN..MM for a part of it, or several of these with commas, where a
    number that is not the first is that patch alone; behind - a number is that patch alone. FIX is a name of `FIXES`:

    - ``5.17-rc2+01..07`` the first seven, as ``5.17-rc2+07``
    - ``5.17-rc2+13-10-11`` all but 10 and 11
    - ``5.17-rc2+05,08`` the first five and 08
    - ``5.17-rc2+13+drain_on_populate``, ``6.1-special_check``

    SIZE is a name of `SIZES`, N its number of slots: ``6.12+mlock_pvec_size=1`` works each page off at once.

    Raises UnknownKernel for what is not such a name, ImpossibleKernel for a choice that cannot work (`NEEDS`).
    """
    bases = [base for base in _BASES if name.startswith(base) and name[len(base):len(base) + 1] in ("", "+", "-")]
    if not bases:
        raise UnknownKernel(f"no kernel {name!r}; there are {', '.join(RELEASES)}")
    base = max(bases, key=len)
    rest = name[len(base):]
    terms = _TERM.findall(rest)
    if "".join(sign + term for sign, term in terms) != rest:
        raise UnknownKernel(f"kernel {name!r}: write {base}+NN..MM-NN+FIX, as in 5.17-rc2+13-10-11")
    chosen = {trait for trait in (*PATCHES, *FIXES) if getattr(RELEASES[base], trait)}
    before = set(chosen)
    sizes: dict[str, int] = {}
    for sign, term in terms:
        if "=" in term:
            sizes |= _size(name, sign, term)
            continue
        for trait in _traits(name, sign, term):
            if sign == "+":
                chosen.add(trait)
            elif trait in chosen:
                chosen.remove(trait)
            else:
                short = trait.removeprefix("p")
                raise UnknownKernel(f"kernel {name!r}: {short} is not there to be taken out; a part of the series is "
                                    f"written with two dots, as in 01..07")
    problem = why_not(chosen)
    if sizes and "p10" not in chosen:
        problem = "mlock_pvec_size needs 10: it is the size of the batch that 10 introduces"
    if problem:
        raise ImpossibleKernel(f"kernel {name!r} cannot work: {problem}")
    return replace(RELEASES[base], **{trait: int(trait in chosen) for trait in chosen ^ before}, **sizes)


def why_not(traits: set[str]) -> str:
    """Why these patches and fixes cannot work together, in one line; "" if they can."""
    for trait, (needed, reason) in NEEDS.items():
        missing = [one.removeprefix("p") for one in needed if one not in traits]
        if trait in traits and missing:
            return f"{trait.removeprefix('p')} needs {' and '.join(missing)}: {reason}"
    for together, needed_too, reason in NEEDS_TOGETHER:
        if traits.issuperset(together) and needed_too not in traits:
            names = " and ".join(one.removeprefix("p") for one in together)
            return f"{names} together need {needed_too.removeprefix('p')}: {reason}"
    return ""


def _size(name: str, sign: str, term: str) -> dict[str, int]:
    """The size that one term of a kernel's name sets."""
    match = _SIZE.fullmatch(term)
    if match is None or sign != "+" or match[1] not in SIZES:
        raise UnknownKernel(f"kernel {name!r}: a size is set as in +mlock_pvec_size=1; there is {', '.join(SIZES)}")
    if not 1 <= int(match[2]) <= SIZES[match[1]]:
        raise UnknownKernel(f"kernel {name!r}: {match[1]} is between 1 and {SIZES[match[1]]}; there is no "
                            f"batch without 10 and what needs it, as in 5.17-rc2+13-10-11")
    return {match[1]: int(match[2])}


def _traits(name: str, sign: str, term: str) -> list[str]:
    """The traits that one term of a kernel's name means."""
    if term in FIXES:
        return [term]
    found: list[str] = []
    for at, part in enumerate(term.split(",")):
        match = _NUMBERS.fullmatch(part)
        if match is None:
            raise UnknownKernel(f"kernel {name!r}: {part!r} is neither patches 01 to 13 nor one of "
                                f"{', '.join(FIXES)}")
        last = int(match[2] or match[1])
        first = int(match[1]) if match[2] or sign == "-" or at else 1
        if not 1 <= first <= last <= len(PATCHES):
            raise UnknownKernel(f"kernel {name!r}: {part} is no part of patches 01 to {len(PATCHES)}")
        found += [f"p{number:02}" for number in range(first, last + 1)]
    return found
