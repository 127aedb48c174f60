"""mm/rmap.c: adding and removing mappings, and the walks over everybody who maps a page (KERNEL.md 1.5, 2.7, 3)."""
from __future__ import annotations

from collections.abc import Iterator

from . import ksm, mlock, swap, swapfile
from .state import (
    VM_EXEC,
    VM_LOCKED,
    VM_SEQ_READ,
    AnonVma,
    Kernel,
    Page,
    Pte,
    SwapPte,
    Vma,
    folio_mark_dirty,
    pmd_start,
)


# ---------------------------------------------------------------- anon_vmas
def anon_vma_prepare(vma: Vma) -> AnonVma:
    """The vma's anon_vma: its own, a mergeable neighbour's, or a new one."""
    if vma.anon_vma is None:
        vma.anon_vma = _reusable_anon_vma(vma) or AnonVma()
        vma.chain.append(vma.anon_vma)
        vma.anon_vma.tree.insert(vma)
    return vma.anon_vma


def _reusable_anon_vma(vma: Vma) -> AnonVma | None:
    """`find_mergeable_anon_vma`: of an adjacent vma that differs in access and lock bits at most."""
    for near, low, high in ((vma.mm.next(vma), vma, None), (vma.mm.prev(vma), None, vma)):
        if near is None or near.anon_vma is None or len(near.chain) != 1:
            continue
        a, b = (low, near) if low is not None else (near, high)
        assert a is not None and b is not None
        if (a.end == b.start and a.vm_file is b.vm_file and not (a.flags ^ b.flags) & ~0x7
                and b.pgoff == a.pgoff + a.pages):
            return near.anon_vma
    return None


def anon_vma_clone(dst: Vma, src: Vma) -> None:
    for anon_vma in src.chain:
        dst.chain.append(anon_vma)
        anon_vma.tree.insert(dst)


def anon_vma_fork(child: Vma, parent: Vma) -> None:
    """The child's vma is linked to all of its parent's anon_vmas and gets one of its own for new pages."""
    child.anon_vma = None
    if parent.anon_vma is None:
        return
    anon_vma_clone(child, parent)
    anon_vma_prepare_own(child, parent.anon_vma)


def anon_vma_prepare_own(vma: Vma, above: AnonVma) -> None:
    vma.anon_vma = AnonVma(above=above)
    vma.chain.append(vma.anon_vma)
    vma.anon_vma.tree.insert(vma)


def unlink_anon_vmas(vma: Vma) -> None:
    for anon_vma in vma.chain:
        anon_vma.tree.remove(vma)
    vma.chain, vma.anon_vma = [], None


# ---------------------------------------------------------------- mappings
def page_add_file_rmap(k: Kernel, page: Page, vma: Vma, *, compound: bool = False) -> None:
    """By a pte, which to 03 ends PG_mlocked of a THP, or by a pmd, which from 6.7 to 6.16 is no lock."""
    if compound:
        page.pmd_mapcount += 1
    else:
        if page.compound and not k.traits.p04_rmap_mlocks:
            page.folio.double_map = True
            mlock.clear_page_mlock(k, page.folio)
        page.mapcount += 1
    if k.traits.p04_rmap_mlocks and not (compound and k.traits.large_folio and not k.traits.mlock_whole_folio):
        mlock.mlock_vma_page(k, page, vma, compound=compound)


def page_add_anon_rmap(k: Kernel, page: Page, vma: Vma) -> None:
    """An old anonymous page mapped again (a migration entry's restoration)."""
    page.mapcount += 1
    if k.traits.p04_rmap_mlocks:
        mlock.mlock_vma_page(k, page, vma)


def page_add_new_anon_rmap(k: Kernel, page: Page, vma: Vma, addr: int) -> None:
    """No mlock here: the caller goes on to lru_cache_add_inactive_or_unevictable(). A THP is mapped by a pmd."""
    anon_vma = anon_vma_prepare(vma)
    for i, one in enumerate(page.subpages):
        one.anon_vma = anon_vma
        one.index = vma.index(addr) + i
    page.swapbacked = page.exclusive = True
    if page.tails:
        page.pmd_mapcount = 1
    else:
        page.mapcount = 1


