# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Migration: a page goes to another frame, behind migration entries. (mm/migrate.c, mm/compaction.c)

The specification, patches 08 and 11.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.mlock cimport mlock_drain_due, mlock_page
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.lru cimport *
from fastmlock.mm.mlock cimport vma_counts_mlock
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport *
from fastmlock.mm.rmap_walk cimport page_vma_mapped, rmap_next
from fastmlock.mm.swapfile cimport add_to_swap_cache


cdef enum:
    MG_ISOLATED = 1
    MG_LOCKED = 2
    MG_UNMAPPED = 3
    MG_BACK = 4
    MG_NEW_ADDED = 5
    MG_NEW_DRAINED = 6
    MG_RESTORED = 7
    MG_UNLOCKED = 8
    MG_NEW_PUT = 9
    MG_FAILED = 10
    MG_END = 11
    MG_OLD_PUT = 12


cdef uint32_t move_to_new_page(World *w, Task *t, uint32_t page, int node) noexcept nogil:
    """A new frame, of that node (-1: the same), takes the page's place: PG_unevictable is copied, PG_mlocked is not."""
    cdef uint32_t new = alloc_page(w, t.cpu, w.pages[page].node if node < 0 else node, w.pages[page].memcg)
    cdef Page *p = &w.pages[page]
    cdef Page *n = &w.pages[new]
    cdef uint32_t slot
    if not new:
        return 0
    n.flags |= p.flags & (PG_swapbacked | PG_dirty | PG_referenced | PG_active | PG_unevictable | PG_anon
                          | PG_anon_exclusive | PG_readahead)
    n.mapping = p.mapping
    n.content = p.content
    n.index = p.index
    if not p.flags & PG_anon and p.mapping:
        w.cache[w.mappings[p.mapping].base + p.index] = new
        n.refcount += 1
        p.refcount -= 1
    if p.flags & PG_swapcache:
        slot = p.private_
        p.private_ = 0
        p.flags &= ~<uint32_t>PG_swapcache
        add_to_swap_cache(w, new, slot)
        n.refcount += 1
        p.refcount -= 1
    p.mapping = 0
    p.flags &= ~<uint32_t>(PG_active | PG_dirty | PG_referenced)
    return new


cdef int unmap_and_move(World *w, Task *t, Frame *f) noexcept nogil:
    """Page a goes to a new frame (of node b - 1, if b is not 0): isolated, unmapped by migration entries, copied,
    mapped again. From patch 08 the new page is on the LRU before its entries come back. res = moved. i = new page, j =
    it was mapped."""
    cdef uint32_t page = <uint32_t>f.a
    cdef Page *p = &w.pages[page]
    if f.pc == 0:
        if p.flags & PG_ksm:
            return unsupported(w, f.fn)
        if not p.flags & PG_anon and w.mappings[p.mapping].kind == MAPPING_SECRETMEM:
            return ret(t, 0)
        return call(w, t, f, MG_ISOLATED, F_ISOLATE, page)
    if f.pc == MG_ISOLATED:
        if not t.res:
            return ret(t, 0)
        return ask(t, f, MG_LOCKED, REQ_LOCK_PAGE, LK_PAGE, page)
    if f.pc == MG_LOCKED:
        f.j = p.mapcount
        t.res = 0
        f.pc = MG_UNMAPPED
        if f.j:
            return call(w, t, f, MG_UNMAPPED, F_TRY_TO_MIGRATE, page)
    if f.pc == MG_UNMAPPED:
        if p.mapcount or p.refcount != 1 + (1 if not p.flags & PG_anon and p.mapping else 0) + (
                1 if p.flags & PG_swapcache else 0):
            f.pc = MG_FAILED
            if f.j:
                return call(w, t, f, MG_FAILED, F_REMOVE_MIGRATION, page, page)
        else:
            f.i = move_to_new_page(w, t, page, <int>f.b - 1)
            if not f.i:
                return REQ_ERROR
            w.pages[f.i].flags |= PG_locked
            f.pc = MG_NEW_ADDED if w.tr.p08 else MG_NEW_DRAINED
            if w.tr.p08 and lru_cache_add(w, t.cpu, f.i):
                return call(w, t, f, MG_NEW_ADDED, F_PVEC, t.cpu, PVEC_LRU_ADD)
    if f.pc == MG_NEW_ADDED:
        f.pc = MG_NEW_DRAINED
        if f.j:
            return call(w, t, f, MG_NEW_DRAINED, F_DRAIN, t.cpu)
    if f.pc == MG_NEW_DRAINED:
        f.pc = MG_RESTORED
        if f.j:
            return call(w, t, f, MG_RESTORED, F_REMOVE_MIGRATION, page, f.i)
    if f.pc == MG_RESTORED:
        return ask(t, f, MG_UNLOCKED, REQ_UNLOCK_PAGE, LK_PAGE, f.i)
    if f.pc == MG_UNLOCKED:
        if not w.tr.p08:
            return call(w, t, f, MG_NEW_PUT, F_PUTBACK, f.i)
        f.pc = MG_NEW_PUT
        if put_page_testzero(w, f.i):
            return call(w, t, f, MG_NEW_PUT, F_FREE_PAGE, f.i)
    if f.pc == MG_NEW_PUT:
        p.flags &= ~<uint32_t>PG_unevictable
        return ask(t, f, MG_OLD_PUT, REQ_UNLOCK_PAGE, LK_PAGE, page)
    if f.pc == MG_OLD_PUT:
        f.pc = MG_END
        if put_page_testzero(w, page):
            return call(w, t, f, MG_END, F_FREE_PAGE, page)
    if f.pc == MG_END:
        return ret(t, 1)
    if f.pc == MG_FAILED:
        return ask(t, f, MG_BACK, REQ_UNLOCK_PAGE, LK_PAGE, page)
    return become(t, f, F_PUTBACK)              # MG_BACK: res = 0


