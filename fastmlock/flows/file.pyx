# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Files from the outside: write, read, truncate, hole punch, fadvise, drop_caches. (mm/filemap.c, mm/truncate.c)

The specification, section 2.8, and the recordings.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.pagevec cimport pagevec_release
from fastmlock.flows.readahead cimport read_window
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.filemap cimport *
from fastmlock.mm.interval_tree cimport tree_next_overlap
from fastmlock.mm.lru cimport *
from fastmlock.mm.readahead cimport Window, page_cache_async_ra, page_cache_sync_ra
from fastmlock.mm.swapfile cimport free_swap_and_cache
from fastmlock.mm.vma cimport vma_pages

cdef enum:
    FILE_SYNCED = 1             # the pages are clean afterwards


cdef int file_write(World *w, Task *t, Frame *f) noexcept nogil:
    """pwrite page by page: c pages of mapping a from b on; d = FILE_SYNCED. A page that tmpfs makes is born
    referenced, one it finds is marked accessed; for a disk file a write is no access."""
    cdef Mapping *m = &w.mappings[<uint32_t>f.a]
    cdef uint32_t page
    while f.i < f.c:
        if swapped_slot(w, <uint32_t>f.a, f.b + f.i):
            return call(w, t, f, 0, F_SHMEM_SWAPIN, f.a, f.b + f.i)
        page = find_get_page(w, <uint32_t>f.a, f.b + f.i)
        f.i += 1
        m.size = max(m.size, f.b + f.i)
        if page:
            if not f.d & FILE_SYNCED:
                if m.shmem:
                    folio_mark_dirty(w, compound_head(w, page))
                else:
                    w.pages[page].flags |= PG_dirty         # by its buffers: PG_reclaim stays
            if m.shmem and mark_page_accessed(w, t.cpu, page):
                return call(w, t, f, 0, F_PVEC, t.cpu, PVEC_ACTIVATE)
            continue
        if huge_hole(w, <uint32_t>f.a, f.b + f.i - 1):
            page = shmem_alloc_huge(w, t, <uint32_t>f.a, f.b + f.i - 1)
        else:
            page = shmem_alloc(w, t, <uint32_t>f.a, f.b + f.i - 1) if m.shmem \
                else add_to_page_cache(w, t, <uint32_t>f.a, f.b + f.i - 1)
        if not page:
            return REQ_ERROR
        if m.shmem:
            w.pages[page].flags |= PG_referenced
        if not f.d & FILE_SYNCED:
            w.pages[page].flags |= PG_dirty
        if lru_cache_add(w, t.cpu, page):
            return call(w, t, f, 0, F_PVEC, t.cpu, PVEC_LRU_ADD)
    return sysret(t, f.i, 0)


cdef int file_read(World *w, Task *t, Frame *f) noexcept nogil:
    """pread page by page. A page is marked accessed unless the read before is taken to have ended in it; a hole of
    tmpfs is read as zeroes without making a page. ret = pages within the file."""
    cdef Mapping *m = &w.mappings[<uint32_t>f.a]
    cdef uint32_t page
    cdef Window window
    cdef bint marked
    while f.i < f.c and (f.b + f.i < m.size or w.tr.read_past_end and not m.shmem):
        if swapped_slot(w, <uint32_t>f.a, f.b + f.i):
            return call(w, t, f, 0, F_SHMEM_SWAPIN, f.a, f.b + f.i)
        page = find_get_page(w, <uint32_t>f.a, f.b + f.i)
        if not page and f.pc:                   # what was read is elsewhere
            f.pc = 0
            return call(w, t, f, 0, F_READAHEAD, f.a, f.b + f.i, 1)
        f.pc = 0
        if not page and not m.shmem:
            window = page_cache_sync_ra(w, <uint32_t>f.a, &m.ra, f.b + f.i, 1,
                                        m.prev_pos - 1 - w.tr.ra_from_last)
            if f.b + f.i >= m.size:
                page = add_to_page_cache(w, t, <uint32_t>f.a, f.b + f.i)
                if not page:
                    return REQ_ERROR
                f.i += 1
                if lru_cache_add(w, t.cpu, page):
                    return call(w, t, f, 0, F_PVEC, t.cpu, PVEC_LRU_ADD)
                continue
            return read_window(w, t, f, 1, <uint32_t>f.a, window)
        if page and not m.shmem and test_clear_readahead(w, page):
            return read_window(w, t, f, 0, <uint32_t>f.a, page_cache_async_ra(w, <uint32_t>f.a, &m.ra, f.b + f.i, 1))
        marked = m.shmem or m.prev_pos - w.tr.pread_marks_next != f.b + f.i + 1
        f.i += 1
        if not page or f.b + f.i > m.size:
            continue
        m.prev_pos = f.b + f.i + 1
        if marked and mark_page_accessed(w, t.cpu, page):
            return call(w, t, f, 0, F_PVEC, t.cpu, PVEC_ACTIVATE)
    return sysret(t, max(min(f.i, m.size - f.b), <int64_t>0), 0)


