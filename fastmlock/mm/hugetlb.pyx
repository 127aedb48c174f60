# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The pool of huge pages: its free pages, what of them is reserved, and what is given up when it can be."""
from fastmlock.mm.thp cimport alloc_thp


# ---- the pool
cdef void enqueue_huge_page(World *w, uint32_t head) noexcept nogil:
    w.pages[head].lru_next = w.hugetlb_pool
    w.hugetlb_pool = head
    w.hugetlb_free += 1


cdef uint32_t dequeue_huge_page(World *w) noexcept nogil:
    cdef uint32_t head = w.hugetlb_pool
    w.hugetlb_pool = w.pages[head].lru_next
    w.pages[head].lru_next = 0
    w.pages[head].refcount = 1
    w.hugetlb_free -= 1
    return head


cdef void free_huge_page(World *w, uint32_t head) noexcept nogil:
    """Back to the pool, unless it has too many; that the page is dirty is not forgotten there."""
    cdef int i
    if w.pages[head].flags & PG_restore_reserve:
        w.hugetlb_resv += 1
    w.pages[head].flags &= PG_uptodate | PG_head | PG_hugetlb | PG_dirty
    for i in range(THP_PAGES):
        w.pages[head + i].flags &= ~<uint32_t>(PG_anon | PG_anon_exclusive)
        w.pages[head + i].mapping = 0
    if w.hugetlb_surplus:
        w.hugetlb_surplus -= 1
        w.hugetlb_total -= 1
        free_thp(w, head)
    else:
        enqueue_huge_page(w, head)


cdef inline void give_up(World *w) noexcept nogil:
    cdef uint32_t head = dequeue_huge_page(w)
    w.pages[head].refcount = 0
    w.hugetlb_total -= 1
    free_thp(w, head)


cdef void set_max_huge_pages(World *w, int64_t count) noexcept nogil:
    cdef uint32_t head
    while w.hugetlb_surplus and count > w.hugetlb_total - w.hugetlb_surplus:
        w.hugetlb_surplus -= 1
    while count > w.hugetlb_total - w.hugetlb_surplus:
        head = alloc_thp(w, 0, 0)
        if not head:
            return
        w.pages[head].refcount = 0
        w.pages[head].flags |= PG_hugetlb
        w.hugetlb_total += 1
        enqueue_huge_page(w, head)
    while w.hugetlb_total > max(count, w.hugetlb_resv + w.hugetlb_total - w.hugetlb_free):
        give_up(w)
    w.hugetlb_surplus = max(w.hugetlb_surplus, w.hugetlb_total - count)


cdef inline void unreserve(World *w, int64_t n) noexcept nogil:
    """So many reservations end, and surplus pages that only they kept with them."""
    w.hugetlb_resv -= n
    while n and w.hugetlb_surplus and w.hugetlb_free:
        w.hugetlb_surplus -= 1
        give_up(w)
        n -= 1


# ---- reservations
cdef inline uint32_t *resv_slot(World *w, uint32_t resv, int64_t index) noexcept nogil:
    return &w.cache[w.mappings[resv].base + index]


cdef inline bint has_reserves(World *w, Vma *v, int64_t index) noexcept nogil:
    """vma_has_reserves(): a page is set aside for this index of this mapping."""
    if v.flags & VM_SHARED:
        return resv_slot(w, v.mapping + 1, index)[0] != 0
    return resv_owner(v) and not resv_slot(w, v.swap_ra, index)[0]


cdef void restore_reserve(World *w, Vma *v, int64_t index, uint32_t head) noexcept nogil:
    if w.tr.hugetlb_restores and not w.hugetlb_surplus and resv_owner(v) and w.pages[head].flags & PG_anon \
            and w.pages[head].compound_mapcount == 1:
        w.pages[head].flags |= PG_restore_reserve
        resv_slot(w, v.swap_ra, index)[0] = 0


cdef uint32_t alloc_huge_page(World *w, Vma *v, int64_t index, bint avoid_reserve) noexcept nogil:
    cdef bint reserved = not avoid_reserve and has_reserves(w, v, index)
    if not reserved and w.hugetlb_free <= w.hugetlb_resv:
        return 0
    if reserved:
        w.hugetlb_resv -= 1
    if v.flags & VM_SHARED:
        resv_slot(w, v.mapping + 1, index)[0] = 1
    elif resv_owner(v):
        resv_slot(w, v.swap_ra, index)[0] = 1
    return dequeue_huge_page(w)


cdef bint hugetlb_reserve_pages(World *w, Vma *v, int64_t index, int64_t n, uint32_t resv) noexcept nogil:
    cdef int64_t i, wanted = n
    if v.flags & VM_NORESERVE:
        return True
    if v.flags & VM_SHARED:
        for i in range(index, index + n):
            wanted -= resv_slot(w, v.mapping + 1, i)[0]
    if w.hugetlb_resv + wanted > w.hugetlb_free:
        return False
    w.hugetlb_resv += wanted
    if not v.flags & VM_SHARED:
        v.swap_ra = resv
        return True
    for i in range(index, index + n):
        resv_slot(w, v.mapping + 1, i)[0] = 1
    return True


cdef void hugetlb_vm_op_close(World *w, Vma *v) noexcept nogil:
    cdef int64_t i, left = 0
    if resv_owner(v):
        for i in range(huge_index(v, v.start), huge_index(v, v.end)):
            left += not resv_slot(w, v.swap_ra, i)[0]
        unreserve(w, left)


cdef void hugetlbfs_evict_inode(World *w, uint32_t mapping) noexcept nogil:
    cdef Mapping *m = &w.mappings[mapping]
    cdef int64_t i, left = 0
    cdef uint32_t head
    for i in range(m.capacity):
        head = w.cache[m.base + i]
        left += resv_slot(w, mapping + 1, i)[0]
        resv_slot(w, mapping + 1, i)[0] = 0
        if head:
            left -= 1
            w.cache[m.base + i] = 0
            w.pages[head].refcount -= 1
            free_huge_page(w, head)
    m.nrpages = 0
    unreserve(w, left)
