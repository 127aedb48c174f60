"""mm/swap.c: references, the per-cpu batches, and how pages get on and off LRU lists (KERNEL.md 1.3, 1.4)."""
from __future__ import annotations

from collections.abc import Callable, Iterable

from . import hugetlb, mlock
from .state import Kernel, Page, add_page_to_lru_list, del_page_from_lru_list


# ---------------------------------------------------------------- references
def get_page(page: Page) -> None:
    page.folio.refcount += 1


def put_page(k: Kernel, page: Page) -> None:
    """Drop one reference; the last one frees the page (`__page_cache_release`).

    A page freed while on the unevictable list shrinks that list without an event. From patch 05 on this is
    where a PG_mlocked that nobody cleared is cleared and counted."""
    if page.zero:
        return
    page = page.folio
    page.refcount -= 1
    assert page.refcount >= 0
    if page.refcount:
        return
    assert page.total_maps == 0 and page.mapping is None and page.swap is None
    if page.lru:
        del_page_from_lru_list(k, page)
        page.lru = page.active = page.unevictable = False
    if page.mlocked and k.traits.p05_final_clearance:
        page.mlocked = False
        k.nr_mlock -= page.nr
        k.count("cleared", page.nr)
    if page.hugetlb:
        hugetlb.free_huge_page(k, page)
    else:
        k.free_page(page)


def release_pages(k: Kernel, pages: Iterable[Page]) -> None:
    """Drop a reference of each. What this frees goes back to the allocator last page first (to 6.8)."""
    free = k.free_frames[k.cpu]
    before = len(free)
    for page in pages:
        put_page(k, page)
    if k.traits.release_reverses:
        free[before:] = reversed(free[before:])


def pagevec_release(k: Kernel, pages: list[Page], drained: bool = False) -> bool:
    """Drop the references of a private pagevec; a local drain comes before, the first time that it holds anything.
    -> whether that drain has been"""
    if pages and not drained:
        lru_add_drain(k)
    release_pages(k, pages)
    return drained or bool(pages)


# ---------------------------------------------------------------- lru_add
def page_evictable(page: Page) -> bool:
    return not (page.mlocked or (page.mapping is not None and page.mapping.unevictable))


def pagevec_lru_add(k: Kernel, pages: list[Page]) -> None:
    """`__pagevec_lru_add`: put pages on the list their flags ask for; the batch's references are dropped."""
    taken, pages[:] = list(pages), []
    for page in taken:
        lru_add_fn(k, page)
    release_pages(k, taken)


def lru_add_fn(k: Kernel, page: Page) -> None:
    """`__pagevec_lru_add_fn`: a page reaches its list for the first time, or comes back to it."""
    was_unevictable, page.unevictable = page.unevictable, False
    page.lru = True
    if page_evictable(page):
        if was_unevictable:
            k.count("rescued", page.nr)
    else:
        page.active = False
        page.unevictable = True
        if k.traits.p06_mlock_count:       # patch 10 always starts at 0: the mlock batch will count
            page.lru_word = int(page.mlocked and not k.traits.p10_mlock_batch)
        if not was_unevictable:
            k.count("culled", page.nr)
    add_page_to_lru_list(k, page)


def lru_cache_add(k: Kernel, page: Page) -> None:
    get_page(page)
    k.batches.lru_add.append(page)
    if len(k.batches.lru_add) >= k.traits.pagevec_size or page.compound or k.lru_disabled:
        pagevec_lru_add(k, k.batches.lru_add)


def lru_cache_add_inactive_or_unevictable(k: Kernel, page: Page, locked: bool) -> None:
    """A new anonymous page of a vma that is VM_LOCKED and not special (`locked`) is marked at once; from patch 10
    it goes to the mlock batch instead of lru_add."""
    if locked and k.traits.p10_mlock_batch:
        mlock.mlock_new_page(k, page)
        return
    if locked and not page.mlocked:
        page.mlocked = True
        k.nr_mlock += page.nr
        k.count("mlocked", page.nr)
    lru_cache_add(k, page)


# ---------------------------------------------------------------- moves between lists
def pagevec_lru_move_fn(k: Kernel, pages: list[Page], move: Callable[[Kernel, Page], None]) -> None:
    """Apply `move` to each page that can be isolated, then drop the batch's references."""
    taken, pages[:] = list(pages), []
    for page in taken:
        if page.lru:
            move(k, page)
    release_pages(k, taken)


