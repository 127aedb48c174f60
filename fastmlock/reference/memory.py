"""mm/memory.c: page faults, copy-on-write, fork's page-table copy, zapping (KERNEL.md 2.4, 4)."""
from __future__ import annotations

from . import brk, filemap, huge_memory, hugetlb, mlock, rmap, shmem, swap, swapfile, swapin
from .state import (
    PTRS_PER_PTE,
    VM_GROWSDOWN,
    VM_HUGETLB,
    VM_LOCKED,
    VM_MIXEDMAP,
    VM_NOHUGEPAGE,
    VM_PFNMAP,
    VM_RAND_READ,
    VM_SEQ_READ,
    VM_SPECIAL,
    VM_WRITE,
    File,
    Kernel,
    Mm,
    Page,
    Pte,
    SwapPte,
    Task,
    Vma,
    folio_mark_dirty,
    pmd_start,
)
from .traits import CowReuse

SIGBUS, SIGSEGV = 7, 11
FAULT_RETRY = -1


# ---------------------------------------------------------------- faults
def handle_mm_fault(k: Kernel, vma: Vma, addr: int, write: bool, may_retry: bool = False) -> int:
    """One fault at a permitted address. -> 0, SIGBUS, or what do_fault() says"""
    if vma.flags & VM_HUGETLB:
        return hugetlb.hugetlb_fault(k, vma, addr, write)
    if huge_memory.huge_fault(k, vma, addr, write):
        return 0
    if vma.file is None:
        vma.mm.tables.add(pmd_start(addr))
    if addr in vma.mm.swapped:
        swapin.do_swap_page(k, vma, addr, write)
        return 0
    pte = vma.mm.ptes.get(addr)
    if pte is None:
        if vma.file is None:
            do_anonymous_page(k, vma, addr, write)
            return 0
        return do_fault(k, vma, addr, write, may_retry)
    if write and not pte.write:
        do_wp_page(k, vma, addr, pte)
    else:
        pte.young = True
        pte.dirty |= write
    return 0


def _new_anon_page(k: Kernel, vma: Vma, addr: int, page: Page | None = None) -> Page:
    """A fresh page, mapped: rmap first, then the LRU, unevictable if the vma is locked."""
    if page is None:
        page = k.alloc_page()
    rmap.page_add_new_anon_rmap(k, page, vma, addr)
    locked = vma.flags & (VM_LOCKED | VM_SPECIAL) == VM_LOCKED
    swap.lru_cache_add_inactive_or_unevictable(k, page, locked)
    vma.mm.ptes[addr] = Pte(page, write=bool(vma.flags & VM_WRITE), young=True, dirty=True)
    return page


def do_anonymous_page(k: Kernel, vma: Vma, addr: int, write: bool) -> None:
    """A read maps the shared zero page, a write a new one."""
    if write:
        _new_anon_page(k, vma, addr)
    else:
        vma.mm.ptes[addr] = Pte(k.zero_page, young=True)


def do_fault(k: Kernel, vma: Vma, addr: int, write: bool, may_retry: bool = False, tried: bool = False) -> int:
    """Read, private write (copy at once), or shared write of a file's page. -> signal, or FAULT_RETRY where mmap_lock
    was dropped to read the file and the caller may be told so."""
    if vma.file is not None and vma.file.fs in ("packet", "devmem"):
        return SIGBUS                       # all was mapped at once, and is not brought back
    if not write and not vma.secretmem and filemap.filemap_map_pages(k, vma, addr):
        return 0
    if write and vma.private:
        rmap.anon_vma_prepare(vma)          # do_cow_fault: even if there turns out to be no page
    cow_page = k.alloc_page() if write and vma.private else None        # before the file's page is looked for
    page, retry = _vma_fault(k, vma, vma.index(addr), tried)
    if cow_page is not None and (page is None or retry):
        k.free_page(cow_page)
    if page is None:
        return SIGBUS
    if retry:
        return FAULT_RETRY if may_retry else do_fault(k, vma, addr, write, tried=True)
    none = vma.mm.pmd_none(addr)
    if cow_page is not None:
        vma.mm.tables.add(pmd_start(addr))
        _new_anon_page(k, vma, addr, cow_page)
        return 0
    if not (none and page.compound and huge_memory.do_set_pmd(k, vma, addr, page, write=write)):
        vma.mm.tables.add(pmd_start(addr))
        swap.get_page(page)
        born_dirty = k.traits.dirty_ptes and vma.pte_write_default and page.folio.dirty
        vma.mm.ptes[addr] = Pte(page, write=write or vma.pte_write_default, young=True, dirty=write or born_dirty)
        rmap.page_add_file_rmap(k, page, vma)
    if write:
        folio_mark_dirty(page.folio)
    return 0


