"""mm/swapfile.c and mm/swap_state.c: slots and who refers to them, the swap cache, reading ahead (KERNEL.md 2.8).

The device writes and reads at once, as a ram disk does (SWP_SYNCHRONOUS_IO): a page never waits for writeback, and a
slot that only one page-table entry refers to is read past the swap cache.
"""
from __future__ import annotations

from . import swap
from .state import PTRS_PER_PTE, Kernel, Page, SwapArea, SwapEntry, Vma

SWAPFILE_CLUSTER = 256      # each cpu takes its slots from a cluster of its own
PAGE_CLUSTER = 8            # pages read ahead at most
HITS_TO_BEGIN_WITH = 4


def swapon(k: Kernel, pages: int) -> None:
    """A device of so many pages, the first of which is its header."""
    k.swap = SwapArea(pages)


# ---------------------------------------------------------------- slots
def get_swap_page(k: Kernel) -> SwapEntry | None:
    """A slot for the swap cache: the next one of this cpu's cluster, else the first of a free cluster, else any. None
    if there is none left."""
    area = k.swap
    if area is None or len(area.slots) >= area.pages - 1:
        return None
    slot = area.next.get(k.cpu, 0)
    if slot % SWAPFILE_CLUSTER == 0 or slot >= area.pages or slot in area.slots:
        slot = _free_cluster(area)
    area.next[k.cpu] = slot + 1
    area.slots[slot] = SwapEntry(slot)
    return area.slots[slot]


