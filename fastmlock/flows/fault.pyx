# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Page faults: anonymous memory, file pages with fault-around, copy on write. (mm/memory.c, mm/filemap.c)

The specification, section 2.4. The caller holds mmap_lock for read. The answer is 0 or minus a signal.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.mlock cimport lru_cache_add_inactive_or_unevictable, mlock_page
from fastmlock.flows.readahead cimport read_window
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.filemap cimport *
from fastmlock.mm.lru cimport *
from fastmlock.mm.mlock cimport vma_counts_mlock
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.readahead cimport RA_PAGES, mmap_readahead, page_cache_async_ra
from fastmlock.mm.rmap cimport *
from fastmlock.mm.thp cimport covers_pmd, huge_start, thp_allowed, thp_total_mapcount
from fastmlock.mm.swapfile cimport free_swap_cache, try_to_free_swap
from fastmlock.mm.vma cimport find_vma, vma_pages
from fastmlock.state.prefetch cimport PREFETCH_AHEAD, prefetch

cdef enum:
    FT_BEGIN = 0
    FT_ZERO = 1
    FT_ANON = 2
    FT_ANON_SET = 3
    FT_AROUND = 4
    FT_AROUND_DONE = 5
    FT_PAGE = 6
    FT_PAGE_LOCKED = 7
    FT_MAP = 8
    FT_MAPPED = 9
    FT_PTL_FREE = 10
    FT_PAGE_FREE = 11
    FT_COW_SET = 12
    FT_WP = 13
    FT_WP_DRAINED = 14
    FT_COPY = 15
    FT_COPY_SET = 16
    FT_OLD_REMOVED = 17
    FT_OLD_UNLOCKED = 18
    FT_OLD_LOCKED = 19
    FT_OLD_MUNLOCKED = 20
    FT_OLD_DONE = 21
    FT_UNLOCK = 22
    FT_DONE = 23
    FT_MKWRITE = 24
    FT_MKWRITE_LOCKED = 25
    FT_REUSE = 26
    FT_PUT = 27
    FT_TRUNCATED = 28
    FT_HUGE = 29
    FT_PMD_AROUND = 30
    FT_PMD = 31
    FT_PTE = 32
    FT_READ = 33


cdef inline int base_prot(World *w, Vma *v, uint32_t page) noexcept nogil:
    """Flags of a fresh entry of a page before any write: shared writable mappings of files that do not track writes
    are writable at once, all others are not."""
    if v.flags & VM_SHARED and v.flags & VM_WRITE and w.mappings[v.mapping].shmem:
        return PTE_PRESENT | PTE_YOUNG | PTE_WRITE | (
            PTE_DIRTY if w.tr.dirty_ptes and test(w, compound_head(w, page), PG_dirty) else 0)
    return PTE_PRESENT | PTE_YOUNG


cdef inline uint32_t first_cached(World *w, Vma *v, int64_t first, int64_t last) noexcept nogil:
    """The first page of a fault's surroundings that could be mapped, 0 if none can."""
    cdef int64_t vpn
    cdef uint32_t page
    for vpn in range(first, last + 1):
        page = find_get_page(w, v.mapping, linear_page_index(v, vpn))
        if page and linear_page_index(v, vpn) < w.mappings[v.mapping].size \
                and not test(w, compound_head(w, page), PG_locked | PG_readahead):
            return page
    return 0


cdef inline bint double_map(World *w, uint32_t page) noexcept nogil:
    """To 03: a pte is going to map part of a file's THP, which may not be mlocked from now on. True if it is."""
    cdef uint32_t head = compound_head(w, page)
    w.pages[head].flags |= PG_double_map
    return test(w, head, PG_mlocked)


cdef inline bint reuse_large_folio(World *w, Vma *v, uint32_t head) noexcept nogil:
    """From 6.15: a THP whose every reference is a map of this mm's is its own, whichever page of it is written."""
    cdef int64_t vpn
    cdef uint64_t pte
    cdef int here = 0
    if not w.tr.cow_reuse_large or w.pages[head].refcount != thp_total_mapcount(w, head):
        return False
    vpn = v.start + (w.pages[head].index - v.pgoff)
    while vma_next_entry(w, v, &vpn, &pte) and vpn < v.start + (w.pages[head].index - v.pgoff) + THP_PAGES:
        if pte & PTE_PRESENT and compound_head(w, pte_pfn(pte)) == head:
            here += 1
        vpn += 1
    return here == w.pages[head].refcount