def _vma_fault(k: Kernel, vma: Vma, index: int, tried: bool) -> tuple[Page | None, bool]:
    assert vma.file is not None
    if vma.file.shmem:
        return shmem.shmem_getpage(k, vma.file, index, huge=not vma.flags & VM_NOHUGEPAGE), False
    return filemap.filemap_fault(k, vma, index, tried)


# ---------------------------------------------------------------- copy-on-write
def do_wp_page(k: Kernel, vma: Vma, addr: int, pte: Pte) -> None:
    """A write through a read-only pte: shared mappings are made writable, others reused or copied."""
    page = pte.page
    if not vma.private:
        pte.write = pte.young = pte.dirty = True
        folio_mark_dirty(page.folio)
    elif page.anon and page.ksm is None and _can_reuse(k, vma, page):
        page.exclusive = True
        pte.write = pte.young = pte.dirty = True
    else:
        wp_page_copy(k, vma, addr, page)


def _can_reuse(k: Kernel, vma: Vma, page: Page) -> bool:
    how = k.traits.cow_reuse
    if how is CowReuse.REFCOUNT:
        return page.folio.refcount == 1
    if how is CowReuse.EXCLUSIVE and page.exclusive:
        return True
    if k.traits.large_folio and page.compound:
        return k.traits.cow_reuse_large and _one_mms_own(vma, page.folio)
    if page.folio.refcount > 3:
        return False
    if not page.folio.lru:
        swap.lru_add_drain(k)
    if page.folio.refcount > 1 + (page.swap is not None):
        return False
    swapfile.try_to_free_swap(k, page)
    return page.folio.refcount == 1


def _one_mms_own(vma: Vma, folio: Page) -> bool:
    """Every reference of the THP is a pte of this vma."""
    first = vma.address(folio.index)
    here = [pte for _, pte in vma.mm.present(first, first + folio.nr) if pte.page.folio is folio]
    return folio.pmd_mapcount == 0 and folio.refcount == len(here)


def wp_page_copy(k: Kernel, vma: Vma, addr: int, old: Page, *, unshare: bool = False) -> None:
    """The new page goes in before the old one's mapping goes; to `unshare` is to copy without a write. To 03 the old
    page of a locked vma is then munlocked explicitly; its mapcount no longer includes us."""
    swap.get_page(old)
    new = _new_anon_page(k, vma, addr)
    new.content = old.content
    if unshare:
        vma.mm.ptes[addr].write = vma.mm.ptes[addr].dirty = False
    if not old.zero:
        rmap.page_remove_rmap(k, old, vma)
        swap.put_page(k, old)
        if not k.traits.p04_rmap_mlocks and vma.flags & VM_LOCKED:
            mlock.munlock_vma_page_locked(k, old.folio)
        if k.traits.cow_frees_swap_cache:
            swapfile.free_swap_cache(k, old)
        swap.put_page(k, old)