def _activate_fn(k: Kernel, page: Page) -> None:
    if not page.active and not page.unevictable:
        del_page_from_lru_list(k, page)
        page.active = True
        add_page_to_lru_list(k, page)


def _deactivate_file_fn(k: Kernel, page: Page) -> None:
    if page.unevictable or page.total_maps:
        return
    del_page_from_lru_list(k, page)
    page.active = page.referenced = False
    page.readahead |= page.dirty                             # PG_reclaim, the same bit
    add_page_to_lru_list(k, page, tail=not page.dirty)


def _deactivate_fn(k: Kernel, page: Page) -> None:
    if page.active and not page.unevictable:
        del_page_from_lru_list(k, page)
        page.active = page.referenced = False
        add_page_to_lru_list(k, page)


def _lazyfree_fn(k: Kernel, page: Page) -> None:
    if page.anon and page.swapbacked and not page.unevictable and page.swap is None:
        del_page_from_lru_list(k, page)
        page.active = page.referenced = page.swapbacked = False
        add_page_to_lru_list(k, page)


def _queue_move(k: Kernel, batch: list[Page], page: Page, move: Callable[[Kernel, Page], None]) -> None:
    get_page(page)
    batch.append(page)
    if len(batch) >= k.traits.pagevec_size or page.compound or k.lru_disabled:
        pagevec_lru_move_fn(k, batch, move)


def activate_page(k: Kernel, page: Page) -> None:
    if page.lru and not page.active and not page.unevictable:
        _queue_move(k, k.batches.activate, page, _activate_fn)


def deactivate_file_page(k: Kernel, page: Page) -> None:
    if not page.unevictable:
        _queue_move(k, k.batches.lru_deactivate_file, page, _deactivate_file_fn)


def deactivate_page(k: Kernel, page: Page) -> None:
    if page.lru and page.active and not page.unevictable:
        _queue_move(k, k.batches.lru_deactivate, page, _deactivate_fn)


def mark_page_lazyfree(k: Kernel, page: Page) -> None:
    if page.lru and page.anon and page.swapbacked and not page.unevictable and page.swap is None:
        _queue_move(k, k.batches.lru_lazyfree, page, _lazyfree_fn)


def mark_page_accessed(k: Kernel, page: Page) -> None:
    """First use sets PG_referenced; the second activates, unless the page is unevictable. A page not yet on any
    list is activated only if this cpu's lru_add batch holds it (`__lru_cache_activate_page`)."""
    page = page.folio
    if not page.referenced:
        page.referenced = True
    elif page.unevictable:
        pass
    elif not page.active:
        if page.lru:
            activate_page(k, page)
        elif page in k.batches.lru_add:
            page.active = True
        page.referenced = False


# ---------------------------------------------------------------- drains
def lru_add_drain(k: Kernel) -> None:
    """Process all of this cpu's batches; from patch 10 the mlock batch comes last."""
    b = k.batches
    pagevec_lru_add(k, b.lru_add)
    pagevec_lru_move_fn(k, b.lru_deactivate_file, _deactivate_file_fn)
    pagevec_lru_move_fn(k, b.lru_deactivate, _deactivate_fn)
    pagevec_lru_move_fn(k, b.lru_lazyfree, _lazyfree_fn)
    pagevec_lru_move_fn(k, b.activate, _activate_fn)
    mlock.mlock_page_drain(k)


def lru_add_drain_all(k: Kernel) -> None:
    """The same on every cpu: first on this one, which gives way to the work at once; the others must be woken."""
    here = k.cpu
    for cpu in sorted(range(len(k.cpus)), key=lambda cpu: cpu != here):
        k.cpu = cpu
        lru_add_drain(k)
    k.cpu = here


# ---------------------------------------------------------------- isolation (mm/vmscan.c)
def isolate_lru_page(k: Kernel, page: Page) -> bool:
    """Win the PG_lru ticket, take a reference, leave the list. PG_unevictable stays set; a count is lost."""
    if not page.lru:
        return False
    page.lru = False
    get_page(page)
    del_page_from_lru_list(k, page)
    page.lru_word = -1
    return True


def putback_lru_page(k: Kernel, page: Page) -> None:
    lru_cache_add(k, page)
    put_page(k, page)
