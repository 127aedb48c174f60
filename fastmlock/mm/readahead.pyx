# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Which pages of a disk file are read ahead: a window that doubles as long as the reader goes on in order.

Each open file has a state of its own (Readahead). A page of the window is marked; whoever comes to it starts the next.
"""
from libc.stdint cimport int32_t
from fastmlock.mm.filemap cimport find_get_page
from fastmlock.state.types cimport THP_PAGES, VM_EXEC, VM_HUGEPAGE, VM_RAND_READ, VM_SEQ_READ


cdef inline int first_size(int wanted) noexcept nogil:
    """get_init_ra_size(): four times what is wanted at first, or twice, or all."""
    cdef int size = 1
    while size < wanted:
        size *= 2
    if size <= RA_PAGES // 32:
        return 4 * size
    return 2 * size if size <= RA_PAGES // 4 else RA_PAGES


cdef inline int next_size(int size) noexcept nogil:
    """get_next_ra_size()"""
    if size < RA_PAGES // 16:
        return 4 * size
    return 2 * size if size <= RA_PAGES // 2 else RA_PAGES


cdef inline int64_t history(World *w, uint32_t mapping, int64_t index) noexcept nogil:
    """How many pages right before this one are cached, up to what is read ahead at most."""
    cdef int64_t n = 0
    while n < RA_PAGES and n < index and find_get_page(w, mapping, index - n - 1):
        n += 1
    return n


cdef Window clipped(World *w, uint32_t mapping, int64_t first, int64_t pages, int64_t lookahead) noexcept nogil:
    """do_page_cache_ra(): nothing is read behind the end of the file, and the mark stays as far before the end of what
    is; where the filesystem has large folios, of what would be."""
    cdef Window out
    out.first = first
    out.pages = max(min(pages, w.mappings[mapping].size - first), 0)
    out.large_folios = False
    out.mark = first + (pages if w.tr.ra_large_folios else out.pages) - lookahead if lookahead else -1
    return out


cdef Window by_order(World *w, uint32_t mapping, Window window) noexcept nogil:
    """page_cache_ra_order(): where the filesystem has large folios, what is missing of more than a page is read in
    them."""
    cdef int64_t i
    if w.tr.ra_large_folios and window.pages > 1:
        for i in range(window.first, window.first + window.pages):
            if not find_get_page(w, mapping, i):
                window.large_folios = True
                break
    return window


cdef Window submit(World *w, uint32_t mapping, Readahead *ra, int64_t index) noexcept nogil:
    """Through 6.10 a window that begins at its own mark is taken for two at once."""
    cdef int more
    if not w.tr.async_ra and index == ra.start and ra.size == ra.async_size:
        more = next_size(ra.size)
        if ra.size + more <= RA_PAGES:
            ra.async_size = more
            ra.size += more
        else:
            ra.size = RA_PAGES
            ra.async_size = RA_PAGES // 2
    return clipped(w, mapping, ra.start, ra.size, ra.async_size)


cdef Window begin(World *w, uint32_t mapping, Readahead *ra, int64_t index, int wanted) noexcept nogil:
    ra.start = index
    ra.size = first_size(wanted)
    ra.async_size = ra.size - wanted if ra.size > wanted else ra.size // 2 if w.tr.async_ra else ra.size
    return submit(w, mapping, ra, index)


cdef Window go_on(World *w, uint32_t mapping, Readahead *ra, int64_t index) noexcept nogil:
    ra.start += ra.size
    ra.size = max(ra.size, next_size(ra.size)) if w.tr.async_ra else next_size(ra.size)
    ra.async_size = ra.size
    return submit(w, mapping, ra, index)


cdef Window page_cache_sync_ra(World *w, uint32_t mapping, Readahead *ra, int64_t index, int wanted,
                               int64_t previous) noexcept nogil:
    """Page `index` is missing and `wanted` are asked for from it on; the last read ended in page `previous`, -1 if
    none did. The start of a file and what follows the last read are taken for a stream, and so are pages that have more
    cached ones before them than are asked for; all else is read as it is."""
    cdef int64_t before
    if index and not w.tr.async_ra and (index == ra.start + ra.size - ra.async_size or index == ra.start + ra.size):
        return go_on(w, mapping, ra, index)
    if not index or previous >= 0 and 0 <= index - previous <= 1:
        return begin(w, mapping, ra, index, wanted)
    before = history(w, mapping, index)
    if before <= wanted:
        return clipped(w, mapping, index, wanted, 0)
    if before >= index:             # cached from the start on
        before *= 2
    ra.start = index
    ra.size = <int32_t>min(before + wanted, <int64_t>RA_PAGES)
    ra.async_size = 1
    return submit(w, mapping, ra, index)


cdef Window page_cache_async_ra(World *w, uint32_t mapping, Readahead *ra, int64_t index, int wanted) noexcept nogil:
    """Somebody came to the marked page `index`. If the mark is not of this state's last window, what is missing behind
    it begins the next."""
    cdef int64_t end = index + 1
    if not index and not w.tr.async_ra:
        return by_order(w, mapping, begin(w, mapping, ra, index, wanted))
    if index == ra.start + ra.size - ra.async_size or index == ra.start + ra.size and not w.tr.async_ra:
        return by_order(w, mapping, go_on(w, mapping, ra, index))
    while find_get_page(w, mapping, end):
        end += 1
        if end - index > RA_PAGES:
            return clipped(w, mapping, end, 0, 0)
    ra.start = end
    ra.size = next_size(<int>(end - index) + wanted)
    ra.async_size = ra.size
    return by_order(w, mapping, submit(w, mapping, ra, index))


cdef Window mmap_readahead(World *w, Vma *v, int64_t index) noexcept nogil:
    """do_sync_mmap_readahead(): a fault on a missing page reads around it, half in front; of MADV_SEQUENTIAL memory
    ahead of it, of MADV_RANDOM memory the page alone."""
    cdef int64_t end = v.pgoff + (v.end - v.start)
    cdef Readahead *ra = &w.files[v.file].f_ra
    if w.tr.ra_huge and v.flags & VM_HUGEPAGE:
        ra.size = THP_PAGES if v.flags & VM_RAND_READ else 2 * THP_PAGES
        ra.async_size = THP_PAGES
        return by_order(w, v.mapping, clipped(w, v.mapping, index & ~<int64_t>(THP_PAGES - 1), ra.size, THP_PAGES))
    if v.flags & VM_RAND_READ:
        return clipped(w, v.mapping, index, 1, 0)
    if v.flags & VM_SEQ_READ:
        return page_cache_sync_ra(w, v.mapping, ra, index, RA_PAGES, -1)
    if w.tr.ra_exec and v.flags & VM_EXEC:
        ra.start = index
        ra.size = <int32_t>min(<int64_t>RA_PAGES, end - index)
        ra.async_size = 0
    else:
        ra.start = max(<int64_t>0, index - RA_PAGES // 2)
        ra.size = RA_PAGES
        ra.async_size = RA_PAGES // 4
    return clipped(w, v.mapping, ra.start, ra.size, ra.async_size)