# ---------------------------------------------------------------- fork
def copy_page_range(k: Kernel, dst: Vma, src: Vma) -> None:
    """File mappings without an anon_vma are left to be faulted in. No mlock action; copied ptes are old."""
    if src.flags & VM_HUGETLB:
        hugetlb.copy_hugetlb_page_range(k, dst, src)
        return
    if not src.flags & (VM_PFNMAP | VM_MIXEDMAP) and src.anon_vma is None:
        return
    for at, pmd in src.mm.huge_pmds(src.start, src.end):
        huge_memory.copy_huge_pmd(dst, at, pmd)
    dst.mm.tables |= {at for at in src.mm.tables if at < src.end and at + PTRS_PER_PTE > src.start}
    for addr, pte in list(src.mm.present(src.start, src.end)):
        if not pte.page.zero:
            swap.get_page(pte.page)
            pte.page.mapcount += 1
            pte.page.exclusive = False
        if src.private:
            pte.write = False
        dst.mm.ptes[addr] = Pte(pte.page, write=pte.write, dirty=pte.dirty and src.private)
    for addr in [a for a in src.mm.swapped if src.start <= a < src.end]:
        entry = src.mm.swapped[addr].entry
        swapfile.swap_duplicate(entry)
        src.mm.swapped[addr].exclusive = False
        dst.mm.swapped[addr] = SwapPte(entry)


# ---------------------------------------------------------------- zap
class MmuGather:
    """struct mmu_gather: pages whose ptes are gone and whose references wait for the TLB flush."""

    def __init__(self) -> None:
        self.pages: list[Page] = []
        self.delayed: list[tuple[Page, bool]] = []

    def flush_rmaps(self, k: Kernel, vma: Vma) -> None:
        """`tlb_flush_rmaps`: the mappings of dirty file pages go now."""
        for page, munlock in self.delayed:
            rmap.page_remove_rmap(k, page, vma, munlock=munlock)
        self.delayed = []

    def flush(self, k: Kernel) -> None:
        """`tlb_flush_mmu`: to 6.12 a local drain precedes the freeing."""
        pages, self.pages = self.pages, []
        if pages:
            if k.traits.flush_drains:
                swap.lru_add_drain(k)
            for page in pages:
                swapfile.free_swap_cache(k, page)
            swap.release_pages(k, pages)


