from fastmlock.view cimport View

cdef class KernelEntry(View):
    cdef readonly int controller
    cdef public bint checking
    cdef list deferred          # tasks whose calls were only begun, None when calls run at once
    cdef dict room              # what they need, by pool
    cdef tuple enter(self, int task, int flow, long a=?, long b=?, long c=?, long d=?)
    cdef tuple call(self, int task, int flow, long a=?, long b=?, long c=?, long d=?)
    cdef int nr_vmas(self, int task)
    cdef int make_room(self, long pages) except -1
