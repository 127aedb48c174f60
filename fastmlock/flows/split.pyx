# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""split_huge_page: a THP becomes 512 base pages, wherever it is mapped. (mm/huge_memory.c)

The specification, section 2.8 and patches 06, 10 and 11; the recordings of fastmlock/data/thp.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.mlock cimport mlock_drain_due, mlock_page
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.lru cimport *
from fastmlock.mm.mlock cimport vma_counts_mlock
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport rmap_lock, rmap_lock_class
from fastmlock.mm.rmap_walk cimport page_vma_mapped, rmap_next
from fastmlock.mm.thp cimport *

cdef enum:
    SG_LOCKED = 1
    SG_UNMAP = 2
    SG_UNMAP_PTL = 3
    SG_UNMAPPED = 4
    SG_UNMAP_UNLOCK = 5
    SG_BREAK = 6
    SG_REMAP = 7
    SG_REMAP_PTL = 8
    SG_REMAPPED = 9
    SG_REMAP_UNLOCK = 10
    SG_UNLOCK = 11
    SG_TAIL = 12
    SG_TAIL_UNLOCKED = 13

cdef enum:
    TAILS_TO_GATHER = 1         # the caller reclaims them
    SPLIT_DONE = 2


cdef inline bint frozen(World *w, uint32_t head) noexcept nogil:
    """Nobody holds it but the caller, the page cache and those who map it."""
    cdef Page *p = &w.pages[head]
    return p.refcount == 1 + thp_total_mapcount(w, head) + (0 if p.flags & PG_anon or not p.mapping else THP_PAGES)


