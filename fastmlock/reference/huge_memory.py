"""mm/huge_memory.c: THPs mapped by huge pmds, and what cuts them (KERNEL.md 2.4, 2.8, 3 (04, 06), 5; the recordings of
fastmlock/data/thp)."""
from __future__ import annotations

from typing import TYPE_CHECKING

from . import mlock, rmap, swap
from .state import (
    HPAGE_PMD_NR,
    VM_HUGEPAGE,
    VM_HUGETLB,
    VM_LOCKED,
    VM_NOHUGEPAGE,
    VM_RAND_READ,
    VM_SEQ_READ,
    VM_SPECIAL,
    VM_WRITE,
    Kernel,
    Mm,
    Page,
    Pmd,
    Pte,
    Vma,
    folio_mark_dirty,
    pmd_start,
)
from .traits import CowReuse

if TYPE_CHECKING:
    from .memory import MmuGather


def hugepage_vma_check(k: Kernel, vma: Vma) -> bool:
    """Whether the setting and the vma's advice allow it huge pages."""
    if vma.flags & (VM_NOHUGEPAGE | VM_SPECIAL | VM_HUGETLB):
        return False
    return k.thp_enabled == "always" or (k.thp_enabled == "madvise" and bool(vma.flags & VM_HUGEPAGE))


def transhuge_vma_suitable(vma: Vma, addr: int) -> bool:
    """The whole pmd lies in the vma."""
    return vma.start <= pmd_start(addr) and pmd_start(addr) + HPAGE_PMD_NR <= vma.end


# ---------------------------------------------------------------- faults
def huge_fault(k: Kernel, vma: Vma, addr: int, write: bool) -> bool:
    """The pmd's part of handle_mm_fault(). -> whether there is nothing left to do for ptes"""
    pmd = vma.mm.huge_pmd(addr)
    if pmd is not None:
        if write and not pmd.write:
            return do_huge_pmd_wp_page(k, vma, addr, pmd)
        pmd.young = True
        pmd.dirty |= write
        return True
    if (vma.file is not None or not vma.mm.pmd_none(addr) or not hugepage_vma_check(k, vma)
            or not transhuge_vma_suitable(vma, addr)):
        return False
    do_huge_pmd_anonymous_page(k, vma, pmd_start(addr), write)
    return True


def do_huge_pmd_anonymous_page(k: Kernel, vma: Vma, addr: int, write: bool) -> None:
    """A read maps the huge zero page, a write a new THP."""
    rmap.anon_vma_prepare(vma)
    if write:
        map_new_thp(k, vma, addr)
    else:
        vma.mm.pmds[addr] = Pmd(k.huge_zero_page, young=True)


def do_set_pmd(k: Kernel, vma: Vma, addr: int, page: Page, *, write: bool) -> bool:
    """A file's THP is mapped by a pmd, where the vma has room and alignment for it. -> mapped"""
    if (vma.start - vma.pgoff) % HPAGE_PMD_NR or not transhuge_vma_suitable(vma, addr):
        return False
    if k.traits.nohuge_no_pmd and vma.flags & VM_NOHUGEPAGE:
        return False
    head = page.folio
    swap.get_page(head)
    vma.mm.pmds[pmd_start(addr)] = Pmd(head, write=vma.pte_write_default, young=True, dirty=write)
    rmap.page_add_file_rmap(k, head, vma, compound=True)
    return True


def map_new_thp(k: Kernel, vma: Vma, addr: int, page: Page | None = None) -> None:
    page = page or k.alloc_huge_page()
    rmap.page_add_new_anon_rmap(k, page, vma, addr)
    locked = vma.flags & (VM_LOCKED | VM_SPECIAL) == VM_LOCKED
    swap.lru_cache_add_inactive_or_unevictable(k, page, locked)
    vma.mm.pmds[addr] = Pmd(page, write=bool(vma.flags & VM_WRITE), young=True, dirty=True)


def do_huge_pmd_wp_page(k: Kernel, vma: Vma, addr: int, pmd: Pmd) -> bool:
    """A THP of our own is kept, any other is left to its ptes; from 6.13 the huge zero page is replaced. -> done"""
    if pmd.page.zero and k.traits.huge_zero_cow:
        rmap.anon_vma_prepare(vma)
        map_new_thp(k, vma, pmd_start(addr))
        return True
    if not pmd.page.zero and pmd.page.anon and _can_reuse_huge(k, pmd.page):
        pmd.page.exclusive = True
        pmd.write = pmd.young = pmd.dirty = True
        return True
    split_huge_pmd(k, vma, addr)
    return False


