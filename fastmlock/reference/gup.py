"""mm/gup.c: looking pages up and faulting them in for mlock, MAP_POPULATE and MADV_POPULATE (KERNEL.md 2.4)."""
from __future__ import annotations

from errno import EAGAIN, EFAULT, EINVAL, ENOMEM

from . import memory, mlock, swap
from .state import (
    PTRS_PER_PTE,
    VM_IO,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYREAD,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    Kernel,
    Mm,
    Pmd,
    Pte,
    Vma,
    folio_mark_dirty,
    pmd_start,
)


def check_vma_flags(vma: Vma, write: bool, force: bool) -> bool:
    """Whether GUP may look into this vma at all."""
    if vma.flags & (VM_IO | VM_PFNMAP) or vma.secretmem:
        return False
    if write:
        return bool(vma.flags & VM_WRITE)
    return bool(vma.flags & VM_READ) or (force and bool(vma.flags & VM_MAYREAD))


def follow_page_pte(k: Kernel, vma: Vma, pte: Pte | None, write: bool, foll_mlock: bool) -> bool:
    """Look a page up: missing, or not writable when it must be -> False. Else touch it, and (base, 01) mark it,
    after a drain that is paid for every single page."""
    if pte is None or pte.migration or (write and not pte.write):
        return False
    page = pte.page
    if write and not pte.dirty and not page.folio.dirty:
        folio_mark_dirty(page.folio)
    swap.mark_page_accessed(k, page)        # the zero page too: on no list, its mark comes and goes
    if foll_mlock and vma.flags & VM_LOCKED and (page.anon or page.mapping is not None) and not page.compound:
        swap.lru_add_drain(k)
        mlock.mlock_vma_page_locked(k, page)
    return True


def follow_trans_huge_pmd(k: Kernel, vma: Vma, pmd: Pmd, write: bool, foll_mlock: bool) -> bool:
    """The same by a huge pmd, which alone is touched. Base and 01 mark the THP if no pte maps any of it, and an
    anonymous one only if no other pmd does; without a drain."""
    if write and not pmd.write:
        return False
    page = pmd.page
    pmd.young = True
    pmd.dirty |= write
    if foll_mlock and vma.flags & VM_LOCKED and not page.zero and not page.double_map and (
            page.mapping is not None or (page.anon and page.pmd_mapcount == 1)):
        mlock.mlock_vma_page_locked(k, page)
    return True


def get_user_pages(k: Kernel, vma: Vma, start: int, end: int, *, write: bool, force: bool, foll_mlock: bool,
                   foll_populate: bool, may_retry: bool = False) -> tuple[int, int]:
    """`__get_user_pages` within one vma, no page kept. -> (pages done, errno); EAGAIN where mmap_lock was dropped"""
    if not check_vma_flags(vma, write, force):
        return 0, EFAULT
    addr = start
    while addr < end:
        pmd = vma.mm.huge_pmd(addr)
        if pmd is not None and follow_trans_huge_pmd(k, vma, pmd, write, foll_mlock):
            addr = pmd_start(addr) + PTRS_PER_PTE
        elif pmd is None and follow_page_pte(k, vma, vma.mm.ptes.get(addr), write, foll_mlock):
            addr += 1
        elif foll_mlock and not foll_populate:
            addr += 1                            # only what is there
        elif fault := memory.handle_mm_fault(k, vma, addr, write, may_retry=may_retry):
            return addr - start, EAGAIN if fault == memory.FAULT_RETRY else EFAULT
    return end - start, 0


def populate_vma_page_range(k: Kernel, vma: Vma, start: int, end: int, may_retry: bool = False) -> tuple[int, int]:
    """Private writable vmas are written, so that COW is over; PROT_NONE ones fail. -> (pages done, errno)"""
    onfault = bool(vma.flags & VM_LOCKONFAULT)
    if onfault and k.traits.p02_no_foll_mlock:
        return end - start, 0
    done, err = get_user_pages(k, vma, start, end, write=vma.flags & (VM_WRITE | VM_SHARED) == VM_WRITE,
                               force=vma.accessible, foll_mlock=not k.traits.p02_no_foll_mlock,
                               foll_populate=not onfault, may_retry=may_retry)
    if k.traits.populate_drains and not (k.traits.populate_checks_first and err and not vma.accessible):
        swap.lru_add_drain(k)
    return done, err


def mm_populate(k: Kernel, mm: Mm, start: int, end: int, *, ignore_errors: bool = True) -> int:
    """`__mm_populate`: vma by vma over gaps; an error after some progress is met again on the next round. -> errno"""
    at = start
    while at < end:
        vma = mm.find_vma(at)
        if vma is None or vma.start >= end:
            break
        upto = min(end, vma.end)
        if vma.flags & (VM_IO | VM_PFNMAP):
            at = upto
            continue
        at = max(at, vma.start)
        done, err = populate_vma_page_range(k, vma, at, upto, may_retry=True)
        if done or err == EAGAIN:
            at += done
        elif err and not ignore_errors:
            return err
        else:
            at = upto
    return 0


def faultin_vma_page_range(k: Kernel, mm: Mm, start: int, end: int, write: bool) -> int:
    """`madvise_populate`: no force, and VM_LOCKONFAULT does not hold it back. -> errno"""
    at = start
    while at < end:
        vma = mm.lookup(at)
        refused = ENOMEM if vma is None else 0 if check_vma_flags(vma, write, force=False) else EINVAL
        if vma is None or refused:
            if not k.traits.populate_walks_holes:
                swap.lru_add_drain(k)
            return refused
        done, err = get_user_pages(k, vma, at, min(end, vma.end), write=write, force=False,
                                   foll_mlock=not k.traits.p02_no_foll_mlock, foll_populate=True, may_retry=True)
        if k.traits.populate_drains:
            swap.lru_add_drain(k)
        if not done and err != EAGAIN:
            return err
        at += done
    return 0
