"""mm/hugetlb.c: the pool of huge pages, who has reserved them, and mappings of them (KERNEL.md 1.2, 2.3; the recordings
own-hugetlb-*). Their pages are on no LRU list, in no batch and never Mlocked; a file's are numbered in huge pages."""
from __future__ import annotations

from errno import EINVAL, ENOMEM

from . import memory, rmap, swap
from .state import HPAGE_PMD_NR, VM_NORESERVE, VM_WRITE, File, Kernel, Page, Pmd, ResvMap, Vma, pmd_start

SIGBUS = 7


# ---------------------------------------------------------------- the pool
def set_max_huge_pages(k: Kernel, count: int) -> None:
    """/proc/sys/vm/nr_hugepages: what is in use beyond the number is surplus, given up when it is freed."""
    pool = k.hugetlb
    pool.surplus = max(0, min(pool.surplus, pool.total - count))
    while pool.total - pool.surplus < count:
        page = k.alloc_huge_page()
        page.hugetlb, page.refcount = True, 0
        pool.free.append(page)
        pool.total += 1
    while pool.total > count and len(pool.free) > pool.reserved:
        _update_and_free_page(k, pool.free.pop())
    pool.surplus = max(pool.surplus, pool.total - count)


def _update_and_free_page(k: Kernel, page: Page) -> None:
    page.hugetlb = False
    k.hugetlb.total -= 1
    k.free_page(page)


def free_huge_page(k: Kernel, page: Page) -> None:
    """The last reference went. A page that is dirty is so in the pool too."""
    if page.restore_reserve:
        k.hugetlb.reserved += 1
    page.restore_reserve, page.mapping = False, None
    for one in page.subpages:
        one.anon_vma, one.exclusive = None, False
    if k.hugetlb.surplus:
        k.hugetlb.surplus -= 1
        _update_and_free_page(k, page)
    else:
        k.hugetlb.free.append(page)


def return_unused_surplus_pages(k: Kernel, unused: int) -> None:
    """So many reservations end, and with each a surplus page that is free."""
    pool = k.hugetlb
    pool.reserved -= unused
    for _ in range(min(unused, pool.surplus, len(pool.free))):
        pool.surplus -= 1
        _update_and_free_page(k, pool.free.pop())


# ---------------------------------------------------------------- reservations
def vma_hugecache_offset(vma: Vma, addr: int) -> int:
    return vma.index(addr) // HPAGE_PMD_NR


def _owner(vma: Vma) -> bool:
    """HPAGE_RESV_OWNER: a private mapping with reservations of its own; a child has none."""
    return vma.resv is not None


def vma_has_reserves(vma: Vma, index: int) -> bool:
    assert vma.file is not None
    if not vma.private:
        return index in vma.file.reserved
    return vma.resv is not None and index not in vma.resv.used


def hugetlb_reserve_pages(k: Kernel, vma: Vma) -> bool:
    """What a new mapping may need one day is set aside: each page of a private one, of a shared one what nobody has
    reserved in the file yet. -> whether the pool has that many"""
    assert vma.file is not None
    if vma.flags & VM_NORESERVE:
        return True
    wanted = set(range(vma_hugecache_offset(vma, vma.start), vma_hugecache_offset(vma, vma.end)))
    if not vma.private:
        wanted -= vma.file.reserved
    if k.hugetlb.reserved + len(wanted) > len(k.hugetlb.free):
        return False
    k.hugetlb.reserved += len(wanted)
    if vma.private:
        vma.resv = ResvMap()
    else:
        vma.file.reserved |= wanted
    return True


def alloc_huge_page(k: Kernel, vma: Vma, index: int, *, avoid_reserve: bool = False) -> Page | None:
    """A page from the pool, of what this mapping has reserved or of what nobody has; for a copy that no reservation was
    made for, only the latter."""
    assert vma.file is not None
    pool, reserved = k.hugetlb, not avoid_reserve and vma_has_reserves(vma, index)
    if not reserved and len(pool.free) <= pool.reserved:
        return None
    pool.reserved -= reserved
    if not vma.private:
        vma.file.reserved.add(index)
    elif vma.resv is not None:
        vma.resv.used.add(index)
    page = pool.free.pop()
    page.refcount = 1
    return page


def hugetlb_vm_op_close(k: Kernel, vma: Vma) -> None:
    """A vma goes, and what it has reserved and not used."""
    if vma.resv is not None:
        mine = set(range(vma_hugecache_offset(vma, vma.start), vma_hugecache_offset(vma, vma.end)))
        return_unused_surplus_pages(k, len(mine - vma.resv.used))


def hugetlbfs_evict_inode(k: Kernel, file: File) -> None:
    """A file that nobody maps any more."""
    unused = len(file.reserved - set(file.pages))
    for page in file.pages.values():
        page.refcount -= 1
        free_huge_page(k, page)
    file.pages.clear()
    file.reserved.clear()
    return_unused_surplus_pages(k, unused)


# ---------------------------------------------------------------- mapping
def hugetlbfs_file_mmap(k: Kernel, vma: Vma) -> int:
    """A writable mapping beyond the end of the file makes that longer. -> errno"""
    assert vma.file is not None
    if vma.pgoff % HPAGE_PMD_NR:
        return EINVAL
    if not hugetlb_reserve_pages(k, vma):
        return ENOMEM
    if vma.flags & VM_WRITE:
        vma.file.size = max(vma.file.size, vma.pgoff + vma.pages)
    return 0