# ---- unmap_mapping_range
cdef enum:
    ZF_NEXT = 1
    ZF_DRAINED = 2
    ZF_ZAPPED = 3
    ZF_FLUSHED = 4
    ZF_DONE = 5


cdef int unmap_mapping_range(World *w, Task *t, Frame *f) noexcept nogil:
    """Zaps pages [b, c) of mapping a from every vma that maps them, i_mmap_rwsem held throughout (for write up to
    5.17, for read from 5.18). d = ZAP_KEEP_COWED. i = tree node, j, k = the vma's range, as offsets."""
    cdef Mapping *m = &w.mappings[<uint32_t>f.a]
    cdef Vma *v
    cdef int64_t visits = 0, start, end
    if f.pc == 0:
        if not m.root:
            return ret(t, 0)
        return ask(t, f, ZF_NEXT, REQ_DOWN_READ if w.tr.i_mmap_read_truncate else REQ_DOWN_WRITE, LK_I_MMAP,
                   <uint32_t>f.a)
    if f.pc == ZF_NEXT:
        f.i = tree_next_overlap(w, m.root, f.i, f.b, f.c - 1)
        if not f.i:
            return ask(t, f, ZF_DONE, REQ_UP_READ if w.tr.i_mmap_read_truncate else REQ_UP_WRITE, LK_I_MMAP,
                       <uint32_t>f.a)
        work(w, WK_RMAP_VMA, 1)
        f.pc = ZF_DRAINED
        if w.tr.munmap_drains:
            return call(w, t, f, ZF_DRAINED, F_DRAIN, t.cpu)
    if f.pc == ZF_DRAINED:
        v = &w.vmas[w.nodes[f.i].vma]
        start = v.start + max(f.b - v.pgoff, 0)
        end = v.start + min(f.c - v.pgoff, vma_pages(v))
        return call(w, t, f, ZF_ZAPPED, F_ZAP, w.nodes[f.i].vma, start, end, f.d | ZAP_OF_FILE)
    if f.pc == ZF_ZAPPED:
        return call(w, t, f, ZF_NEXT, F_FLUSH, 0)
    return ret(t, 0)


# ---- truncation and invalidation, a pagevec at a time
cdef inline void pagevec_lookup(World *w, Frame *f, PageVec *pv, int64_t end, bint swapped) noexcept nogil:
    """Fills a batch with the next pages of file a, from page b + i on and below `end`, a reference to each; j = 0. With
    `swapped` those that are swapped out too, as their offset in the file, of kind 1. What stands for pages that were
    reclaimed is cleared. A THP is one entry, and passed over if part of it lies outside."""
    cdef Mapping *m = &w.mappings[<uint32_t>f.a]
    cdef uint32_t page
    while f.b + f.i < end and pv.nr < w.tr.pvec_size:
        if w.cache[m.base + f.b + f.i] == <uint32_t>SHADOW:
            w.cache[m.base + f.b + f.i] = 0
        page = find_get_page(w, <uint32_t>f.a, f.b + f.i)
        f.i += 1
        pv.kind[pv.nr] = 0
        if swapped and swapped_slot(w, <uint32_t>f.a, f.b + f.i - 1):
            pv.page[pv.nr] = <uint32_t>(f.b + f.i - 1)
            pv.kind[pv.nr] = 1
            pv.nr += 1
        elif page and page_compound(w, page):
            f.i = <int32_t>(w.pages[compound_head(w, page)].index + THP_PAGES - f.b)
            if not test(w, page, PG_tail) and f.b + f.i <= end:
                get_page(w, page)
                pv.page[pv.nr] = page
                pv.nr += 1
        elif page:
            get_page(w, page)
            pv.page[pv.nr] = page
            pv.nr += 1
    f.j = 0


cdef inline uint32_t partial_folio(World *w, Frame *f, int64_t end) noexcept nogil:
    """Head of a THP that lies partly in [b, end) of file a, 0 if there is none."""
    cdef uint32_t page = find_get_page(w, <uint32_t>f.a, f.b)
    if not page or not page_compound(w, page):
        page = find_get_page(w, <uint32_t>f.a, end - 1)
    if not page or not page_compound(w, page):
        return 0
    page = compound_head(w, page)
    return page if w.pages[page].index < f.b or w.pages[page].index + THP_PAGES > end else 0


