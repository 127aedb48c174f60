# The page cache of a file: one slot a page. (mm/filemap.c, mm/shmem.c)
from libc.stdint cimport int64_t, uint32_t
from fastmlock.state.types cimport *
from fastmlock.mm.page cimport *
from fastmlock.mm.thp cimport alloc_thp


cdef inline uint32_t find_get_page(World *w, uint32_t mapping, int64_t pgoff) noexcept nogil:
    """The page in the cache, 0 if there is none. (No reference is taken.)"""
    cdef Mapping *m = &w.mappings[mapping]
    if pgoff < 0 or pgoff >= m.capacity:
        return 0
    return w.cache[m.base + pgoff] if w.cache[m.base + pgoff] < <uint32_t>SWAPPED else 0


cdef inline uint32_t swapped_slot(World *w, uint32_t mapping, int64_t pgoff) noexcept nogil:
    """The swap slot of a page of the file that is swapped out, 0 if it is not."""
    cdef Mapping *m = &w.mappings[mapping]
    cdef uint32_t there
    if pgoff < 0 or pgoff >= m.capacity:
        return 0
    there = w.cache[m.base + pgoff]
    return there & ~<uint32_t>SWAPPED if there >= <uint32_t>SWAPPED and there != <uint32_t>SHADOW else 0


cdef inline uint32_t add_to_page_cache(World *w, Task *t, uint32_t mapping, int64_t pgoff) noexcept nogil:
    """A new page in the cache, whose reference the cache holds; 0 and w.error when memory is out. It is charged to whom
    the task that brings it in belongs to, and comes from the task's node unless the file is interleaved. One that
    reclaim took away comes back active (workingset_refault, every refault distance taken for short)."""
    cdef Mapping *m = &w.mappings[mapping]
    cdef uint32_t page = alloc_page(w, t.cpu, <int>(pgoff % w.nr_nodes), t.memcg) if m.interleave else alloc_task_page(w, t)
    vm_bug_on(w, pgoff < 0 or pgoff >= m.capacity, BUG_PAGE)
    if not page:
        return 0
    w.pages[page].mapping = mapping
    w.pages[page].index = pgoff
    if w.cache[m.base + pgoff] == <uint32_t>SHADOW:
        w.pages[page].flags |= PG_active
    w.cache[m.base + pgoff] = page
    m.nrpages += 1
    return page


cdef inline uint32_t shmem_alloc(World *w, Task *t, uint32_t mapping, int64_t pgoff) noexcept nogil:
    """tmpfs, or secret memory: a hole becomes a zeroed page."""
    cdef uint32_t page = add_to_page_cache(w, t, mapping, pgoff)
    if page and w.mappings[mapping].kind != MAPPING_SECRETMEM:
        w.pages[page].flags |= PG_swapbacked
    return page


cdef inline bint huge_hole(World *w, uint32_t mapping, int64_t pgoff) noexcept nogil:
    """The file may have a THP around this page: nothing of it is there or swapped out."""
    cdef Mapping *m = &w.mappings[mapping]
    cdef int64_t first = pgoff & ~<int64_t>(THP_PAGES - 1)
    cdef int i
    if not m.huge or first + THP_PAGES > m.capacity:
        return False
    for i in range(THP_PAGES):
        if w.cache[m.base + first + i]:
            return False
    return True


cdef inline void thp_in_page_cache(World *w, uint32_t head, uint32_t mapping, int64_t first) noexcept nogil:
    """The THP takes its place in the cache, which holds a reference for each page of it."""
    cdef Mapping *m = &w.mappings[mapping]
    cdef int i
    for i in range(THP_PAGES):
        w.pages[head + i].mapping = mapping
        w.pages[head + i].index = first + i
        w.cache[m.base + first + i] = head + i
    m.nrpages += THP_PAGES


cdef inline uint32_t shmem_alloc_huge(World *w, Task *t, uint32_t mapping, int64_t pgoff) noexcept nogil:
    """tmpfs: the hole around pgoff becomes a zeroed THP, all of whose references are the cache's; 0 and w.error when
    memory is out."""
    cdef uint32_t head = alloc_thp(w, t.cpu, t.memcg)
    if head:
        thp_in_page_cache(w, head, mapping, pgoff & ~<int64_t>(THP_PAGES - 1))
        w.pages[head].flags |= PG_swapbacked
        w.pages[head].refcount = THP_PAGES
    return head


cdef inline void delete_thp_from_page_cache(World *w, uint32_t head) noexcept nogil:
    """The cache forgets all of it, and lets its references go."""
    cdef Mapping *m = &w.mappings[w.pages[head].mapping]
    cdef int i
    for i in range(THP_PAGES):
        w.cache[m.base + w.pages[head + i].index] = 0
        w.pages[head + i].mapping = 0
    m.nrpages -= THP_PAGES
    w.pages[head].refcount -= THP_PAGES


cdef inline void delete_from_page_cache(World *w, uint32_t mapping, int64_t pgoff, bint shadow) noexcept nogil:
    """The cache forgets the page; its reference is the caller's now. With `shadow` it was reclaimed, and a disk file
    remembers that."""
    cdef Mapping *m = &w.mappings[mapping]
    w.pages[w.cache[m.base + pgoff]].mapping = 0
    w.cache[m.base + pgoff] = <uint32_t>SHADOW if shadow and not m.shmem else 0
    m.nrpages -= 1


cdef inline void page_cache_to_swap(World *w, uint32_t page, uint32_t slot) noexcept nogil:
    """The cache forgets the page, and where it lies now; its reference is the caller's."""
    cdef Page *p = &w.pages[page]
    w.cache[w.mappings[p.mapping].base + p.index] = <uint32_t>SWAPPED | slot
    w.mappings[p.mapping].nrpages -= 1
    p.mapping = 0
