"""mm/readahead.c: which pages of a disk file are read before anybody asks for them."""
from __future__ import annotations

from ..scenario.system import NotSupported
from . import filemap
from .state import HPAGE_PMD_NR, VM_EXEC, VM_HUGEPAGE, VM_RAND_READ, VM_SEQ_READ, File, Kernel, ReadAhead, Vma

RA_PAGES = 32           # the most at a time: read_ahead_kb = 128


def do_page_cache_ra(k: Kernel, file: File, index: int, nr: int, lookahead: int) -> None:
    """Read the missing pages of [index, index+nr) within the file, and mark the one `lookahead` before the end."""
    within = min(nr, file.size - index)
    mark = (nr if k.traits.disk_large_folios else within) - lookahead
    for i in range(within):
        if index + i not in file.pages:
            page = filemap.add_to_page_cache(k, file, index + i)
            page.readahead = lookahead > 0 and i == mark


def page_cache_ra_order(k: Kernel, file: File, index: int, nr: int, lookahead: int) -> None:
    """As do_page_cache_ra(), but by now in large folios where the filesystem has them."""
    rest = range(index, min(index + nr, file.size))
    if k.traits.disk_large_folios and len(rest) > 1 and any(i not in file.pages for i in rest):
        raise NotSupported("read-ahead of a disk file, which this kernel does in large folios")
    do_page_cache_ra(k, file, index, nr, lookahead)


def get_init_ra_size(wanted: int) -> int:
    size = 1 << (wanted - 1).bit_length()
    return size * 4 if size <= RA_PAGES // 32 else size * 2 if size <= RA_PAGES // 4 else RA_PAGES


def get_next_ra_size(ra: ReadAhead) -> int:
    if ra.size < RA_PAGES // 16:
        return ra.size * 4
    return ra.size * 2 if ra.size <= RA_PAGES // 2 else RA_PAGES


def ondemand_readahead(k: Kernel, file: File, ra: ReadAhead, index: int, wanted: int, *, marked: bool,
                       previous: int = -1) -> None:
    """Through 6.10 one function for a missing page and for a marked one."""
    if index and index in (ra.start + ra.size - ra.async_size, ra.start + ra.size):
        ra.start += ra.size
        ra.size = ra.async_size = get_next_ra_size(ra)
    elif index and marked:
        gap = page_cache_next_miss(file, index)
        if gap is None:
            return
        ra.start, ra.size = gap, gap - index + wanted
        ra.size = ra.async_size = get_next_ra_size(ra)
    elif not index or (previous >= 0 and index - previous in (0, 1)):
        ra.start, ra.size = index, get_init_ra_size(wanted)
        ra.async_size = ra.size - wanted if ra.size > wanted else ra.size
    elif not try_context_readahead(file, ra, index, wanted):
        do_page_cache_ra(k, file, index, wanted, 0)
        return
    if index == ra.start and ra.size == ra.async_size:      # its own mark would be hit at once
        more = get_next_ra_size(ra)
        if ra.size + more <= RA_PAGES:
            ra.size, ra.async_size = ra.size + more, more
        else:
            ra.size, ra.async_size = RA_PAGES, RA_PAGES // 2
    do_page_cache_ra(k, file, ra.start, ra.size, ra.async_size)


def try_context_readahead(file: File, ra: ReadAhead, index: int, wanted: int) -> bool:
    """More cached pages before this one than are asked for are the trace of somebody who reads in order."""
    history = 0
    while history < min(RA_PAGES, index) and index - history - 1 in file.pages:
        history += 1
    if history <= wanted:
        return False
    ra.start, ra.size = index, min(history * (2 if history == index else 1) + wanted, RA_PAGES)
    ra.async_size = 1
    return True


def page_cache_next_miss(file: File, index: int) -> int | None:
    """The first page behind `index` that is not cached, if it is within reach."""
    return next((i for i in range(index + 1, index + RA_PAGES + 1) if i not in file.pages), None)


def page_cache_sync_ra(k: Kernel, file: File, ra: ReadAhead, index: int, wanted: int, previous: int) -> None:
    """Page `index` is not cached; `wanted` from it on are asked for; the last read ended in `previous`."""
    if not k.traits.async_readahead:
        ondemand_readahead(k, file, ra, index, wanted, marked=False, previous=previous)
    elif not index or (previous >= 0 and index - previous in (0, 1)):
        ra.start, ra.size = index, get_init_ra_size(wanted)
        ra.async_size = ra.size - wanted if ra.size > wanted else ra.size // 2
        do_page_cache_ra(k, file, ra.start, ra.size, ra.async_size)
    elif try_context_readahead(file, ra, index, wanted):
        do_page_cache_ra(k, file, ra.start, ra.size, ra.async_size)
    else:
        do_page_cache_ra(k, file, index, wanted, 0)


def page_cache_async_ra(k: Kernel, file: File, ra: ReadAhead, index: int, wanted: int) -> None:
    """Somebody has come to the marked page `index`."""
    if not k.traits.async_readahead:
        ondemand_readahead(k, file, ra, index, wanted, marked=True)
        return
    if index == ra.start + ra.size - ra.async_size:
        ra.start += ra.size
        ra.size = max(ra.size, get_next_ra_size(ra))
    else:
        gap = page_cache_next_miss(file, index)
        if gap is None:
            return
        ra.start, ra.size = gap, gap - index + wanted
        ra.size = get_next_ra_size(ra)
    ra.async_size = ra.size
    page_cache_ra_order(k, file, ra.start, ra.size, ra.async_size)


def do_sync_mmap_readahead(k: Kernel, vma: Vma, file: File, index: int) -> None:
    """Read-around of a fault: half a window before it, half behind. A random-access vma reads one page, a sequential
    one ahead, one with MADV_HUGEPAGE two huge pages' worth."""
    assert vma.vm_file is not None
    ra = vma.vm_file.ra
    if k.traits.readahead_huge and vma.flags & VM_HUGEPAGE:
        ra.size = HPAGE_PMD_NR if vma.flags & VM_RAND_READ else 2 * HPAGE_PMD_NR
        ra.async_size = HPAGE_PMD_NR
        page_cache_ra_order(k, file, index - index % HPAGE_PMD_NR, ra.size, ra.async_size)
    elif vma.flags & VM_RAND_READ:
        filemap.add_to_page_cache(k, file, index)
    elif vma.flags & VM_SEQ_READ:
        page_cache_sync_ra(k, file, ra, index, RA_PAGES, -1)
    elif k.traits.exec_readahead and vma.flags & VM_EXEC:
        ra.start, ra.size, ra.async_size = index, min(RA_PAGES, vma.index(vma.end) - index), 0
        do_page_cache_ra(k, file, ra.start, ra.size, ra.async_size)
    else:
        ra.start, ra.size, ra.async_size = max(0, index - RA_PAGES // 2), RA_PAGES, RA_PAGES // 4
        do_page_cache_ra(k, file, ra.start, ra.size, ra.async_size)
