# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Collapse: 512 base pages become a THP, for MADV_COLLAPSE and for khugepaged. (mm/khugepaged.c)

The specification, section 2.4; the recordings of fastmlock/data/thp. Anonymous memory here; files: collapse_file.pyx.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.mlock cimport lru_cache_add_inactive_or_unevictable
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.lru cimport *
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport linear_page_index
from fastmlock.mm.thp cimport *
from fastmlock.mm.vma cimport find_vma

cdef enum:
    MAX_PTES_NONE = 511         # khugepaged's defaults: entries that may be missing,
    MAX_PTES_SHARED = 256       # and that may be mapped elsewhere too


cdef inline bint counted_well(World *w, uint32_t head) noexcept nogil:
    """is_refcount_suitable: all references are maps."""
    return w.pages[head].refcount == (thp_total_mapcount(w, head) if test(w, head, PG_head) else w.pages[head].mapcount)


cdef int scan_pmd(World *w, uint32_t leaf, bint khugepaged) noexcept nogil:
    """hpage_collapse_scan_pmd, under the page-table lock: may these 512 entries become one?"""
    cdef int i, none = 0, shared = 0, referenced = 0
    cdef bint writable = False
    cdef uint64_t pte
    cdef uint32_t page, head
    if pmd_huge(w, leaf):
        return SCAN_PMD_MAPPED
    work(w, WK_PTE, 512)
    for i in range(512):
        pte = pte_get(w, leaf, i)
        if pte == 0 or pte & PTE_SPECIAL:
            none += 1
            if khugepaged and none > MAX_PTES_NONE:
                return SCAN_BUSY
            continue
        if pte & PTE_SWAP:
            return SCAN_SWAPPED
        if not pte & PTE_PRESENT:
            return SCAN_FAIL
        writable |= pte & PTE_WRITE != 0
        page = pte_pfn(pte)
        head = compound_head(w, page)
        if page_mapcount(w, page) > 1:
            shared += 1
            if khugepaged and shared > MAX_PTES_SHARED:
                return SCAN_BUSY
        if not test(w, head, PG_lru) or test(w, head, PG_locked):
            return SCAN_AGAIN
        if not test(w, head, PG_anon):
            return SCAN_FAIL
        if not counted_well(w, head):
            return SCAN_AGAIN
        if pte & PTE_YOUNG or test(w, head, PG_referenced):
            referenced += 1
    if not writable and not w.tr.collapse_read_only or none == 512:
        return SCAN_FAIL
    if khugepaged and not referenced:
        return SCAN_FAIL
    return SCAN_SUCCEED


cdef enum:
    CL_SCAN = 1
    CL_SCANNED = 2
    CL_WRITE = 3
    CL_LOCKED = 4
    CL_ANON = 5
    CL_PTL_ISOLATE = 6
    CL_ISOLATED = 7
    CL_ISOLATE_END = 8
    CL_UNLOCKED = 9
    CL_ANON_UNLOCKED = 10
    CL_COPY = 11
    CL_PAGE_UNLOCKED = 12
    CL_PUT_BACK = 13
    CL_PTL = 14
    CL_REMOVED = 15
    CL_PTL_UNLOCKED = 16
    CL_HEADS = 17
    CL_HEAD_UNLOCKED = 18
    CL_INSTALL = 19
    CL_ADDED = 20
    CL_GIVE_UP = 21
    CL_GIVE_UP_UNLOCKED = 22
    CL_END = 23
    CL_DOWNGRADED = 24
    CL_DONE = 25


