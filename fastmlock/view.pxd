from fastmlock.state.world cimport WorldHandle

cdef class View(WorldHandle):
    cdef tuple smaps(self, unsigned int vma)
    cdef unsigned int find(self, int pid, addr)
