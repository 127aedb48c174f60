# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Swap slots are given out a cluster at a time to each cpu; how far to read ahead follows what was wanted before.

A vma remembers in 32 bits where it was last swapped in (the page number's low 25 bits), how large the window was (4)
and how many of its pages were wanted since (3); 0 is a vma that was never swapped in.
"""
from fastmlock.mm.page cimport alloc_page, cpu_node, test_clear_readahead


cdef uint32_t free_cluster(World *w) noexcept nogil:
    """First slot of the next cluster that is wholly free and nobody's; the header's is not. 0 if there is none."""
    cdef int64_t clusters = w.swap_pages // SWAPFILE_CLUSTER, at, slot
    cdef int n, cpu
    cdef bint taken
    for n in range(<int>clusters):
        at = (w.swap_clusters_used + n) % clusters
        taken = at == 0
        for cpu in range(min(w.nr_cpus, PCP_LISTS)):
            taken |= w.swap_next[cpu] // SWAPFILE_CLUSTER == at
        for slot in range(at * SWAPFILE_CLUSTER, (at + 1) * SWAPFILE_CLUSTER):
            if taken:
                break
            taken = slot_in_use(w, <uint32_t>slot)
        if not taken:
            w.swap_clusters_used += n + 1
            return <uint32_t>(at * SWAPFILE_CLUSTER)
    return 0


cdef uint32_t get_swap_page(World *w, int cpu) noexcept nogil:
    cdef uint32_t *next = &w.swap_next[cpu & (PCP_LISTS - 1)]
    cdef uint32_t slot = next[0]
    if not w.swap_pages or w.swap_used >= w.swap_pages - 1:
        return 0
    if slot % SWAPFILE_CLUSTER == 0 or slot >= w.swap_pages or slot_in_use(w, slot):
        slot = free_cluster(w)
        if not slot:
            slot = 1
            while slot_in_use(w, slot):
                slot += 1
    next[0] = slot + 1
    w.swap_used += 1
    return slot


cdef int swapin_nr_pages(int64_t prev, int64_t at, int hits, int prev_win) noexcept nogil:
    cdef int pages = 4
    if hits:
        while pages < hits + 2:
            pages *= 2
    else:
        pages = 2 if at == prev + 1 or at == prev - 1 else 1
    return max(min(pages, SWAP_RA_MAX), prev_win // 2)


cdef inline uint32_t ra_value(int64_t vpn, int win, int hits) noexcept nogil:
    return <uint32_t>((vpn & SWAP_RA_ADDR) << 7 | win << 3 | min(hits, SWAP_RA_HITS))


cdef uint32_t lookup_swap_cache(World *w, uint32_t slot, uint32_t vma, int64_t vpn) noexcept nogil:
    cdef uint32_t page = w.swap[slot].page, value
    cdef int ahead
    if not page:
        return 0
    ahead = test_clear_readahead(w, page)
    if vma:
        value = w.vmas[vma].swap_ra
        w.vmas[vma].swap_ra = ra_value(vpn, (value >> 3) & 15, (value & 7 if value else 4) + ahead)
    else:
        w.swapin_hits += ahead
    return page


cdef uint32_t read_swap_page(World *w, Task *t, uint32_t slot, bint cached) noexcept nogil:
    cdef uint32_t page = alloc_page(w, t.cpu, t.node - 1 if t.node else cpu_node(w, t.cpu), <int>w.swap[slot].memcg)
    if page:
        w.pages[page].flags |= PG_swapbacked
        w.pages[page].content = CONTENT_UNKNOWN                 # what was written there is not remembered
        if cached:
            add_to_swap_cache(w, page, slot)
        swap_refault(w, page, slot)
    return page


cdef int swap_vma_window(World *w, uint32_t vma, int64_t vpn, int64_t *first) noexcept nogil:
    cdef uint32_t value = w.vmas[vma].swap_ra
    cdef int64_t at = vpn & SWAP_RA_ADDR, prev = value >> 7 if value else -2     # none yet: next to nothing
    cdef int win = swapin_nr_pages(prev, at, value & 7 if value else 4, (value >> 3) & 15)
    w.vmas[vma].swap_ra = ra_value(vpn, win, 0)
    if at == prev + 1:
        first[0] = vpn
    elif at == prev - 1:
        first[0] = vpn - win + 1
    else:
        first[0] = vpn - (win - 1) // 2
    return win


cdef int swap_cluster_window(World *w, uint32_t slot) noexcept nogil:
    cdef int hits = w.swapin_hits
    w.swapin_hits = 0
    w.swapin_window = swapin_nr_pages(w.swapin_prev, slot, hits, w.swapin_window)
    if not hits:
        w.swapin_prev = slot
    return w.swapin_window
