"""mm/filemap.c: the page cache, fault-around, read and write of files."""
from __future__ import annotations

from . import huge_memory, readahead, rmap, swap
from .state import HPAGE_PMD_NR, PTRS_PER_PTE, VM_RAND_READ, File, Kernel, Page, Pte, Vma, pmd_start

FAULT_AROUND_PAGES = 16


def add_to_page_cache(k: Kernel, file: File, index: int) -> Page:
    """A new page in the cache, queued for the LRU. One that reclaim evicted earlier comes back active
    (`workingset_refault`, taking every refault distance for short)."""
    page = k.alloc_page()
    page.mapping, page.index = file, index
    page.swapbacked = file.shmem and file.fs != "secret"
    file.pages[index] = page
    if index in file.shadows:
        file.shadows.discard(index)
        page.active = True
    swap.lru_cache_add(k, page)
    return page                       # the allocation's reference is the page cache's from now on


def huge_hole(file: File, index: int) -> bool:
    """The file may have a THP around this page: nothing of it is there or swapped out."""
    first = pmd_start(index)
    return file.huge and not any(i in file.pages or i in file.swapped for i in range(first, first + HPAGE_PMD_NR))


def thp_in_page_cache(head: Page, file: File, first: int) -> None:
    """A THP takes its place in the cache, which holds a reference for each page of it."""
    for i, one in enumerate(head.subpages):
        one.mapping, one.index = file, first + i
        file.pages[first + i] = one
    head.refcount = HPAGE_PMD_NR


def add_huge_to_page_cache(k: Kernel, file: File, index: int) -> Page:
    """tmpfs: the hole around index becomes a THP. -> its head"""
    head = k.alloc_huge_page()
    head.swapbacked = True
    thp_in_page_cache(head, file, pmd_start(index))
    swap.lru_cache_add(k, head)
    return head


def replace_in_page_cache(file: File, index: int, page: Page) -> None:
    """A page that exists takes its place in the cache; the caller's reference is the cache's from now on."""
    page.mapping, page.index = file, index
    file.pages[index] = page


def delete_from_page_cache(k: Kernel, page: Page, *, shadow: bool = False) -> None:
    """Take the page out of the cache and drop the cache's reference."""
    file = page.mapping
    assert file is not None
    for one in page.subpages:
        del file.pages[one.index]
        one.mapping = None
    page.refcount -= len(page.tails)
    if shadow and not file.shmem:
        file.shadows.add(page.index)
    swap.put_page(k, page)


# ---------------------------------------------------------------- faults
def filemap_map_pages(k: Kernel, vma: Vma, addr: int) -> bool:
    """Map what is cached around a read fault: 16 pages from the aligned address or the vma's start, within the
    vma, the page table and the file. -> whether the faulting page itself was mapped"""
    assert vma.file is not None
    first = max(addr // FAULT_AROUND_PAGES * FAULT_AROUND_PAGES, vma.start)
    last = min(first + FAULT_AROUND_PAGES, vma.end, (addr // PTRS_PER_PTE + 1) * PTRS_PER_PTE)
    none = vma.mm.pmd_none(addr)
    for at in range(first, last):
        index = vma.index(at)
        page = vma.file.pages.get(index)
        if page is None or page.folio.readahead or index >= vma.file.size:
            continue
        if at in vma.mm.ptes or at in vma.mm.swapped:
            continue
        if none and k.traits.around_spares_last and not vma.file.shmem and index + 1 >= vma.file.size:
            return False                    # it would reach to the file's end as a folio: nobody makes the table
        if none and page.compound and huge_memory.do_set_pmd(k, vma, addr, page, write=False):
            return True
        none = False
        vma.mm.tables.add(pmd_start(at))
        swap.get_page(page)
        vma.mm.ptes[at] = Pte(page, write=vma.pte_write_default, young=True,
                               dirty=k.traits.dirty_ptes and vma.pte_write_default and page.folio.dirty)
        rmap.page_add_file_rmap(k, page, vma)
    return addr in vma.mm.ptes


def filemap_fault(k: Kernel, vma: Vma, index: int, tried: bool) -> tuple[Page | None, bool]:
    """-> (the page or None beyond the end, whether the fault is to be retried because mmap_lock was dropped)"""
    file, vm_file = vma.file, vma.vm_file
    assert file is not None and vm_file is not None
    if index >= file.size:
        return None, False
    page = file.pages.get(index)
    if page is not None and (not page.readahead or tried or vma.flags & VM_RAND_READ):
        return page, False
    if page is not None:
        page.readahead = False
        readahead.page_cache_async_ra(k, file, vm_file.ra, index, readahead.RA_PAGES)
        return page, True
    readahead.do_sync_mmap_readahead(k, vma, file, index)
    if index not in file.pages:
        add_to_page_cache(k, file, index)
    return file.pages[index], True


# ---------------------------------------------------------------- read and write
def filemap_read(k: Kernel, file: File, index: int) -> None:
    """pread of one page: it is marked accessed unless the previous read is taken to have ended in it. Where
    ra->prev_pos is the end of the last read, a sequential reader marks only its first page."""
    if index not in file.pages:
        readahead.page_cache_sync_ra(k, file, file.ra, index, 1, file.prev_pos - k.traits.readahead_from_last)
        if index not in file.pages:             # what was read is elsewhere; or behind the end (through 5.10)
            add_to_page_cache(k, file, index)
    page = file.pages[index]
    if page.readahead:
        page.readahead = False
        readahead.page_cache_async_ra(k, file, file.ra, index, 1)
    if index >= file.size:
        return
    if file.prev_pos - k.traits.pread_marks_next != index:
        swap.mark_page_accessed(k, page)
    file.prev_pos = index + 1


def generic_perform_write(k: Kernel, file: File, index: int) -> None:
    """pwrite of one page of a disk file: found or made, and dirtied; a write is no access."""
    page = file.pages.get(index) or add_to_page_cache(k, file, index)
    page.dirty = True                                        # by its buffers: PG_reclaim stays
    file.size = max(file.size, index + 1)


def vfs_fsync_range(k: Kernel, file: File, first: int, end: int) -> None:
    """Write the dirty pages of [first, end) out and wait. Each becomes clean in all shared mappings too, so that the
    next write to one faults. Letting go of what was found drains the cpu."""
    dirty = [file.pages[index] for index in sorted(file.pages) if first <= index < end and file.pages[index].dirty]
    file.allocated |= bool(dirty)
    for page in dirty:
        swap.get_page(page)
        page.dirty = page.readahead = False
        for vma, addr in rmap.rmap_walk(page):
            pte = rmap.page_vma_mapped_walk(page, vma, addr)
            if pte is not None and not vma.private:
                pte.dirty = pte.write = False
    swap.pagevec_release(k, dirty)
