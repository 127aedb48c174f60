# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The way into the kernel: a call is begun for a task and run to its end, with room made for what it may need."""
from libc.stdint cimport int64_t
from fastmlock.flows.frame cimport *
from fastmlock.flows.step cimport flow_start, run_untimed
from fastmlock.state.types cimport *

from fastmlock.audit.consistency import problems
from fastmlock.scenario.system import NotSupported
from fastmlock.state.world import ModelError

NOT_MODELLED = {
    <int>F_MADVISE_VMA: "MADV_REMOVE of what is no file of tmpfs or a disk",
    <int>F_SYS_REMAP_FILE_PAGES: "remap_file_pages of huge pages of hugetlb",
    <int>F_SYS_MREMAP: "mremap", <int>F_SYS_MADVISE: "madvise", <int>F_SYS_MPROTECT: "mprotect",
    <int>F_COLLAPSE: "collapse of memory that is swapped out",
    <int>F_SHRINK_PAGE: "reclaim of a huge page that was freed lazily or, on this kernel, of a file, and is not split first",
    <int>F_COLLAPSE_FILE: "collapse of a file that is swapped out",
    <int>F_SPLIT_PAGE: "truncation within a huge page, which this kernel splits into smaller large folios",
    <int>F_TRUNCATE: "truncation within a huge page that somebody holds",
    <int>F_COMPACT: "compaction",
    <int>F_ACCESS_REMOTE_VM: "a look from outside at memory that the process itself may not use so",
    <int>F_MIGRATE: "migration of a KSM page",
    <int>F_READAHEAD: "read-ahead of a disk file, which this kernel does in large folios",
}


# the numbers of the flows that Python starts by name
from fastmlock.flows.ids import FLOWS as _FLOWS
if _FLOWS["F_SYS_EXIT"] != F_SYS_EXIT or _FLOWS["F_COMPACT"] != F_COMPACT:
    raise ImportError("flow numbers differ between frame.pxd as compiled and as read")


cdef class KernelEntry(View):
    """Flows run untimed, or only begun, on the tables of `View`."""

    cdef tuple call(self, int task, int flow, long a=0, long b=0, long c=0, long d=0):
        cdef World *w = self.w
        if task < 1 or task >= w.nr_tasks or not w.tasks[task].mm:
            raise ValueError(f"no process {task}")
        # what one call may need beyond its pages: a few VMAs, nodes and tables
        self.reserve(vmas=8 + self.nr_vmas(task), nodes=64 + 8 * self.nr_vmas(task), anon_vmas=16 + self.nr_vmas(task),
                     avcs=64 + 8 * self.nr_vmas(task))
        if self.deferred is not None:
            if task in self.deferred:
                raise ValueError(f"process {task} has a call under way")
            flow_start(w, task, flow, a, b, c, d)
            self.deferred.append(task)
            return 0, 0
        return self.enter(task, flow, a, b, c, d)

    cdef tuple enter(self, int task, int flow, long a=0, long b=0, long c=0, long d=0):
        cdef Task *t = &self.w.tasks[task]
        cdef World *w = self.w
        cdef int req
        with nogil:
            flow_start(w, task, flow, a, b, c, d)
            req = run_untimed(w, task)
        if req == REQ_ERROR:
            self.check()
        if self.checking:
            found = problems(self)
            if found:
                raise ModelError(f"after flow {flow} of process {task}: {'; '.join(found)}")
        return t.ret, t.err

    def check(self):
        """Raises NotSupported or ModelError if the last run could not go on."""
        if self.w.error == ERR_UNSUPPORTED:
            raise NotSupported(NOT_MODELLED.get(self.w.unsupported, f"flow {self.w.unsupported}"))
        View.check(self)

    # ------------------------------------------------------------ calls that race
    def defer(self):
        """From here on system calls are only begun, until `deferred_tasks` hands them over to a race."""
        self.deferred = []
        self.room = {}

    def begun(self):
        """The tasks whose calls were begun since `defer`, in order."""
        return list(self.deferred)

    def deferred_tasks(self):
        """The tasks whose calls were begun since `defer`, in order. Calls run at once again."""
        tasks, self.deferred = self.deferred, None
        self.room = {}
        return tasks

    def answer(self, int task):
        """What the task's last call answered: (ret, errno, signal)."""
        cdef Task *t = &self.w.tasks[task]
        return t.ret, t.err, t.sig

    def reserve(self, **need):
        """See `WorldHandle.reserve`; calls that are only begun need their room all at the same time."""
        if self.deferred is not None:
            for pool, count in need.items():
                self.room[pool] = self.room.get(pool, 0) + count
            need = self.room
        View.reserve(self, **need)

    cdef int nr_vmas(self, int task):
        return self.w.mms[self.w.tasks[task].mm].map_count

    cdef int make_room(self, long pages) except -1:
        """Room for so many pages mapped anew, at most one table for each 2 MiB they touch."""
        cdef long leaves = pages // 512 + 4
        if self.w.huge_zero:
            pages = (leaves + 2) * 512
            leaves *= 2
        # reading ahead may bring back all that is swapped out
        self.reserve(pages=pages + 64 + self.w.swap_used, leaves=leaves, ptes=leaves, tables=leaves // 512 + 8)
        return 0

    @property
    def fine(self):
        """Whether a timed run lets time pass after each page of a batch instead of after the whole batch."""
        return self.w.fine != 0

    @fine.setter
    def fine(self, bint on):
        self.w.fine = on

    def new_mapping(self, long pages, bint shmem, bint huge=False):
        cdef World *w = self.w
        cdef Mapping *m
        slots = (pages | 511) + 1 if huge else max(pages, 1)
        self.reserve(mappings=1, cache=slots)
        mapping = w.mappings_used
        w.mappings_used += 1
        m = &w.mappings[mapping]
        m.base = w.cache_used
        m.capacity = slots
        m.size = pages
        m.shmem = shmem
        m.huge = huge
        w.cache_used += slots
        return mapping
