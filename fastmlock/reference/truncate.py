"""mm/truncate.c and the truncation of tmpfs: taking pages out of the cache."""
from __future__ import annotations

from ..scenario.system import NotSupported
from . import filemap, huge_memory, memory, swap, swapfile
from .state import HPAGE_PMD_NR, File, Kernel, Page, folio_mark_dirty

PAGEVEC_SIZE = 15
FAR = 1 << 40


def _pagevecs(k: Kernel, file: File, first: int, last: int, *, swapped: bool = False) -> list[list[int]]:
    """Indices of what is in the cache, a pagevec at a time; with `swapped` also of what is on the swap device. A THP is
    one entry, that of its head, and passed over if part of it lies outside."""
    found = sorted(i for i in {*file.pages, *(file.swapped if swapped else ())} if first <= i <= last
                   and (i not in file.pages or not file.pages[i].compound
                        or (file.pages[i].tails and i + HPAGE_PMD_NR - 1 <= last)))
    size = k.traits.pagevec_size
    return [found[i:i + size] for i in range(0, len(found), size)]


def truncate_inode_pages_range(k: Kernel, file: File, first: int, last: int, drained: bool = False) -> None:
    """Pages leave the cache one pagevec at a time; releasing the first one starts with a local drain. A THP that lies
    partly in the range is split behind that, and its pages go in another round."""
    for indices in _pagevecs(k, file, first, last, swapped=True):
        pagevec = [file.pages[i] for i in indices if i in file.pages]
        for page in pagevec:
            swap.get_page(page)
        for index in indices:
            if index in file.swapped:
                swapfile.free_swap_and_cache(k, file.swapped.pop(index))
                continue
            page = file.pages[index]
            if page.total_maps:                  # a private copy's owner may have faulted it in again: not here
                memory.unmap_mapping_range(k, file, page.index, page.index + page.nr - 1, even_cows=False)
            page.dirty = False
            filemap.delete_from_page_cache(k, page)
        drained = swap.pagevec_release(k, pagevec, drained)
    partial = _partial_folio(file, first, last)
    if partial is not None:
        if k.traits.split_smaller:
            raise NotSupported("truncation within a huge page, which this kernel splits into smaller large folios")
        swap.get_page(partial)
        if k.traits.partial_dirties:
            folio_mark_dirty(partial)
        if not huge_memory.split_huge_page(k, partial):
            raise NotSupported("truncation within a huge page that somebody holds")
        swap.put_page(k, partial)
        truncate_inode_pages_range(k, file, first, last, drained)


def _partial_folio(file: File, first: int, last: int) -> Page | None:
    """A THP of which a part, not all, lies in first..last."""
    for index in (first, last):
        page = file.pages.get(index)
        if page is not None and page.compound:
            head = page.folio
            return head if head.index < first or head.index + head.nr - 1 > last else None
    return None


def truncate_setsize(k: Kernel, file: File, size: int) -> None:
    """ftruncate: i_size first, then unmap private copies and all, drop the pages, unmap again. ext4 does so behind the
    new end of a file that grows, too."""
    shrinks, file.size = size < file.size, size
    if shrinks or not file.shmem:
        k.buddy_cached |= shrinks and file.allocated         # freeing blocks looks them up there
        memory.unmap_mapping_range(k, file, size, FAR, even_cows=True)
        truncate_inode_pages_range(k, file, size, FAR)
        memory.unmap_mapping_range(k, file, size, FAR, even_cows=True)
        file.shadows = {i for i in file.shadows if i < size}


def punch_hole(k: Kernel, file: File, first: int, last: int) -> None:
    """fallocate(PUNCH_HOLE|KEEP_SIZE): private copies stay. On ext4 the hole begins in the file and ends with the page
    that has the end of the file in it."""
    if not file.shmem:
        if first >= file.size:
            return
        last = min(last, file.size)
    k.buddy_cached |= file.allocated
    memory.unmap_mapping_range(k, file, first, last, even_cows=False)
    truncate_inode_pages_range(k, file, first, last)
    file.shadows = {i for i in file.shadows if not first <= i <= last}


def invalidate_mapping_pages(k: Kernel, file: File, first: int, last: int) -> int:
    """Drop clean, unmapped pages that nobody else holds, and the shadows of reclaimed ones. -> how many had to stay"""
    failed, drained = 0, False
    file.shadows = {i for i in file.shadows if not first <= i <= last}
    for indices in _pagevecs(k, file, first, last):
        pagevec = [file.pages[i] for i in indices]
        for page in pagevec:
            swap.get_page(page)
        for page in pagevec:
            if page.dirty or page.total_maps or page.refcount > 1 + page.nr:
                failed += 1
                swap.deactivate_file_page(k, page)
            else:
                filemap.delete_from_page_cache(k, page)
        drained = swap.pagevec_release(k, pagevec, drained)
    return failed


def fadvise_dontneed(k: Kernel, file: File, first: int, last: int) -> None:
    """POSIX_FADV_DONTNEED: tmpfs has no backing device and ignores it. Dirty pages are written first. What stayed
    may be in another cpu's batch: drain all and try again."""
    if file.shmem:
        return
    filemap.vfs_fsync_range(k, file, first, min(last, file.size - 1) + 1)
    swap.lru_add_drain(k)
    if invalidate_mapping_pages(k, file, first, last):
        swap.lru_add_drain_all(k)
        invalidate_mapping_pages(k, file, first, last)