cdef enum:
    TR_UNMAPPED = 1
    TR_GATHER = 2
    TR_PAGE = 3
    TR_PAGE_LOCKED = 4
    TR_PAGE_UNMAPPED = 5
    TR_PAGE_UNLOCKED = 6
    TR_DRAINED = 7
    TR_RELEASED = 8
    TR_AGAIN = 9
    TR_PARTIAL = 10
    TR_SPLIT = 11
    TR_SPLIT_UNLOCKED = 12


cdef int truncate(World *w, Task *t, Frame *f) noexcept nogil:
    """Pages [b, c) of mapping a go. d = the new size in pages (truncate: private copies go too, and the range is
    unmapped once more behind it), or -1 (hole punch: they stay). A THP that lies partly in the range is split, and its
    pages go in another round. i = position, relative to b, j = batch entry, k = the batch has pages, or the THP."""
    cdef Mapping *m = &w.mappings[<uint32_t>f.a]
    cdef PageVec *pv = task_pvec(w, task_index(w, t), TPV_MISC)
    cdef uint32_t page
    cdef int64_t end = min(f.c, m.capacity)
    cdef int keep = ZAP_KEEP_COWED if f.d < 0 else 0
    cdef bint shrinks = True
    if f.pc == 0:
        pv.drained = 0
        if f.d >= 0:
            shrinks = f.d < m.size
            m.size = f.d
            if not shrinks and m.shmem:         # ext4 truncates behind the new end of a file that grows, too
                return sysret(t, 0, 0)
        elif not m.shmem:                       # ext4_punch_hole(): up to the page with the end of the file in it
            if f.b >= m.size:
                return sysret(t, 0, 0)
            f.c = min(f.c, m.size + 1)
        if shrinks:
            w.buddy_cached |= m.allocated       # freeing blocks looks them up there
        return call(w, t, f, TR_GATHER, F_ZAP_FILE, f.a, f.b, f.c, keep)
    while True:
        if f.pc == TR_GATHER:
            pagevec_lookup(w, f, pv, end, True)
            f.pc = TR_PAGE
            f.k = 0
            if not pv.nr:
                if w.huge_zero and end > f.b:
                    f.k = partial_folio(w, f, end)
                    if f.k:
                        get_page(w, f.k)
                        return ask(t, f, TR_PARTIAL, REQ_LOCK_PAGE, LK_PAGE, f.k)
                if f.d >= 0:
                    return call(w, t, f, TR_AGAIN, F_ZAP_FILE, f.a, f.b, f.c, 0)
                return sysret(t, 0, 0)
        if f.pc == TR_PAGE:
            if f.j < pv.nr and pv.kind[f.j]:
                page = swapped_slot(w, <uint32_t>f.a, pv.page[f.j])
                if page:
                    w.cache[m.base + pv.page[f.j]] = 0
                    page = free_swap_and_cache(w, page)
                pv.page[f.j] = 0
                f.j += 1
                if page:
                    return call(w, t, f, TR_PAGE, F_FREE_PAGE, page)
                continue
            if f.j < pv.nr:
                f.k = 1
                return ask(t, f, TR_PAGE_LOCKED, REQ_LOCK_PAGE, LK_PAGE, pv.page[f.j])
            f.pc = TR_DRAINED
        if f.pc == TR_PARTIAL and w.tr.split_smaller:
            return unsupported(w, F_SPLIT_PAGE)
        if f.pc == TR_PARTIAL:
            if w.tr.partial_dirties:                    # its part in the range is cleared first
                folio_mark_dirty(w, f.k)
            return call(w, t, f, TR_SPLIT, F_SPLIT_PAGE, f.k)
        if f.pc == TR_SPLIT:
            if not t.res:
                return unsupported(w, f.fn)
            return ask(t, f, TR_SPLIT_UNLOCKED, REQ_UNLOCK_PAGE, LK_PAGE, f.k)
        if f.pc == TR_SPLIT_UNLOCKED:
            f.i = 0
            f.pc = TR_GATHER
            if put_page_testzero(w, f.k):
                return call(w, t, f, TR_GATHER, F_FREE_PAGE, f.k)
            continue
        if f.pc == TR_PAGE_LOCKED:
            page = pv.page[f.j]
            if w.pages[page].mapping != <uint32_t>f.a:          # it left the file while its lock was waited for
                f.j += 1
                return ask(t, f, TR_PAGE, REQ_UNLOCK_PAGE, LK_PAGE, page)
            f.pc = TR_PAGE_UNMAPPED
            if page_mapped(w, page):
                return call(w, t, f, TR_PAGE_UNMAPPED, F_ZAP_FILE, f.a, w.pages[page].index,
                            w.pages[page].index + nr_pages(w, page), ZAP_KEEP_COWED)
        if f.pc == TR_PAGE_UNMAPPED:
            page = pv.page[f.j]
            w.pages[page].flags &= ~<uint32_t>PG_dirty
            if page_compound(w, page):
                delete_thp_from_page_cache(w, page)
            else:
                delete_from_page_cache(w, <uint32_t>f.a, w.pages[page].index, False)
                w.pages[page].refcount -= 1             # the cache's; the batch holds another
            f.j += 1
            return ask(t, f, TR_PAGE, REQ_UNLOCK_PAGE, LK_PAGE, page)
        if f.pc == TR_DRAINED:
            return pagevec_release(w, t, f, f.k != 0, TR_DRAINED, TR_RELEASED)
        if f.pc == TR_RELEASED:
            pv.nr = 0
            f.pc = TR_GATHER
        if f.pc == TR_AGAIN:
            return sysret(t, 0, 0)


