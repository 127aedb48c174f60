# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Swapping in: the fault of a swap entry, reading ahead, tmpfs. (mm/memory.c, mm/swap_state.c, mm/shmem.c)

The specification, sections 2.4 and 2.8, and recordings. A page that one entry alone refers to is read past the swap
cache, as the kernel does on a device without waiting; any other is read into it, with its neighbours.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.mlock cimport mlock_page
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.filemap cimport swapped_slot
from fastmlock.mm.lru cimport *
from fastmlock.mm.mlock cimport vma_counts_mlock
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport *
from fastmlock.mm.swapfile cimport *

cdef enum:
    SW_READ = 1
    SW_GOT = 2
    SW_LOCKED = 3
    SW_DRAINED = 4
    SW_MAP = 5
    SW_MAPPED = 6
    SW_PTL_FREE = 7
    SW_UNLOCKED = 8
    SW_LOST = 9
    SW_LOST_UNLOCKED = 10
    SW_LOST_PUT = 11
    SW_DONE = 12

cdef enum:
    CACHED = 1              # the page came through the swap cache
    SETTLED = 2             # the write is done with


cdef inline bint reuse_swap_page(World *w, uint32_t page) noexcept nogil:
    """Through 5.17: mappings and references to the slot together are no more than this one, so the page may be written;
    it leaves the swap cache."""
    cdef Page *p = &w.pages[page]
    if p.mapcount + (w.swap[p.private_].count if p.flags & PG_swapcache else 0) > 1:
        return False
    if p.flags & PG_swapcache:
        delete_from_swap_cache(w, page)
        p.refcount -= 1
        p.flags |= PG_dirty
    return True


cdef inline void give_up_swap(World *w, Vma *v, uint32_t page, bint alone) noexcept nogil:
    if alone or vm_swap_full(w) or v.flags & VM_LOCKED or w.pages[page].flags & PG_mlocked:
        try_to_free_swap(w, page)