cdef enum:
    MI_NEXT = 1
    MI_PTL = 2
    MI_REMOVED = 3
    MI_PTL_FREE = 4
    MI_DONE = 5


cdef int try_to_migrate(World *w, Task *t, Frame *f) noexcept nogil:
    """Every entry of page a becomes a migration entry, locked vma or not. Same locals as try_to_unmap."""
    cdef uint32_t page = <uint32_t>f.a
    cdef Page *p = &w.pages[page]
    cdef uint64_t pte
    cdef Vma *v
    cdef int entry
    if f.pc == 0:
        f.c = rmap_lock_class(w, page)
        f.d = rmap_lock(w, page)
        return ask(t, f, MI_NEXT, REQ_DOWN_READ, <int>f.c, <uint32_t>f.d)
    while True:
        if f.pc == MI_NEXT:
            if p.mapcount == 0 or not rmap_next(w, page, PTE_PRESENT, page, &f.i, &f.b, &f.j):
                return ask(t, f, MI_DONE, REQ_UP_READ, <int>f.c, <uint32_t>f.d)
            return ask(t, f, MI_PTL, REQ_SPIN_LOCK, LK_PTL, f.j)
        v = &w.vmas[w.nodes[f.i].vma]
        entry = <int>(f.b & 511)
        if f.pc == MI_PTL:
            pte = pte_get(w, f.j, entry)
            if not page_vma_mapped(w, pte, PTE_PRESENT, page):
                return ask(t, f, MI_NEXT, REQ_SPIN_UNLOCK, LK_PTL, f.j)
            if pte & PTE_DIRTY and not p.flags & PG_anon:
                folio_mark_dirty(w, page)
            pte_clear(w, f.j, entry)
            pte_set(w, f.j, entry, mk_pte(page, PTE_MIGRATION | <int>(pte & (PTE_YOUNG | PTE_DIRTY | PTE_WRITE))), 0, 0)
            return call(w, t, f, MI_REMOVED, F_REMOVE_RMAP, page, w.nodes[f.i].vma)
        if f.pc == MI_REMOVED:
            f.pc = MI_PTL_FREE
            if mlock_drain_due(w, t, v):
                return call(w, t, f, MI_PTL_FREE, F_PVEC, t.cpu, PVEC_MLOCK)
        if f.pc == MI_PTL_FREE:
            p.refcount -= 1
            return ask(t, f, MI_NEXT, REQ_SPIN_UNLOCK, LK_PTL, f.j)
        if f.pc == MI_DONE:
            return ret(t, 0)


