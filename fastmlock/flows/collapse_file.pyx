# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Collapse of a file: 512 pages of tmpfs in the page cache become a THP, whoever maps them. (mm/khugepaged.c)

Patch 12 changes how they are unmapped. The specification, section 3; the recordings of fastmlock/data/thp.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.khugepaged cimport (BY_KHUGEPAGED, SCAN_AGAIN, SCAN_BUSY, SCAN_FAIL, SCAN_PMD_MAPPED,
                                         SCAN_PTE_MAPPED_HUGEPAGE, SCAN_SUCCEED, SCAN_SWAPPED)
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.filemap cimport *
from fastmlock.mm.interval_tree cimport tree_next
from fastmlock.mm.lru cimport *
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport linear_page_index
from fastmlock.mm.thp cimport *
from fastmlock.mm.vma cimport find_vma


cdef enum:
    COLLAPSE_REFS = 3           # of a page that may be replaced: the page cache's, the isolation's and our own


cdef int scan_file(World *w, uint32_t mapping, int64_t start, bint khugepaged) noexcept nogil:
    """hpage_collapse_scan_file: may the 512 pages from `start` on become one?"""
    cdef int64_t pgoff
    cdef uint32_t page
    cdef int present = 0
    work(w, WK_PTE, 512)
    for pgoff in range(start, start + THP_PAGES):
        if swapped_slot(w, mapping, pgoff):
            return SCAN_SWAPPED
        page = find_get_page(w, mapping, pgoff)
        if not page:
            continue
        if page_compound(w, page):
            return SCAN_PTE_MAPPED_HUGEPAGE if w.tr.collapse_ptes else SCAN_FAIL
        if not test(w, page, PG_lru) or w.pages[page].refcount != 1 + w.pages[page].mapcount:
            return SCAN_AGAIN
        present += 1
    if khugepaged and not present:
        return SCAN_BUSY
    return SCAN_SUCCEED


cdef inline uint32_t alloc_leaf_none(World *w, uint32_t mm, int64_t vpn) noexcept nogil:
    """The leaf of a pmd, which stays none if it is; 0 and w.error when a pool is empty."""
    cdef uint32_t leaf = find_leaf(w, mm, vpn)
    if not leaf:
        leaf = alloc_leaf(w, mm, vpn)
        w.leaves[leaf].none = 1
    return leaf


cdef enum:
    CF_NEXT = 1
    CF_LOCKED = 2
    CF_ISOLATED = 3
    CF_UNMAPPED = 4
    CF_REPLACE = 5
    CF_UNLOCKED = 6
    CF_ADD = 7
    CF_ADDED = 8
    CF_RETRACTED = 9
    CF_DONE = 10
    CF_BACK = 11
    CF_BACK_UNLOCKED = 12
    CF_BACK_PUT = 13


