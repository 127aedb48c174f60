from fastmlock.flows.step cimport flow_fn

cdef enum:
    # what page_referenced answers
    SEEN_ENTRIES = 0xffffff     # mask: entries that were young
    SEEN_LOCKED = 1 << 24       # a locked vma maps the page; the walk stopped there
    SEEN_EXEC = 1 << 25         # one of the young entries is of an executable vma

cdef enum:
    SHRINK_ASK = 1              # of F_SHRINK_PAGE: look whether the page was used
    SHRINK_FAR = 2              # nothing remembers that reclaim took it: it will not be back soon

cdef void register(flow_fn *table) noexcept