def page_remove_rmap(k: Kernel, page: Page, vma: Vma, *, compound: bool = False, munlock: bool = True) -> None:
    """A mapping goes away, of a THP by a pmd if `compound`. To 04: the last one clears PG_mlocked. From 04: a locked
    vma munlocks (`munlock`: unless a run of ptes is munlocked as one by the caller)."""
    if compound:
        page.pmd_mapcount -= 1
        gone = page.pmd_mapcount == 0
        if gone and page.anon:
            page.double_map = False
            page.partially_mapped |= 0 < sum(one.mapcount > 0 for one in page.subpages) < page.nr
    else:
        page.mapcount -= 1
        gone = page.maps == 0
        page.folio.partially_mapped |= gone and page.compound and page.anon
    assert page.mapcount >= 0 and page.pmd_mapcount >= 0
    if gone and not k.traits.p05_final_clearance:
        mlock.clear_page_mlock(k, page.folio)
    if k.traits.p04_rmap_mlocks and munlock:
        mlock.munlock_vma_page(k, page, vma, compound=compound)


# ---------------------------------------------------------------- walks
def rmap_walk(page: Page) -> Iterator[tuple[Vma, int]]:
    """Every vma whose interval contains the page, in tree order, with the page's address there."""
    if page.ksm is not None:
        yield from ksm.rmap_walk_ksm(page)
        return
    if page.anon_vma is not None:
        tree = page.anon_vma.tree
    elif page.mapping is not None:
        tree = page.mapping.i_mmap
    else:
        return
    for vma in tree.overlapping(page.index, page.index):
        yield vma, vma.address(page.index)


def page_vma_mapped_walk(page: Page, vma: Vma, addr: int) -> Pte | None:
    """The entry of this vma at this address if it maps this page; of a THP's head it may be a huge pmd."""
    pmd = vma.mm.pmds.get(addr)
    if pmd is not None and pmd.page is page:
        return pmd
    pte = vma.mm.ptes.get(addr)
    return pte if pte is not None and pte.page is page and not pte.migration else None


def page_mlock(k: Kernel, page: Page) -> None:
    """The base's walk after a munlock: the first locked vma that maps the page marks it again (2.7)."""
    for vma, addr in rmap_walk(page):
        if vma.flags & VM_LOCKED and page_vma_mapped_walk(page, vma, addr):
            if k.traits.walk_marks_thp or not page.compound:
                mlock.mlock_vma_page_locked(k, page)
            return
        if page.maps == 0:
            return


def page_referenced(k: Kernel, page: Page) -> tuple[int, int]:
    """Young ptes, cleared on the way; stops at the first locked vma. -> (references, VM_LOCKED if that was met and
    VM_EXEC if code was among the references)"""
    if page.tails:
        return thp_referenced(k, page)
    referenced = flags = 0
    for vma, addr in rmap_walk(page):
        pte = page_vma_mapped_walk(page, vma, addr)
        if pte is None:
            continue
        if vma.flags & VM_LOCKED:
            if k.traits.p13_referenced_restores:
                mlock.mlock_vma_page(k, page, vma)
            return referenced, flags | VM_LOCKED
        if pte.young:
            pte.young = False
            if not vma.flags & VM_SEQ_READ:
                referenced += 1
                flags |= vma.flags & VM_EXEC
    return referenced, flags


