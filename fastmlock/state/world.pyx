# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The arrays of one simulated machine, and the record that compiled code finds them by.

Every array is an ordinary NumPy array, structured where the record is; `world.pages["flags"]` is the memory
that the kernel paths work on, not a copy. Arrays grow only between system calls (`reserve`), so compiled code
never allocates.
"""
from libc.stdlib cimport calloc, free
from libc.stdint cimport int64_t, uint32_t, uintptr_t
from fastmlock.state.debug cimport CHECKS
from fastmlock.state.types cimport *

import numpy as np

from fastmlock.state.layout import K, STRUCTS


cdef dict _sizes = {
    "Page": sizeof(Page), "Lruvec": sizeof(Lruvec), "PageVec": sizeof(PageVec), "Leaf": sizeof(Leaf),
    "Vma": sizeof(Vma), "File": sizeof(File), "Mm": sizeof(Mm), "Mapping": sizeof(Mapping),
    "TreeNode": sizeof(TreeNode),
    "AnonVma": sizeof(AnonVma), "AnonVmaChain": sizeof(AnonVmaChain), "KsmItem": sizeof(KsmItem),
    "Frame": sizeof(Frame), "Task": sizeof(Task), "SwapSlot": sizeof(SwapSlot), "Traits": sizeof(Traits),
}
for _name, _size in _sizes.items():
    if STRUCTS[_name].itemsize != _size:
        raise ImportError(f"layout of {_name}: {STRUCTS[_name].itemsize} bytes in NumPy, {_size} in C")

#: error codes of a run that could not go on, with what to tell the user
ERRORS = {
    K.ERR_NO_PAGES: "out of pages: give the machine more memory",
    K.ERR_NO_VMAS: "out of VMA records", K.ERR_NO_NODES: "out of interval-tree nodes",
    K.ERR_NO_LEAVES: "out of page-table pages", K.ERR_NO_TABLES: "out of upper page-table pages",
    K.ERR_NO_PTES: "out of full page tables", K.ERR_NO_ANON_VMAS: "out of anon_vma records",
    K.ERR_NO_AVCS: "out of anon_vma_chain records", K.ERR_NO_TASKS: "out of task records",
    K.ERR_NO_MMS: "out of mm records", K.ERR_STACK: "a flow nested too deep",
    K.ERR_DEADLOCK: "a task waits for a lock that nobody will release",
    K.ERR_UNSUPPORTED: "a path that is not modelled", K.ERR_BUG: "an invariant of the kernel does not hold",
}

#: whether this is a debug build, which checks as it goes
DEBUG_BUILD = bool(CHECKS)

#: what vm_bug_on() found in a debug build
BUGS = {K.BUG_PAGE: "page number out of range", K.BUG_REFCOUNT: "a reference to a page that has none left",
        K.BUG_MAPCOUNT: "fewer mappings than none", K.BUG_PTE: "page-table entry out of range",
        K.BUG_LRU: "an LRU list shorter than nothing", K.BUG_PVEC: "a batch past its end",
        K.BUG_FREE: "a page freed while mapped or on a list"}

# pool name -> (record, what grows with it)
_POOLS = {
    "pages": "Page", "vmas": "Vma", "mms": "Mm", "mappings": "Mapping", "nodes": "TreeNode",
    "anon_vmas": "AnonVma", "avcs": "AnonVmaChain", "ksm_items": "KsmItem", "leaves": "Leaf",
}
# arrays that grow together
_TOGETHER = {"tasks": ("tasks", "tpvecs", "gathers"), "vmas": ("vmas", "files")}


class ModelError(RuntimeError):
    """The model cannot go on; the text says why."""


cdef class WorldHandle:
    """A machine with `cpus` CPUs and `nodes` NUMA nodes running a kernel of the given traits.

    Parameters
    ----------
    traits : fastmlock.kernels.Traits
    cpus, nodes : int
    memcgs : int
        memory cgroups, each with a lruvec per node
    capacity : dict
        records to begin with, by pool: pages, vmas, mms, mappings, nodes, anon_vmas, avcs, leaves, ptes,
        tables, tasks, cache
    """

    def __cinit__(self):
        self.w = <World *>calloc(1, sizeof(World))
        if self.w == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.w)

    def __init__(self, traits, *, int cpus=2, int nodes=1, int memcgs=1, dict capacity=None):
        cdef World *w = self.w
        capacity = dict(capacity or {})
        if cpus < 1:
            raise ValueError(f"{cpus} CPUs: at least 1 is needed")
        if nodes < 1 or nodes > cpus:
            raise ValueError(f"{nodes} nodes on {cpus} CPUs: between 1 and the number of CPUs is needed")
        self.traits = traits
        self.nr_cpus = cpus
        self.nr_nodes = nodes
        a = self.arrays = {}
        defaults = {"pages": 4096, "vmas": 256, "mms": 80, "mappings": 16, "nodes": 512, "anon_vmas": 256,
                    "avcs": 512, "ksm_items": 2, "leaves": 256}
        for name, record in _POOLS.items():
            a[name] = np.zeros(max(2, capacity.get(name, defaults[name])), STRUCTS[record])
        a["files"] = np.zeros(len(a["vmas"]), STRUCTS["File"])
        a["ptes"] = np.zeros((max(2, capacity.get("ptes", 256)), 512), np.uint64)
        a["tables"] = np.zeros((max(2, capacity.get("tables", 256)), 512), np.uint32)
        a["cache"] = np.zeros(max(2, capacity.get("cache", 4096)), np.uint32)
        ntasks = max(2, capacity.get("tasks", 80))
        a["tasks"] = np.zeros(ntasks, STRUCTS["Task"])
        a["tpvecs"] = np.zeros((ntasks, K.NR_TPVECS), STRUCTS["PageVec"])
        a["gathers"] = np.zeros((ntasks, K.GATHER_MAX), np.uint32)
        a["lruvecs"] = np.zeros(1 + memcgs * nodes, STRUCTS["Lruvec"])
        a["pvecs"] = np.zeros((cpus, K.NR_PVECS), STRUCTS["PageVec"])
        a["swap"] = np.zeros(1, STRUCTS["SwapSlot"])
        a["events"] = np.zeros((cpus, K.NR_EVENTS), np.int64)
        a["stat"] = np.zeros(K.NR_STATS, np.int64)
        a["stat_diff"] = np.zeros((cpus, K.NR_STATS), np.int32)
        a["tasks"]["depth"] = -1
        for i in range(memcgs * nodes):
            a["lruvecs"][1 + i]["node"] = i % nodes
            a["lruvecs"][1 + i]["memcg"] = i // nodes
        w.nr_cpus = cpus
        w.nr_nodes = nodes
        w.nr_lruvecs = memcgs * nodes
        w.pages_used = w.vmas_used = w.mms_used = w.mappings_used = w.nodes_used = 1
        w.files_used = 1
        w.anon_vmas_used = w.avcs_used = w.ksm_items_used = w.leaves_used = w.ptes_used = w.tables_used = 1
        w.nr_tasks = 1
        w.cache_used = 1
        w.max_map_count = 65530
        w.swapin_hits = 4
        self.repoint()
        self.set_traits(traits)
        # t = min(125, 2 * fls(cpus) * (1 + fls(zone in 128 MiB units)))
        zone_units = (w.pages_cap * 4096) >> 27
        w.stat_threshold = min(125, 2 * cpus.bit_length() * (1 + int(zone_units).bit_length()))
        # the shared zero page
        w.zero_page = w.pages_used
        w.pages_used += 1
        page = a["pages"][w.zero_page]
        page["flags"] = K.PG_reserved | K.PG_uptodate
        page["refcount"] = 1

    def set_traits(self, traits):
        """Resolves the named traits into the compiled record."""
        record = np.asarray(<unsigned char[:sizeof(Traits)]><unsigned char *>&self.w.tr).view(STRUCTS["Traits"])
        for name, value in traits.array_fields().items():
            record[name] = value

    cdef int repoint(self) except -1:
        cdef World *w = self.w
        a = self.arrays
        w.pages = <Page *><uintptr_t>a["pages"].ctypes.data
        w.vmas = <Vma *><uintptr_t>a["vmas"].ctypes.data
        w.files = <File *><uintptr_t>a["files"].ctypes.data
        w.mms = <Mm *><uintptr_t>a["mms"].ctypes.data
        w.mappings = <Mapping *><uintptr_t>a["mappings"].ctypes.data
        w.nodes = <TreeNode *><uintptr_t>a["nodes"].ctypes.data
        w.anon_vmas = <AnonVma *><uintptr_t>a["anon_vmas"].ctypes.data
        w.avcs = <AnonVmaChain *><uintptr_t>a["avcs"].ctypes.data
        w.ksm_items = <KsmItem *><uintptr_t>a["ksm_items"].ctypes.data
        w.leaves = <Leaf *><uintptr_t>a["leaves"].ctypes.data
        w.ptes = <uint64_t *><uintptr_t>a["ptes"].ctypes.data
        w.tables = <uint32_t *><uintptr_t>a["tables"].ctypes.data
        w.cache = <uint32_t *><uintptr_t>a["cache"].ctypes.data
        w.swap = <SwapSlot *><uintptr_t>a["swap"].ctypes.data
        w.lruvecs = <Lruvec *><uintptr_t>a["lruvecs"].ctypes.data
        w.pvecs = <PageVec *><uintptr_t>a["pvecs"].ctypes.data
        w.tpvecs = <PageVec *><uintptr_t>a["tpvecs"].ctypes.data
        w.tasks = <Task *><uintptr_t>a["tasks"].ctypes.data
        w.gathers = <uint32_t *><uintptr_t>a["gathers"].ctypes.data
        w.events = <int64_t *><uintptr_t>a["events"].ctypes.data
        w.stat = <int64_t *><uintptr_t>a["stat"].ctypes.data
        w.stat_diff = <int32_t *><uintptr_t>a["stat_diff"].ctypes.data
        w.pages_cap = len(a["pages"])
        w.vmas_cap = len(a["vmas"])
        w.mms_cap = len(a["mms"])
        w.mappings_cap = len(a["mappings"])
        w.nodes_cap = len(a["nodes"])
        w.anon_vmas_cap = len(a["anon_vmas"])
        w.avcs_cap = len(a["avcs"])
        w.ksm_items_cap = len(a["ksm_items"])
        w.leaves_cap = len(a["leaves"])
        w.ptes_cap = len(a["ptes"])
        w.tables_cap = len(a["tables"])
        w.tasks_cap = len(a["tasks"])
        w.cache_cap = len(a["cache"])
        return 0

    def reserve(self, **need):
        """Makes room for at least `need[pool]` more records of each pool named. Growing moves an array: views
        taken before are then of the old one."""
        cdef World *w = self.w
        used = {"pages": w.pages_used - w.pages_nfree, "vmas": w.vmas_used, "mms": w.mms_used,
                "mappings": w.mappings_used, "nodes": w.nodes_used, "anon_vmas": w.anon_vmas_used,
                "avcs": w.avcs_used, "ksm_items": w.ksm_items_used, "leaves": w.leaves_used, "ptes": w.ptes_used,
                "tables": w.tables_used,
                "tasks": w.nr_tasks, "cache": w.cache_used}
        moved = False
        for pool, count in need.items():
            old = len(self.arrays[pool])
            if used[pool] + count <= old:
                continue
            size = max(used[pool] + count, old + old // 2)
            for name in _TOGETHER.get(pool, (pool,)):
                array = self.arrays[name]
                grown = np.zeros((size, *array.shape[1:]), array.dtype)
                grown[:old] = array
                self.arrays[name] = grown
            if pool == "tasks":
                self.arrays["tasks"]["depth"][old:] = -1
            moved = True
        if moved:
            self.repoint()

    def swapon(self, long pages):
        """A swap device of `pages` pages, the first of which is its header, is switched on. Raises ValueError."""
        if self.w.swap_pages or not 2 <= pages < K.SWAPPED:
            raise ValueError("swap is on already" if self.w.swap_pages else f"a swap device of {pages} pages")
        self.arrays["swap"] = np.zeros(pages, STRUCTS["SwapSlot"])
        self.w.swap_pages = pages
        self.repoint()

    # ---- checkpoints
    def scalars(self):
        """What is not in the arrays, as bytes; for `restore` of the same build."""
        return (<char *>self.w)[:sizeof(World)]

    def restore(self, dict arrays, bytes scalars):
        """Goes on with the arrays and scalars of another run of the same kernel and machine. Raises ValueError."""
        cdef World *saved
        if len(scalars) != sizeof(World) or set(arrays) != set(self.arrays):
            raise ValueError("the checkpoint is of another build")
        saved = <World *><char *>scalars
        if saved.nr_cpus != self.w.nr_cpus or saved.nr_nodes != self.w.nr_nodes:
            raise ValueError("the checkpoint is of another machine")
        self.w[0] = saved[0]
        self.arrays.update(arrays)
        self.repoint()

    def __getattr__(self, name):
        try:
            return self.arrays[name]
        except KeyError:
            raise AttributeError(name) from None

    # ---- what /proc/vmstat shows
    def vm_events(self):
        """The seven unevictable_pgs_* events, summed over CPUs: int64[7]."""
        return self.arrays["events"].sum(axis=0)

    def stat_refresh(self):
        """Folds the per-CPU differences, as reading /proc/sys/vm/stat_refresh does: int64[NR_STATS]."""
        self.arrays["stat"] += self.arrays["stat_diff"].sum(axis=0)
        self.arrays["stat_diff"][:] = 0
        return self.arrays["stat"]

    @property
    def counts(self):
        """What happened so far: rmap walks, VMAs they visited, lru_lock acquisitions, munlocks."""
        cdef World *w = self.w
        return {"rmap_walks": w.rmap_walks, "rmap_vmas": w.rmap_vmas, "lru_locks": w.lru_locks,
                "munlocks": w.munlocks}

    def check(self):
        """Raises ModelError if the last run could not go on."""
        if self.w.error:
            why = ERRORS.get(self.w.error, f"error {self.w.error}")
            if self.w.unsupported:
                why += f": {BUGS[self.w.unsupported]}" if self.w.error == ERR_BUG else f" (path {self.w.unsupported})"
            raise ModelError(why)

    def nbytes(self):
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())