def _can_reuse_huge(k: Kernel, page: Page) -> bool:
    how = k.traits.cow_reuse
    if how is CowReuse.REFCOUNT:             # here the maps are asked, not the references
        return page.pmd_mapcount + max(one.mapcount for one in page.subpages) == 1
    if how is CowReuse.EXCLUSIVE and page.exclusive:
        return True
    if page.refcount > 3:
        return False
    if not page.lru:
        swap.lru_add_drain(k)
    return page.refcount == 1


def copy_huge_pmd(dst: Vma, addr: int, pmd: Pmd) -> None:
    """fork: a file's pmd is left to be faulted in."""
    page = pmd.page
    if page.zero:
        dst.mm.pmds[addr] = Pmd(page, young=True)
    elif page.anon:
        swap.get_page(page)
        page.pmd_mapcount += 1
        page.exclusive = False
        pmd.write = False
        dst.mm.pmds[addr] = Pmd(page, dirty=pmd.dirty)


# ---------------------------------------------------------------- one pmd goes, moves, or becomes ptes
def zap_huge_pmd(k: Kernel, tlb: MmuGather, vma: Vma, addr: int) -> None:
    pmd = vma.mm.pmds.pop(addr)
    page = pmd.page
    if page.zero:
        return
    if k.traits.huge_pmd_accessed and not page.anon and pmd.young and not vma.flags & (VM_SEQ_READ | VM_RAND_READ):
        swap.mark_page_accessed(k, page)
    rmap.page_remove_rmap(k, page, vma, compound=True)
    tlb.pages.append(page)


def split_huge_pmd(k: Kernel, vma: Vma, addr: int) -> None:
    """The huge pmd around addr becomes 512 ptes; a file's becomes none. To 03 that ends PG_mlocked, from 04 it is one
    munlock; from 6.17 the ptes, mapped all at once, first count as a lock."""
    at = pmd_start(addr)
    pmd = vma.mm.pmds.get(at)
    if pmd is None:
        return
    page = pmd.page
    if not page.zero and not k.traits.p04_rmap_mlocks:
        mlock.clear_page_mlock(k, page)
    del vma.mm.pmds[at]
    if page.zero:
        vma.mm.tables.add(at)
        vma.mm.ptes.update((at + i, Pte(k.zero_page, young=True)) for i in range(HPAGE_PMD_NR))
        return
    page.dirty |= pmd.dirty
    if not page.anon:
        page.referenced |= pmd.young
        rmap.page_remove_rmap(k, page, vma, compound=True)
        swap.put_page(k, page)
        return
    vma.mm.tables.add(at)
    for i, one in enumerate(page.subpages):
        one.mapcount += 1
        one.exclusive = page.exclusive
        vma.mm.ptes[at + i] = Pte(one, write=pmd.write, young=pmd.young, dirty=pmd.dirty)
    page.refcount += HPAGE_PMD_NR - 1
    page.pmd_mapcount -= 1
    page.double_map = page.pmd_mapcount > 0
    if k.traits.mlock_whole_folio:
        mlock.mlock_vma_page(k, page, vma, compound=True)
    if k.traits.p04_rmap_mlocks:
        mlock.munlock_vma_page(k, page, vma, compound=True)


def vma_adjust_trans_huge(k: Kernel, vma: Vma, addr: int) -> None:
    """A boundary of vmas comes to lie at addr: no huge pmd may lie across it."""
    if addr % HPAGE_PMD_NR:
        split_huge_pmd(k, vma, addr)


def change_huge_pmd(mm: Mm, start: int, end: int, write: bool) -> None:
    for _, pmd in mm.huge_pmds(start, end):
        pmd.write = write


def move_huge_pmd(k: Kernel, vma: Vma, addr: int, new_addr: int, pages: int) -> bool:
    """mremap: a whole pmd moves to an empty one, or is cut first. -> moved"""
    mm = vma.mm
    if (addr | new_addr) % HPAGE_PMD_NR or pages < HPAGE_PMD_NR or not mm.pmd_none(new_addr):
        split_huge_pmd(k, vma, addr)
        return False
    mm.pmds[new_addr] = mm.pmds.pop(addr)
    return True


