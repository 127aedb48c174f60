from fastmlock.view cimport View

cdef class System(View):
    cdef readonly str kernel
    cdef readonly int cpus
    cdef readonly int worker_cpu
    cdef readonly int controller_cpu
    cdef readonly bint smaps_shows_lf
    cdef readonly int controller
    cdef public bint checking
    cdef dict shm_locked            # segment -> user that locked it
    cdef dict shm_held              # user -> pages of locked segments
    cdef dict shm_owner             # segment -> user; others are everybody's
    cdef readonly int release
    cdef set offline_cpus
    cdef readonly bint child_runs_first
    cdef readonly bint write_prefaults
    cdef long next_observer
    cdef list ksm_mms               # mms that have had something mergeable, in that order
    cdef object ksmd
    cdef set shared_anon            # mappings of MAP_SHARED|MAP_ANONYMOUS memory
    cdef tuple enter(self, int task, int flow, long a=?, long b=?, long c=?, long d=?)
    cdef tuple unmapping(self, int pid, tuple answer)
    cdef list deferred          # tasks whose calls were only begun, None when calls run at once
    cdef dict room              # what they need, by pool
    cdef tuple call(self, int task, int flow, long a=?, long b=?, long c=?, long d=?)
    cdef int nr_vmas(self, int task)
    cdef int make_room(self, long pages) except -1
    cdef int grow_file(self, int file, long pages) except -1
    cdef int new_hugetlb(self, long pages) except -1
    cdef bint is_hugetlb(self, int pid, addr)
    cdef int base_pages(self, int file) except -1