cdef int do_swap_page(World *w, Task *t, Frame *f) noexcept nogil:
    """The fault at b in vma a, whose entry is a swap entry; c = FAULT_WRITE or 0, as handle_mm_fault. i = leaf, j =
    slot, k = page, d = CACHED, SETTLED. Before 5.18 the slot is given up behind the mapping, then in front of it, so
    that the number of references tells whether the page is this process's alone."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef int entry = <int>(f.b & 511), called
    cdef bint write = (f.c & FAULT_WRITE) != 0, exclusive, first
    cdef uint64_t pte
    cdef Page *p
    if f.pc == 0:
        f.i = find_leaf(w, v.mm, f.b)
        pte = pte_get(w, f.i, entry)
        f.j = <int32_t>pte_pfn(pte)
        f.d = CACHED
        f.k = <int32_t>lookup_swap_cache(w, f.j, <uint32_t>f.a, f.b)
        f.pc = SW_GOT
        if not f.k and w.swap[f.j].count == 1:
            f.d = 0
            f.k = <int32_t>read_swap_page(w, t, f.j, False)
            if not f.k:
                return REQ_ERROR
            if lru_cache_add(w, t.cpu, f.k):
                return call(w, t, f, SW_GOT, F_PVEC, t.cpu, PVEC_LRU_ADD)
        elif not f.k:
            return call(w, t, f, SW_READ, F_SWAP_READ, f.a, f.b, f.j)
    if f.pc == SW_READ:
        f.k = <int32_t>t.res
        f.pc = SW_GOT
    if f.pc == SW_GOT:
        if f.d & CACHED:
            get_page(w, f.k)
        return ask(t, f, SW_LOCKED, REQ_LOCK_PAGE, LK_PAGE, f.k)
    p = &w.pages[f.k]
    if f.pc == SW_LOCKED:
        f.pc = SW_DRAINED
        if w.tr.cow_reuse_refcount and write and f.d & CACHED and not p.flags & PG_lru:
            return call(w, t, f, SW_DRAINED, F_DRAIN, t.cpu)
    if f.pc == SW_DRAINED:
        return ask(t, f, SW_MAP, REQ_SPIN_LOCK, LK_PTL, f.i)
    if f.pc == SW_MAP:
        pte = pte_get(w, f.i, entry)
        if not pte & PTE_SWAP or pte_pfn(pte) != <uint32_t>f.j:     # somebody else was here first
            return ask(t, f, SW_LOST, REQ_SPIN_UNLOCK, LK_PTL, f.i)
        if not w.tr.cow_reuse_refcount:
            exclusive = write and reuse_swap_page(w, f.k)
        else:
            exclusive = not f.d & CACHED or w.tr.anon_exclusive and pte & PTE_SWP_EXCLUSIVE
            swap_free(w, f.j)
            give_up_swap(w, v, f.k, write and p.refcount == 2)
            exclusive |= p.refcount == 1
        if exclusive and write:
            f.d |= SETTLED
        pte_clear(w, f.i, entry)
        pte_set(w, f.i, entry, mk_pte(f.k, PTE_PRESENT | PTE_YOUNG | (PTE_DIRTY if f.d & SETTLED else 0)
                                      | (PTE_WRITE if exclusive and v.flags & VM_WRITE and
                                         (write or w.tr.swapin_writable) else 0)), 0, 0)
        w.mms[v.mm].rss += 1
        first = not p.flags & PG_anon
        page_add_swapped_rmap(w, t.cpu, f.k, v, f.b, exclusive and (write or w.tr.anon_exclusive))
        if exclusive:
            p.flags |= PG_anon_exclusive
        if w.tr.p04 and (w.tr.swapin_marks or not first) and vma_counts_mlock(w, v, f.k):
            called = mlock_page(w, t, f, SW_MAPPED, f.k)
            if called != -1:
                return called
        f.pc = SW_MAPPED
    if f.pc == SW_MAPPED:
        if not w.tr.cow_reuse_refcount:
            swap_free(w, f.j)
            give_up_swap(w, v, f.k, False)
        return ask(t, f, SW_PTL_FREE, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    if f.pc == SW_PTL_FREE:
        return ask(t, f, SW_UNLOCKED, REQ_UNLOCK_PAGE, LK_PAGE, f.k)
    if f.pc == SW_UNLOCKED:
        if write and not f.d & SETTLED:
            return become(t, f, F_FAULT)            # do_wp_page
        return ret(t, 0)
    if f.pc == SW_LOST:
        return ask(t, f, SW_LOST_UNLOCKED, REQ_UNLOCK_PAGE, LK_PAGE, f.k)
    if f.pc == SW_LOST_UNLOCKED:
        f.pc = SW_DONE
        if put_page_testzero(w, f.k):
            return call(w, t, f, SW_DONE, F_FREE_PAGE, f.k)
    return ret(t, 0)


cdef int read_ahead(World *w, Task *t, Frame *f) noexcept nogil:
    """The page of slot c into the swap cache, with those around vpn b in vma a, or (a = 0) around the slot; then a
    local drain. res = the page, its reference the cache's. i = position, j = end, relative to b or the first slot."""
    cdef int64_t first = 0
    cdef int win
    cdef uint32_t slot, page
    cdef uint64_t pte
    cdef Vma *v
    if f.pc == 0:
        f.pc = 1
        if f.a:
            v = &w.vmas[<uint32_t>f.a]
            win = swap_vma_window(w, <uint32_t>f.a, f.b, &first)
            f.i = <int32_t>(max(max(first, v.start), f.b & ~<int64_t>511) - f.b)
            f.j = <int32_t>(min(min(first + win, v.end), (f.b | 511) + 1) - f.b)
        else:
            win = swap_cluster_window(w, <uint32_t>f.c)
            f.b = f.c & ~<int64_t>(win - 1)
            f.j = win
        if win == 1:
            f.j = f.i
            f.pc = 2
    while f.i < f.j:
        f.i += 1
        slot = <uint32_t>(f.b + f.i - 1)
        if f.a:
            pte = pte_get(w, find_leaf(w, w.vmas[<uint32_t>f.a].mm, f.b), <int>((f.b + f.i - 1) & 511))
            slot = pte_pfn(pte) if pte & PTE_SWAP else 0
        if slot and slot < w.swap_pages and slot_in_use(w, slot) and not w.swap[slot].page:
            page = read_swap_page(w, t, slot, True)
            if not page:
                return REQ_ERROR
            if slot != <uint32_t>f.c:
                w.pages[page].flags |= PG_readahead
            if lru_cache_add(w, t.cpu, page):
                return call(w, t, f, 1, F_PVEC, t.cpu, PVEC_LRU_ADD)
    if f.pc == 1:
        return call(w, t, f, 2, F_DRAIN, t.cpu)
    if f.pc == 2:
        f.pc = 3
        if not w.swap[f.c].page:
            page = read_swap_page(w, t, <uint32_t>f.c, True)
            if not page:
                return REQ_ERROR
            if lru_cache_add(w, t.cpu, page):
                return call(w, t, f, 3, F_PVEC, t.cpu, PVEC_LRU_ADD)
    return ret(t, w.swap[f.c].page)


