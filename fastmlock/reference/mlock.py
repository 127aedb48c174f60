"""mm/mlock.c: marking pages, before and after the series (KERNEL.md 2 and 3), and the system calls' walk over vmas.

Three generations live side by side:

* base to 03: `mlock_vma_page` is called by GUP; munlock works through `munlock_vma_pages_range`, which isolates
  pages in groups of 15 and asks the reverse map whether somebody else locks them (`page_mlock`).
* 04 and 05: rmap add and removal call mlock_page/munlock_page, which mark, isolate and put back.
* 06 and later: `mlock_count`, from 10 on through the per-cpu batch.
"""
from __future__ import annotations

from errno import ENOMEM

from . import mmap, rmap, swap
from .state import (
    LIST_LINKAGE,
    PTRS_PER_PTE,
    VM_HUGETLB,
    VM_IO,
    VM_LOCKED,
    VM_LOCKED_MASK,
    VM_SPECIAL,
    Kernel,
    Mm,
    Page,
    Pte,
    Vma,
    pmd_start,
    add_page_to_lru_list,
    del_page_from_lru_list,
)

ALL_PAGES = 1 << 52             # of 64-bit addresses


# ---------------------------------------------------------------- base: one page at a time
def mlock_vma_page_locked(k: Kernel, page: Page) -> None:
    """The base's mlock_vma_page, called with the page locked: mark, isolate, put back through lru_add (2.4)."""
    if not page.mlocked:
        page.mlocked = True
        k.nr_mlock += page.nr
        k.count("mlocked", page.nr)
        if swap.isolate_lru_page(k, page):
            swap.putback_lru_page(k, page)


def clear_page_mlock(k: Kernel, page: Page) -> None:
    """The last mapping went away with PG_mlocked set (2.8). Deleted by patch 05."""
    if not page.mlocked:
        return
    page.mlocked = False
    k.nr_mlock -= page.nr
    k.count("cleared", page.nr)
    if swap.isolate_lru_page(k, page):
        swap.putback_lru_page(k, page)
    elif page.unevictable:
        k.count("stranded", page.nr)


def munlock_vma_page_locked(k: Kernel, page: Page) -> None:
    """munlock_vma_page of the base (COW's old page): clear, isolate, walk for other lockers, put back (2.6).
    After patch 01 nobody is asked, and a failed isolation of an evictable page has no event."""
    if not page.mlocked:
        return
    page.mlocked = False
    k.nr_mlock -= page.nr
    if swap.isolate_lru_page(k, page):
        munlock_isolated_page(k, page)
    elif page.unevictable:
        k.count("stranded", page.nr)
    elif not k.traits.p01_no_page_mlock:
        k.count("munlocked", page.nr)


def munlock_isolated_page(k: Kernel, page: Page) -> None:
    """`__munlock_isolated_page`: MUNLOCKED is counted unless the walk marked the page again."""
    if not k.traits.p01_no_page_mlock and page.maps > 1 and not (page.compound and page.anon):
        rmap.page_mlock(k, page)
    if not page.mlocked:
        k.count("munlocked", page.nr)
    swap.putback_lru_page(k, page)


# ---------------------------------------------------------------- base: a range
def munlock_vma_pages_range(k: Kernel, vma: Vma, start: int, end: int) -> None:
    """Clear the vma's flags, then munlock its pages in groups of one pagevec (2.5). Patch 01 leaves the first half."""
    vma.flags &= ~VM_LOCKED_MASK
    if k.traits.p01_no_page_mlock:
        return
    addr = start
    while addr < end:
        pte = vma.mm.ptes.get(addr)
        entry = vma.mm.pmds.get(addr, pte)
        if entry is not None and entry.page.tails and not entry.migration:
            munlock_vma_page_locked(k, entry.page)           # the head of a THP, as a page of 512
        if pte is None or pte.migration or pte.page.zero or pte.page.compound:
            addr += 1
            continue
        pagevec, addr = munlock_pagevec_fill(k, vma, addr, end)
        munlock_pagevec(k, pagevec)


