# struct page: flags, references, allocation. (include/linux/page-flags.h, mm/page_alloc.c)
from libc.stdint cimport int64_t, uint32_t, uint64_t
from fastmlock.state.debug cimport *
from fastmlock.state.types cimport *


# ---- what the machine is told: a line was written, work was done
cdef inline void touch(World *w, uint32_t page, int atomics) noexcept nogil:
    """The page's cache line is taken for writing, for `atomics` operations."""
    vm_bug_on(w, page == 0 or page >= w.pages_used, BUG_PAGE)
    cdef int n = w.nr_touch
    if page == w.last_touch:                    # the line is here
        w.touch[n - 1] += <uint64_t>atomics
    elif n < w.touch_max:
        w.touch[n] = (<uint64_t>page << 32) | <uint64_t>atomics
        w.nr_touch = n + 1
        w.last_touch = page
    elif w.touch_max:
        w.error = ERR_BUG


cdef inline void work(World *w, int kind, int64_t n) noexcept nogil:
    w.spent_ps += n * w.work_ps[kind]


# ---- flags
cdef inline bint test(World *w, uint32_t page, uint32_t flag) noexcept nogil:
    return (w.pages[page].flags & flag) != 0


cdef inline bint test_set(World *w, uint32_t page, uint32_t flag) noexcept nogil:
    """Test-and-set, one atomic: what it was before."""
    cdef bint was = (w.pages[page].flags & flag) != 0
    w.pages[page].flags |= flag
    touch(w, page, 1)
    return was


cdef inline bint test_clear(World *w, uint32_t page, uint32_t flag) noexcept nogil:
    """Test-and-clear, one atomic: what it was before."""
    cdef bint was = (w.pages[page].flags & flag) != 0
    w.pages[page].flags &= ~flag
    touch(w, page, 1)
    return was


cdef inline void folio_mark_dirty(World *w, uint32_t page) noexcept nogil:
    """set_page_dirty(): written by a process, so that no earlier write-back's end is a reason to reclaim it."""
    w.pages[page].flags = w.pages[page].flags & ~<uint32_t>PG_reclaim | PG_dirty


cdef inline bint test_clear_readahead(World *w, uint32_t page) noexcept nogil:
    cdef bint was = test(w, page, PG_readahead)
    w.pages[page].flags &= ~<uint32_t>PG_readahead
    return was


cdef inline bint trylock_page(World *w, uint32_t page) noexcept nogil:
    return not test_set(w, page, PG_locked)


cdef inline int nr_pages(World *w, uint32_t page) noexcept nogil:
    """Base pages of a page: 512 for the head of a THP."""
    return 1 << w.pages[page].order


cdef inline bint page_compound(World *w, uint32_t page) noexcept nogil:
    return (w.pages[page].flags & (PG_head | PG_tail)) != 0


cdef inline uint32_t compound_head(World *w, uint32_t page) noexcept nogil:
    """The page that stands for the THP this one is part of; else the page itself."""
    return w.pages[page].compound_head if w.pages[page].flags & PG_tail else page


cdef inline int page_mapcount(World *w, uint32_t page) noexcept nogil:
    """How often a page is mapped, by ptes and as part of a THP by pmds."""
    cdef Page *p = &w.pages[page]
    if p.flags & PG_tail:
        return p.mapcount + w.pages[p.compound_head].compound_mapcount
    return p.mapcount + p.compound_mapcount


cdef inline bint page_mapped(World *w, uint32_t page) noexcept nogil:
    """Any page of it is mapped by anybody."""
    cdef int i
    if not w.pages[page].flags & PG_head:
        return w.pages[page].mapcount != 0
    if w.pages[page].compound_mapcount:
        return True
    for i in range(THP_PAGES):
        if w.pages[page + i].mapcount:
            return True
    return False


