"""mm/khugepaged.c: 512 pages of a tmpfs file become a THP (KERNEL.md 3 (12); the recordings of fastmlock/data/thp)."""
from __future__ import annotations

from enum import Enum
from errno import EAGAIN, EBUSY, EINVAL

from ..scenario.system import NotSupported
from . import filemap, huge_memory, memory, rmap, swap
from .state import HPAGE_PMD_NR, File, Kernel, Mm, Page, Vma, pmd_start

OUR_REFERENCES = 3              # of a page that may be replaced: the page cache's, the isolation's and our own


class Scan(Enum):
    """What a scan comes to; the value is MADV_COLLAPSE's error, but for HUGE."""

    SUCCEED = 0
    AGAIN = EAGAIN              # a reference too many, or a page that cannot be had
    BUSY = EBUSY                # too much is missing
    FAIL = EINVAL
    HUGE = -1                   # the pages are one THP already


def scan_file(k: Kernel, file: File, first: int, *, khugepaged: bool) -> Scan:
    """`hpage_collapse_scan_file`."""
    if any(first <= index < first + HPAGE_PMD_NR for index in file.swapped):
        raise NotSupported("collapse of a file that is swapped out")
    pages = [file.pages[index] for index in range(first, first + HPAGE_PMD_NR) if index in file.pages]
    for page in pages:
        if page.compound:
            return Scan.HUGE if k.traits.collapse_ptes else Scan.FAIL
        if not page.lru or page.refcount != 1 + page.mapcount:
            return Scan.AGAIN
    return Scan.BUSY if khugepaged and not pages else Scan.SUCCEED


def collapse_file(k: Kernel, file: File, first: int, asker: Mm | None) -> Scan:
    """Each page is isolated and unmapped everywhere, to 11 by a zap of the file's range, from 12 through its reverse
    map. Then the THP takes their place, on an evictable list whoever locks that memory; and the page tables go."""
    result = scan_file(k, file, first, khugepaged=asker is None)
    if result is not Scan.SUCCEED:
        return result
    thp = k.alloc_huge_page()
    taken: list[Page] = []
    for index in [i for i in range(first, first + HPAGE_PMD_NR) if i in file.pages]:
        page = file.pages[index]
        if not swap.isolate_lru_page(k, page):
            return _give_up(k, thp, taken)
        swap.get_page(page)
        taken.append(page)
        if page.mapcount and k.traits.p12_collapse_ttu:
            rmap.try_to_unmap(k, page, ignore_mlock=True)
        elif page.mapcount:
            memory.unmap_mapping_range(k, file, index, index, even_cows=False)
        if page.refcount != OUR_REFERENCES:
            return _give_up(k, thp, taken)
    if not taken:
        k.free_page(thp)
        return Scan.FAIL
    for page in taken:
        thp.subpages[page.index - first].content = page.content
        page.active = page.unevictable = page.dirty = False
        filemap.delete_from_page_cache(k, page)
        swap.put_page(k, page)
        swap.put_page(k, page)
    thp.swapbacked = thp.dirty = True
    filemap.thp_in_page_cache(thp, file, first)
    swap.lru_cache_add(k, thp)
    retract_page_tables(k, file, first, asker)
    return Scan.SUCCEED


def _give_up(k: Kernel, thp: Page, taken: list[Page]) -> Scan:
    for page in taken:
        swap.putback_lru_page(k, page)
        swap.put_page(k, page)
    k.free_page(thp)
    return Scan.AGAIN


def retract_page_tables(k: Kernel, file: File, first: int, asker: Mm | None) -> None:
    """The empty page tables of all who could map the THP by a pmd go; to 6.5 MADV_COLLAPSE takes only the asker's. A
    vma with private copies keeps its own."""
    for vma in file.i_mmap.overlapping(first, first):
        addr = vma.address(first)
        if vma.anon_vma is not None or addr % HPAGE_PMD_NR or addr + HPAGE_PMD_NR > vma.end:
            continue
        if asker in (None, vma.mm) or k.traits.retract_all:
            vma.mm.tables.discard(addr)


def collapse_pte_mapped_thp(k: Kernel, vma: Vma, addr: int, *, install: bool) -> Scan:
    """Ptes that map one THP of the file, and nothing else, go with their table; `install` puts a pmd in their place."""
    mm, file = vma.mm, vma.file
    assert file is not None
    head = file.pages.get(vma.index(addr))
    if head is None or not head.tails:
        return Scan.FAIL
    if mm.huge_pmd(addr) is not None:
        return Scan.SUCCEED
    entries = list(mm.present(addr, addr + HPAGE_PMD_NR))
    if any(pte.migration or pte.page is not head.subpages[at - addr] for at, pte in entries) or any(
            addr <= at < addr + HPAGE_PMD_NR for at in mm.swapped):
        return Scan.FAIL
    for at, pte in entries:
        del mm.ptes[at]
        rmap.page_remove_rmap(k, pte.page, vma)
        swap.put_page(k, pte.page)
    mm.tables.discard(addr)
    if install and not huge_memory.do_set_pmd(k, vma, addr, head, write=False):
        return Scan.FAIL
    return Scan.SUCCEED


def collapse_file_pmd(k: Kernel, vma: Vma, addr: int, *, khugepaged: bool) -> Scan:
    """One pmd of a vma. Who asks by MADV_COLLAPSE has it mapped by a pmd afterwards; to 6.5 only if there was a page
    table."""
    assert vma.file is not None
    there = not vma.mm.pmd_none(addr)
    result = collapse_file(k, vma.file, vma.index(addr), None if khugepaged else vma.mm)
    if result is Scan.HUGE:
        if khugepaged and vma.mm.pmd_none(addr):
            return Scan.FAIL
        return collapse_pte_mapped_thp(k, vma, addr, install=not khugepaged)
    if result is not Scan.SUCCEED or khugepaged:
        return result
    if not k.traits.retract_all and (not there or vma.anon_vma is not None):
        return Scan.FAIL
    return collapse_pte_mapped_thp(k, vma, pmd_start(addr), install=True)