cdef int collapse_huge_page(World *w, Task *t, Frame *f) noexcept nogil:
    """The 512 entries from vpn b on in vma a, c = BY_KHUGEPAGED or 0 | its mm << 8; mmap_lock is held for read, and
    dropped and taken again on the way. Every page is isolated; then each is copied, put back (lru_add batch) and only
    then unmapped, which in a locked vma munlocks it. The new THP is a new page of the vma. res = SCAN_... i = entry, j
    = leaf, k = the THP, d = what it comes to. Heads of THPs that are collapsed anew wait in the task's gather."""
    cdef uint32_t vma = <uint32_t>f.a
    cdef Vma *v = &w.vmas[vma]
    cdef uint32_t *heads = list_pages(w, list_ref(LIST_GATHER, task_index(w, t)))
    cdef uint32_t mm = <uint32_t>(f.c >> 8), page = <uint32_t>f.d, head
    cdef uint64_t pte
    cdef int called
    if f.pc == 0:
        f.j = find_leaf(w, mm, f.b)
        if not f.j or w.leaves[f.j].none:
            return ret(t, SCAN_FAIL)
        return ask(t, f, CL_SCAN, REQ_SPIN_LOCK, LK_PTL, f.j)
    if f.pc == CL_SCAN:
        f.d = scan_pmd(w, f.j, (f.c & BY_KHUGEPAGED) != 0)
        return ask(t, f, CL_SCANNED, REQ_SPIN_UNLOCK, LK_PTL, f.j)
    if f.pc == CL_SCANNED:
        if f.d == SCAN_SWAPPED:
            return unsupported(w, f.fn)
        if f.d != SCAN_SUCCEED:
            return ret(t, f.d)
        f.k = alloc_thp(w, t.cpu, 0)
        if not f.k:
            return REQ_ERROR
        return ask(t, f, CL_WRITE, REQ_UP_READ, LK_MMAP, mm)
    if f.pc == CL_WRITE:
        return ask(t, f, CL_LOCKED, REQ_DOWN_WRITE, LK_MMAP, mm)
    if f.pc == CL_LOCKED:
        # while the lock was not held the vma may have gone, or the table
        if find_vma(w, mm, f.b) == vma and covers_pmd(v, f.b) and find_leaf(w, mm, f.b) == <uint32_t>f.j \
                and not pmd_huge(w, f.j) and not w.leaves[f.j].none:
            return ask(t, f, CL_ANON, REQ_DOWN_WRITE, LK_ANON_VMA, w.anon_vmas[v.anon_vma].root)
        f.d = SCAN_FAIL
        free_thp(w, f.k)
        f.pc = CL_END
    if f.pc == CL_ANON:
        t.gather = 0
        return ask(t, f, CL_PTL_ISOLATE, REQ_SPIN_LOCK, LK_PTL, f.j)

    # __collapse_huge_page_isolate
    if f.pc == CL_ISOLATED:
        head = compound_head(w, pte_pfn(pte_get(w, f.j, f.i)))
        f.pc = CL_PTL_ISOLATE
        if not t.res:
            w.pages[head].flags &= ~<uint32_t>PG_locked
            f.d = SCAN_AGAIN
            f.pc = CL_ISOLATE_END
        else:
            if page_compound(w, head):
                heads[t.gather] = head
                t.gather += 1
            f.i += 1
    if f.pc == CL_PTL_ISOLATE:
        f.pc = CL_ISOLATE_END
        while f.i < 512:
            pte = pte_get(w, f.j, f.i)
            head = compound_head(w, pte_pfn(pte))
            if pte & PTE_PRESENT and not pte & PTE_SPECIAL and not among(heads, t.gather, head):
                if not counted_well(w, head) or not trylock_page(w, head):
                    f.d = SCAN_AGAIN
                    break
                return call(w, t, f, CL_ISOLATED, F_ISOLATE, head)
            f.i += 1
    if f.pc == CL_ISOLATE_END:
        return ask(t, f, CL_UNLOCKED, REQ_SPIN_UNLOCK, LK_PTL, f.j)
    if f.pc == CL_UNLOCKED:
        return ask(t, f, CL_ANON_UNLOCKED, REQ_UP_WRITE, LK_ANON_VMA, w.anon_vmas[v.anon_vma].root)
    if f.pc == CL_ANON_UNLOCKED:
        f.pc = CL_GIVE_UP
        if f.d == SCAN_SUCCEED:
            f.i = 0
            f.pc = CL_COPY
            work(w, WK_COPY, 512)

    # __collapse_huge_page_copy; d = the page at hand
    if f.pc == CL_PAGE_UNLOCKED:
        return call(w, t, f, CL_PUT_BACK, F_PUTBACK, page)
    if f.pc == CL_PUT_BACK:
        return ask(t, f, CL_PTL, REQ_SPIN_LOCK, LK_PTL, f.j)
    if f.pc == CL_PTL:
        pte_clear(w, f.j, f.i)
        return call(w, t, f, CL_REMOVED, F_REMOVE_RMAP, page, f.a, RMAP_IF_MLOCKED)
    if f.pc == CL_REMOVED:
        return ask(t, f, CL_PTL_UNLOCKED, REQ_SPIN_UNLOCK, LK_PTL, f.j)
    if f.pc == CL_PTL_UNLOCKED:
        f.i += 1
        f.pc = CL_COPY
        head = compound_head(w, page)
        if put_page_testzero(w, head):
            return call(w, t, f, CL_COPY, F_FREE_PAGE, head)
    if f.pc == CL_COPY:
        while f.i < 512:
            pte = pte_get(w, f.j, f.i)
            if pte and not pte & PTE_SPECIAL:
                f.d = pte_pfn(pte)
                w.pages[f.k + f.i].content = w.pages[f.d].content
                if not page_compound(w, <uint32_t>f.d):
                    return ask(t, f, CL_PAGE_UNLOCKED, REQ_UNLOCK_PAGE, LK_PAGE, <uint32_t>f.d)
                return ask(t, f, CL_PTL, REQ_SPIN_LOCK, LK_PTL, f.j)
            if pte:
                pte_clear(w, f.j, f.i)
            w.mms[mm].rss += 1
            f.i += 1
        f.i = 0
        f.d = SCAN_SUCCEED
        f.pc = CL_HEADS
    if f.pc == CL_HEAD_UNLOCKED:
        f.i += 1
        return call(w, t, f, CL_HEADS, F_PUTBACK, heads[f.i - 1])
    if f.pc == CL_HEADS:
        if f.i < t.gather:
            return ask(t, f, CL_HEAD_UNLOCKED, REQ_UNLOCK_PAGE, LK_PAGE, heads[f.i])
        t.gather = 0
        return ask(t, f, CL_INSTALL, REQ_SPIN_LOCK, LK_PTL, f.j)

    # the THP takes the table's place
    if f.pc == CL_INSTALL:
        thp_add_new_anon_rmap(w, t.cpu, f.k, v.anon_vma, linear_page_index(v, f.b))
        called = lru_cache_add_inactive_or_unevictable(w, t, f, CL_ADDED, f.k, v)
        if called != -1:
            return called
        f.pc = CL_ADDED
    if f.pc == CL_ADDED:
        if not set_huge_pmd(w, f.j, f.k, PTE_PRESENT | PTE_YOUNG | PTE_DIRTY | (PTE_WRITE if v.flags & VM_WRITE else 0)):
            return REQ_ERROR
        return ask(t, f, CL_END, REQ_SPIN_UNLOCK, LK_PTL, f.j)

    # a page could not be had: those before it go back
    while f.pc == CL_GIVE_UP or f.pc == CL_GIVE_UP_UNLOCKED:
        if f.pc == CL_GIVE_UP_UNLOCKED:
            return call(w, t, f, CL_GIVE_UP, F_PUTBACK, compound_head(w, pte_pfn(pte_get(w, f.j, f.i))))
        f.i -= 1
        if f.i < 0:
            t.gather = 0
            free_thp(w, f.k)
            f.pc = CL_END
            break
        pte = pte_get(w, f.j, f.i)
        head = compound_head(w, pte_pfn(pte))
        if not pte & PTE_PRESENT or pte & PTE_SPECIAL:
            continue
        if page_compound(w, head):
            if not among(heads, t.gather, head):
                continue
            forget(heads, t, head)
        return ask(t, f, CL_GIVE_UP_UNLOCKED, REQ_UNLOCK_PAGE, LK_PAGE, head)
    if f.pc == CL_END:
        return ask(t, f, CL_DOWNGRADED, REQ_UP_WRITE, LK_MMAP, mm)
    if f.pc == CL_DOWNGRADED:
        return ask(t, f, CL_DONE, REQ_DOWN_READ, LK_MMAP, mm)
    return ret(t, f.d)


