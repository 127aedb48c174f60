from fastmlock.processes cimport Processes

cdef class System(Processes):
    cdef readonly str kernel
    cdef readonly int cpus
    cdef readonly bint smaps_shows_lf
    cdef readonly int release
    cdef readonly bint child_runs_first
    cdef readonly bint write_prefaults
    cdef long next_observer
    cdef object ksmd
    cdef int drop_pagecache(self) except -1
    cdef int grow_file(self, int file, long pages) except -1
    cdef int base_pages(self, int file) except -1
