"""mm/shmem.c: tmpfs files, anonymous shared memory, and SHM_LOCK of segments (KERNEL.md 1.3, 2.3, 4)."""
from __future__ import annotations

from . import filemap, swap, swapfile, swapin
from .state import File, Kernel, Page, add_page_to_lru_list, del_page_from_lru_list, folio_mark_dirty


def find_page(k: Kernel, file: File, index: int) -> Page | None:
    """The page that is there, brought back from swap if need be."""
    return swapin.shmem_swapin_page(k, file, index) if index in file.swapped else file.pages.get(index)


def shmem_getpage(k: Kernel, file: File, index: int, *, write: bool = False, huge: bool = True) -> Page | None:
    """The page of a fault (None beyond i_size) or of a write. A hole gets a new page, clean, a THP where one fits if
    that is wanted; a page that a write makes is born referenced, one that it finds is marked accessed."""
    if not write and index >= file.size:
        return None
    page = find_page(k, file, index)
    if page is None and huge and filemap.huge_hole(file, index):
        filemap.add_huge_to_page_cache(k, file, index).referenced = write
        page = file.pages[index]
    elif page is None:
        page = filemap.add_to_page_cache(k, file, index)
        page.referenced = write
    elif write:
        swap.mark_page_accessed(k, page)
    return page


def shmem_file_write(k: Kernel, file: File, index: int) -> None:
    """pwrite of one page."""
    page = shmem_getpage(k, file, index, write=True)
    assert page is not None
    folio_mark_dirty(page.folio)
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


def shmem_unlock_mapping(k: Kernel, file: File) -> None:
    """After SHM_UNLOCK: every page is looked at, a pagevec at a time, and those that nothing else keeps are rescued."""
    indices = sorted(file.pages)
    drained = False
    for at in range(0, len(indices), k.traits.pagevec_size):
        pages = [file.pages[index] for index in indices[at:at + k.traits.pagevec_size]]
        for page in pages:
            swap.get_page(page)
            check_move_unevictable_page(k, page)
        drained = swap.pagevec_release(k, pages, drained)


def check_move_unevictable_page(k: Kernel, page: Page) -> None:
    k.count("scanned")
    if page.lru and page.unevictable and swap.page_evictable(page):
        del_page_from_lru_list(k, page)
        page.unevictable = False
        add_page_to_lru_list(k, page)
        k.count("rescued")
