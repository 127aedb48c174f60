# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Transparent huge pages as sets of 512 page records."""


cdef uint32_t alloc_thp(World *w, int cpu, int memcg) noexcept nogil:
    cdef uint32_t head = w.huge_free
    cdef int node = cpu_node(w, cpu)
    cdef Page *p
    cdef int i
    if head:
        w.huge_free = w.pages[head].lru_next
        w.huge_nfree -= THP_PAGES
    elif w.pages_used + THP_PAGES <= w.pages_cap:
        head = w.pages_used
        w.pages_used += THP_PAGES
    else:
        w.error = ERR_NO_PAGES
        return 0
    for i in range(THP_PAGES):
        p = &w.pages[head + i]
        p.flags = PG_uptodate | (PG_tail if i else PG_head)
        p.refcount = p.mapcount = p.compound_mapcount = 0
        p.mapping = 0
        p.index = 0
        p.lru_next = p.lru_prev = 0
        p.node = node
        p.memcg = memcg
        p.lruvec = 1 + memcg * w.nr_nodes + node
        p.compound_head = head if i else 0
        p.order = p.private_ = 0
        p.content = 0
    w.pages[head].refcount = 1
    w.pages[head].order = THP_ORDER
    work(w, WK_ALLOC, THP_PAGES)
    touch(w, head, 1)
    return head


cdef void free_thp(World *w, uint32_t head) noexcept nogil:
    cdef Page *p
    cdef int i
    for i in range(THP_PAGES):
        p = &w.pages[head + i]
        vm_bug_on(w, p.mapcount != 0 or p.compound_mapcount != 0 or (p.flags & PG_lru) != 0, BUG_FREE)
        p.flags = PG_buddy
        p.refcount = 0              # of one that was never used
        p.mapping = 0
        p.compound_head = p.order = 0
        p.lru_prev = 0
    w.pages[head].lru_next = w.huge_free
    w.huge_free = head
    w.huge_nfree += THP_PAGES
    work(w, WK_FREE, 1)


cdef inline int mapped_item(World *w, uint32_t head) noexcept nogil:
    return ST_ANON_MAPPED if w.pages[head].flags & PG_anon else ST_FILE_MAPPED


cdef inline int without_ptes(World *w, uint32_t head) noexcept nogil:
    """Pages of it that no pte maps."""
    cdef int i, n = 0
    for i in range(THP_PAGES):
        if w.pages[head + i].mapcount == 0:
            n += 1
    return n


cdef void thp_add_new_anon_rmap(World *w, int cpu, uint32_t head, uint32_t anon_vma, int64_t index) noexcept nogil:
    cdef int i
    for i in range(THP_PAGES):
        w.pages[head + i].flags |= PG_anon
        w.pages[head + i].mapping = anon_vma
        w.pages[head + i].index = index + i
    w.pages[head].flags |= PG_swapbacked | PG_anon_exclusive
    w.pages[head].compound_mapcount = 1
    touch(w, head, 1)
    mod_state(w, cpu, ST_ANON_MAPPED, THP_PAGES)


cdef void thp_add_rmap(World *w, int cpu, uint32_t head) noexcept nogil:
    w.pages[head].compound_mapcount += 1
    touch(w, head, 1)
    if w.pages[head].compound_mapcount == 1:
        mod_state(w, cpu, mapped_item(w, head), without_ptes(w, head))


cdef bint thp_remove_rmap(World *w, int cpu, uint32_t head) noexcept nogil:
    cdef Page *p = &w.pages[head]
    cdef int gone
    vm_bug_on(w, p.compound_mapcount <= 0, BUG_MAPCOUNT)
    p.compound_mapcount -= 1
    touch(w, head, 1)
    if p.compound_mapcount:
        return False
    gone = without_ptes(w, head)
    mod_state(w, cpu, mapped_item(w, head), -gone)
    if p.flags & PG_anon:
        p.flags &= ~<uint32_t>PG_double_map
        if 0 < gone < THP_PAGES:
            p.flags |= PG_partially_mapped
    return True