cdef inline bint page_evictable(World *w, uint32_t page) noexcept nogil:
    """The mapping is not marked unevictable and PG_mlocked is clear."""
    cdef Page *p = &w.pages[page]
    if p.flags & PG_mlocked:
        return False
    return (p.flags & PG_anon) != 0 or p.mapping == 0 or not w.mappings[p.mapping].unevictable


# ---- references
cdef inline void get_page(World *w, uint32_t page) noexcept nogil:
    vm_bug_on(w, w.pages[page].refcount <= 0, BUG_REFCOUNT)
    w.pages[page].refcount += 1
    touch(w, page, 1)


cdef inline bint put_page_testzero(World *w, uint32_t page) noexcept nogil:
    vm_bug_on(w, w.pages[page].refcount <= 0, BUG_REFCOUNT)
    w.pages[page].refcount -= 1
    touch(w, page, 1)
    return w.pages[page].refcount == 0


# ---- allocation
cdef inline int cpu_node(World *w, int cpu) noexcept nogil:
    return (cpu * w.nr_nodes) // w.nr_cpus


cdef inline uint32_t *free_list(World *w, int cpu) noexcept nogil:
    """Where the next page for this cpu comes from: its own list (what it freed last comes first), else, when no
    frame is fresh any more, the common list or another cpu's."""
    cdef uint32_t *head = &w.pcp[cpu & (PCP_LISTS - 1)]
    cdef int other
    if head[0] or w.pages_used < w.pages_cap:
        return head
    if w.pages_free:
        return &w.pages_free
    for other in range(min(w.nr_cpus, PCP_LISTS)):
        if w.pcp[other]:
            return &w.pcp[other]
    return head


cdef inline uint32_t alloc_page(World *w, int cpu, int node, int memcg) noexcept nogil:
    """A free page with one reference, no flags, for a task on `cpu`; 0 and w.error when there is none."""
    cdef uint32_t *head = free_list(w, cpu)
    cdef uint32_t page = head[0]
    cdef Page *p
    if page:
        head[0] = w.pages[page].lru_next
        w.pages_nfree -= 1
    elif w.pages_used < w.pages_cap:
        page = w.pages_used
        w.pages_used += 1
    else:
        w.error = ERR_NO_PAGES
        return 0
    p = &w.pages[page]
    p.flags = PG_uptodate
    p.refcount = 1
    p.mapcount = 0
    p.mapping = 0
    p.index = 0
    p.lru_next = p.lru_prev = 0
    p.node = node
    p.memcg = memcg
    p.lruvec = 1 + memcg * w.nr_nodes + node
    p.compound_head = 0
    p.compound_mapcount = 0
    p.order = 0
    p.private_ = 0
    p.content = 0
    work(w, WK_ALLOC, 1)
    touch(w, page, 1)
    return page


cdef inline uint32_t alloc_task_page(World *w, Task *t) noexcept nogil:
    """A page for a task: from its node, charged to its memory cgroup."""
    return alloc_page(w, t.cpu, t.node - 1 if t.node else cpu_node(w, t.cpu), t.memcg)


cdef inline void free_page_prepare(World *w, uint32_t page) noexcept nogil:
    """The page is nobody's; the caller has taken it off the LRU and hands it to a free list next."""
    cdef Page *p = &w.pages[page]
    vm_bug_on(w, p.mapcount != 0 or (p.flags & PG_lru) != 0, BUG_FREE)
    p.flags = PG_buddy
    p.mapping = 0
    p.mapcount = 0
    p.lru_prev = 0


cdef inline void free_page(World *w, int cpu, uint32_t page) noexcept nogil:
    """Back to the cpu's list, whose first it is now."""
    free_page_prepare(w, page)
    w.pages[page].refcount = 0          # of one that was never used
    work(w, WK_FREE, 1)
    w.pages[page].lru_next = w.pcp[cpu & (PCP_LISTS - 1)]
    w.pcp[cpu & (PCP_LISTS - 1)] = page
    w.pages_nfree += 1