cdef int remove_migration_ptes(World *w, Task *t, Frame *f) noexcept nogil:
    """Maps page b wherever a migration entry of page a waits; a locked vma marks it. i = tree node, j = leaf,
    k = entry, c = lock class, d = lock."""
    cdef uint32_t old = <uint32_t>f.a, page = <uint32_t>f.b
    cdef Page *p = &w.pages[page]
    cdef int64_t vpn = 0
    cdef uint64_t pte
    cdef Vma *v
    cdef int called
    if f.pc == 0:
        f.c = rmap_lock_class(w, page)
        f.d = rmap_lock(w, page)
        return ask(t, f, MI_NEXT, REQ_DOWN_READ, <int>f.c, <uint32_t>f.d)
    while True:
        if f.pc == MI_NEXT:
            if not rmap_next(w, page, PTE_MIGRATION, old, &f.i, &vpn, &f.j):
                return ask(t, f, MI_DONE, REQ_UP_READ, <int>f.c, <uint32_t>f.d)
            f.k = <int32_t>(vpn & 511)
            return ask(t, f, MI_PTL, REQ_SPIN_LOCK, LK_PTL, f.j)
        v = &w.vmas[w.nodes[f.i].vma]
        if f.pc == MI_PTL:
            pte = pte_get(w, f.j, f.k)
            if not pte & PTE_MIGRATION or pte_pfn(pte) != old:      # zapped while the lock was waited for
                return ask(t, f, MI_NEXT, REQ_SPIN_UNLOCK, LK_PTL, f.j)
            get_page(w, page)
            pte_clear(w, f.j, f.k)
            pte_set(w, f.j, f.k, mk_pte(page, PTE_PRESENT | <int>(pte & (PTE_YOUNG | PTE_DIRTY | PTE_WRITE))),
                    0 if p.flags & PG_anon else p.mapping, p.index)
            p.mapcount += 1
            touch(w, page, 1)
            if p.mapcount == 1:
                mod_state(w, t.cpu, ST_ANON_MAPPED if p.flags & PG_anon else ST_FILE_MAPPED, 1)
            f.pc = MI_REMOVED
            if w.tr.p04:
                if vma_counts_mlock(w, v, page):
                    called = mlock_page(w, t, f, MI_REMOVED, page)
                    if called != -1:
                        return called
            elif v.flags & VM_LOCKED:
                return call(w, t, f, MI_REMOVED, F_MLOCK_PAGE, page)
        if f.pc == MI_REMOVED:
            f.pc = MI_PTL_FREE
            if mlock_drain_due(w, t, v):
                return call(w, t, f, MI_PTL_FREE, F_PVEC, t.cpu, PVEC_MLOCK)
        if f.pc == MI_PTL_FREE:
            return ask(t, f, MI_NEXT, REQ_SPIN_UNLOCK, LK_PTL, f.j)
        if f.pc == MI_DONE:
            return ret(t, 0)


cdef int compact(World *w, Task *t, Frame *f) noexcept nogil:
    """Which pages a real kernel moves is chance; here every page that can be isolated moves once, in frame order.
    i = page, j = end."""
    if f.pc == 0:
        f.j = w.pages_used
        return call(w, t, f, 1, F_DRAIN_ALL, 0)
    while f.i + 1 < f.j:
        f.i += 1
        # not while it is being freed
        if w.pages[f.i].flags & PG_lru and w.pages[f.i].refcount and not page_compound(w, f.i):
            return call(w, t, f, 1, F_MIGRATE, f.i)
    return sysret(t, 0, 0)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_MIGRATE] = unmap_and_move
    table[<int>F_TRY_TO_MIGRATE] = try_to_migrate
    table[<int>F_REMOVE_MIGRATION] = remove_migration_ptes
    table[<int>F_COMPACT] = compact