# ---------------------------------------------------------------- split_huge_page
def split_huge_page(k: Kernel, head: Page, tails: list[Page] | None = None) -> bool:
    """512 base pages take the THP's place: all maps become migration entries (pages of a file are unmapped), flags are
    copied, and what was mapped is mapped again, a lock of its own in a locked vma. The caller holds a reference; with
    `tails` each of them is left there with one too. -> split"""
    file = head.mapping
    pins = 1 + (HPAGE_PMD_NR if file is not None else 0)
    if head.refcount != head.total_maps + pins:
        return False
    entries = [(one, unmap_page(k, head, one)) for one in head.subpages]
    if head.refcount != pins or head.total_maps:
        for one, found in entries:
            remap_page(k, one, found, zeroes=False)
        return False
    rest = _break_up(k, head)
    for one, found in entries:
        remap_page(k, one, found, zeroes=k.traits.split_zeroes)
    for one in rest:
        if tails is not None:
            tails.append(one)
        else:
            swap.put_page(k, one)
    return True


def _break_up(k: Kernel, head: Page) -> list[Page]:
    """`__split_huge_page`: the tails take over the head's flags and are on its list, each newer than the one before,
    with an mlock_count of 0. What lies behind the end of a file leaves it."""
    rest, head.tails = head.tails, []
    head.double_map = head.partially_mapped = False
    file = head.mapping
    if file is not None:
        head.refcount -= len(rest)
    for one in rest:
        one.head = None
        one.refcount = 1 + (head.mapping is not None)
        one.lru, one.on_list, one.lru_word = head.lru, head.on_list, 0 if head.unevictable else -1
        one.unevictable, one.mlocked, one.active = head.unevictable, head.mlocked, head.active
        one.referenced, one.dirty, one.swapbacked = head.referenced, head.dirty, head.swapbacked
        if file is not None and one.index >= file.size:
            del file.pages[one.index]
            one.mapping, one.dirty = None, False
            one.refcount -= 1
    if head.on_list is not None:
        old = list(k.lists[head.on_list])
        at = old.index(head) + 1
        k.lists[head.on_list] = dict.fromkeys(old[:at] + rest + old[at:])
    return rest


def unmap_page(k: Kernel, head: Page, page: Page) -> list[tuple[Vma, Pte]]:
    """One page of a THP is unmapped everywhere. -> its migration entries"""
    found = []
    for vma, addr in list(rmap.rmap_walk(page)):
        pmd = vma.mm.huge_pmd(addr)
        if pmd is not None and pmd.page is head:
            split_huge_pmd(k, vma, addr)
        pte = vma.mm.ptes.get(addr)
        if pte is None or pte.page is not page or pte.migration:
            continue
        if head.anon:
            pte.migration = True
            found.append((vma, pte))
        else:
            del vma.mm.ptes[addr]
            if pte.dirty:
                folio_mark_dirty(head)
        rmap.page_remove_rmap(k, page, vma, munlock=head.mlocked)
        swap.put_page(k, page)
        if k.traits.p11_migration_drains and vma.flags & VM_LOCKED:
            mlock.mlock_page_drain(k)
    return found


def remap_page(k: Kernel, page: Page, entries: list[tuple[Vma, Pte]], *, zeroes: bool) -> None:
    """`remap_page`: from 6.12 a page that is filled with zeroes is given up for the zero page, unless it is locked."""
    for vma, pte in entries:
        pte.migration = False
        if zeroes and not page.content and not page.mlocked and not vma.flags & VM_LOCKED:
            pte.page, pte.write, pte.young, pte.dirty = k.zero_page, False, True, False
            continue
        swap.get_page(page)
        page.mapcount += 1
        if k.traits.p04_rmap_mlocks:
            mlock.mlock_vma_page(k, page, vma)
        elif vma.flags & VM_LOCKED and not page.compound:
            mlock.mlock_vma_page_locked(k, page)
        if k.traits.p11_migration_drains and vma.flags & VM_LOCKED:
            mlock.mlock_page_drain(k)


def deferred_split_scan(k: Kernel) -> None:
    """A shrinker's work: every THP of which a page was unmapped is split, if it can be."""
    for head in [page for page in k.pages.values() if page.partially_mapped]:
        swap.get_page(head)
        split_huge_page(k, head)
        swap.put_page(k, head)


def madvise_free_huge_pmd(k: Kernel, vma: Vma, addr: int, start: int, end: int) -> bool:
    """A THP that only we map is cleaned and queued whole, or split if only part is meant. -> nothing left to do"""
    pmd = vma.mm.pmds[addr]
    page = pmd.page
    if page.zero or page.total_maps != 1:
        return True
    if start > addr or end < addr + HPAGE_PMD_NR:
        swap.get_page(page)
        done = split_huge_page(k, page)
        swap.put_page(k, page)
        return not done
    page.dirty = pmd.young = pmd.dirty = False
    swap.mark_page_lazyfree(k, page)
    return True
