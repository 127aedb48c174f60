"""Swapping in: do_swap_page of mm/memory.c, and what mm/shmem.c does (KERNEL.md 2.4)."""
from __future__ import annotations

from . import filemap, memory, mlock, rmap, swap, swapfile
from .state import CONTENT_UNKNOWN, VM_LOCKED, VM_WRITE, File, Kernel, Page, Pte, SwapEntry, Vma, folio_mark_dirty
from .traits import CowReuse


def do_swap_page(k: Kernel, vma: Vma, addr: int, write: bool) -> None:
    """The fault of a swap entry. A page that this entry alone refers to is read past the swap cache; any other is
    looked for there, or read into it with its neighbours. Then a write is settled: at once, or as for any read-only
    entry."""
    pte = vma.mm.swapped[addr]
    page = swapfile.lookup_swap_cache(k, pte.entry, vma, addr)
    cached = True
    if page is None and pte.entry.count == 1:
        page, cached = read_alone(k, pte.entry), False
    elif page is None:
        page = swapfile.swap_vma_readahead(k, vma, addr, pte.entry)
    swap.get_page(page)
    if not cached:
        page.refcount -= 1                      # the allocation's reference becomes the entry's
    settle = _map_before_5_18 if k.traits.cow_reuse is CowReuse.REFCOUNT else _map
    if write and not settle(k, vma, addr, page, cached, write):
        memory.do_wp_page(k, vma, addr, vma.mm.ptes[addr])
    elif not write:
        settle(k, vma, addr, page, cached, write)


def read_alone(k: Kernel, entry: SwapEntry) -> Page:
    """A page of the slot's content beside the swap cache, queued for the LRU; the reference is the caller's."""
    page = k.alloc_page()
    page.swapbacked, page.content = True, CONTENT_UNKNOWN   # what was written there is not remembered
    swapfile.swap_refault(entry, page)
    swap.lru_cache_add(k, page)
    return page


def _set_pte(k: Kernel, vma: Vma, addr: int, page: Page, *, writable: bool, dirty: bool, exclusive: bool) -> None:
    """The entry maps the page; the first mapping makes it anonymous, of this vma's own anon_vma or of the root."""
    del vma.mm.swapped[addr]
    new = page.anon_vma is None
    if page.anon_vma is None:
        anon_vma = rmap.anon_vma_prepare(vma)
        page.anon_vma, page.index = anon_vma if exclusive else anon_vma.root, vma.index(addr)
    vma.mm.ptes[addr] = Pte(page, write=writable and bool(vma.flags & VM_WRITE), young=True, dirty=dirty)
    page.mapcount += 1
    if k.traits.p04_rmap_mlocks and (k.traits.swapin_marks or not new):
        mlock.mlock_vma_page(k, page, vma)


def _map_before_5_18(k: Kernel, vma: Vma, addr: int, page: Page, cached: bool, write: bool) -> bool:
    """`reuse_swap_page` asks for mappings and slot references together. -> the write is settled"""
    entry = vma.mm.swapped[addr].entry
    reuse = write and page.mapcount + (page.swap.count if page.swap is not None else 0) <= 1
    if reuse and page.swap is not None:
        swapfile.delete_from_swap_cache(k, page)
        page.dirty = True
    _set_pte(k, vma, addr, page, writable=reuse, dirty=reuse, exclusive=reuse)
    swapfile.swap_free(k, entry)
    if swapfile.vm_swap_full(k) or vma.flags & VM_LOCKED or page.mlocked:
        swapfile.try_to_free_swap(k, page)
    return reuse


def _map(k: Kernel, vma: Vma, addr: int, page: Page, cached: bool, write: bool) -> bool:
    """5.18: whoever holds the only reference owns the page; from 5.19 a swap entry may know that. -> the write is
    settled"""
    pte = vma.mm.swapped[addr]
    if write and cached and not page.lru:
        swap.lru_add_drain(k)
    exclusive = not cached or (k.traits.cow_reuse is CowReuse.EXCLUSIVE and pte.exclusive)
    swapfile.swap_free(k, pte.entry)
    if swapfile.vm_swap_full(k) or vma.flags & VM_LOCKED or page.mlocked or (write and page.refcount == 2):
        swapfile.try_to_free_swap(k, page)
    exclusive = exclusive or page.refcount == 1
    _set_pte(k, vma, addr, page, writable=exclusive and (write or k.traits.swapin_writable),
             dirty=exclusive and write, exclusive=exclusive and (write or k.traits.cow_reuse is CowReuse.EXCLUSIVE))
    page.exclusive = page.exclusive or exclusive
    return write and exclusive


# ---------------------------------------------------------------- tmpfs
def shmem_swapin_page(k: Kernel, file: File, index: int) -> Page:
    """The page comes back from the swap cache or the device, and its slot is given up."""
    entry = file.swapped[index]
    page = swapfile.lookup_swap_cache(k, entry, None)
    if page is None and k.traits.shmem_swapin_direct:
        page = read_alone(k, entry)
    elif page is None:
        page = swapfile.swap_cluster_readahead(k, entry)
    del file.swapped[index]
    if page.swap is not None:
        swap.get_page(page)
        swapfile.delete_from_swap_cache(k, page)
    swapfile.swap_free(k, entry)
    filemap.replace_in_page_cache(file, index, page)
    folio_mark_dirty(page)
    return page
