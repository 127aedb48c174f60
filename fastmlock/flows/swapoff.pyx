# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""swapoff: every slot in use is brought back, tmpfs first, then one address space after the other, into locked VMAs
too; then the swap cache is given up. (mm/swapfile.c: try_to_unuse; recordings own-swapoff-*)"""
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
    UN_READ = 1
    UN_GOT = 2
    UN_LOCKED = 3
    UN_MAP = 4
    UN_MAPPED = 5
    UN_UNLOCK = 6
    UN_UNLOCKED = 7
    UN_DONE = 8


cdef int unuse_pte(World *w, Task *t, Frame *f) noexcept nogil:
    """The swap entry at b in vma a becomes an old one of its page, not to be written: who writes finds out whether the
    page is its own. i = leaf, j = slot, k = page."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef int entry = <int>(f.b & 511), called
    cdef uint64_t pte
    cdef bint first
    if f.pc == 0:
        f.i = find_leaf(w, v.mm, f.b)
        f.j = <int32_t>pte_pfn(pte_get(w, f.i, entry))
        f.k = <int32_t>lookup_swap_cache(w, f.j, <uint32_t>f.a, f.b)
        f.pc = UN_GOT
        if not f.k:
            return call(w, t, f, UN_READ, F_SWAP_READ, f.a, f.b, f.j)
    if f.pc == UN_READ:
        f.k = <int32_t>t.res
        f.pc = UN_GOT
    if f.pc == UN_GOT:
        get_page(w, f.k)
        return ask(t, f, UN_LOCKED, REQ_LOCK_PAGE, LK_PAGE, f.k)
    if f.pc == UN_LOCKED:
        return ask(t, f, UN_MAP, REQ_SPIN_LOCK, LK_PTL, f.i)
    if f.pc == UN_MAP:
        pte = pte_get(w, f.i, entry)
        f.pc = UN_UNLOCK
        if pte & PTE_SWAP and pte_pfn(pte) == <uint32_t>f.j:
            pte_clear(w, f.i, entry)
            get_page(w, f.k)
            pte_set(w, f.i, entry, mk_pte(f.k, PTE_PRESENT), 0, 0)
            w.mms[v.mm].rss += 1
            first = not w.pages[f.k].flags & PG_anon
            page_add_swapped_rmap(w, t.cpu, f.k, v, f.b, w.tr.anon_exclusive and (pte & PTE_SWP_EXCLUSIVE) != 0)
            if w.tr.anon_exclusive and pte & PTE_SWP_EXCLUSIVE:
                w.pages[f.k].flags |= PG_anon_exclusive
            f.pc = UN_MAPPED
            if w.tr.p04 and (w.tr.swapin_marks or not first) and vma_counts_mlock(w, v, f.k):
                called = mlock_page(w, t, f, UN_MAPPED, f.k)
                if called != -1:
                    return called
    if f.pc == UN_MAPPED:
        swap_free(w, f.j)
        f.pc = UN_UNLOCK
    if f.pc == UN_UNLOCK:
        return ask(t, f, UN_UNLOCKED, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    if f.pc == UN_UNLOCKED:
        try_to_free_swap(w, f.k)
        return ask(t, f, UN_DONE, REQ_UNLOCK_PAGE, LK_PAGE, f.k)
    if f.pc == UN_DONE and put_page_testzero(w, f.k):
        return call(w, t, f, UN_DONE + 1, F_FREE_PAGE, f.k)
    return ret(t, 0)


cdef enum:
    SO_FILES = 1
    SO_MM = 2
    SO_MM_LOCKED = 3
    SO_MM_UNLOCKED = 4
    SO_CACHE = 5
    SO_CACHE_LOCKED = 6
    SO_CACHE_UNLOCKED = 7
    SO_CLOSED = 8


cdef int sys_swapoff(World *w, Task *t, Frame *f) noexcept nogil:
    """a = file or slot, b = position, i = task, j = vma, k = page."""
    cdef uint64_t pte
    cdef int64_t k
    cdef Vma *v
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        # without swap anonymous memory is no part of the working set: no refault is short
        for k in range(w.swap_pages):
            w.swap[k].shadow = 0
        f.a = 1
        f.pc = SO_FILES
    if f.pc == SO_FILES:
        while f.a < w.mappings_used:
            while f.b < w.mappings[f.a].capacity:
                f.b += 1
                if w.mappings[f.a].kind != MAPPING_RESV and swapped_slot(w, <uint32_t>f.a, f.b - 1):
                    return call(w, t, f, SO_FILES, F_SHMEM_SWAPIN, f.a, f.b - 1)
            f.a += 1
            f.b = 0
        f.i = w.nr_tasks
        f.pc = SO_MM
    if f.pc == SO_MM_UNLOCKED:
        f.pc = SO_MM
    if f.pc == SO_MM:
        while f.i > 1:
            f.i -= 1
            if w.tasks[f.i].mm:
                f.j = w.mms[w.tasks[f.i].mm].vma
                f.b = 0
                return ask(t, f, SO_MM_LOCKED, REQ_DOWN_READ, LK_MMAP, w.tasks[f.i].mm)
        f.a = 0
        f.pc = SO_CACHE
    if f.pc == SO_MM_LOCKED:
        while f.j:
            v = &w.vmas[f.j]
            f.b = max(f.b, v.start)
            while vma_next_entry(w, v, &f.b, &pte):
                f.b += 1
                if pte & PTE_SWAP:
                    return call(w, t, f, SO_MM_LOCKED, F_UNUSE_PTE, f.j, f.b - 1)
            f.j = v.next
        return ask(t, f, SO_MM_UNLOCKED, REQ_UP_READ, LK_MMAP, w.tasks[f.i].mm)
    while True:
        if f.pc == SO_CACHE:
            while f.a < w.swap_pages and not w.swap[f.a].page:
                f.a += 1
            if f.a >= w.swap_pages:
                w.swap_pages = w.swap_clusters_used = 0
                return call(w, t, f, SO_CLOSED, F_DRAIN, t.cpu)     # the device's own header page leaves the cache
            f.k = w.swap[f.a].page
            get_page(w, f.k)
            return ask(t, f, SO_CACHE_LOCKED, REQ_LOCK_PAGE, LK_PAGE, f.k)
        if f.pc == SO_CACHE_LOCKED:
            try_to_free_swap(w, f.k)
            return ask(t, f, SO_CACHE_UNLOCKED, REQ_UNLOCK_PAGE, LK_PAGE, f.k)
        if f.pc == SO_CLOSED:
            return sysret(t, 0, 0)
        f.a += 1
        f.pc = SO_CACHE
        if put_page_testzero(w, f.k):
            return call(w, t, f, SO_CACHE, F_FREE_PAGE, f.k)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_UNUSE_PTE] = unuse_pte
    table[<int>F_SWAPOFF] = sys_swapoff
