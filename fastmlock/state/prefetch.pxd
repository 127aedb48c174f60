# prefetch(): this machine may begin to fetch a line that is wanted soon. Nothing to the model.
#
# The empty asm keeps gcc from taking a function that does nothing but this for one that does nothing at all.
cdef extern from *:
    """
    #define fastmlock_prefetch(p) do { __builtin_prefetch(p); __asm__ volatile(""); } while (0)
    """
    void prefetch "fastmlock_prefetch" (const void *p) nogil

cdef enum:
    PREFETCH_AHEAD = 16     # entries of a list or a page table before the one in hand
