from fastmlock.entry cimport KernelEntry

cdef class Processes(KernelEntry):
    cdef readonly int worker_cpu
    cdef readonly int controller_cpu
    cdef set offline_cpus
    cdef dict shm_locked            # segment -> user that locked it
    cdef dict shm_held              # user -> pages of locked segments
    cdef dict shm_owner             # segment -> user; others are everybody's
    cdef list ksm_mms               # mms that have had something mergeable, in that order
    cdef set shared_anon            # mappings of MAP_SHARED|MAP_ANONYMOUS memory
    cdef dict fs                    # file -> its file system; others are the kernel's own shared memory
    cdef tuple unmapping(self, int pid, tuple answer)
    cdef bint is_hugetlb(self, int pid, addr)
