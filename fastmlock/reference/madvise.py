"""mm/madvise.c: which advice does what, and what a locked vma refuses (KERNEL.md 2.3)."""
from __future__ import annotations

from errno import EACCES, EAGAIN, EINVAL, ENOMEM

from ..scenario.system import NotSupported
from . import gup, huge_memory, khugepaged, ksm, memory, mmap, readahead, swap, swapfile, truncate, vmscan
from .state import (
    PTRS_PER_PTE,
    VM_DONTCOPY,
    VM_HUGEPAGE,
    VM_HUGETLB,
    VM_IO,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_MERGEABLE,
    VM_NOHUGEPAGE,
    VM_PFNMAP,
    VM_RAND_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_SPECIAL,
    VM_WIPEONFORK,
    VM_WRITE,
    Kernel,
    Mm,
    Page,
    Pte,
    Vma,
    pmd_start,
)

NORMAL, RANDOM, SEQUENTIAL, WILLNEED, DONTNEED, FREE, REMOVE = 0, 1, 2, 3, 4, 8, 9
DONTFORK, DOFORK, MERGEABLE, UNMERGEABLE, HUGEPAGE, NOHUGEPAGE = 10, 11, 12, 13, 14, 15
WIPEONFORK, KEEPONFORK, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE = 18, 19, 20, 21, 22, 23
DONTNEED_LOCKED, COLLAPSE = 24, 25

_BEHAVIOR: dict[int, tuple[int, int]] = {       # advice -> flags set, flags cleared
    NORMAL: (0, VM_RAND_READ | VM_SEQ_READ), SEQUENTIAL: (VM_SEQ_READ, VM_RAND_READ),
    RANDOM: (VM_RAND_READ, VM_SEQ_READ), DONTFORK: (VM_DONTCOPY, 0), DOFORK: (0, VM_DONTCOPY),
    WIPEONFORK: (VM_WIPEONFORK, 0), KEEPONFORK: (0, VM_WIPEONFORK), MERGEABLE: (VM_MERGEABLE, 0),
    UNMERGEABLE: (0, VM_MERGEABLE), HUGEPAGE: (VM_HUGEPAGE, VM_NOHUGEPAGE), NOHUGEPAGE: (VM_NOHUGEPAGE, VM_HUGEPAGE),
}


def madvise_behavior_valid(k: Kernel, advice: int) -> bool:
    if advice in (POPULATE_READ, POPULATE_WRITE):
        return k.traits.madv_populate
    if advice == DONTNEED_LOCKED:
        return k.traits.madv_dontneed_locked
    if advice == COLLAPSE:
        return k.traits.madv_collapse
    return advice in _BEHAVIOR or advice in (WILLNEED, DONTNEED, FREE, REMOVE, COLD, PAGEOUT)


def do_madvise(k: Kernel, mm: Mm, start: int, end: int, advice: int) -> int:
    """Vma by vma; the first error ends it, holes are passed over and reported at the end. -> errno"""
    if advice in (POPULATE_READ, POPULATE_WRITE) and not k.traits.populate_walks_holes:
        return gup.faultin_vma_page_range(k, mm, start, end, advice == POPULATE_WRITE)
    unmapped = 0
    vma = mm.find_vma(start)
    prev = vma if vma is not None and start > vma.start else (mm.prev(vma) if vma is not None else None)
    while True:
        if vma is None:
            return ENOMEM
        if start < vma.start:
            unmapped = ENOMEM
            start = vma.start
            if start >= end:
                return unmapped
        upto = min(vma.end, end)
        err, prev = madvise_vma(k, mm, vma, prev, start, upto, advice)
        if err:
            return err
        start = upto
        if prev is not None and start < prev.end:
            start = prev.end
        if start >= end:
            return unmapped
        vma = mm.next(prev) if prev is not None else mm.find_vma(start)


def madvise_vma(k: Kernel, mm: Mm, vma: Vma, prev: Vma | None, start: int, end: int,
                advice: int) -> tuple[int, Vma]:
    if advice in _BEHAVIOR:
        return madvise_behavior(k, mm, vma, prev, start, end, advice)
    if advice in (POPULATE_READ, POPULATE_WRITE):
        return gup.faultin_vma_page_range(k, mm, start, end, advice == POPULATE_WRITE), vma
    return _ACTIONS[advice](k, vma, start, end), vma