cdef int collapse_file(World *w, Task *t, Frame *f) noexcept nogil:
    """The 512 pages from b on of file a | the mm that asks << 32 (0: khugepaged). Each is locked, isolated and unmapped
    everywhere: up to patch 11 by a zap of the file's range, i_mmap_rwsem held for write; from 12 on page by page
    through the reverse map, held for read. All are replaced by the new THP, which is on no list of a locked vma until
    somebody maps it. res = SCAN_... The isolated pages are linked by lru_next: c = the first, d = the last. i =
    position, j = page at hand, k = the THP."""
    cdef uint32_t mapping = <uint32_t>f.a
    cdef Mapping *m = &w.mappings[mapping]
    cdef uint32_t page = f.j, next
    cdef int result
    if f.pc == 0:
        result = scan_file(w, mapping, f.b, f.a >> 32 == 0)
        if result == SCAN_SWAPPED:
            return unsupported(w, f.fn)
        if result != SCAN_SUCCEED:
            return ret(t, result)
        f.k = alloc_thp(w, t.cpu, t.memcg)
        if not f.k:
            return REQ_ERROR
        w.pages[f.k].flags |= PG_swapbacked | PG_locked
        f.pc = CF_NEXT
    if f.pc == CF_LOCKED:
        if not t.res:
            return ask(t, f, CF_BACK, REQ_UNLOCK_PAGE, LK_PAGE, page)
        get_page(w, page)
        f.pc = CF_ISOLATED
    if f.pc == CF_ISOLATED:
        f.pc = CF_UNMAPPED
        w.pages[page].lru_next = 0
        if f.d:
            w.pages[<uint32_t>f.d].lru_next = page
        else:
            f.c = page
        f.d = page
        if page_mapped(w, page):
            if w.tr.p12:
                return call(w, t, f, CF_UNMAPPED, F_TRY_TO_UNMAP, page, 0, 1)
            return call(w, t, f, CF_UNMAPPED, F_ZAP_FILE, mapping, f.b + f.i, f.b + f.i + 1, ZAP_KEEP_COWED)
    if f.pc == CF_UNMAPPED:
        if w.pages[page].refcount != COLLAPSE_REFS:
            f.pc = CF_BACK
        else:
            f.i += 1
            f.pc = CF_NEXT
    if f.pc == CF_NEXT:
        while f.i < THP_PAGES and not find_get_page(w, mapping, f.b + f.i):
            f.i += 1
        if f.i < THP_PAGES:
            f.j = find_get_page(w, mapping, f.b + f.i)
            if page_compound(w, f.j) or not trylock_page(w, f.j):
                f.pc = CF_BACK
            else:
                return call(w, t, f, CF_LOCKED, F_ISOLATE, f.j)
        else:
            f.pc = CF_REPLACE if f.d else CF_BACK
            if f.d:
                if w.tr.p12:
                    work(w, WK_TLB, 1)
                work(w, WK_COPY, THP_PAGES)

    # copied, and freed one by one
    while f.pc == CF_REPLACE or f.pc == CF_UNLOCKED:
        if f.pc == CF_REPLACE:
            page = <uint32_t>f.c
            if not page:
                f.pc = CF_ADD
                break
            f.c = w.pages[page].lru_next
            f.j = page
            w.pages[f.k + <int>(w.pages[page].index - f.b)].content = w.pages[page].content
            delete_from_page_cache(w, mapping, w.pages[page].index, False)
            w.pages[page].flags &= ~<uint32_t>(PG_active | PG_unevictable | PG_dirty)
            w.pages[page].lru_next = 0
            w.pages[page].refcount -= COLLAPSE_REFS - 1
            return ask(t, f, CF_UNLOCKED, REQ_UNLOCK_PAGE, LK_PAGE, page)
        f.pc = CF_REPLACE
        if put_page_testzero(w, f.j):
            return call(w, t, f, CF_REPLACE, F_FREE_PAGE, f.j)
    if f.pc == CF_ADD:
        thp_in_page_cache(w, f.k, mapping, f.b)
        w.pages[f.k].refcount = THP_PAGES
        w.pages[f.k].flags |= PG_dirty
        f.pc = CF_ADDED
        if lru_cache_add(w, t.cpu, f.k):
            return call(w, t, f, CF_ADDED, F_PVEC, t.cpu, PVEC_LRU_ADD)
    if f.pc == CF_ADDED:
        return call(w, t, f, CF_RETRACTED, F_RETRACT_TABLES, f.a, f.b)
    if f.pc == CF_RETRACTED:
        return ask(t, f, CF_DONE, REQ_UNLOCK_PAGE, LK_PAGE, f.k)
    if f.pc == CF_DONE:
        return ret(t, SCAN_SUCCEED)

    # a page could not be had: those before it go back, unmapped as they are
    while True:
        if f.pc == CF_BACK:
            page = <uint32_t>f.c
            if not page:
                w.pages[f.k].flags &= ~<uint32_t>PG_locked
                free_thp(w, f.k)
                return ret(t, SCAN_FAIL if f.i == THP_PAGES else SCAN_AGAIN)
            f.j = page
            next = w.pages[page].lru_next
            w.pages[page].lru_next = 0
            f.c = next
            return ask(t, f, CF_BACK_UNLOCKED, REQ_UNLOCK_PAGE, LK_PAGE, page)
        if f.pc == CF_BACK_UNLOCKED:
            return call(w, t, f, CF_BACK_PUT, F_PUTBACK, f.j)
        if f.pc == CF_BACK_PUT:
            f.pc = CF_BACK
            if put_page_testzero(w, f.j):
                return call(w, t, f, CF_BACK, F_FREE_PAGE, f.j)


