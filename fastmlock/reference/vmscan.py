"""mm/vmscan.c: one page at a time (MADV_PAGEOUT, drop_caches), and scans of the LRU lists (KERNEL.md 2.8, patch 13).

How many pages a kernel would scan of which list is the caller's choice, but for a memory cgroup that is told to give up
all it can."""
from __future__ import annotations

from ..scenario.system import NotSupported
from . import filemap, huge_memory, rmap, shmem, swap, swapfile, truncate
from .state import VM_EXEC, VM_LOCKED, File, Kernel, Page


def reclaim_pages(k: Kernel, pages: list[Page]) -> None:
    """`reclaim_pages` -> `shrink_page_list`, references ignored; what stays is put back through lru_add."""
    freed = [page for page in pages if shrink_page(k, page, pages)]      # `pages` grows by the tails of what is split
    swap.release_pages(k, freed)
    for page in pages:
        if page not in freed:
            swap.putback_lru_page(k, page)


def shrink_page(k: Kernel, page: Page, pages: list[Page], *, ask: bool = False, far: bool = False) -> bool:
    """One isolated page; the tails of a THP that must be split join `pages`. -> whether nobody has it any more but the
    caller"""
    if not swap.page_evictable(page):
        return _activate_locked(k, page)
    if ask and not page_check_references(k, page):
        return False
    if page.tails and (not page.swapbacked or (k.traits.shmem_swaps_whole and not page.anon)):
        raise NotSupported("reclaim of a huge page that was freed lazily or, on this kernel, of a file, and is not "
                           "split first")
    if page.tails and not huge_memory.split_huge_page(k, page, pages):
        return page.anon and _activate_locked(k, page)       # a file's is kept as it is
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
        page.readahead = True                                # PG_reclaim, the same bit
        return _activate_locked(k, page)
    if page.refcount != 2 or (page.mapping is None and page.swap is None):     # the cache's and the isolation's
        return False
    if page.dirty and page.swap is None and not shmem.shmem_writepage(k, page):
        return _activate_locked(k, page)
    page.dirty = False
    _remove_mapping(k, page, remembered=not far)
    page.unevictable = False
    return True


def page_check_references(k: Kernel, page: Page) -> bool:
    """Whether the page may go by what its mappings say of its use. One of a locked vma goes on to be unmapped, which
    marks it; from patch 13 it is marked already and kept. A first use gives it another round, a second makes it
    active, as the first does code."""
    young, flags = rmap.page_referenced(k, page) if page.total_maps else (0, 0)
    referenced, page.referenced = page.referenced, False
    if flags & VM_LOCKED:
        page.active = page.active or (k.traits.p13_referenced_restores and not page.mlocked)
        return not k.traits.p13_referenced_restores
    if young:
        page.referenced = True
        page.active = page.active or referenced or young > 1 or _is_code(page, flags)
    return not young


def _is_code(page: Page, flags: int) -> bool:
    return bool(flags & VM_EXEC) and not page.swapbacked


def _activate_locked(k: Kernel, page: Page) -> bool:
    """Kept, and active unless it is locked; one that is locked need not keep a slot."""
    if swapfile.vm_swap_full(k) or page.mlocked:
        swapfile.try_to_free_swap(k, page)
    page.active = page.active or not page.mlocked
    return False


def _remove_mapping(k: Kernel, page: Page, *, remembered: bool) -> None:
    """Out of the swap cache or the page cache. A page that comes back soon will be active: what one process paged out
    is taken to come back soon, what went with all else of its cgroup is not."""
    if page.swap is not None:
        page.swap.shadow = remembered
        swapfile.delete_from_swap_cache(k, page)
    else:
        filemap.delete_from_page_cache(k, page, shadow=remembered)


def drop_pagecache(k: Kernel, files: list[File]) -> None:
    """drop_caches bit 0: every clean unmapped page of every file, tmpfs included (a hole that was only read is
    clean); pages that must stay are deactivated. `iterate_supers`: the file systems in the order in which they were
    mounted, the files of each newest first. The kernel's own shared memory comes first; the root has many files, so
    that dropping them drains; so does ext4's buddy cache behind its files."""
    if k.traits.drop_caches_drains:
        swap.lru_add_drain_all(k)
    for kinds in (("shmem", "shm"), ("rootfs",), ("tmpfs",), ("ext4",)):
        for file in sorted((file for file in files if file.fs in kinds), key=lambda file: file.ino, reverse=True):
            truncate.invalidate_mapping_pages(k, file, 0, truncate.FAR)
        if "rootfs" in kinds or ("ext4" in kinds and k.buddy_cached):
            swap.lru_add_drain(k)
    k.buddy_cached = False


# ---------------------------------------------------------------- scans
SWAP_CLUSTER_MAX = 32
IDLE_PASSES = 3


def shrink_list(k: Kernel, name: str, pages: int, far: bool) -> int:
    """At most so many pages from the tail of a list, 32 at a time, behind a local drain each time. Those of an active
    list lose their young bits and PG_active; those of an inactive one are reclaimed if they can be, the tails of a THP
    that is split with them. What is left goes back: unevictable pages through the lru_add batch, the others at once. A
    THP counts as all its pages, and is taken whole. -> pages freed"""
    freed = 0
    while pages:
        swap.lru_add_drain(k)
        taken: list[Page] = []
        for page in k.lists[name]:
            if sum(one.nr for one in taken) < min(pages, SWAP_CLUSTER_MAX):
                taken.append(page)
        if not taken:
            break
        pages = max(pages - sum(page.nr for page in taken), 0)
        for page in taken:
            swap.isolate_lru_page(k, page)
        gone = []
        for page in taken:
            if name.startswith("inactive") and shrink_page(k, page, taken, ask=True, far=far):
                gone.append(page)
                continue
            if name.startswith("active"):
                flags = 0
                if swap.page_evictable(page) and page.total_maps:
                    _, flags = rmap.page_referenced(k, page)
                page.active = _is_code(page, flags)          # code that is in use goes round again
            if swap.page_evictable(page):
                swap.lru_add_fn(k, page)
                swap.put_page(k, page)
            else:
                swap.putback_lru_page(k, page)
        swap.release_pages(k, gone)
        freed += len(gone)
        if not k.lists[name]:
            break
    return freed


def shrink_lists(k: Kernel, pages: int, *, far: bool = False) -> int:
    """One pass: so many pages of each list, the active one of a pair first; anonymous memory and tmpfs only if there is
    a swap device. -> pages freed"""
    kinds = ("file", "anon") if k.swap is not None else ("file",)
    return sum(shrink_list(k, f"{which}_{kind}", pages, far) for kind in kinds for which in ("active", "inactive"))


def reclaim_all(k: Kernel) -> int:
    """A memory cgroup gives up all it can: passes over all that is on the lists, until some in a row have freed
    nothing. -> pages freed"""
    freed = idle = 0
    while idle < IDLE_PASSES:
        some = shrink_lists(k, len(k.pages), far=True)
        idle = 0 if some else idle + 1
        freed += some
    return freed
