"""mm/swapfile.c: try_to_unuse(), by which swapoff brings back all that is swapped out (recordings own-swapoff-*)."""
from __future__ import annotations

from . import mlock, rmap, swap, swapfile, swapin
from .state import File, Kernel, Mm, Pte, Vma
from .traits import CowReuse


def swapoff(k: Kernel, files: list[File], mms: list[Mm]) -> None:
    """tmpfs first, then one address space after the other; then the swap cache is given up."""
    assert k.swap is not None
    for entry in k.swap.slots.values():
        entry.shadow = False            # without swap anonymous memory is no part of the working set
    for file in files:
        for index in sorted(file.swapped):
            swapin.shmem_swapin_page(k, file, index)
    for mm in mms:
        for vma in mm.vmas:
            for addr in sorted(addr for addr in mm.swapped if vma.start <= addr < vma.end):
                unuse_pte(k, vma, addr)
    for _, entry in sorted(k.swap.slots.items()):
        page = entry.page
        if page is not None:
            swap.get_page(page)
            swapfile.try_to_free_swap(k, page)
            swap.put_page(k, page)
    k.swap = None
    swap.lru_add_drain(k)               # the device is closed: its own header page leaves the cache


def unuse_pte(k: Kernel, vma: Vma, addr: int) -> None:
    """The entry becomes an old one of its page, not to be written: who writes finds out whether the page is its own."""
    pte = vma.mm.swapped[addr]
    page = swapfile.lookup_swap_cache(k, pte.entry, vma, addr)
    if page is None:
        page = swapfile.swap_vma_readahead(k, vma, addr, pte.entry)
    swap.get_page(page)
    exclusive = k.traits.cow_reuse is CowReuse.EXCLUSIVE and pte.exclusive
    del vma.mm.swapped[addr]
    new = page.anon_vma is None
    if page.anon_vma is None:
        anon_vma = rmap.anon_vma_prepare(vma)
        page.anon_vma, page.index = anon_vma if exclusive else anon_vma.root, vma.index(addr)
    page.exclusive = page.exclusive or exclusive
    swap.get_page(page)
    page.mapcount += 1
    vma.mm.ptes[addr] = Pte(page)
    if k.traits.p04_rmap_mlocks and (k.traits.swapin_marks or not new):
        mlock.mlock_vma_page(k, page, vma)
    swapfile.swap_free(k, pte.entry)
    swapfile.try_to_free_swap(k, page)
    swap.put_page(k, page)
