"""mm/khugepaged.c: 512 base pages become a THP (MADV_COLLAPSE from 6.1, khugepaged everywhere); files:
collapse_file.py. From the recordings of fastmlock/data/thp, and KERNEL.md 2.4."""
from __future__ import annotations

from errno import EINVAL

from ..scenario.system import NotSupported
from . import collapse_file, huge_memory, rmap, swap
from .collapse_file import Scan
from .state import HPAGE_PMD_NR, VM_HUGETLB, VM_NOHUGEPAGE, VM_SPECIAL, Kernel, Mm, Page, Pte, Vma, pmd_start

MAX_PTES_NONE, MAX_PTES_SHARED = 511, 256       # khugepaged's defaults


def hugepage_vma_check(k: Kernel, vma: Vma, *, enforce_sysfs: bool) -> bool:
    """Flags, setting, and room for one whole pmd."""
    if vma.flags & (VM_NOHUGEPAGE | VM_SPECIAL | VM_HUGETLB):
        return False
    if vma.file is not None:                # tmpfs asks its mount; another file would have to be executable
        if vma.file.fs not in ("tmpfs", "rootfs", "shm", "shmem") or (vma.start - vma.pgoff) % HPAGE_PMD_NR:
            return False
        if enforce_sysfs and (not vma.file.huge or k.thp_enabled == "never"):
            return False
    elif enforce_sysfs and not huge_memory.hugepage_vma_check(k, vma):
        return False
    return vma.start <= pmd_start(vma.end - HPAGE_PMD_NR)


def is_refcount_suitable(page: Page) -> bool:
    return page.refcount == page.total_maps


def scan_pmd(k: Kernel, mm: Mm, addr: int, *, khugepaged: bool) -> Scan:
    """`hpage_collapse_scan_pmd` of the page table at addr."""
    if addr not in mm.tables:
        return Scan.FAIL
    if any(addr <= at < addr + HPAGE_PMD_NR for at in mm.swapped):
        raise NotSupported("collapse of memory that is swapped out")
    shared = referenced = 0
    writable = False
    entries = [pte for _, pte in mm.present(addr, addr + HPAGE_PMD_NR)]
    mapped = [pte for pte in entries if not pte.page.zero]
    if khugepaged and HPAGE_PMD_NR - len(mapped) > MAX_PTES_NONE:
        return Scan.BUSY
    for pte in mapped:
        head = pte.page.folio
        writable |= pte.write
        shared += pte.page.maps > 1
        if khugepaged and shared > MAX_PTES_SHARED:
            return Scan.BUSY
        if not head.lru:
            return Scan.AGAIN
        if not head.anon:
            return Scan.FAIL
        if not is_refcount_suitable(head):
            return Scan.AGAIN
        referenced += pte.young or head.referenced
    if not mapped or (not writable and not k.traits.collapse_read_only) or (khugepaged and not referenced):
        return Scan.FAIL
    return Scan.SUCCEED


def collapse_huge_page(k: Kernel, vma: Vma, addr: int) -> Scan:
    """Isolate all, copy and let go one by one, then map the new THP as any new page of the vma."""
    mm = vma.mm
    old: dict[int, Pte] = dict(mm.present(addr, addr + HPAGE_PMD_NR))
    taken: list[Page] = []
    for pte in old.values():
        head = pte.page.folio
        if pte.page.zero or head in taken:
            continue
        if not is_refcount_suitable(head) or not swap.isolate_lru_page(k, head):
            for page in reversed(taken):
                swap.putback_lru_page(k, page)
            return Scan.AGAIN
        taken.append(head)
    thp = k.alloc_huge_page()
    for at, pte in old.items():                              # __collapse_huge_page_copy()
        page = pte.page
        if not page.zero:
            thp.subpages[at - addr].content = page.content
            if not page.compound:
                swap.putback_lru_page(k, page)
        del mm.ptes[at]
        if not page.zero:
            rmap.page_remove_rmap(k, page, vma, munlock=not page.compound or page.folio.mlocked)
            swap.put_page(k, page)
    for head in taken:
        if head.tails:
            swap.putback_lru_page(k, head)
    mm.tables.discard(addr)
    huge_memory.map_new_thp(k, vma, addr, thp)
    return Scan.SUCCEED


def madvise_collapse(k: Kernel, vma: Vma, start: int, end: int) -> int:
    """Every whole pmd of the range. -> 0 if all are huge then, else the errno of the last that is not"""
    if not hugepage_vma_check(k, vma, enforce_sysfs=False):
        return EINVAL
    swap.lru_add_drain_all(k)
    last = Scan.SUCCEED
    for addr in range(pmd_start(start + HPAGE_PMD_NR - 1), pmd_start(end), HPAGE_PMD_NR):
        result = _collapse(k, vma, addr, khugepaged=False)
        last = result if result is not Scan.SUCCEED else last
    return last.value


def _collapse(k: Kernel, vma: Vma, addr: int, *, khugepaged: bool) -> Scan:
    if vma.file is not None:
        return collapse_file.collapse_file_pmd(k, vma, addr, khugepaged=khugepaged)
    if vma.mm.huge_pmd(addr) is not None:
        return Scan.SUCCEED
    result = scan_pmd(k, vma.mm, addr, khugepaged=khugepaged)
    return collapse_huge_page(k, vma, addr) if result is Scan.SUCCEED else result


def khugepaged_do_scan(k: Kernel, mms: list[Mm]) -> None:
    """One scan of all address spaces behind a drain everywhere, and the drain that begins the next one."""
    swap.lru_add_drain_all(k)
    for mm in mms:
        for vma in mm.vmas:
            if hugepage_vma_check(k, vma, enforce_sysfs=True):
                for addr in range(pmd_start(vma.start + HPAGE_PMD_NR - 1), pmd_start(vma.end), HPAGE_PMD_NR):
                    _collapse(k, vma, addr, khugepaged=True)
    swap.lru_add_drain_all(k)