def thp_referenced(k: Kernel, head: Page) -> tuple[int, int]:
    """The same of a THP, over all that maps any part of it. To 12 a locked vma that does ends it; from 13 one that maps
    it by a pmd, and is marked, while ptes there are like any other. From 6.7 these are passed over, but 512 in one page
    table count as a pmd."""
    referenced = flags = 0
    if head.anon_vma is not None:
        tree = head.anon_vma.tree
    else:
        assert head.mapping is not None
        tree = head.mapping.i_mmap
    for vma in tree.overlapping(head.index, head.index + head.nr - 1):
        locked, first = bool(vma.flags & VM_LOCKED), vma.address(head.index)
        found: list[Pte] = []
        pmd = vma.mm.pmds.get(first)
        if pmd is not None and pmd.page is head:
            found, by_pmd = [pmd], True
        else:
            by_pmd = False
            found = [pte for at, pte in vma.mm.present(max(first, vma.start), min(first + head.nr, vma.end))
                     if not pte.migration and pte.page is head.subpages[at - first]]
        if not found:
            continue
        whole = by_pmd or (k.traits.large_folio and len(found) == head.nr and pmd_start(first) == first)
        if locked and (whole or not k.traits.p13_referenced_restores):
            if k.traits.p13_referenced_restores:
                mlock.mlock_vma_page(k, head, vma, compound=True)
            return referenced, flags | VM_LOCKED
        if locked and k.traits.large_folio:
            continue
        for pte in found:
            if pte.young and not vma.flags & VM_SEQ_READ:
                referenced += 1
                flags |= vma.flags & VM_EXEC
            pte.young = False
    return referenced, flags


def try_to_unmap(k: Kernel, page: Page, *, ignore_mlock: bool = False) -> bool:
    """Unmap everywhere up to the first locked vma, which marks the page; there too with `ignore_mlock`. -> unmapped
    everywhere"""
    for vma, addr in rmap_walk(page):
        pte = page_vma_mapped_walk(page, vma, addr)
        if pte is None:
            continue
        if vma.flags & VM_LOCKED and not ignore_mlock:
            if k.traits.p04_rmap_mlocks:
                mlock.mlock_vma_page(k, page, vma)
            else:
                mlock.mlock_vma_page_locked(k, page)
            return False
        if pte.dirty:
            folio_mark_dirty(page)
        if page.anon and not page.swapbacked and (page.dirty or page.refcount != 1 + page.mapcount):
            page.swapbacked = True           # lazily freed, then written again
            return False
        del vma.mm.ptes[addr]
        if page.anon and page.swapbacked:
            assert page.swap is not None
            swapfile.swap_duplicate(page.swap)
            vma.mm.swapped[addr] = SwapPte(page.swap, page.exclusive)
            page.exclusive = False
        page_remove_rmap(k, page, vma)
        if k.traits.p11_migration_drains and vma.flags & VM_LOCKED:
            mlock.mlock_page_drain(k)
        swap.put_page(k, page)
        if not page.mapcount:
            break
    return page.mapcount == 0


def try_to_migrate(k: Kernel, page: Page) -> list[tuple[Vma, int, Pte]]:
    """Turn every pte of the page into a migration entry, locked or not. -> the entries, in tree order"""
    entries: list[tuple[Vma, int, Pte]] = []
    for vma, addr in rmap_walk(page):
        pte = page_vma_mapped_walk(page, vma, addr)
        if pte is None:
            continue
        if pte.dirty and not page.anon:
            folio_mark_dirty(page)
        pte.migration = True
        entries.append((vma, addr, pte))
        page_remove_rmap(k, page, vma)
        if k.traits.p11_migration_drains and vma.flags & VM_LOCKED:
            mlock.mlock_page_drain(k)
        swap.put_page(k, page)
    return entries


def remove_migration_ptes(k: Kernel, entries: list[tuple[Vma, int, Pte]], new: Page) -> None:
    """Map `new` wherever a migration entry waits; a locked vma marks it."""
    for vma, _, pte in entries:
        swap.get_page(new)
        pte.page, pte.migration = new, False
        if new.anon:
            page_add_anon_rmap(k, new, vma)
        else:
            page_add_file_rmap(k, new, vma)
        if not k.traits.p04_rmap_mlocks and vma.flags & VM_LOCKED:
            mlock.mlock_vma_page_locked(k, new)
        if k.traits.p11_migration_drains and vma.flags & VM_LOCKED:
            mlock.mlock_page_drain(k)