def madvise_behavior(k: Kernel, mm: Mm, vma: Vma, prev: Vma | None, start: int, end: int,
                     advice: int) -> tuple[int, Vma]:
    """Advice that is a vma flag; splits and merges like any change of flags."""
    if advice == DOFORK and vma.flags & VM_IO:
        return EINVAL, vma
    if advice in (WIPEONFORK,) and (vma.file is not None or vma.flags & VM_SHARED):
        return EINVAL, vma
    if advice == MERGEABLE and vma.flags & (VM_SHARED | VM_MAYSHARE | VM_SPECIAL | VM_HUGETLB):
        return 0, vma
    if advice == UNMERGEABLE and vma.flags & VM_MERGEABLE:
        ksm.unmerge_ksm_pages(k, vma, start, end)
    on, off = _BEHAVIOR[advice]
    flags = vma.flags & ~off | on
    if flags == vma.flags:
        return 0, vma
    err, vma = mmap.vma_modify(k, mm, vma, prev, start, end, flags)
    if err:
        return EAGAIN if err == ENOMEM and k.traits.madvise_eagain else err, vma
    vma.flags = flags
    return 0, vma


def madvise_willneed(k: Kernel, vma: Vma, start: int, end: int) -> int:
    """Anonymous and tmpfs memory has nothing to read back, but is drained; a disk file is read in."""
    if vma.file is not None and vma.file.fs in ("hugetlb", "secret", "packet", "devmem"):
        return 0
    if vma.file is None:
        swapfile.swapin_walk(k, vma, start, end)
        return 0
    if vma.file.shmem:
        for index in sorted(i for i in vma.file.swapped if vma.index(start) <= i < vma.index(end)):
            swapfile.read_swap_cache_async(k, vma.file.swapped[index])
        swap.lru_add_drain(k)
        return 0
    readahead.do_page_cache_ra(k, vma.file, vma.index(start), min(end - start, readahead.RA_PAGES), 0)
    return 0


def madvise_dontneed(k: Kernel, vma: Vma, start: int, end: int) -> int:
    if vma.flags & VM_HUGETLB:
        return _dontneed_hugetlb(k, vma, start, end)
    if vma.flags & (VM_LOCKED | VM_PFNMAP):
        return EINVAL
    memory.zap_page_range_single(k, vma, start, end, reclaim_pt=True)
    return 0


def _dontneed_hugetlb(k: Kernel, vma: Vma, start: int, end: int) -> int:
    """5.18: from the beginning of a huge page on, up to the end of the last one; from 6.1 of the last whole one."""
    if not k.traits.hugetlb_dontneed or start % PTRS_PER_PTE:
        return EINVAL
    end = pmd_start(end if k.traits.hugetlb_ends_down else end + PTRS_PER_PTE - 1)
    if end > start:
        memory.zap_page_range_single(k, vma, start, end)
    return 0


def madvise_dontneed_locked(k: Kernel, vma: Vma, start: int, end: int) -> int:
    """5.18: a locked vma is zapped too, and stays locked."""
    if vma.flags & VM_HUGETLB:
        return _dontneed_hugetlb(k, vma, start, end)
    if vma.flags & VM_PFNMAP:
        return EINVAL
    memory.zap_page_range_single(k, vma, start, end, reclaim_pt=True)
    return 0


def madvise_free(k: Kernel, vma: Vma, start: int, end: int) -> int:
    """Clean the ptes of pages that nobody shares and queue the pages as lazily freeable."""
    if vma.flags & (VM_LOCKED | VM_HUGETLB | VM_PFNMAP) or vma.file is not None:
        return EINVAL
    swap.lru_add_drain(k)
    for at, _ in vma.mm.huge_pmds(start, end):
        huge_memory.madvise_free_huge_pmd(k, vma, at, start, end)
    over = -1                                                # end of a table whose THP could not be split
    for addr, pte in list(vma.mm.present(start, end)):
        page = pte.page
        if addr < over or (page.compound and not _split_folio(k, page)):
            over = max(over, pmd_start(addr) + PTRS_PER_PTE)
            continue
        if page.zero:
            continue
        if page.dirty or page.swap is not None:
            if page.mapcount != 1 or (page.swap is not None and not swapfile.try_to_free_swap(k, page)):
                continue
            page.dirty = False
        pte.young = pte.dirty = False
        swap.mark_page_lazyfree(k, page)
    memory.free_swap_range(k, vma, start, end)
    return 0


