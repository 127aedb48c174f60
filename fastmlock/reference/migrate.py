"""mm/migrate.c: moving one page to a new frame (KERNEL.md 2.8, patches 08 and 11). Compaction moves by chance on a
real machine; here it moves every page that can be isolated."""
from __future__ import annotations

from ..scenario.system import NotSupported
from . import rmap, swap
from .state import FIRST_FRAME, Kernel, Page


def migrate_page(k: Kernel, page: Page) -> bool:
    """`unmap_and_move`. -> whether the page now lives elsewhere"""
    if page.ksm is not None:
        raise NotSupported("migration of a KSM page")
    if page.mapping is not None and page.mapping.fs == "secret":
        return False
    if page.zero or page.compound or not swap.isolate_lru_page(k, page):
        return False
    entries = rmap.try_to_migrate(k, page)
    expected = 1 + (page.mapping is not None) + (page.swap is not None)
    if page.mapcount or page.refcount != expected:
        rmap.remove_migration_ptes(k, entries, page)
        swap.putback_lru_page(k, page)
        return False
    new = _move_to_new_page(k, page)
    if k.traits.p08_newpage_lru_first:
        swap.lru_cache_add(k, new)
        if entries:
            swap.lru_add_drain(k)
        rmap.remove_migration_ptes(k, entries, new)
        swap.put_page(k, new)
    else:
        rmap.remove_migration_ptes(k, entries, new)
        swap.putback_lru_page(k, new)
    page.unevictable = False
    swap.put_page(k, page)
    return True


def _move_to_new_page(k: Kernel, page: Page) -> Page:
    """`migrate_page_states`: PG_unevictable is copied, PG_mlocked is not."""
    new = k.alloc_page()
    new.mapping, new.anon_vma, new.index = page.mapping, page.anon_vma, page.index
    new.swapbacked, new.dirty, new.referenced = page.swapbacked, page.dirty, page.referenced
    new.active, new.unevictable, new.exclusive = page.active, page.unevictable, page.exclusive
    new.content, new.readahead = page.content, page.readahead
    if page.mapping is not None:
        page.mapping.pages[page.index] = new
        swap.get_page(new)
        page.mapping = None
        page.refcount -= 1
    if page.swap is not None:
        new.swap, page.swap.page, page.swap = page.swap, new, None
        swap.get_page(new)
        page.refcount -= 1
    page.active = page.dirty = page.referenced = False
    return new


def compact(k: Kernel) -> None:
    """Drain everywhere, then try what each frame holds when its turn comes, in their order."""
    swap.lru_add_drain_all(k)
    for pfn in range(FIRST_FRAME, k.next_pfn):
        if pfn in k.pages:
            migrate_page(k, k.pages[pfn])