cdef inline bint among(uint32_t *heads, int n, uint32_t head) noexcept nogil:
    while n:
        n -= 1
        if heads[n] == head:
            return True
    return False


cdef inline void forget(uint32_t *heads, Task *t, uint32_t head) noexcept nogil:
    cdef int i
    for i in range(t.gather):
        if heads[i] == head:
            t.gather -= 1
            heads[i] = heads[t.gather]
            return


# ---- MADV_COLLAPSE
cdef inline bint collapsible(World *w, Vma *v, bint forced) noexcept nogil:
    """The vma may have huge pages, by its flags (and the setting, unless `forced`), and there is room for one."""
    cdef Mapping *m
    if v.flags & (VM_NOHUGEPAGE | VM_SPECIAL | VM_HUGETLB):
        return False
    if v.mapping:                   # tmpfs asks the mount, not the setting; another file would have to be executable
        m = &w.mappings[v.mapping]
        if not m.shmem or m.kind != MAPPING_FILE or (v.start - v.pgoff) & (THP_PAGES - 1) \
                or not forced and not (m.huge and w.thp_enabled):
            return False
    elif not forced and not thp_allowed(w, v):
        return False
    return huge_start(v.end - THP_PAGES) >= v.start and v.end - v.start >= THP_PAGES


cdef enum:
    MC_DRAINED = 1
    MC_COLLAPSED = 2


