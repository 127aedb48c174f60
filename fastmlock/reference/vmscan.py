"""mm/vmscan.c as far as one page at a time goes: MADV_PAGEOUT and drop_caches (KERNEL.md 2.8, patch 13).

There is no swap: anonymous and tmpfs pages cannot leave."""
from __future__ import annotations

from . import filemap, huge_memory, rmap, swap, truncate
from .state import File, Kernel, Page


def reclaim_pages(k: Kernel, pages: list[Page]) -> None:
    """`reclaim_pages` -> `shrink_page_list`, references ignored; what stays is put back through lru_add."""
    for page in pages:                       # grows by the tails of what is split
        if not shrink_page(k, page, pages):
            swap.putback_lru_page(k, page)


def shrink_page(k: Kernel, page: Page, pages: list[Page]) -> bool:
    """One isolated page; the tails of a THP that must be split join `pages`. -> freed"""
    if not swap.page_evictable(page):
        return False
    if page.tails and page.anon and page.swapbacked:
        huge_memory.split_huge_page(k, page, pages)
    if page.anon and page.swapbacked:                        # no room to swap to
        page.active = True
        return False
    if page.mapcount and not rmap.try_to_unmap(k, page):
        page.active = not page.mlocked
        return False
    if page.anon:                                            # lazily freed and still clean
        page.unevictable = False
        swap.put_page(k, page)
        return True
    if page.dirty:                                           # not ours to write; tmpfs refuses
        page.active = True
        return False
    if page.refcount != 2:                                   # the cache's and the isolation's
        return False
    filemap.delete_from_page_cache(k, page, shadow=True)
    page.unevictable = False
    swap.put_page(k, page)
    return True


def drop_pagecache(k: Kernel, files: list[File]) -> None:
    """drop_caches bit 0: every clean unmapped page of every file, tmpfs included (a hole that was only read is
    clean); pages that must stay are deactivated."""
    if k.traits.drop_caches_drains:
        swap.lru_add_drain_all(k)
    for file in files:
        truncate.invalidate_mapping_pages(k, file, 0, truncate.FAR)