def _cold_or_pageout(k: Kernel, vma: Vma, start: int, end: int, pageout: bool) -> int:
    """Pages mapped once: aged, then deactivated, or isolated and reclaimed."""
    if vma.flags & (VM_LOCKED | VM_HUGETLB | VM_PFNMAP):
        return EINVAL
    swap.lru_add_drain(k)
    for table in range(pmd_start(start), end, PTRS_PER_PTE):
        if table in vma.mm.tables or table in vma.mm.pmds:
            low, high = max(start, table), min(end, table + PTRS_PER_PTE)
            vmscan.reclaim_pages(k, _isolate(k, vma, low, high, pageout))
    return 0


def _isolate(k: Kernel, vma: Vma, start: int, end: int, pageout: bool) -> list[Page]:
    """`madvise_cold_or_pageout_pte_range`: what is to be reclaimed. A THP goes whole, or is split if part is meant."""
    isolated: list[Page] = []
    entries: list[Pte] = []
    pmd = vma.mm.huge_pmd(start)
    if pmd is not None:
        if pmd.page.zero or pmd.page.maps != 1:
            return []
        if end - start == PTRS_PER_PTE:
            entries = [pmd]
        elif not _split_folio(k, pmd.page):
            return []
    for _, pte in list(vma.mm.present(start, end)):
        if pte.page.compound and not _split_folio(k, pte.page):
            break
        entries.append(pte)
    for pte in entries:
        page = pte.page
        if page.zero or not page.lru or page.maps != 1:
            continue
        pte.young = page.referenced = False
        if not pageout:
            swap.deactivate_page(k, page)
        elif swap.isolate_lru_page(k, page):
            if page.unevictable:
                swap.putback_lru_page(k, page)
            else:
                page.active = False
                isolated.append(page)
    return isolated


def _split_folio(k: Kernel, page: Page) -> bool:
    """A THP of which part is meant, if only we map that part. -> split"""
    head = page.folio
    if page.maps != 1:
        return False
    swap.get_page(head)
    done = huge_memory.split_huge_page(k, head)
    swap.put_page(k, head)
    return done


def madvise_cold(k: Kernel, vma: Vma, start: int, end: int) -> int:
    return _cold_or_pageout(k, vma, start, end, False)


def madvise_pageout(k: Kernel, vma: Vma, start: int, end: int) -> int:
    return _cold_or_pageout(k, vma, start, end, True)


def madvise_collapse(k: Kernel, vma: Vma, start: int, end: int) -> int:
    return khugepaged.madvise_collapse(k, vma, start, end)


def madvise_remove(k: Kernel, vma: Vma, start: int, end: int) -> int:
    """Punch a hole into the file behind a shared writable mapping."""
    if vma.flags & VM_LOCKED or vma.file is None:
        return EINVAL
    needed = VM_SHARED | (VM_MAYWRITE if k.traits.remove_maywrite else VM_WRITE)
    if vma.flags & needed != needed:
        return EACCES
    if vma.file.fs in ("hugetlb", "secret", "packet", "devmem"):
        raise NotSupported("MADV_REMOVE of what is no file of tmpfs or a disk")
    truncate.punch_hole(k, vma.file, vma.index(start), vma.index(end) - 1)
    return 0


_ACTIONS = {WILLNEED: madvise_willneed, DONTNEED: madvise_dontneed, DONTNEED_LOCKED: madvise_dontneed_locked,
            FREE: madvise_free, COLLAPSE: madvise_collapse, COLD: madvise_cold, PAGEOUT: madvise_pageout,
            REMOVE: madvise_remove}