cdef void thp_map_by_ptes(World *w, int cpu, uint32_t head) noexcept nogil:
    cdef Page *p = &w.pages[head]
    cdef uint32_t exclusive = p.flags & PG_anon_exclusive
    cdef int i
    for i in range(THP_PAGES):
        w.pages[head + i].mapcount += 1
        w.pages[head + i].flags |= exclusive
    p.refcount += THP_PAGES - 1
    p.compound_mapcount -= 1
    p.flags &= ~<uint32_t>PG_double_map
    if p.compound_mapcount:
        p.flags |= PG_double_map
    touch(w, head, 2)


cdef bint thp_pte_gone(World *w, int cpu, uint32_t page) noexcept nogil:
    cdef uint32_t head = compound_head(w, page)
    if w.pages[head].compound_mapcount:
        return False
    if w.pages[head].flags & PG_anon:
        w.pages[head].flags |= PG_partially_mapped
    mod_state(w, cpu, mapped_item(w, head), -1)
    return True


cdef int thp_total_mapcount(World *w, uint32_t head) noexcept nogil:
    cdef int i, n = w.pages[head].compound_mapcount
    for i in range(THP_PAGES):
        n += w.pages[head + i].mapcount
    return n


cdef int thp_max_mapcount(World *w, uint32_t head) noexcept nogil:
    cdef int i, most = 0
    for i in range(THP_PAGES):
        most = max(most, w.pages[head + i].mapcount)
    return most + w.pages[head].compound_mapcount


cdef inline void drop_beyond_end(World *w, Page *tail) noexcept nogil:
    """A page of a THP of a file, behind the file's end, leaves the cache when the THP is broken up."""
    cdef Mapping *m = &w.mappings[tail.mapping]
    w.cache[m.base + tail.index] = 0
    m.nrpages -= 1
    tail.mapping = 0
    tail.flags &= ~<uint32_t>PG_dirty
    tail.refcount -= 1


cdef void thp_break_up(World *w, int cpu, uint32_t head) noexcept nogil:
    cdef Page *p = &w.pages[head]
    cdef Page *tail
    cdef Lruvec *lv = &w.lruvecs[p.lruvec]
    cdef uint32_t copied = p.flags & (
        PG_referenced | PG_swapbacked | PG_mlocked | PG_active | PG_workingset | PG_locked | PG_unevictable | PG_dirty | PG_lru
        | PG_swapcache)
    cdef uint32_t own = PG_uptodate | PG_anon | PG_anon_exclusive
    cdef uint32_t older = head
    cdef int i
    cdef bint threaded = p.flags & PG_lru and not (w.tr.p06 and p.flags & PG_unevictable)
    p.flags &= ~<uint32_t>(PG_head | PG_double_map | PG_partially_mapped)
    p.order = 0
    if not p.flags & PG_anon and p.mapping:
        p.refcount -= THP_PAGES - 1             # the page cache's references of the tails
    for i in range(1, THP_PAGES):
        tail = &w.pages[head + i]
        tail.flags = (tail.flags & own) | copied
        tail.compound_head = 0
        # through its own reference, and (file) the page cache's
        tail.refcount = 1 + (0 if p.flags & PG_anon or not tail.mapping else 1)
        tail.lru_next = tail.lru_prev = 0       # mlock_count 0: tails are not threaded on the unevictable list
        if not tail.flags & PG_anon and tail.mapping and tail.index >= w.mappings[tail.mapping].size:
            drop_beyond_end(w, tail)
        if threaded:
            tail.lru_next = older                # the head stays the oldest of them
            tail.lru_prev = w.pages[older].lru_prev
            if tail.lru_prev:
                w.pages[tail.lru_prev].lru_next = head + i
            else:
                lv.head[page_list(p)] = head + i
            w.pages[older].lru_prev = head + i
            older = head + i
    touch(w, head, 2)
    work(w, WK_LIST, THP_PAGES)


cdef inline int page_list(Page *p) noexcept nogil:
    """The list a page on the LRU is threaded on (as page_lru of its record)."""
    if p.flags & PG_unevictable:
        return LRU_UNEVICTABLE
    return (0 if p.flags & PG_swapbacked else 2) + (1 if p.flags & PG_active else 0)
