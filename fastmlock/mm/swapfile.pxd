# Swap slots and who refers to them, the swap cache. (mm/swapfile.c, mm/swap_state.c)
#
# The device reads and writes at once, as a ram disk does: no page ever waits for writeback.
from libc.stdint cimport int32_t, int64_t, uint32_t
from fastmlock.state.types cimport *
from fastmlock.mm.page cimport *

cdef enum:
    SWAPFILE_CLUSTER = 256      # each cpu takes its slots from a cluster of its own
    SWAP_RA_MAX = 8             # pages read ahead at most (page_cluster 3)
    SWAP_RA_HITS = 7            # hits are counted so far: more make no difference
    SWAP_RA_ADDR = (1 << 25) - 1


cdef inline bint vm_swap_full(World *w) noexcept nogil:
    """More than half of the slots are in use: swapped-in pages give theirs up as soon as they can."""
    return w.swap_pages and (w.swap_pages - 1 - w.swap_used) * 2 < w.swap_pages - 1


cdef inline bint slot_in_use(World *w, uint32_t slot) noexcept nogil:
    return w.swap[slot].count != 0 or w.swap[slot].page != 0


cdef inline void slot_put(World *w, uint32_t slot) noexcept nogil:
    """Frees the slot if nothing refers to it any more."""
    if not slot_in_use(w, slot):
        w.swap[slot].shadow = 0
        w.swap_used -= 1


cdef inline void swap_free(World *w, uint32_t slot) noexcept nogil:
    """One that refers to the slot goes."""
    w.swap[slot].count -= 1
    slot_put(w, slot)


# ---- the swap cache
cdef inline void add_to_swap_cache(World *w, uint32_t page, uint32_t slot) noexcept nogil:
    """The reference of the cache is the caller's to give."""
    w.swap[slot].page = page
    w.swap[slot].memcg = w.pages[page].memcg
    w.pages[page].private_ = slot
    w.pages[page].flags |= PG_swapcache
    touch(w, page, 1)


cdef inline void delete_from_swap_cache(World *w, uint32_t page) noexcept nogil:
    """The cache's reference is the caller's now."""
    cdef uint32_t slot = w.pages[page].private_
    w.swap[slot].page = 0
    w.pages[page].private_ = 0
    w.pages[page].flags &= ~<uint32_t>PG_swapcache
    touch(w, page, 1)
    slot_put(w, slot)


cdef inline bint try_to_free_swap(World *w, uint32_t page) noexcept nogil:
    """The page leaves the swap cache if nobody refers to its slot. The caller has another reference."""
    cdef Page *p = &w.pages[page]
    if not p.flags & PG_swapcache or w.swap[p.private_].count:
        return False
    delete_from_swap_cache(w, page)
    p.flags |= PG_dirty
    p.refcount -= 1
    vm_bug_on(w, p.refcount <= 0, BUG_REFCOUNT)
    return True


cdef inline void free_swap_cache(World *w, uint32_t page) noexcept nogil:
    """Before the reference of a page that was unmapped is dropped."""
    if w.pages[page].flags & PG_swapcache and not w.pages[page].mapcount and not w.pages[page].flags & PG_locked:
        try_to_free_swap(w, page)


cdef inline uint32_t free_swap_and_cache(World *w, uint32_t slot) noexcept nogil:
    """A page-table entry or a file lets go of the slot. Answers the page of the swap cache whose last reference went
    with it, for the caller to free; else 0."""
    cdef uint32_t page = w.swap[slot].page
    swap_free(w, slot)
    if not page or w.swap[slot].count or w.pages[page].flags & PG_locked:
        return 0
    if w.pages[page].mapcount and not vm_swap_full(w):
        return 0
    get_page(w, page)
    try_to_free_swap(w, page)
    return page if put_page_testzero(w, page) else 0


cdef inline void swap_refault(World *w, uint32_t page, uint32_t slot) noexcept nogil:
    """What reclaim evicted comes back active (workingset_refault, every refault distance taken for short)."""
    if w.swap[slot].shadow:
        w.pages[page].flags |= PG_active
        w.swap[slot].shadow = 0


cdef inline void add_to_swap(World *w, uint32_t page, uint32_t slot) noexcept nogil:
    """A page that reclaim wants to write gets its slot."""
    add_to_swap_cache(w, page, slot)
    get_page(w, page)
    w.pages[page].flags |= PG_dirty


# a slot for the swap cache: the next of this cpu's cluster, else the first of a free cluster, else any; 0 if none is
# left
cdef uint32_t get_swap_page(World *w, int cpu) noexcept nogil
# how many pages to read around `at`
cdef int swapin_nr_pages(int64_t prev, int64_t at, int hits, int prev_win) noexcept nogil
# the cached page, of a vma's entry or (vma 0) of a file's; one that was read ahead is a hit. 0 if there is none
cdef uint32_t lookup_swap_cache(World *w, uint32_t slot, uint32_t vma, int64_t vpn) noexcept nogil
# a new page with the slot's content, for the swap cache or past it; 0 and w.error when memory is out
cdef uint32_t read_swap_page(World *w, Task *t, uint32_t slot, bint cached) noexcept nogil
# the window to read around vpn in a vma, remembered there: pages; first = where it begins
cdef int swap_vma_window(World *w, uint32_t vma, int64_t vpn, int64_t *first) noexcept nogil
# the same around a slot, for a file: remembered for the whole machine
cdef int swap_cluster_window(World *w, uint32_t slot) noexcept nogil
