# Which pages of a disk file are read ahead. (mm/readahead.c, mm/filemap.c)
from libc.stdint cimport int64_t, uint32_t
from fastmlock.state.types cimport Readahead, Vma, World

cdef enum:
    RA_PAGES = 32           # the most that is read ahead: read_ahead_kb = 128

# what is to be read: `pages` from `first` on; page `mark` of them, if it has to be made, carries PG_readahead
cdef struct Window:
    int64_t first
    int64_t pages
    int64_t mark
    bint large_folios       # in large folios, which the model has not

cdef Window page_cache_sync_ra(World *w, uint32_t mapping, Readahead *ra, int64_t index, int wanted,
                               int64_t previous) noexcept nogil
cdef Window page_cache_async_ra(World *w, uint32_t mapping, Readahead *ra, int64_t index, int wanted) noexcept nogil
cdef Window mmap_readahead(World *w, Vma *v, int64_t index) noexcept nogil