# ---- retract_page_tables
cdef enum:
    RT_NEXT = 1
    RT_PTL = 2
    RT_SEEN = 3
    RT_DONE = 4


cdef int retract_page_tables(World *w, Task *t, Frame *f) noexcept nogil:
    """The page tables that could map the 512 pages from b on of file a | mm << 32 by one pmd are empty now, and go. A
    vma with private copies keeps its own. MADV_COLLAPSE leaves those of other mms alone, to 6.5. The kernel of these
    days tries to take each mmap_lock for write; here it always succeeds. i = tree node, j = leaf."""
    cdef uint32_t mapping = <uint32_t>f.a, mm = <uint32_t>(f.a >> 32)
    cdef int64_t visits = 0, vpn
    cdef Vma *v
    if f.pc == 0:
        return ask(t, f, RT_NEXT, REQ_DOWN_READ if w.tr.retract_all else REQ_DOWN_WRITE, LK_I_MMAP, mapping)
    if f.pc == RT_PTL:
        v = &w.vmas[w.nodes[f.i].vma]
        if not v.anon_vma and not w.leaves[f.j].nr_present:
            w.leaves[f.j].none = 1
        return ask(t, f, RT_NEXT, REQ_SPIN_UNLOCK, LK_PTL, f.j)
    while f.pc == RT_NEXT:
        f.i = tree_next(w, w.mappings[mapping].root, f.i, f.b, False, &visits)
        work(w, WK_RMAP_VMA, visits)
        if not f.i:
            return ask(t, f, RT_DONE, REQ_UP_READ if w.tr.retract_all else REQ_UP_WRITE, LK_I_MMAP, mapping)
        v = &w.vmas[w.nodes[f.i].vma]
        vpn = v.start + (f.b - v.pgoff)
        f.j = find_leaf(w, v.mm, vpn)
        if not v.anon_vma and not vpn & (THP_PAGES - 1) and vpn + THP_PAGES <= v.end and f.j and not pmd_none(w, f.j) \
                and not pmd_huge(w, f.j) and (not mm or mm == v.mm or w.tr.retract_all):
            return ask(t, f, RT_PTL, REQ_SPIN_LOCK, LK_PTL, f.j)
    return ret(t, 0)


# ---- collapse_pte_mapped_thp
cdef enum:
    CP_PTL = 1
    CP_ENTRY = 2
    CP_REMOVED = 3
    CP_EMPTY = 4
    CP_UNLOCKED = 5
    CP_INSTALLED = 6


