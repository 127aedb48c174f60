"""mm/vmscan.c as far as one page at a time goes: MADV_PAGEOUT and drop_caches (KERNEL.md 2.8, patch 13)."""
from __future__ import annotations

from . import filemap, rmap, shmem, swap, swapfile, truncate
from .state import File, Kernel, Page


def reclaim_pages(k: Kernel, pages: list[Page]) -> None:
    """`reclaim_pages` -> `shrink_page_list`, references ignored; what stays is put back through lru_add."""
    freed = [page for page in pages if shrink_page(k, page)]
    swap.release_pages(k, freed)
    for page in pages:
        if page not in freed:
            swap.putback_lru_page(k, page)


def shrink_all(k: Kernel, files: list[File]) -> None:
    """What scans of the file lists in every priority come to: each disk file's page on an evictable list loses its
    references and is then reclaimed; one that a locked vma maps is marked and culled. From patch 13 that happens where
    the references are looked for, before it was try_to_unmap()'s to do, which unmaps from the vmas before that one."""
    swap.lru_add_drain(k)
    for page in [page for file in files if not file.shmem for page in file.pages.values()]:
        if page.unevictable or not swap.isolate_lru_page(k, page):
            continue
        locked = rmap.page_referenced(k, page)[1]
        if locked and k.traits.p13_referenced_restores:
            _activate_locked(k, page)
        elif shrink_page(k, page):
            swap.release_pages(k, [page])
            continue
        swap.putback_lru_page(k, page)
    swap.lru_add_drain(k)


def shrink_page(k: Kernel, page: Page) -> bool:
    """One isolated page. -> whether nobody has it any more but the caller"""
    if not swap.page_evictable(page):
        return _activate_locked(k, page)
    if page.anon and page.swapbacked and page.swap is None and not swapfile.add_to_swap(k, page):
        return _activate_locked(k, page)                     # no room to swap to
    if page.mapcount and not rmap.try_to_unmap(k, page):
        return _activate_locked(k, page)
    if page.anon and not page.swapbacked:                    # lazily freed and still clean
        if page.refcount != 1:
            return False
        page.unevictable = False
        return True
    if page.dirty and not page.swapbacked:                   # a disk file's: not ours to write
        return _activate_locked(k, page)
    if page.refcount != 2:                                   # the cache's and the isolation's
        return False
    if page.dirty and page.swap is None and not shmem.shmem_writepage(k, page):
        return _activate_locked(k, page)
    page.dirty = False
    _remove_mapping(k, page)
    page.unevictable = False
    return True


def _activate_locked(k: Kernel, page: Page) -> bool:
    """Kept, and active unless it is locked; one that is locked need not keep a slot."""
    if swapfile.vm_swap_full(k) or page.mlocked:
        swapfile.try_to_free_swap(k, page)
    page.active = not page.mlocked
    return False


def _remove_mapping(k: Kernel, page: Page) -> None:
    """Out of the swap cache or the page cache, which remember that reclaim took it."""
    if page.swap is not None:
        page.swap.shadow = True
        swapfile.delete_from_swap_cache(k, page)
    else:
        filemap.delete_from_page_cache(k, page, shadow=True)


def drop_pagecache(k: Kernel, files: list[File]) -> None:
    """drop_caches bit 0: every clean unmapped page of every file, tmpfs included (a hole that was only read is
    clean); pages that must stay are deactivated."""
    if k.traits.drop_caches_drains:
        swap.lru_add_drain_all(k)
    for file in files:
        truncate.invalidate_mapping_pages(k, file, 0, truncate.FAR)
