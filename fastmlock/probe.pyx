# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Hot functions by themselves: for benchmarks, and for tests that hold them against something obvious."""
from libc.stdint cimport int64_t, uint32_t
from fastmlock.flows.frame cimport *
from fastmlock.flows.step cimport flow_start, run_untimed
from fastmlock.mm.interval_tree cimport *
from fastmlock.mm.lru cimport pvec_add
from fastmlock.mm.mlock cimport set_page_mlocked
from fastmlock.mm.vma cimport set_vm_flags, vma_alloc
from fastmlock.state.types cimport *
from fastmlock.state.world cimport WorldHandle
from fastmlock.system cimport System


def pagevec_drain(System system not None, int task, int file, long rounds):
    """Fills the mlock batch of the task's cpu with munlocks and mlocks of the file's first pages, in turn, and
    processes it: `rounds` times. -> entries processed. The file has at least as many pages as a batch; a kernel with
    patch 10."""
    cdef World *w = system.w
    cdef int cpu = w.tasks[task].cpu
    cdef long r, done = 0
    cdef int i
    cdef Mapping *m = &w.mappings[file]
    if not w.tr.p10:
        raise ValueError(f"{system.kernel} has no mlock batch")
    if m.nrpages < w.tr.mlock_pvec_size:
        raise ValueError(f"the file has {m.nrpages} pages, a batch {w.tr.mlock_pvec_size}")
    with nogil:
        for r in range(rounds):
            for i in range(w.tr.mlock_pvec_size):
                if r & 1:
                    set_page_mlocked(w, cpu, w.cache[m.base + i])
                pvec_add(w, cpu, PVEC_MLOCK, w.cache[m.base + i], LRU_PAGE if r & 1 else MUNLOCK_PAGE)
            done += w.tr.mlock_pvec_size
            flow_start(w, task, F_PVEC, cpu, PVEC_MLOCK, 0, 0)
            run_untimed(w, task)
    system.check()
    return done


def rmap_walk(System system not None, int file, long index, long rounds, bint literal=False):
    """Finds the first locked vma that maps page `index` of the file, as page_mlock does, `rounds` times; `literal`
    visits every vma on the way. -> VMAs visited in one walk."""
    cdef World *w = system.w
    cdef int64_t visits = 0, r
    cdef uint32_t node, root = w.mappings[file].root
    with nogil:
        for r in range(rounds):
            visits = 0
            node = tree_next(w, root, 0, index, not literal, &visits)
            while literal and node and not w.vmas[w.nodes[node].vma].flags & VM_LOCKED:
                node = tree_next(w, root, node, index, False, &visits)
    return visits


cdef class IntervalTree:
    """A bare i_mmap tree, for tests: VMAs are numbers that `insert` hands out."""
    cdef WorldHandle world
    cdef uint32_t root

    def __init__(self, WorldHandle world not None):
        self.world = world
        self.root = 0

    def insert(self, int64_t first, int64_t last, bint locked, uint32_t after=0):
        """A vma over file pages first..last, behind its equals, or immediately behind `after`."""
        cdef World *w = self.world.w
        cdef uint32_t vma, node
        self.world.reserve(vmas=1, nodes=1)
        vma = vma_alloc(w, 0, first, last + 1, VM_LOCKED if locked else 0, first, 0)
        node = node_alloc(w, vma, first, last)
        w.vmas[vma].i_mmap_node = node
        if after:
            tree_insert_after(w, &self.root, w.vmas[after].i_mmap_node, node)
        else:
            tree_insert(w, &self.root, node)
        return vma

    def remove(self, uint32_t vma):
        cdef World *w = self.world.w
        tree_remove(w, &self.root, w.vmas[vma].i_mmap_node)
        node_free(w, w.vmas[vma].i_mmap_node)
        w.vmas[vma].i_mmap_node = 0

    def lock(self, uint32_t vma, bint locked):
        set_vm_flags(self.world.w, vma, VM_LOCKED if locked else 0)

    def next(self, uint32_t after, int64_t index, bint locked):
        """-> (the next vma behind `after` that contains index, 0 if none; VMAs visited)"""
        cdef World *w = self.world.w
        cdef int64_t visits = 0
        cdef uint32_t node = tree_next(w, self.root, w.vmas[after].i_mmap_node if after else 0, index, locked, &visits)
        return (w.nodes[node].vma if node else 0), visits