cdef int collapse_pte_mapped_thp(World *w, Task *t, Frame *f) noexcept nogil:
    """The ptes from vpn b on in vma a map pages of one THP of the file, and nothing else: they go, and their table with
    them; c = a pmd takes its place. mmap_lock is held for write. res = SCAN_... i = leaf, j = entry, k = the THP."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef uint64_t pte
    cdef int i
    if f.pc == 0:
        f.k = find_get_page(w, v.mapping, linear_page_index(v, f.b))
        if not f.k or not test(w, f.k, PG_head):
            return ret(t, SCAN_FAIL)
        f.i = alloc_leaf_none(w, v.mm, f.b)
        if not f.i:
            return REQ_ERROR
        return ask(t, f, CP_PTL, REQ_SPIN_LOCK, LK_PTL, f.i)
    if f.pc == CP_PTL:
        if pmd_huge(w, f.i):
            f.d = SCAN_PMD_MAPPED
            return ask(t, f, CP_INSTALLED, REQ_SPIN_UNLOCK, LK_PTL, f.i)
        f.pc = CP_ENTRY
        for i in range(THP_PAGES):
            pte = pte_get(w, f.i, i)
            if pte and ((pte & (PTE_PRESENT | PTE_SPECIAL)) != PTE_PRESENT or pte_pfn(pte) != <uint32_t>f.k + i):
                f.d = SCAN_FAIL
                return ask(t, f, CP_INSTALLED, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    while CP_ENTRY <= f.pc <= CP_REMOVED:
        if f.pc == CP_ENTRY:
            f.j = next_pte(w, f.i, f.j, THP_PAGES)
            if f.j >= THP_PAGES:
                f.pc = CP_EMPTY
                break
            pte_clear(w, f.i, f.j)
            w.mms[v.mm].rss -= 1
            f.j += 1
            return call(w, t, f, CP_REMOVED, F_REMOVE_RMAP, f.k + f.j - 1, f.a)
        if f.pc == CP_REMOVED:
            f.pc = CP_ENTRY
            w.pages[f.k].refcount -= 1
    if f.pc == CP_EMPTY:
        w.leaves[f.i].none = 1
        f.d = SCAN_SUCCEED
        f.pc = CP_UNLOCKED
        if f.c:
            return call(w, t, f, CP_UNLOCKED, F_SET_PMD, f.a, f.b, f.k, 0)
        t.res = 1
    if f.pc == CP_UNLOCKED:
        if not t.res:
            f.d = SCAN_FAIL
        return ask(t, f, CP_INSTALLED, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    return ret(t, f.d)


# ---- both, for one pmd of one vma
cdef enum:
    FP_UNLOCKED = 1
    FP_SCANNED = 2
    FP_WRITE = 3
    FP_MAPPED = 4
    FP_DOWNGRADED = 5
    FP_DONE = 6


cdef int collapse_file_pmd(World *w, Task *t, Frame *f) noexcept nogil:
    """The pmd at vpn b of vma a, of a file; c = its mm << 8 | BY_KHUGEPAGED; mmap_lock is held for read, and dropped
    meanwhile. Who asks for it by MADV_COLLAPSE has it mapped by a pmd afterwards. res = SCAN_... d = that, i = leaf,
    j = there was a page table."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef uint32_t mm = <uint32_t>(f.c >> 8)
    cdef bint khugepaged = f.c & BY_KHUGEPAGED
    if f.pc == 0:
        return ask(t, f, FP_UNLOCKED, REQ_UP_READ, LK_MMAP, mm)
    if f.pc == FP_UNLOCKED:
        f.i = find_leaf(w, mm, f.b)
        f.j = not pmd_none(w, f.i)
        return call(w, t, f, FP_SCANNED, F_COLLAPSE_FILE, v.mapping | (0 if khugepaged else <int64_t>mm) << 32,
                    linear_page_index(v, f.b))
    if f.pc == FP_SCANNED:
        f.d = t.res
        f.pc = FP_DOWNGRADED
        if f.d == SCAN_PTE_MAPPED_HUGEPAGE or f.d == SCAN_SUCCEED and not khugepaged:
            return ask(t, f, FP_WRITE, REQ_DOWN_WRITE, LK_MMAP, mm)
    if f.pc == FP_WRITE:
        f.i = find_leaf(w, mm, f.b)
        f.pc = FP_MAPPED
        t.res = SCAN_FAIL
        if find_vma(w, mm, f.b) != <uint32_t>f.a or not covers_pmd(v, f.b):
            pass
        elif f.d == SCAN_SUCCEED and not w.tr.retract_all and (not f.j or v.anon_vma):
            pass                                # there was no page table to be retracted, and nobody to map it
        elif not khugepaged or not pmd_none(w, f.i):
            return call(w, t, f, FP_MAPPED, F_COLLAPSE_PTES, f.a, f.b, not khugepaged)
    if f.pc == FP_MAPPED:
        f.d = t.res
        return ask(t, f, FP_DOWNGRADED, REQ_UP_WRITE, LK_MMAP, mm)
    if f.pc == FP_DOWNGRADED:
        return ask(t, f, FP_DONE, REQ_DOWN_READ, LK_MMAP, mm)
    return ret(t, f.d)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_COLLAPSE_FILE] = collapse_file
    table[<int>F_COLLAPSE_FILE_PMD] = collapse_file_pmd
    table[<int>F_COLLAPSE_PTES] = collapse_pte_mapped_thp
    table[<int>F_RETRACT_TABLES] = retract_page_tables
