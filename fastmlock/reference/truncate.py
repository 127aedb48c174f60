"""mm/truncate.c and the truncation of tmpfs: taking pages out of the cache."""
from __future__ import annotations

from . import filemap, memory, swap, swapfile
from .state import File, Kernel

PAGEVEC_SIZE = 15
FAR = 1 << 40


def _pagevecs(k: Kernel, file: File, first: int, last: int, *, swapped: bool = False) -> list[list[int]]:
    """Indices of what is in the cache, a pagevec at a time; with `swapped` also of what is on the swap device."""
    found = sorted(i for i in {*file.pages, *(file.swapped if swapped else ())} if first <= i <= last)
    size = k.traits.pagevec_size
    return [found[i:i + size] for i in range(0, len(found), size)]


def truncate_inode_pages_range(k: Kernel, file: File, first: int, last: int) -> None:
    """Pages leave the cache one pagevec at a time; releasing each pagevec starts with a local drain."""
    for indices in _pagevecs(k, file, first, last, swapped=True):
        pagevec = [file.pages[i] for i in indices if i in file.pages]
        for page in pagevec:
            swap.get_page(page)
        for index in indices:
            if index in file.swapped:
                swapfile.free_swap_and_cache(k, file.swapped.pop(index))
                continue
            page = file.pages[index]
            if page.mapcount:                  # a private copy's owner may have faulted it in again: not here
                memory.unmap_mapping_range(k, file, page.index, page.index, even_cows=False)
            page.dirty = False
            filemap.delete_from_page_cache(k, page)
        swap.pagevec_release(k, pagevec)


def truncate_setsize(k: Kernel, file: File, size: int) -> None:
    """ftruncate: i_size first, then unmap private copies and all, drop the pages, unmap again."""
    old, file.size = file.size, size
    if size < old:
        memory.unmap_mapping_range(k, file, size, FAR, even_cows=True)
        truncate_inode_pages_range(k, file, size, FAR)
        memory.unmap_mapping_range(k, file, size, FAR, even_cows=True)
        file.shadows = {i for i in file.shadows if i < size}


def punch_hole(k: Kernel, file: File, first: int, last: int) -> None:
    """fallocate(PUNCH_HOLE|KEEP_SIZE): private copies stay."""
    memory.unmap_mapping_range(k, file, first, last, even_cows=False)
    truncate_inode_pages_range(k, file, first, last)
    file.shadows = {i for i in file.shadows if not first <= i <= last}


def invalidate_mapping_pages(k: Kernel, file: File, first: int, last: int) -> int:
    """Drop clean, unmapped pages that nobody else holds, and the shadows of reclaimed ones. -> how many had to stay"""
    failed = 0
    file.shadows = {i for i in file.shadows if not first <= i <= last}
    for indices in _pagevecs(k, file, first, last):
        pagevec = [file.pages[i] for i in indices]
        for page in pagevec:
            swap.get_page(page)
        for page in pagevec:
            if page.dirty or page.mapcount or page.refcount > 2:
                failed += 1
                swap.deactivate_file_page(k, page)
            else:
                filemap.delete_from_page_cache(k, page)
        swap.pagevec_release(k, pagevec)
    return failed


def fadvise_dontneed(k: Kernel, file: File, first: int, last: int) -> None:
    """POSIX_FADV_DONTNEED: tmpfs has no backing device and ignores it. Dirty pages are written first. What stayed
    may be in another cpu's batch: drain all and try again."""
    if file.shmem:
        return
    for index in range(first, min(last, file.size - 1) + 1):
        if index in file.pages:
            file.pages[index].dirty = False
    swap.lru_add_drain(k)
    if invalidate_mapping_pages(k, file, first, last):
        swap.lru_add_drain_all(k)
        invalidate_mapping_pages(k, file, first, last)
