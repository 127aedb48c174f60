# Checks that a debug build makes (FASTMLOCK_DEBUG=1) and a release build leaves out entirely.
from fastmlock.state.types cimport ERR_BUG, ERR_NONE, World

cdef extern from *:
    """
    #ifdef FASTMLOCK_DEBUG
    #define FASTMLOCK_CHECKS 1
    #else
    #define FASTMLOCK_CHECKS 0
    #endif
    """
    const int CHECKS "FASTMLOCK_CHECKS"

# what was found broken, for the message (fastmlock.state.world.BUGS)
cdef enum Bug:
    BUG_PAGE = 1            # a page number out of range
    BUG_REFCOUNT = 2        # a reference to a page that has none left
    BUG_MAPCOUNT = 3        # a mapping less than none
    BUG_PTE = 4             # a leaf or an entry out of range
    BUG_LRU = 5             # a list shorter than nothing
    BUG_PVEC = 6            # a batch past its end
    BUG_FREE = 7            # a page freed while on a list or mapped


cdef inline void vm_bug_on(World *w, bint broken, int what) noexcept nogil:
    """In a debug build, stops the run with a ModelError that says what does not hold."""
    if CHECKS and broken and w.error == ERR_NONE:
        w.error = ERR_BUG
        w.unsupported = what