cdef int split_huge_page(World *w, Task *t, Frame *f) noexcept nogil:
    """a = head, whose page lock and one reference the caller has; b = TAILS_TO_GATHER: they are left, each with a
    reference, behind what the task has gathered. Every map becomes a migration entry (a file's page is unmapped), the
    THP is broken up, and each page is mapped again where it was: in a locked vma that is a lock of its own. res =
    split. i = page of the THP, j = leaf, k = tree node, c = vpn."""
    cdef uint32_t head = <uint32_t>f.a, page = head + f.i
    cdef bint anon = test(w, head, PG_anon)
    cdef uint64_t pte
    cdef Vma *v
    cdef int entry, called
    if f.pc == 0:
        if not w.pages[head].mapping:
            return ret(t, 0)
        return ask(t, f, SG_LOCKED, REQ_DOWN_WRITE if anon else REQ_DOWN_READ, <int>rmap_lock_class(w, head),
                   <uint32_t>rmap_lock(w, head))
    if f.pc == SG_LOCKED:
        f.pc = SG_UNMAP if frozen(w, head) else SG_UNLOCK
    while True:
        page = head + f.i
        if f.pc == SG_UNMAP:
            if f.i == THP_PAGES:
                f.i = f.k = 0
                f.pc = SG_REMAP
                if frozen(w, head) and not thp_total_mapcount(w, head):
                    w.lru_locks += 1
                    return ask(t, f, SG_BREAK, REQ_SPIN_LOCK, LK_LRU, lru_lock_of(w, head))
                continue
            if not page_mapcount(w, page) or not rmap_next(w, page, PTE_PRESENT, page, &f.k, &f.c, &f.j):
                f.i += 1
                f.k = 0
                continue
            if pmd_huge(w, f.j):
                called = f.k
                f.k = 0
                return call(w, t, f, SG_UNMAP, F_SPLIT_PMD, w.nodes[called].vma, f.c)
            return ask(t, f, SG_UNMAP_PTL, REQ_SPIN_LOCK, LK_PTL, f.j)
        if f.pc == SG_BREAK:
            thp_break_up(w, t.cpu, head)
            f.b |= SPLIT_DONE
            return ask(t, f, SG_REMAP, REQ_SPIN_UNLOCK, LK_LRU, lru_lock_of(w, head))
        if f.pc == SG_REMAP:
            if f.i == THP_PAGES or not anon:
                f.pc = SG_UNLOCK
                continue
            if not rmap_next(w, page, PTE_MIGRATION, page, &f.k, &f.c, &f.j):
                f.i += 1
                f.k = 0
                continue
            return ask(t, f, SG_REMAP_PTL, REQ_SPIN_LOCK, LK_PTL, f.j)
        if f.pc == SG_UNLOCK:
            f.i = 1
            return ask(t, f, SG_TAIL, REQ_UP_WRITE if anon else REQ_UP_READ, <int>rmap_lock_class(w, head),
                       <uint32_t>rmap_lock(w, head))
        if f.pc == SG_TAIL:
            if not f.b & SPLIT_DONE or f.i == THP_PAGES:
                return ret(t, (f.b & SPLIT_DONE) != 0)
            return ask(t, f, SG_TAIL_UNLOCKED, REQ_UNLOCK_PAGE, LK_PAGE, page)
        if f.pc == SG_TAIL_UNLOCKED:
            f.i += 1
            f.pc = SG_TAIL
            if f.b & TAILS_TO_GATHER:
                w.gathers[<int64_t>task_index(w, t) * GATHER_MAX + t.gather] = page
                t.gather += 1
            elif put_page_testzero(w, page):
                return call(w, t, f, SG_TAIL, F_FREE_PAGE, page)
            continue

        v = &w.vmas[w.nodes[f.k].vma]
        entry = <int>(f.c & 511)
        if f.pc == SG_UNMAP_PTL:
            pte = pte_get(w, f.j, entry)
            f.pc = SG_UNMAP_UNLOCK
            if not page_vma_mapped(w, pte, PTE_PRESENT, page):
                continue
            pte_clear(w, f.j, entry)
            if anon:
                pte_set(w, f.j, entry, mk_pte(page, PTE_MIGRATION | <int>(pte & (PTE_YOUNG | PTE_DIRTY | PTE_WRITE))), 0, 0)
            elif pte & PTE_DIRTY:
                folio_mark_dirty(w, head)
            w.mms[v.mm].rss -= 1
            return call(w, t, f, SG_UNMAPPED, F_REMOVE_RMAP, page, w.nodes[f.k].vma, RMAP_IF_MLOCKED)
        if f.pc == SG_UNMAPPED:
            w.pages[head].refcount -= 1
            f.pc = SG_UNMAP_UNLOCK
            if mlock_drain_due(w, t, v):
                return call(w, t, f, SG_UNMAP_UNLOCK, F_PVEC, t.cpu, PVEC_MLOCK)
        if f.pc == SG_UNMAP_UNLOCK:
            return ask(t, f, SG_UNMAP, REQ_SPIN_UNLOCK, LK_PTL, f.j)

        if f.pc == SG_REMAP_PTL:
            pte = pte_get(w, f.j, entry)
            f.pc = SG_REMAP_UNLOCK
            if not page_vma_mapped(w, pte, PTE_MIGRATION, page):
                continue
            pte_clear(w, f.j, entry)
            if w.tr.split_zeroes and f.b & SPLIT_DONE and not w.pages[page].content and not w.pages[page].flags & PG_mlocked \
                    and not v.flags & VM_LOCKED:
                pte_set(w, f.j, entry, mk_pte(w.zero_page, PTE_PRESENT | PTE_YOUNG | PTE_SPECIAL), 0, 0)
                continue
            pte_set(w, f.j, entry, mk_pte(page, PTE_PRESENT | <int>(pte & (PTE_YOUNG | PTE_DIRTY | PTE_WRITE))), 0, 0)
            w.mms[v.mm].rss += 1
            w.pages[compound_head(w, page)].refcount += 1
            w.pages[page].mapcount += 1
            touch(w, page, 1)
            if w.pages[page].mapcount == 1:
                mod_state(w, t.cpu, ST_ANON_MAPPED, 1)
            f.pc = SG_REMAPPED
            if w.tr.p04:
                if vma_counts_mlock(w, v, page):
                    called = mlock_page(w, t, f, SG_REMAPPED, page)
                    if called != -1:
                        return called
            elif v.flags & VM_LOCKED and not page_compound(w, page):
                return call(w, t, f, SG_REMAPPED, F_MLOCK_PAGE, page)
        if f.pc == SG_REMAPPED:
            f.pc = SG_REMAP_UNLOCK
            if mlock_drain_due(w, t, v):
                return call(w, t, f, SG_REMAP_UNLOCK, F_PVEC, t.cpu, PVEC_MLOCK)
        if f.pc == SG_REMAP_UNLOCK:
            return ask(t, f, SG_REMAP, REQ_SPIN_UNLOCK, LK_PTL, f.j)


# ---- the queue of those that are mapped in part
cdef enum:
    DS_SPLIT = 1
    DS_UNLOCKED = 2
    DS_NEXT = 3


cdef int deferred_split_scan(World *w, Task *t, Frame *f) noexcept nogil:
    """What a shrinker does to the THPs of which a page was unmapped: each is split if it can be. i = page."""
    if f.pc == DS_SPLIT:
        return ask(t, f, DS_UNLOCKED, REQ_UNLOCK_PAGE, LK_PAGE, f.i)
    if f.pc == DS_UNLOCKED:
        f.pc = DS_NEXT
        if put_page_testzero(w, f.i):
            return call(w, t, f, DS_NEXT, F_FREE_PAGE, f.i)
    while f.i + 1 < <int>w.pages_used:
        f.i += 1
        if test(w, f.i, PG_partially_mapped) and w.pages[f.i].refcount and trylock_page(w, f.i):
            get_page(w, f.i)
            return call(w, t, f, DS_SPLIT, F_SPLIT_PAGE, f.i)
    return sysret(t, 0, 0)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_SPLIT_PAGE] = split_huge_page
    table[<int>F_SPLIT_DEFERRED] = deferred_split_scan