def _free_cluster(area: SwapArea) -> int:
    """First slot of the next cluster that is wholly free, nobody's, not the header's; of none the lowest free slot."""
    clusters = area.pages // SWAPFILE_CLUSTER
    taken = {0} | {slot // SWAPFILE_CLUSTER for slot in (*area.slots, *area.next.values())}
    for n in range(area.clusters_used, area.clusters_used + clusters):
        if n % clusters not in taken:
            area.clusters_used = n + 1
            return n % clusters * SWAPFILE_CLUSTER
    return next(slot for slot in range(1, area.pages) if slot not in area.slots)


def vm_swap_full(k: Kernel) -> bool:
    """More than half of the slots are in use: swapped-in pages give theirs up as soon as they can."""
    return k.swap is not None and (k.swap.pages - 1 - len(k.swap.slots)) * 2 < k.swap.pages - 1


def swap_duplicate(entry: SwapEntry) -> None:
    entry.count += 1


def _slot_free(k: Kernel, entry: SwapEntry) -> None:
    if not entry.count and entry.page is None:
        assert k.swap is not None
        del k.swap.slots[entry.slot]


def swap_free(k: Kernel, entry: SwapEntry) -> None:
    """One that refers to the slot goes."""
    entry.count -= 1
    assert entry.count >= 0
    _slot_free(k, entry)


def free_swap_and_cache(k: Kernel, entry: SwapEntry) -> None:
    """A page-table entry or a file lets go of the slot; a page of the swap cache that nobody has mapped goes with the
    last of them."""
    page = entry.page
    swap_free(k, entry)
    if page is not None and not entry.count and (not page.mapcount or vm_swap_full(k)):
        swap.get_page(page)
        try_to_free_swap(k, page)
        swap.put_page(k, page)


# ---------------------------------------------------------------- the swap cache
def add_to_swap_cache(page: Page, entry: SwapEntry) -> None:
    swap.get_page(page)
    entry.page, page.swap = page, entry


def delete_from_swap_cache(k: Kernel, page: Page) -> None:
    """The cache's reference is dropped; the slot goes if nobody refers to it."""
    entry = page.swap
    assert entry is not None
    entry.page = page.swap = None
    _slot_free(k, entry)
    swap.put_page(k, page)


def add_to_swap(k: Kernel, page: Page) -> bool:
    """A slot for an anonymous page that reclaim wants to write. -> whether there was one"""
    entry = get_swap_page(k)
    if entry is None:
        return False
    add_to_swap_cache(page, entry)
    page.dirty = True
    return True


def try_to_free_swap(k: Kernel, page: Page) -> bool:
    """The page leaves the swap cache if nobody refers to its slot; its content is in memory alone then."""
    if page.swap is None or page.swap.count:
        return False
    delete_from_swap_cache(k, page)
    page.dirty = True
    return True


def free_swap_cache(k: Kernel, page: Page) -> None:
    """Before the reference of a page that was unmapped is dropped."""
    if page.swap is not None and not page.mapcount:
        try_to_free_swap(k, page)


# ---------------------------------------------------------------- reading in
def lookup_swap_cache(k: Kernel, entry: SwapEntry, vma: Vma | None, addr: int = 0) -> Page | None:
    """The cached page. One that was read ahead is a hit: of the vma, or for shmem of the whole machine."""
    page = entry.page
    if page is not None:
        ahead, page.readahead = page.readahead, False
        if vma is not None:
            _, win, hits = vma.swap_readahead
            vma.swap_readahead = addr, win, hits + ahead
        else:
            k.swapin_hits += ahead
    return page


def read_swap_cache_async(k: Kernel, entry: SwapEntry, *, ahead: bool = False) -> Page:
    """The cached page, or one read now and queued for the LRU."""
    if entry.page is None:
        page = k.alloc_page()
        page.swapbacked, page.readahead = True, ahead
        add_to_swap_cache(page, entry)
        page.refcount -= 1                       # the allocation's reference is the cache's
        swap_refault(entry, page)
        swap.lru_cache_add(k, page)
    assert entry.page is not None
    return entry.page


def swap_refault(entry: SwapEntry, page: Page) -> None:
    """`workingset_refault`: what reclaim evicted comes back active, every refault distance taken for short."""
    page.active = page.active or entry.shadow
    entry.shadow = False


def swapin_nr_pages(prev: int, at: int, hits: int, prev_win: int) -> int:
    """`__swapin_nr_pages`: how many pages to read around `at`, by how many of those read before were wanted."""
    adjacent = 2 if abs(at - prev) == 1 else 1
    pages = max(4, 1 << (hits + 1).bit_length()) if hits else adjacent
    return max(min(pages, PAGE_CLUSTER), prev_win // 2)


def swap_vma_readahead(k: Kernel, vma: Vma, addr: int, entry: SwapEntry) -> Page:
    """Anonymous memory: the neighbours in the vma and the page table, then a local drain."""
    prev, prev_win, hits = vma.swap_readahead
    win = swapin_nr_pages(prev, addr, hits, prev_win)
    vma.swap_readahead = addr, win, 0
    if win > 1:
        left = addr if addr == prev + 1 else addr - win + 1 if addr == prev - 1 else addr - (win - 1) // 2
        table = addr // PTRS_PER_PTE * PTRS_PER_PTE
        for at in range(max(left, vma.start, table), min(left + win, vma.end, table + PTRS_PER_PTE)):
            if at in vma.mm.swapped:
                read_swap_cache_async(k, vma.mm.swapped[at].entry, ahead=at != addr)
        swap.lru_add_drain(k)
    return read_swap_cache_async(k, entry)


def swap_cluster_readahead(k: Kernel, entry: SwapEntry) -> Page:
    """tmpfs: the slots around this one, in an aligned group, then a local drain. Its window is the whole machine's."""
    assert k.swap is not None
    hits, k.swapin_hits = k.swapin_hits, 0
    win = swapin_nr_pages(k.swapin_prev, entry.slot, hits, k.swapin_window)
    if not hits:
        k.swapin_prev = entry.slot
    k.swapin_window = win
    if win > 1:
        for slot in range(entry.slot & -win, (entry.slot & -win) + win):
            if slot in k.swap.slots:
                read_swap_cache_async(k, k.swap.slots[slot], ahead=slot != entry.slot)
        swap.lru_add_drain(k)
    return read_swap_cache_async(k, entry)


def swapin_walk(k: Kernel, vma: Vma, start: int, end: int) -> None:
    """MADV_WILLNEED of anonymous memory: what is swapped out is read, and nothing mapped."""
    for at in sorted(a for a in vma.mm.swapped if start <= a < end):
        read_swap_cache_async(k, vma.mm.swapped[at].entry)
    swap.lru_add_drain(k)