cdef int willneed(World *w, Task *t, Frame *f) noexcept nogil:
    """MADV_WILLNEED of what is swapped out in [b, c) of vma a: read, not mapped; a local drain at the end."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef uint32_t slot, page
    cdef uint64_t pte
    while f.b < f.c:
        slot = 0
        if v.mapping:
            slot = swapped_slot(w, v.mapping, f.b - v.start + v.pgoff)
        elif vma_next_entry(w, v, &f.b, &pte) and f.b < f.c:
            slot = pte_pfn(pte) if pte & PTE_SWAP else 0
        f.b += 1
        if slot and not w.swap[slot].page:
            page = read_swap_page(w, t, slot, True)
            if not page:
                return REQ_ERROR
            if lru_cache_add(w, t.cpu, page):
                return call(w, t, f, 0, F_PVEC, t.cpu, PVEC_LRU_ADD)
    return become(t, f, F_LOCAL_LRU_DRAIN)


cdef int drain_here(World *w, Task *t, Frame *f) noexcept nogil:
    """lru_add_drain() of the task's own cpu, whatever the arguments."""
    if f.pc == 0:
        return call(w, t, f, 1, F_DRAIN, t.cpu)
    return ret(t, 0)


cdef int shmem_swapin(World *w, Task *t, Frame *f) noexcept nogil:
    """Page b of tmpfs file a comes back from the swap cache or the device, and its slot is given up. res = the page,
    its reference the cache's. j = slot, k = page."""
    cdef Mapping *m = &w.mappings[<uint32_t>f.a]
    cdef Page *p
    if f.pc == 0:
        f.j = <int32_t>swapped_slot(w, <uint32_t>f.a, f.b)
        f.k = <int32_t>lookup_swap_cache(w, f.j, 0, 0)
        f.pc = 2
        if not f.k and w.tr.shmem_swapin_direct:
            f.k = <int32_t>read_swap_page(w, t, f.j, False)
            if not f.k:
                return REQ_ERROR
            if lru_cache_add(w, t.cpu, f.k):
                return call(w, t, f, 2, F_PVEC, t.cpu, PVEC_LRU_ADD)
        elif not f.k:
            return call(w, t, f, 1, F_SWAP_READ, 0, 0, f.j)
    if f.pc == 1:
        f.k = <int32_t>t.res
    p = &w.pages[f.k]
    if p.flags & PG_swapcache:
        delete_from_swap_cache(w, f.k)          # its reference is the page cache's from now on
    swap_free(w, f.j)
    w.cache[m.base + f.b] = f.k
    m.nrpages += 1
    p.mapping = <uint32_t>f.a
    p.index = f.b
    folio_mark_dirty(w, f.k)
    return ret(t, f.k)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_SWAP_FAULT] = do_swap_page
    table[<int>F_SWAP_READ] = read_ahead
    table[<int>F_SWAP_WILLNEED] = willneed
    table[<int>F_LOCAL_LRU_DRAIN] = drain_here
    table[<int>F_SHMEM_SWAPIN] = shmem_swapin
