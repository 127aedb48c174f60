# Collapse: 512 base pages become a THP. (mm/khugepaged.c)
from fastmlock.flows.step cimport flow_fn

# what a scan or a collapse comes to
cdef enum:
    SCAN_SUCCEED = 1
    SCAN_PMD_MAPPED = 2
    SCAN_AGAIN = 3              # a reference too many, or a page that cannot be had: EAGAIN
    SCAN_BUSY = 4               # too many entries are missing: EBUSY
    SCAN_FAIL = 5               # it is the memory's nature: EINVAL
    SCAN_SWAPPED = 6            # it would have to be brought back first: not modelled
    SCAN_PTE_MAPPED_HUGEPAGE = 7    # the file's pages are one THP already

cdef enum:
    BY_KHUGEPAGED = 1

cdef void register(flow_fn *table) noexcept
