"""mm/shmem.c: tmpfs files and anonymous shared memory."""
from __future__ import annotations

from . import filemap, swap
from .state import File, Kernel, Page


def shmem_getpage(k: Kernel, file: File, index: int, *, write: bool = False) -> Page | None:
    """The page of a fault (None beyond i_size) or of a write. A hole gets a new page, clean; a page that a write
    makes is born referenced, one that it finds is marked accessed."""
    if not write and index >= file.size:
        return None
    page = file.pages.get(index)
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


def shmem_file_read(k: Kernel, file: File, index: int) -> None:
    """pread of one page: a hole is read as zeroes without making a page."""
    page = file.pages.get(index)
    if page is not None:
        swap.mark_page_accessed(k, page)