def munlock_pagevec_fill(k: Kernel, vma: Vma, start: int, end: int) -> tuple[list[Page], int]:
    """The page at `start` and its neighbours up to a full pagevec, the end of the page table, or the first pte
    without a normal page; each with a reference. Also the address to go on at."""
    end = min(end, (start // PTRS_PER_PTE + 1) * PTRS_PER_PTE)
    pages: list[Page] = []
    while start < end and len(pages) < k.traits.pagevec_size:
        pte = vma.mm.ptes.get(start)
        if pte is None or pte.migration or pte.page.zero or pte.page.compound:
            break
        swap.get_page(pte.page)
        pages.append(pte.page)
        start += 1
    return pages, start


def munlock_pagevec(k: Kernel, pages: list[Page]) -> None:
    """`__munlock_pagevec` in its three phases (2.6)."""
    kept: list[Page] = []
    aside: list[Page] = []
    for page in pages:                                       # phase 1: isolate
        if not page.mlocked:
            aside.append(page)
            continue
        page.mlocked = False
        k.nr_mlock -= page.nr
        if page.lru:
            page.lru = False
            del_page_from_lru_list(k, page)
            kept.append(page)
        else:
            k.count("stranded" if page.unevictable else "munlocked", page.nr)
            aside.append(page)
    swap.pagevec_release(k, aside)
    putback: list[Page] = []
    rescued = 0
    for page in kept:                                        # phase 2: decide
        if page.mapcount <= 1 and swap.page_evictable(page):
            rescued += page.unevictable
            page.unevictable = False
            putback.append(page)
        else:
            swap.get_page(page)
            munlock_isolated_page(k, page)
            swap.put_page(k, page)
    if putback:                                              # phase 3: put back at once
        k.count("munlocked", len(putback))
        swap.pagevec_lru_add(k, putback)
        k.count("rescued", rescued)


# ---------------------------------------------------------------- 04 and later: called by the reverse map
def mlock_vma_page(k: Kernel, page: Page, vma: Vma, *, compound: bool = False) -> None:
    """Patch 04; from 07 on it declines while VM_IO says that a walk is under way, from 5.18 on all VM_SPECIAL. Of a
    THP pmds count (`compound`) and ptes do not."""
    if page.compound and not compound:
        return
    refused = VM_SPECIAL if k.traits.mlock_refuses_special else VM_IO if k.traits.p07_range_walk else 0
    if vma.flags & (VM_LOCKED | refused) == VM_LOCKED and not page.zero:
        mlock_page(k, page)


def munlock_vma_page(k: Kernel, page: Page, vma: Vma, *, compound: bool = False) -> None:
    """From 6.7 on any pte of a large folio that goes munlocks all of it."""
    if page.compound and not compound and not k.traits.large_folio:
        return
    if vma.flags & VM_LOCKED:
        munlock_page(k, page.folio)


def mlock_page(k: Kernel, page: Page) -> None:
    """Mark the page now; from 06 on count it: at once, or (10) when the batch is processed."""
    if not k.traits.p06_mlock_count:
        mlock_vma_page_locked(k, page)
        return
    if not page.mlocked:
        page.mlocked = True
        k.nr_mlock += page.nr
        k.count("mlocked", page.nr)
    if k.traits.p10_mlock_batch:
        _queue(k, "mlock", page)
        return
    if not page.lru:
        return                                               # the count is lost
    if page.unevictable:
        page.lru_word += 1
        return
    del_page_from_lru_list(k, page)
    page.active = False
    page.unevictable = True
    page.lru_word = 1
    add_page_to_lru_list(k, page)
    k.count("culled", page.nr)


def mlock_new_page(k: Kernel, page: Page) -> None:
    """Patch 10: a page that has never been on a list."""
    page.mlocked = True
    k.nr_mlock += page.nr
    k.count("mlocked", page.nr)
    _queue(k, "new", page)


def munlock_page(k: Kernel, page: Page) -> None:
    """04/05: clear at the first munlock. 06 to 09: decrement under the lruvec lock without a ticket. 10: queue."""
    if k.traits.p10_mlock_batch:
        _queue(k, "munlock", page)
    elif k.traits.p06_mlock_count:
        if page.lru and page.unevictable:
            page.lru_word = max(page.lru_word - 1, 0)
            if page.lru_word:
                return
        _clear_mlocked(k, page, isolated=page.lru)
        if page.lru:
            _rescue(k, page)
    elif page.mlocked:
        page.mlocked = False
        k.nr_mlock -= page.nr
        if swap.isolate_lru_page(k, page):
            swap.putback_lru_page(k, page)
            k.count("munlocked", page.nr)
        elif page.unevictable:
            k.count("stranded", page.nr)


def _clear_mlocked(k: Kernel, page: Page, isolated: bool) -> None:
    if page.mlocked:
        page.mlocked = False
        k.nr_mlock -= page.nr
        k.count("munlocked" if isolated or not page.unevictable else "stranded", page.nr)


def _rescue(k: Kernel, page: Page) -> None:
    """Move a page that is evictable now from the unevictable list to an inactive one."""
    if page.unevictable and swap.page_evictable(page):
        del_page_from_lru_list(k, page)
        page.unevictable = False
        add_page_to_lru_list(k, page)
        k.count("rescued", page.nr)


# ---------------------------------------------------------------- the mlock batch (patch 10)
def _queue(k: Kernel, kind: str, page: Page) -> None:
    swap.get_page(page)
    k.batches.mlock.append((kind, page))
    if len(k.batches.mlock) >= k.traits.mlock_pagevec_size or page.compound or k.lru_disabled:
        mlock_page_drain(k)


def mlock_page_drain(k: Kernel) -> None:
    """`mlock_pagevec`: process this cpu's entries in order, then drop their references."""
    entries, k.batches.mlock[:] = list(k.batches.mlock), []
    work = {"mlock": mlock_lru_page, "new": mlock_new, "munlock": munlock_lru_page}
    for kind, page in entries:
        work[kind](k, page)
    swap.release_pages(k, [page for _, page in entries])


def mlock_lru_page(k: Kernel, page: Page) -> None:
    """`__mlock_page`: without the PG_lru ticket the count is lost."""
    if not page.lru:
        return
    if swap.page_evictable(page):            # munlocked meanwhile
        _rescue(k, page)
    elif page.unevictable:
        if page.mlocked:
            page.lru_word += 1
    else:
        del_page_from_lru_list(k, page)
        page.active = False
        page.unevictable = True
        page.lru_word = int(page.mlocked)
        add_page_to_lru_list(k, page)
        k.count("culled", page.nr)


def mlock_new(k: Kernel, page: Page) -> None:
    """`__mlock_new_page`: straight to the unevictable list, unless munlocked meanwhile."""
    if page.lru:
        raise AssertionError("a new page is already on a list")
    if not swap.page_evictable(page):
        page.unevictable = True
        page.lru_word = int(page.mlocked)
        k.count("culled", page.nr)
    page.lru = True
    add_page_to_lru_list(k, page)


def munlock_lru_page(k: Kernel, page: Page) -> None:
    """`__munlock_page`: off-list the page is taken for the last locker's."""
    if page.lru and page.unevictable:
        assert page.lru_word != LIST_LINKAGE
        if page.lru_word:
            page.lru_word -= 1
        if page.lru_word:
            return
    _clear_mlocked(k, page, isolated=page.lru)
    if page.lru:
        _rescue(k, page)


# ---------------------------------------------------------------- 07: the walk over present ptes
def mlock_vma_pages_range(k: Kernel, vma: Vma, start: int, end: int, newflags: int) -> None:
    """Store the flags with VM_IO set, so that rmap adds stand back, and count each present pte exactly once."""
    locking = bool(newflags & VM_LOCKED)
    vma.flags = newflags | VM_IO if locking else newflags
    swap.lru_add_drain(k)
    act = mlock_page if locking else munlock_page
    for table in _tables(vma.mm, start, end):
        pmd = vma.mm.huge_pmd(table)
        if pmd is not None and not pmd.page.zero:
            act(k, pmd.page)
        for run in folio_runs(vma.mm, max(start, table), min(end, table + PTRS_PER_PTE)):
            page = run[0].page
            if not page.compound:
                act(k, page)
            elif k.traits.large_folio and (not locking or len(run) == page.folio.nr):
                act(k, page.folio)
    swap.lru_add_drain(k)
    vma.flags = newflags


def _tables(mm: Mm, start: int, end: int) -> list[int]:
    """First addresses of the page tables and huge pmds of [start, end)."""
    if end - start <= PTRS_PER_PTE * (len(mm.tables) + len(mm.pmds)):
        near = range(pmd_start(start), end, PTRS_PER_PTE)
        return [at for at in near if at in mm.tables or at in mm.pmds]
    return sorted(at for at in mm.tables | mm.pmds.keys() if at < end and at + PTRS_PER_PTE > start)


def folio_runs(mm: Mm, start: int, end: int) -> list[list[Pte]]:
    """The ptes of [start, end) that map normal pages: each alone, those of consecutive pages of one THP together
    (`folio_pte_batch`)."""
    runs: list[list[Pte]] = []
    before = -2
    for addr, pte in mm.present(start, end):
        if pte.migration or pte.page.zero:
            continue
        last = runs[-1][-1].page if runs else None
        if (last is not None and last.compound and before == addr - 1 and pte.page.folio is last.folio
                and pte.page.pfn == last.pfn + 1):
            runs[-1].append(pte)
        else:
            runs.append([pte])
        before = addr
    return runs


# ---------------------------------------------------------------- vmas
def mlock_fixup(k: Kernel, mm: Mm, vma: Vma, prev: Vma | None, start: int, end: int, newflags: int) -> tuple[int, Vma]:
    """Apply `newflags` to [start, end) of one vma (2.2). -> (errno, the vma to go on behind)"""
    oldflags = vma.flags
    if newflags == oldflags or oldflags & (VM_SPECIAL | VM_HUGETLB) or vma.secretmem:
        return 0, vma
    err, vma = mmap.vma_modify(k, mm, vma, prev, start, end, newflags)
    if err:
        return err, vma
    lock = bool(newflags & VM_LOCKED)
    if not lock:
        mm.locked_vm -= end - start
    elif not oldflags & VM_LOCKED:
        mm.locked_vm += end - start
    if not k.traits.p07_range_walk:
        if lock:
            vma.flags = newflags
        else:
            munlock_vma_pages_range(k, vma, start, end)
    elif lock and oldflags & VM_LOCKED:
        vma.flags = newflags                 # counted already
    else:
        mlock_vma_pages_range(k, vma, start, end, newflags)
    return 0, vma


def apply_vma_lock_flags(k: Kernel, mm: Mm, start: int, end: int, flags: int) -> int:
    """mlock and munlock of a range: vma by vma up to the first hole; what was done stays done. -> errno"""
    if start == end:
        return 0
    vma = mm.lookup(start)
    if vma is None:
        return ENOMEM
    prev = vma if start > vma.start else mm.prev(vma)
    at = start
    while True:
        upto = min(vma.end, end)
        err, prev = mlock_fixup(k, mm, vma, prev, at, upto, vma.flags & ~VM_LOCKED_MASK | flags)
        if err:
            return err
        at = max(upto, prev.end)
        if at >= end:
            return 0
        following = mm.next(prev)
        if following is None or following.start != at:
            return ENOMEM
        vma = following


def apply_mlockall_flags(k: Kernel, mm: Mm, flags: int) -> None:
    """Every vma gets the flags, errors ignored."""
    prev: Vma | None = None
    vma = mm.vmas[0] if mm.vmas else None
    while vma is not None:
        _, prev = mlock_fixup(k, mm, vma, prev, vma.start, vma.end, vma.flags & ~VM_LOCKED_MASK | flags)
        vma = mm.next(prev)


def count_mm_mlocked_page_nr(k: Kernel, mm: Mm, start: int, pages: int) -> int:
    """Pages from `start` on that already lie in locked vmas; through 6.0 an unsigned number of bytes, in which the end
    may have wrapped."""
    end = start + pages
    if not k.traits.locked_count_clamps:
        end %= ALL_PAGES
    return sum(min(v.end, end) - max(v.start, start) for v in mm.vmas
               if v.flags & VM_LOCKED and v.start < end and v.end > start) % ALL_PAGES
