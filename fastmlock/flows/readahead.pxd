# A window of read-ahead is read, or refused.
from fastmlock.flows.frame cimport *
from fastmlock.mm.readahead cimport Window


cdef inline int read_window(World *w, Task *t, Frame *f, int next, uint32_t mapping, Window window) noexcept nogil:
    if window.large_folios:
        return unsupported(w, F_READAHEAD)
    return call(w, t, f, next, F_READAHEAD, mapping, window.first, window.pages, window.mark + 1)