cdef enum:
    IV_GATHER = 1
    IV_PAGE = 2
    IV_DRAINED = 3
    IV_RELEASED = 4
    IV_DRAINED_ALL = 5
    IV_WRITTEN = 6


cdef int invalidate(World *w, Task *t, Frame *f) noexcept nogil:
    """invalidate_mapping_pages over [b, c): clean, unmapped pages that nobody else holds leave the cache; the others
    are deactivated. d = 1: fadvise, which drains first, and everywhere before a second try. i = position, j = batch
    entry, k = pages that stayed."""
    cdef Mapping *m = &w.mappings[<uint32_t>f.a]
    cdef PageVec *pv = task_pvec(w, task_index(w, t), TPV_MISC)
    cdef int64_t end = min(f.c, m.capacity)
    cdef uint32_t page
    cdef Page *p
    if f.pc == 0:
        if f.d and m.shmem:
            return sysret(t, 0, 0)              # no backing device: nothing can be dropped
        pv.drained = 0
        f.pc = IV_GATHER
        if f.d:                                 # written back first
            return call(w, t, f, IV_WRITTEN, F_FSYNC, f.a, f.b, min(f.c, m.size))
    if f.pc == IV_WRITTEN:
        return call(w, t, f, IV_GATHER, F_DRAIN, t.cpu)
    while True:
        if f.pc == IV_GATHER:
            pagevec_lookup(w, f, pv, end, False)
            f.pc = IV_PAGE
            if not pv.nr:
                if f.d and f.k:
                    f.d = 0
                    f.i = 0
                    return call(w, t, f, IV_DRAINED_ALL, F_DRAIN_ALL, 0)
                return sysret(t, 0, 0)
        if f.pc == IV_PAGE:
            while f.j < pv.nr:
                page = pv.page[f.j]
                p = &w.pages[page]
                f.j += 1
                if p.mapping != <uint32_t>f.a:
                    continue
                if p.flags & (PG_dirty | PG_locked) or page_mapped(w, page) or p.refcount > 1 + nr_pages(w, page):
                    f.k += 1
                    # deactivate_file_page: not for unevictable pages
                    if not p.flags & PG_unevictable:
                        if pvec_add(w, t.cpu, PVEC_DEACTIVATE_FILE, page, 0):
                            return call(w, t, f, IV_PAGE, F_PVEC, t.cpu, PVEC_DEACTIVATE_FILE)
                elif page_compound(w, page):
                    delete_thp_from_page_cache(w, page)
                else:
                    delete_from_page_cache(w, <uint32_t>f.a, p.index, False)
                    p.refcount -= 1
            f.pc = IV_DRAINED
        if f.pc == IV_DRAINED:
            return pagevec_release(w, t, f, True, IV_DRAINED, IV_RELEASED)
        if f.pc == IV_RELEASED:
            pv.nr = 0
            f.pc = IV_GATHER
        if f.pc == IV_DRAINED_ALL:
            f.k = 0
            pv.drained = 0
            f.pc = IV_GATHER


cdef void register(flow_fn *table) noexcept:
    table[<int>F_FILE_WRITE] = file_write
    table[<int>F_FILE_READ] = file_read
    table[<int>F_ZAP_FILE] = unmap_mapping_range
    table[<int>F_TRUNCATE] = truncate
    table[<int>F_FADVISE] = invalidate