def _new_anon_page(vma: Vma, addr: int, page: Page) -> None:
    rmap.anon_vma_prepare(vma)
    for i, one in enumerate(page.subpages):
        one.anon_vma, one.index = vma.anon_vma, vma.index(pmd_start(addr)) + i
    page.exclusive, page.pmd_mapcount = True, 1


def hugetlb_no_page(k: Kernel, vma: Vma, addr: int) -> int:
    """The file's page, or a new one, which is the file's if the mapping is shared. -> 0 or SIGBUS"""
    assert vma.file is not None
    index = vma_hugecache_offset(vma, addr)
    page = vma.file.pages.get(index)
    if vma.resv_unmapped:
        return SIGBUS
    if page is None:
        page = alloc_huge_page(k, vma, index) if index < vma.file.size // HPAGE_PMD_NR else None
        if page is None:
            return SIGBUS
        if vma.private:
            _new_anon_page(vma, addr, page)
        else:
            page.mapping, page.index, page.dirty = vma.file, index, True
            vma.file.pages[index] = page
    if page.mapping is not None:
        swap.get_page(page)
        page.pmd_mapcount += 1
    writable = vma.pte_write_default
    vma.mm.pmds[pmd_start(addr)] = Pmd(page, write=writable, young=True, dirty=writable)
    return 0


def hugetlb_wp(k: Kernel, vma: Vma, addr: int, pmd: Pmd) -> int:
    """A write to an entry that does not allow it. The owner of a reservation copies without it; where that fails its
    children lose the page. -> 0 or SIGBUS"""
    assert vma.file is not None
    old, index = pmd.page, vma_hugecache_offset(vma, addr)
    outside = _owner(vma) and old is not vma.file.pages.get(index)
    if vma.private and not (old.anon and old.pmd_mapcount == 1):
        new = alloc_huge_page(k, vma, index, avoid_reserve=outside)
        if new is not None:
            _new_anon_page(vma, addr, new)
            vma.mm.pmds[pmd_start(addr)] = Pmd(new, write=True, young=True, dirty=True)
            old.pmd_mapcount -= 1
            swap.put_page(k, old)
            return 0
        if outside:
            unmap_ref_private(k, vma, addr, old)
        if not outside or old.pmd_mapcount > 1:
            return SIGBUS
    if vma.private:
        old.exclusive = True
    pmd.write = pmd.young = pmd.dirty = True
    return 0


def unmap_ref_private(k: Kernel, vma: Vma, addr: int, page: Page) -> None:
    """Whoever else maps this page privately, without reservations, loses it, and brings no page back any more."""
    assert vma.file is not None
    index = vma.index(pmd_start(addr))
    for other in vma.file.i_mmap.overlapping(index, index):
        at = other.address(index)
        pmd = other.mm.pmds.get(at)
        if other is not vma and other.private and not _owner(other) and pmd is not None and pmd.page is page:
            _unmap_pmd(k, other, at)
            swap.put_page(k, page)
            other.resv_unmapped = True


def hugetlb_fault(k: Kernel, vma: Vma, addr: int, write: bool) -> int:
    """-> 0 or SIGBUS"""
    if vma.private:
        rmap.anon_vma_prepare(vma)
    if vma.mm.huge_pmd(addr) is None and (signal := hugetlb_no_page(k, vma, addr)):
        return signal
    pmd = vma.mm.pmds[pmd_start(addr)]
    if write and not pmd.write:
        return hugetlb_wp(k, vma, addr, pmd)
    pmd.young = True
    pmd.dirty |= write
    return 0


# ---------------------------------------------------------------- fork, unmapping
def copy_hugetlb_page_range(k: Kernel, dst: Vma, src: Vma) -> None:
    """From 6.0 a mapping without an anon_vma is left to be faulted in."""
    if src.anon_vma is None and k.traits.hugetlb_lazy_fork:
        return
    for at, pmd in src.mm.huge_pmds(src.start, src.end):
        swap.get_page(pmd.page)
        pmd.page.pmd_mapcount += 1
        pmd.page.exclusive = False
        if src.private:
            pmd.write = False
        dst.mm.pmds[at] = Pmd(pmd.page, write=pmd.write, young=pmd.young, dirty=pmd.dirty)


def _unmap_pmd(k: Kernel, vma: Vma, at: int) -> Page:
    """From 6.9 the owner of a reservation has it again, unless others still map the page."""
    pmd = vma.mm.pmds.pop(at)
    page = pmd.page
    page.dirty |= pmd.dirty
    if (k.traits.hugetlb_restores and not k.hugetlb.surplus and vma.resv is not None and page.anon
            and page.pmd_mapcount == 1):
        page.restore_reserve = True
        vma.resv.used.discard(vma_hugecache_offset(vma, at))
    page.pmd_mapcount -= 1
    return page


def unmap_hugepage_range(k: Kernel, tlb: memory.MmuGather, vma: Vma, start: int, end: int) -> None:
    for at, _ in vma.mm.huge_pmds(start, end):
        tlb.pages.append(_unmap_pmd(k, vma, at))
