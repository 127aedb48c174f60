# mlock and munlock of one page, as flows that have a pte in hand call them.
from fastmlock.flows.frame cimport *
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.lru cimport *
from fastmlock.mm.mlock cimport *


cdef inline int mlock_page(World *w, Task *t, Frame *f, int next, uint32_t page) noexcept nogil:
    """Counts one lock of the page. REQ_NONE with the frame at `next` if another flow was called, else -1."""
    if not w.tr.p10:
        return call(w, t, f, next, F_MLOCK_PAGE, page)
    set_page_mlocked(w, t.cpu, page)
    if pvec_add(w, t.cpu, PVEC_MLOCK, page, LRU_PAGE):
        return call(w, t, f, next, F_PVEC, t.cpu, PVEC_MLOCK)
    return -1


cdef inline int munlock_page(World *w, Task *t, Frame *f, int next, uint32_t page) noexcept nogil:
    """Takes one lock of the page back; answers as mlock_page."""
    w.munlocks += 1
    if not w.tr.p10:
        return call(w, t, f, next, F_MUNLOCK_PAGE, page)
    if pvec_add(w, t.cpu, PVEC_MLOCK, page, MUNLOCK_PAGE):
        return call(w, t, f, next, F_PVEC, t.cpu, PVEC_MLOCK)
    return -1


cdef inline bint clear_mlock_due(World *w, uint32_t page) noexcept nogil:
    """Before patch 05 a page that has lost its last mapping loses PG_mlocked with it: clear_page_mlock()."""
    return not w.tr.p05 and test(w, compound_head(w, page), PG_mlocked)


cdef inline bint mlock_drain_due(World *w, Task *t, Vma *vma) noexcept nogil:
    """From patch 11 whoever takes a locked page's entry away, or brings it back, for others than its process works the
    cpu's mlock batch off behind it."""
    return w.tr.p11 and vma.flags & VM_LOCKED and cpu_pvec(w, t.cpu, PVEC_MLOCK).nr


cdef inline int lru_cache_add_inactive_or_unevictable(World *w, Task *t, Frame *f, int next, uint32_t page,
                                                      Vma *vma) noexcept nogil:
    """A new anonymous page goes to the LRU, marked at once if its vma is locked; answers as mlock_page."""
    if (vma.flags & (VM_LOCKED | VM_SPECIAL)) == VM_LOCKED:
        set_page_mlocked(w, t.cpu, page)
        if w.tr.p10:
            if pvec_add(w, t.cpu, PVEC_MLOCK, page, NEW_PAGE):
                return call(w, t, f, next, F_PVEC, t.cpu, PVEC_MLOCK)
            return -1
    if lru_cache_add(w, t.cpu, page):
        return call(w, t, f, next, F_PVEC, t.cpu, PVEC_LRU_ADD)
    return -1


cdef void register(flow_fn *table) noexcept