cdef int handle_mm_fault(World *w, Task *t, Frame *f) noexcept nogil:
    """a = vma, b = vpn, c = FAULT_WRITE or 0. i = leaf, j = the page found (file or old), k = the new page,
    d = position of fault-around, later a scratch."""
    cdef uint32_t vma = <uint32_t>f.a
    cdef Vma *v = &w.vmas[vma]
    cdef int64_t vpn = f.b, pgoff
    cdef int entry = <int>(vpn & 511)
    cdef uint64_t pte
    cdef uint32_t page, head
    cdef int64_t first, last
    cdef int called
    cdef bint write = (f.c & FAULT_WRITE) != 0

    if f.pc == FT_HUGE:
        if t.res:
            return ret(t, 0)
        f.c |= FAULT_PTE
        f.pc = FT_BEGIN
    if f.pc == FT_BEGIN:
        work(w, WK_FAULT, 1)
        if w.huge_zero and not f.c & FAULT_PTE:
            if v.flags & VM_HUGETLB:
                return become(t, f, F_HUGETLB_FAULT)
            f.i = find_leaf(w, v.mm, vpn)
            if f.i and pmd_huge(w, f.i):
                if write and not pte_get(w, f.i, entry) & PTE_WRITE:
                    return call(w, t, f, FT_HUGE, F_HUGE_WP, f.a, vpn)
                huge_pmd_flags(w, f.i, PTE_YOUNG | (PTE_DIRTY if write else 0), 0)
                return ret(t, 0)
            if not v.mapping and pmd_none(w, f.i) and thp_allowed(w, v) and covers_pmd(v, vpn):
                return call(w, t, f, FT_HUGE, F_HUGE_FAULT, f.a, vpn, write)
        page = 0
        if v.mapping and asks_pmd_none(w):
            page = pmd_none(w, leaf_at(w, v.mm, vpn))
        f.i = alloc_leaf(w, v.mm, vpn)
        if not f.i:
            return REQ_ERROR
        w.leaves[f.i].none = page           # of a file: until a THP or a pte is mapped there
        pte = pte_get(w, f.i, entry)
        if pte & PTE_MIGRATION:             # migration_entry_wait(), then the fault is taken again
            return ask(t, f, FT_BEGIN, REQ_WAIT_PAGE, LK_PAGE, compound_head(w, pte_pfn(pte)))
        if pte & PTE_SWAP:
            return become(t, f, F_SWAP_FAULT)
        if pte & PTE_PRESENT:
            if f.c & FAULT_UNSHARE or write and not pte & PTE_WRITE:
                return ask(t, f, FT_WP, REQ_SPIN_LOCK, LK_PTL, f.i)
            pte_flags(w, f.i, entry, PTE_YOUNG | (PTE_DIRTY if write else 0), 0)
            return ret(t, 0)
        if not v.mapping:
            if not write:
                return ask(t, f, FT_ZERO, REQ_SPIN_LOCK, LK_PTL, f.i)
            if not anon_vma_prepare(w, vma):
                return REQ_ERROR
            f.k = alloc_task_page(w, t)
            if not f.k:
                return REQ_ERROR
            return ask(t, f, FT_ANON, REQ_SPIN_LOCK, LK_PTL, f.i)
        if w.mappings[v.mapping].kind == MAPPING_RING or w.mappings[v.mapping].kind == MAPPING_MEM:
            return ret(t, -SIGBUS)          # all was mapped at once, and is not brought back
        if not write and w.mappings[v.mapping].kind == MAPPING_FILE:
            f.d = -1
            return ask(t, f, FT_AROUND, REQ_SPIN_LOCK, LK_PTL, f.i)
        f.pc = FT_PAGE

    # ---- anonymous memory
    if f.pc == FT_ZERO:
        if pte_get(w, f.i, entry) == 0:
            pte_set(w, f.i, entry, mk_pte(w.zero_page, PTE_PRESENT | PTE_YOUNG | PTE_SPECIAL), 0, 0)
        return ask(t, f, FT_DONE, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    if f.pc == FT_ANON:
        if pte_get(w, f.i, entry):
            free_page(w, t.cpu, f.k)
            f.k = 0
            return ask(t, f, FT_BEGIN, REQ_SPIN_UNLOCK, LK_PTL, f.i)    # somebody was faster: look again
        page_add_new_anon_rmap(w, t.cpu, f.k, v, vpn)
        w.pages[f.k].flags |= PG_anon_exclusive
        w.mms[v.mm].rss += 1
        called = lru_cache_add_inactive_or_unevictable(w, t, f, FT_ANON_SET, f.k, v)
        if called != -1:
            return called
        f.pc = FT_ANON_SET
    if f.pc == FT_ANON_SET:
        pte_set(w, f.i, entry, mk_pte(f.k, PTE_PRESENT | PTE_YOUNG | PTE_DIRTY
                                      | (PTE_WRITE if v.flags & VM_WRITE else 0)), 0, 0)
        return ask(t, f, FT_DONE, REQ_SPIN_UNLOCK, LK_PTL, f.i)

    # ---- fault-around: cached pages of the 64 KiB window, within vma, table and file; or the THP that they are part of
    if f.pc == FT_PMD_AROUND:
        f.pc = FT_AROUND
        if t.res:
            return ask(t, f, FT_DONE, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    if f.pc == FT_AROUND:
        first = max(vpn & ~<int64_t>(FAULT_AROUND - 1), v.start)
        last = min(min((vpn | 511), v.end - 1), first + FAULT_AROUND - 1)
        if f.d < 0:
            f.d = first
            if w.leaves[f.i].none:
                page = first_cached(w, v, first, last)
                if page and page_compound(w, page):
                    return call(w, t, f, FT_PMD_AROUND, F_SET_PMD, f.a, vpn, page, 0)
                if page and w.tr.around_spares_last and not w.mappings[v.mapping].shmem \
                        and w.pages[page].index + 1 >= w.mappings[v.mapping].size:
                    f.d = last + 1          # it would reach to the file's end as a folio: nobody makes the table
        while f.d <= last:
            pgoff = f.d - v.start + v.pgoff
            f.d += 1
            work(w, WK_PTE, 1)
            page = find_get_page(w, v.mapping, pgoff)
            prefetch(&w.pages[find_get_page(w, v.mapping, pgoff + PREFETCH_AHEAD)])
            if (not page or pgoff >= w.mappings[v.mapping].size or test(w, compound_head(w, page), PG_locked | PG_readahead)
                    or pte_get(w, f.i, <int>((f.d - 1) & 511))):
                continue
            if not w.tr.p04 and page_compound(w, page) and double_map(w, page):
                f.d -= 1
                return call(w, t, f, FT_AROUND, F_CLEAR_MLOCK, compound_head(w, page))
            w.leaves[f.i].none = 0
            get_page(w, compound_head(w, page))
            page_add_file_rmap(w, t.cpu, page)
            w.mms[v.mm].rss += 1
            pte_set(w, f.i, <int>((f.d - 1) & 511), mk_pte(page, base_prot(w, v, page)), v.mapping, pgoff)
            if w.tr.p04 and vma_counts_mlock(w, v, page):
                called = mlock_page(w, t, f, FT_AROUND, page)
                if called != -1:
                    return called
        return ask(t, f, FT_AROUND_DONE, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    if f.pc == FT_AROUND_DONE:
        pte = pte_get(w, f.i, entry)
        if pte & PTE_PRESENT:
            return ret(t, 0)
        f.pc = FT_BEGIN if pte else FT_PAGE
        if pte:
            return REQ_NONE

    # ---- the file's page: from the page cache, or made
    if f.pc == FT_PAGE:
        pgoff = linear_page_index(v, vpn)
        if write and not v.flags & VM_SHARED and not anon_vma_prepare(w, vma):
            return REQ_ERROR
        if write and not v.flags & VM_SHARED and not f.k:
            f.k = alloc_task_page(w, t)             # before the file's page is looked for
            if not f.k:
                return REQ_ERROR
        if pgoff >= w.mappings[v.mapping].size:
            if f.k:
                free_page(w, t.cpu, f.k)
            return ret(t, -SIGBUS)
        if swapped_slot(w, v.mapping, pgoff):
            return call(w, t, f, FT_PAGE, F_SHMEM_SWAPIN, v.mapping, pgoff)
        f.j = find_get_page(w, v.mapping, pgoff)
        if f.j and not w.mappings[v.mapping].shmem and not v.flags & VM_RAND_READ and not f.c & FAULT_TRIED \
                and test_clear_readahead(w, f.j):
            # the mark starts more read-ahead, for which mmap_lock is dropped: begin again
            return read_window(w, t, f, FT_READ, v.mapping,
                               page_cache_async_ra(w, v.mapping, &w.files[v.file].f_ra, pgoff, RA_PAGES))
        if f.j:
            get_page(w, compound_head(w, f.j))
            return ask(t, f, FT_PAGE_LOCKED, REQ_LOCK_PAGE, LK_PAGE, compound_head(w, f.j))
        if not w.mappings[v.mapping].shmem:
            return read_window(w, t, f, FT_READ, v.mapping, mmap_readahead(w, v, pgoff))
        if not v.flags & VM_NOHUGEPAGE and huge_hole(w, v.mapping, pgoff):
            page = shmem_alloc_huge(w, t, v.mapping, pgoff)
            f.j = find_get_page(w, v.mapping, pgoff)
        else:
            page = f.j = shmem_alloc(w, t, v.mapping, pgoff)
        if not page:
            return REQ_ERROR
        get_page(w, page)
        w.pages[page].flags |= PG_locked
        f.pc = FT_PAGE_LOCKED
        if lru_cache_add(w, t.cpu, page):
            return call(w, t, f, FT_PAGE_LOCKED, F_PVEC, t.cpu, PVEC_LRU_ADD)
    if f.pc == FT_READ:
        pgoff = linear_page_index(v, vpn)
        if pgoff < w.mappings[v.mapping].size and not find_get_page(w, v.mapping, pgoff):
            return call(w, t, f, FT_READ, F_READAHEAD, v.mapping, pgoff, 1)     # what was read is elsewhere
        f.c |= FAULT_TRIED              # its mark is left to the next
        f.pc = FT_PAGE_FREE
    if f.pc == FT_PAGE_FREE:
        if f.k:                         # the page meant for a copy is given back behind the read-ahead
            free_page(w, t.cpu, f.k)
            f.k = 0
        if f.c & FAULT_TRIED and f.c & FAULT_RETRYABLE:
            return ret(t, FAULT_RETRY)
        f.pc = FT_BEGIN                 # the pages are there now: look again, from the start
        f.j = 0
        return REQ_NONE
    if f.pc == FT_TRUNCATED:
        f.pc = FT_PAGE_FREE
        f.j = compound_head(w, f.j)
        if put_page_testzero(w, f.j):
            return call(w, t, f, FT_PAGE_FREE, F_FREE_PAGE, f.j)
        return REQ_NONE
    if f.pc == FT_PAGE_LOCKED:
        if w.pages[f.j].mapping != v.mapping:       # it left the file while its lock was waited for
            if f.k:
                free_page(w, t.cpu, f.k)
                f.k = 0
            return ask(t, f, FT_TRUNCATED, REQ_UNLOCK_PAGE, LK_PAGE, compound_head(w, f.j))
        if write and not v.flags & VM_SHARED:
            work(w, WK_COPY, 1)
        elif write and not w.mappings[v.mapping].shmem:
            folio_mark_dirty(w, f.j)            # page_mkwrite
        return ask(t, f, FT_MAP, REQ_SPIN_LOCK, LK_PTL, f.i)
    if f.pc == FT_MAP:
        if pte_get(w, f.i, entry):
            if f.k:
                free_page(w, t.cpu, f.k)
            return ask(t, f, FT_PTL_FREE, REQ_SPIN_UNLOCK, LK_PTL, f.i)
        if not f.k and page_compound(w, f.j):
            if w.leaves[f.i].none:
                return call(w, t, f, FT_PMD, F_SET_PMD, f.a, vpn, f.j, write)
            f.pc = FT_PTE
        else:
            f.pc = FT_PTE
    if f.pc == FT_PMD:
        f.pc = FT_MAPPED if t.res else FT_PTE
    if f.pc == FT_PTE:
        if not f.k and not w.tr.p04 and page_compound(w, f.j) and double_map(w, f.j):
            return call(w, t, f, FT_PTE, F_CLEAR_MLOCK, compound_head(w, f.j))
        w.leaves[f.i].none = 0
        w.mms[v.mm].rss += 1
        if f.k:
            page_add_new_anon_rmap(w, t.cpu, f.k, v, vpn)
            w.pages[f.k].flags |= PG_anon_exclusive
            called = lru_cache_add_inactive_or_unevictable(w, t, f, FT_COW_SET, f.k, v)
            if called != -1:
                return called
            f.pc = FT_COW_SET
        else:
            get_page(w, compound_head(w, f.j))
            page_add_file_rmap(w, t.cpu, f.j)
            pte_set(w, f.i, entry, mk_pte(f.j, base_prot(w, v, <uint32_t>f.j)
                                          | (PTE_WRITE | PTE_DIRTY if write else 0)),
                    v.mapping, linear_page_index(v, vpn))
            if w.tr.p04 and vma_counts_mlock(w, v, f.j):
                called = mlock_page(w, t, f, FT_MAPPED, f.j)
                if called != -1:
                    return called
            f.pc = FT_MAPPED
    if f.pc == FT_COW_SET:
        pte_set(w, f.i, entry, mk_pte(f.k, PTE_PRESENT | PTE_YOUNG | PTE_DIRTY
                                      | (PTE_WRITE if v.flags & VM_WRITE else 0)), 0, 0)
        f.pc = FT_MAPPED
    if f.pc == FT_MAPPED:
        f.j = compound_head(w, f.j)
        if write and v.flags & VM_SHARED:
            folio_mark_dirty(w, f.j)            # fault_dirty_shared_page
        return ask(t, f, FT_PTL_FREE, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    if f.pc == FT_PTL_FREE:
        f.j = compound_head(w, f.j)
        return ask(t, f, FT_PUT, REQ_UNLOCK_PAGE, LK_PAGE, f.j)
    if f.pc == FT_PUT:
        if put_page_testzero(w, f.j):
            return call(w, t, f, FT_DONE, F_FREE_PAGE, f.j)
        return ret(t, 0)

    # ---- write to a present entry that does not allow it
    if f.pc == FT_WP:
        pte = pte_get(w, f.i, entry)
        if not pte & PTE_PRESENT or pte & PTE_WRITE:
            return ask(t, f, FT_BEGIN, REQ_SPIN_UNLOCK, LK_PTL, f.i)
        f.j = 0 if pte & PTE_SPECIAL else pte_pfn(pte)
        if f.j and v.flags & VM_SHARED:
            if w.mappings[v.mapping].shmem:
                pte_flags(w, f.i, entry, PTE_WRITE | PTE_DIRTY | PTE_YOUNG, 0)
                folio_mark_dirty(w, compound_head(w, f.j))
                return ask(t, f, FT_DONE, REQ_SPIN_UNLOCK, LK_PTL, f.i)
            get_page(w, f.j)
            return ask(t, f, FT_MKWRITE, REQ_SPIN_UNLOCK, LK_PTL, f.i)
        if f.j and w.pages[f.j].flags & PG_ksm:
            f.pc = FT_COPY
        elif f.j and w.pages[f.j].flags & PG_anon:
            head = compound_head(w, f.j)
            f.pc = FT_COPY
            if w.tr.anon_exclusive and w.pages[f.j].flags & PG_anon_exclusive:
                f.pc = FT_REUSE
            elif w.tr.large_folio and page_compound(w, f.j):
                if reuse_large_folio(w, v, head):
                    f.pc = FT_REUSE
            elif w.tr.cow_reuse_refcount and w.pages[head].refcount <= 3 and not test(w, head, PG_lru):
                return call(w, t, f, FT_WP_DRAINED, F_DRAIN, t.cpu)
            else:
                f.pc = FT_WP_DRAINED
        else:
            f.pc = FT_COPY
    if f.pc == FT_WP_DRAINED:
        head = compound_head(w, f.j)
        if w.tr.cow_reuse_refcount and w.pages[head].refcount == 2 and not test(w, head, PG_locked):
            try_to_free_swap(w, head)
        if w.pages[head].refcount == 1 and w.pages[f.j].mapcount == 1 and not test(w, head, PG_locked):
            f.pc = FT_REUSE
        else:
            f.pc = FT_COPY
    if f.pc == FT_REUSE:
        w.pages[f.j].flags |= PG_anon_exclusive
        if not page_compound(w, f.j):
            w.pages[f.j].mapping = v.anon_vma       # page_move_anon_rmap
        pte_flags(w, f.i, entry, PTE_WRITE | PTE_DIRTY | PTE_YOUNG, 0)
        return ask(t, f, FT_DONE, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    if f.pc == FT_COPY:
        if f.j:
            get_page(w, compound_head(w, f.j))
        if not anon_vma_prepare(w, vma):
            return REQ_ERROR
        f.k = alloc_task_page(w, t)
        if not f.k:
            return REQ_ERROR
        if f.j:
            work(w, WK_COPY, 1)
            w.pages[f.k].content = w.pages[f.j].content
        # the copy is made without the lock and the entry looked at again under it; nothing else can have
        # changed it meanwhile in this model, so the lock is kept
        page_add_new_anon_rmap(w, t.cpu, f.k, v, vpn)
        w.pages[f.k].flags |= PG_anon_exclusive
        if not f.j:
            w.mms[v.mm].rss += 1
        called = lru_cache_add_inactive_or_unevictable(w, t, f, FT_COPY_SET, f.k, v)
        if called != -1:
            return called
        f.pc = FT_COPY_SET
    if f.pc == FT_COPY_SET:
        pte_set(w, f.i, entry, mk_pte(f.k, PTE_PRESENT | PTE_YOUNG | (0 if f.c & FAULT_UNSHARE else PTE_DIRTY)
                                      | (PTE_WRITE if v.flags & VM_WRITE and not f.c & FAULT_UNSHARE else 0)), 0, 0)
        if not f.j:
            return ask(t, f, FT_DONE, REQ_SPIN_UNLOCK, LK_PTL, f.i)
        return call(w, t, f, FT_OLD_REMOVED, F_REMOVE_RMAP, f.j, vma)
    if f.pc == FT_OLD_REMOVED:
        f.j = compound_head(w, f.j)
        f.pc = FT_UNLOCK
    if f.pc == FT_UNLOCK:
        return ask(t, f, FT_OLD_UNLOCKED, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    if f.pc == FT_OLD_UNLOCKED:
        if not w.tr.p04 and v.flags & VM_LOCKED:
            return ask(t, f, FT_OLD_LOCKED, REQ_LOCK_PAGE, LK_PAGE, f.j)
        f.pc = FT_OLD_DONE
    if f.pc == FT_OLD_LOCKED:
        if test(w, f.j, PG_mlocked):
            return call(w, t, f, FT_OLD_MUNLOCKED, F_MUNLOCK_PAGE, f.j)
        f.pc = FT_OLD_MUNLOCKED
    if f.pc == FT_OLD_MUNLOCKED:
        return ask(t, f, FT_OLD_DONE, REQ_UNLOCK_PAGE, LK_PAGE, f.j)
    if f.pc == FT_OLD_DONE:
        w.pages[f.j].refcount -= 1          # the entry's reference; the fault's own follows
        if w.tr.cow_frees_swap_cache:
            free_swap_cache(w, f.j)
        if put_page_testzero(w, f.j):
            return call(w, t, f, FT_DONE, F_FREE_PAGE, f.j)
        return ret(t, 0)

    # ---- shared file pages whose first write the filesystem wants to know of
    if f.pc == FT_MKWRITE:
        return ask(t, f, FT_MKWRITE_LOCKED, REQ_LOCK_PAGE, LK_PAGE, f.j)
    if f.pc == FT_MKWRITE_LOCKED:
        folio_mark_dirty(w, f.j)
        pte_flags(w, f.i, entry, PTE_WRITE | PTE_DIRTY | PTE_YOUNG, 0)
        return ask(t, f, FT_PUT, REQ_UNLOCK_PAGE, LK_PAGE, f.j)
    return ret(t, 0)


cdef int touch_pages(World *w, Task *t, Frame *f) noexcept nogil:
    """A process reads or writes (c) one byte of each of b pages from vpn a on, the number of the page; ends at a
    signal. i = pages done, j = vma, d = a fault was taken."""
    cdef uint32_t leaf, vma
    cdef uint64_t pte
    cdef Vma *v
    if f.pc == 1:
        f.j = find_vma(w, t.mm, f.a + f.i)
        if f.j and w.vmas[f.j].start > f.a + f.i and w.vmas[f.j].flags & VM_GROWSDOWN:
            return call(w, t, f, 4, F_EXPAND_STACK, f.j, f.a + f.i)
        t.res = 0
        f.pc = 4
    if f.pc == 4:
        if f.j and w.vmas[f.j].start <= f.a + f.i:
            v = &w.vmas[f.j]
            if v.flags & (VM_WRITE if f.c else (VM_READ | VM_WRITE | VM_EXEC)):
                return call(w, t, f, 2, F_FAULT, f.j, f.a + f.i, FAULT_WRITE if f.c else 0)
        t.res = -SIGSEGV
        f.pc = 2
    if f.pc == 2:
        f.d = t.res
        return ask(t, f, 3, REQ_UP_READ, LK_MMAP, t.mm)
    if f.pc == 3:
        if f.d < 0:
            t.sig = <int>-f.d
            return sysret(t, f.i, 0)
    while f.i < f.b:
        leaf = find_leaf(w, t.mm, f.a + f.i)
        pte = pte_get(w, leaf, <int>((f.a + f.i) & 511)) if leaf else 0
        if not pte & PTE_PRESENT or f.c and not pte & PTE_WRITE or not accessible(w, t, f.a + f.i):
            return ask(t, f, 1, REQ_DOWN_READ, LK_MMAP, t.mm)
        if w.huge_zero and pmd_huge(w, leaf):
            huge_pmd_flags(w, leaf, PTE_YOUNG | (PTE_DIRTY if f.c else 0), 0)
        else:
            pte_flags(w, leaf, <int>((f.a + f.i) & 511), PTE_YOUNG | (PTE_DIRTY if f.c else 0), 0)
        if f.c and not pte & PTE_SPECIAL:
            w.pages[pte_pfn(pte)].content = f.i & 255
        f.i += 1
    return sysret(t, f.i, 0)


cdef inline bint accessible(World *w, Task *t, int64_t vpn) noexcept nogil:
    """PROT_NONE keeps its entries but nobody may use them."""
    cdef uint32_t vma = find_vma(w, t.mm, vpn)
    return vma != 0 and (w.vmas[vma].flags & (VM_READ | VM_WRITE | VM_EXEC)) != 0


# ---- reading a file's pages in
cdef int read_ahead(World *w, Task *t, Frame *f) noexcept nogil:
    """The missing ones of c pages of mapping a from b on are made, read and queued for the LRU; page d - 1, if it is
    one of them, carries PG_readahead. i = position, j = end."""
    cdef uint32_t page
    if f.pc == 0:
        f.c = min(f.b + f.c, w.mappings[<uint32_t>f.a].size)
        if f.b >= f.c:                  # a file offset need not fit into i
            return ret(t, 0)
        f.i = <int32_t>f.b
        f.j = <int32_t>f.c
        f.pc = 1
    while f.i < f.j:
        f.i += 1
        if find_get_page(w, <uint32_t>f.a, f.i - 1):
            continue
        page = add_to_page_cache(w, t, <uint32_t>f.a, f.i - 1)
        if not page:
            return REQ_ERROR
        if f.i == f.d:
            w.pages[page].flags |= PG_readahead
        if lru_cache_add(w, t.cpu, page):
            return call(w, t, f, 1, F_PVEC, t.cpu, PVEC_LRU_ADD)
    return ret(t, 0)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_FAULT] = handle_mm_fault
    table[<int>F_TOUCH] = touch_pages
    table[<int>F_READAHEAD] = read_ahead