cdef int madvise_collapse(World *w, Task *t, Frame *f) noexcept nogil:
    """Every whole pmd of [b, c) in vma a: 0 if all are huge then, else an error of the last that is not. d = error."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    if f.pc == 0:
        if not collapsible(w, v, True):
            return ret(t, -EINVAL)
        f.b = huge_start(f.b + THP_PAGES - 1)
        f.c = huge_start(f.c)
        return call(w, t, f, MC_DRAINED, F_DRAIN_ALL, 0)
    if f.pc == MC_COLLAPSED:
        if t.res == SCAN_AGAIN:
            f.d = -EAGAIN
        elif t.res == SCAN_BUSY:
            f.d = -EBUSY
        elif t.res == SCAN_FAIL:
            f.d = -EINVAL
        f.b += THP_PAGES
    if f.b >= f.c:
        return ret(t, f.d)
    return call(w, t, f, MC_COLLAPSED, F_COLLAPSE_FILE_PMD if v.mapping else F_COLLAPSE, f.a, f.b, <int64_t>v.mm << 8)


# ---- khugepaged
cdef enum:
    KH_MM = 1
    KH_LOCKED = 2
    KH_VMA = 3
    KH_UNLOCKED = 4


cdef int khugepaged_scan(World *w, Task *t, Frame *f) noexcept nogil:
    """One scan of every address space, in the order of their processes, behind a drain everywhere; and the drain that
    begins the next. i = task, j = vma, b = vpn, k = mm."""
    cdef Vma *v
    if f.pc == 0:
        return call(w, t, f, KH_MM, F_DRAIN_ALL, 0)
    while True:
        if f.pc == KH_MM:
            f.i += 1
            if f.i >= w.nr_tasks:
                return call(w, t, f, KH_UNLOCKED + 1, F_DRAIN_ALL, 0)
            f.k = w.tasks[f.i].mm
            if not f.k or f.i == task_index(w, t):
                continue
            return ask(t, f, KH_LOCKED, REQ_DOWN_READ, LK_MMAP, f.k)
        if f.pc == KH_LOCKED:
            f.j = w.mms[f.k].vma
            f.b = 0
            f.pc = KH_VMA
        if f.pc == KH_VMA:
            while f.j:
                v = &w.vmas[f.j]
                if collapsible(w, v, False):
                    f.b = max(f.b, huge_start(v.start + THP_PAGES - 1))
                    if f.b + THP_PAGES <= v.end:
                        f.b += THP_PAGES
                        return call(w, t, f, KH_VMA, F_COLLAPSE_FILE_PMD if v.mapping else F_COLLAPSE, f.j,
                                    f.b - THP_PAGES, BY_KHUGEPAGED | <int64_t>f.k << 8)
                f.j = v.next
            return ask(t, f, KH_UNLOCKED, REQ_UP_READ, LK_MMAP, f.k)
        if f.pc == KH_UNLOCKED:
            f.pc = KH_MM
            continue
        return sysret(t, 0, 0)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_COLLAPSE] = collapse_huge_page
    table[<int>F_MADV_COLLAPSE] = madvise_collapse
    table[<int>F_KHUGEPAGED] = khugepaged_scan
