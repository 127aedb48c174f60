"""mm/shmem.c: tmpfs files and anonymous shared memory."""
from __future__ import annotations

from . import filemap, swap, swapfile, swapin
from .state import File, Kernel, Page


def find_page(k: Kernel, file: File, index: int) -> Page | None:
    """The page that is there, brought back from swap if need be."""
    return swapin.shmem_swapin_page(k, file, index) if index in file.swapped else file.pages.get(index)


def shmem_getpage(k: Kernel, file: File, index: int, *, write: bool = False) -> Page | None:
    """The page of a fault (None beyond i_size) or of a write. A hole gets a new page, clean; a page that a write
    makes is born referenced, one that it finds is marked accessed."""
    if not write and index >= file.size:
        return None
    page = find_page(k, file, index)
    if page is None:
        page = filemap.add_to_page_cache(k, file, index)
        page.referenced = write
    elif write:
        swap.mark_page_accessed(k, page)
    return page


def shmem_file_write(k: Kernel, file: File, index: int) -> None:
    """pwrite of one page."""
    page = shmem_getpage(k, file, index, write=True)
    assert page is not None
    page.dirty = True
    file.size = max(file.size, index + 1)


def shmem_writepage(k: Kernel, page: Page) -> bool:
    """The page leaves its file for the swap cache, and is written at once. -> whether there was a slot"""
    entry = swapfile.get_swap_page(k)
    file = page.mapping
    if entry is None or file is None:
        return False
    swapfile.add_to_swap_cache(page, entry)
    swapfile.swap_duplicate(entry)
    filemap.delete_from_page_cache(k, page)
    file.swapped[page.index] = entry
    return True


def shmem_file_read(k: Kernel, file: File, index: int) -> None:
    """pread of one page: a hole is read as zeroes without making a page."""
    page = find_page(k, file, index)
    if page is not None:
        swap.mark_page_accessed(k, page)