def unmap_single_vma(k: Kernel, tlb: MmuGather, vma: Vma, start: int, end: int, *, even_cows: bool = True,
                     of_file: bool = False, reclaim_pt: bool = False) -> None:
    """Zap one vma's ptes, page table by page table; where dirty file pages were met the gather is flushed."""
    start, end = max(start, vma.start), min(end, vma.end)
    if vma.flags & VM_HUGETLB:
        hugetlb.unmap_hugepage_range(k, tlb, vma, start, end)
        return
    for table in range(start // PTRS_PER_PTE, (end - 1) // PTRS_PER_PTE + 1 if end > start else 0):
        low, high = max(start, table * PTRS_PER_PTE), min(end, (table + 1) * PTRS_PER_PTE)
        if vma.mm.huge_pmd(low) is not None:
            if high - low == PTRS_PER_PTE:
                huge_memory.zap_huge_pmd(k, tlb, vma, low)
                continue
            huge_memory.split_huge_pmd(k, vma, low)
        if reclaim_pt and k.traits.pt_reclaim and high - low == PTRS_PER_PTE:
            vma.mm.tables.discard(low)
        flush = zap_pte_range(k, tlb, vma, low, high, even_cows)
        if even_cows and not (of_file and k.traits.zap_keeps_swap):
            free_swap_range(k, vma, low, high)
        if flush:
            tlb.flush_rmaps(k, vma)
            tlb.flush(k)


def zap_pte_range(k: Kernel, tlb: MmuGather, vma: Vma, start: int, end: int, even_cows: bool) -> bool:
    """Ptes of one page table: file pages take over dirty and young, then the mapping goes. From 6.9 a run of ptes of
    one THP is one use of it, and one lock. -> flush wanted"""
    force_flush = run_young = False
    ends = {id(run[-1]): run for run in mlock.folio_runs(vma.mm, start, end)}
    for addr, pte in list(vma.mm.present(start, end)):
        page = pte.page
        if page.zero:
            del vma.mm.ptes[addr]
            continue
        if page.anon and not even_cows:
            continue
        del vma.mm.ptes[addr]
        delay = False
        if not page.anon:
            if pte.dirty:
                folio_mark_dirty(page.folio)
                force_flush = True
                delay = k.traits.delayed_rmap
            young = pte.young
            if k.traits.large_folio and page.compound:
                young = id(pte) in ends and (run_young or pte.young)
                run_young = (run_young or pte.young) and id(pte) not in ends
            if young and not vma.flags & (VM_SEQ_READ | (VM_RAND_READ if k.traits.random_is_old else 0)):
                swap.mark_page_accessed(k, page)
        if delay:
            tlb.delayed.append((page, id(pte) in ends))
        else:
            rmap.page_remove_rmap(k, page, vma, munlock=id(pte) in ends)
        tlb.pages.append(page)
    return force_flush


def free_swap_range(k: Kernel, vma: Vma, start: int, end: int) -> None:
    """Swap entries of [start, end) go, in order."""
    for addr in sorted(a for a in vma.mm.swapped if start <= a < end):
        swapfile.free_swap_and_cache(k, vma.mm.swapped.pop(addr).entry)


def zap_page_range_single(k: Kernel, vma: Vma, start: int, end: int, *, even_cows: bool = True,
                          of_file: bool = False, reclaim_pt: bool = False) -> None:
    if k.traits.unmap_drains:
        swap.lru_add_drain(k)
    tlb = MmuGather()
    unmap_single_vma(k, tlb, vma, start, end, even_cows=even_cows, of_file=of_file, reclaim_pt=reclaim_pt)
    tlb.flush(k)


def oom_reap_task_mm(k: Kernel, mm: Mm) -> None:
    """Zap a victim's private and anonymous memory while it still exists. To 02 locked vmas are left alone (2.8)."""
    for vma in list(mm.vmas):
        if vma.flags & (VM_HUGETLB | VM_PFNMAP) or (vma.flags & VM_LOCKED and not k.traits.p03_zap_locked):
            continue
        if vma.file is None or vma.private:
            tlb = MmuGather()
            unmap_single_vma(k, tlb, vma, vma.start, vma.end)
            tlb.flush(k)


def unmap_mapping_range(k: Kernel, file: File, first: int, last: int, *, even_cows: bool) -> None:
    """Zap file pages first..last from every vma that maps them, in tree order; private copies too if `even_cows`."""
    for vma in file.i_mmap.overlapping(first, last):
        low = vma.address(max(first, vma.pgoff))
        high = vma.address(min(last + 1, vma.pgoff + vma.pages))
        zap_page_range_single(k, vma, low, high, even_cows=even_cows, of_file=True)


# ---------------------------------------------------------------- the user's own access
def user_access(k: Kernel, task: Task, addr: int, write: bool, content: int = 0) -> int:
    """One load or store; the hardware sets young and dirty where the pte permits. A stack grows before it is asked
    whether the access is allowed. A store leaves `content`. -> 0 or the signal"""
    mm = task.mm
    vma = mm.find_vma(addr)
    if vma is not None and vma.start > addr and (not vma.flags & VM_GROWSDOWN or brk.expand_downwards(task, vma, addr)):
        return SIGSEGV
    if vma is None or (not vma.flags & VM_WRITE if write else not vma.accessible):
        return SIGSEGV
    pte = mm.huge_pmd(addr) or mm.ptes.get(addr)
    if pte is not None and (pte.write or not write):
        pte.young = True
        pte.dirty |= write
    elif signal := handle_mm_fault(k, vma, addr, write):
        return signal
    if write:
        pmd = mm.huge_pmd(addr)
        page = pmd.page.subpages[addr % PTRS_PER_PTE] if pmd is not None else mm.ptes[addr].page
        page.content = content
    return 0
