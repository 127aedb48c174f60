# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""A simulated machine that runs the tasks of a world in virtual time.

    machine = Machine(world, Topology.preset("icelake-8375c", cpus=256))
    for task in tasks:
        machine.start(task)
    while machine.run(max_events=1 << 20):
        ...                                     # progress
    machine.tasks["exit_ns"], machine.cpu_ns(), machine.lock_stat

Everything that changes is in `machine.arrays`, NumPy arrays that compiled code works on directly.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint16_t, uint32_t, uintptr_t
from libc.string cimport memcpy
from fastmlock.flows.step cimport flow_start
from fastmlock.machine.cpuidle cimport FAR_NS
from fastmlock.machine.engine cimport engine_run
from fastmlock.machine.queue cimport LEAST_WIDTH
from fastmlock.machine.sched cimport sched_start
from fastmlock.machine.types cimport *
from fastmlock.machine.watchdog cimport callstack
from fastmlock.state.types cimport (ERR_DEADLOCK, LK_ANON_VMA, LK_I_MMAP, LK_LRU, LK_MMAP, LK_PTL,
                                    LK_TEST_RWSEM, LK_TEST_SPIN, NR_LOCK_CLASSES, NR_WORK, TOUCH_MAX)
from fastmlock.state.world cimport WorldHandle

import numpy as np

from fastmlock.machine.costs import Costs as CostTable
from fastmlock.machine.layout import ACCOUNTS, REPORTS, STRUCTS
from fastmlock.state.layout import ENUMS as _WORLD_ENUMS

cdef dict _sizes = {
    "Cpu": sizeof(Cpu), "TaskRec": sizeof(TaskRec), "SpinLock": sizeof(SpinLock), "RwSem": sizeof(RwSem),
    "WaitQueue": sizeof(WaitQueue), "LockStat": sizeof(LockStat), "Report": sizeof(Report),
    "Clock": sizeof(Clock), "QueueSize": sizeof(QueueSize), "Costs": sizeof(Costs), "LockTraits": sizeof(LockTraits),
}
for _name, _size in _sizes.items():
    if STRUCTS[_name].itemsize != _size:
        raise ImportError(f"layout of {_name}: {STRUCTS[_name].itemsize} bytes in NumPy, {_size} in C")

#: names of the lock classes, in the order of the rows of ``Machine.lock_stat``
LOCK_CLASSES = ("lru_lock", "ptl", "mmap_lock", "i_mmap_rwsem", "anon_vma->rwsem", "page lock",
                "test spinlock", "test rwsem")

#: names of the kinds of work, in the order of their costs
WORK = tuple(name[3:].lower() for name in _WORLD_ENUMS["Work"] if name != "NR_WORK")

ACCOUNT_DTYPE = np.dtype([(name, np.int64) for name in ACCOUNTS])

#: the locks of 5.17; other kernels and what-ifs change single entries
LOCK_TRAITS = {"rwsem_handoff": 1, "rwsem_handoff_setter": 0, "rwsem_steal": 1, "rwsem_spin": 1,
               "rwsem_reader_spin": 0, "rwsem_wake_readers": 256, "rwsem_spin_readers": 1, "rwsem_wake_skip": 1,
               "rwsem_xadd": 0, "wake_off_cpu": 0,
               "rwsem_bias": 0, "i_mmap_split": 0, "spin_kind": 0, "page_unfairness": 5}


def lock_traits(int release):
    """The locks of a release, given as major * 100 + minor: readers spin through 5.10; handoff binds only if
    the first waiter set it from 6.1 on."""
    before = release < 502
    return dict(LOCK_TRAITS, rwsem_spin_readers=int(not before), rwsem_wake_skip=int(not before),
                rwsem_xadd=int(before), wake_off_cpu=int(release < 508),
                rwsem_handoff=int(not before), rwsem_wake_readers=1 << 30 if before else 256,
                rwsem_reader_spin=int(502 <= release <= 510), rwsem_steal=int(release > 510),
                rwsem_handoff_setter=int(release >= 601))

# array -> (class, record, pool of the world that it runs along with)
_LOCKS = {
    "lru_locks": (LK_LRU, "SpinLock", "lruvecs"), "ptls": (LK_PTL, "SpinLock", "leaves"),
    "mmap_locks": (LK_MMAP, "RwSem", "mms"), "i_mmap_rwsems": (LK_I_MMAP, "RwSem", "mappings"),
    "anon_vma_rwsems": (LK_ANON_VMA, "RwSem", "anon_vmas"),
    "test_spinlocks": (LK_TEST_SPIN, "SpinLock", None), "test_rwsems": (LK_TEST_RWSEM, "RwSem", None),
}


cdef class Machine:
    """CPUs, lines, locks, scheduler and watchdogs for the tasks of `world`.

    Parameters
    ----------
    world : WorldHandle
        with as many CPUs and nodes as the topology
    topology : Topology
    costs : Costs, optional
        default: the table of the package
    seed : int
        kept for the record; the machine itself draws no random numbers
    traits : dict, optional
        changes to what `lock_traits` says of the world's release
    test_locks : int
        how many locks the classes LK_TEST_SPIN and LK_TEST_RWSEM have

    Raises ValueError in one line if these do not fit together.
    """

    def __init__(self, WorldHandle world not None, topology, costs=None, *, seed=0, dict traits=None,
                 int test_locks=1):
        cdef int i
        if topology.cpus != world.w.nr_cpus or topology.nodes != world.w.nr_nodes:
            raise ValueError(f"the world has {world.w.nr_cpus} CPUs on {world.w.nr_nodes} nodes, the machine "
                             f"{topology.cpus} on {topology.nodes}")
        self.world = world
        self.topology = topology
        self.costs = costs = CostTable.default() if costs is None else costs
        self.seed = seed
        self.traits = lock_traits(world.w.tr.release)
        unknown = sorted(set(traits or {}) - set(LOCK_TRAITS))
        if unknown:
            raise ValueError(f"unknown lock traits: {', '.join(unknown)}")
        self.traits.update(traits or {})
        if self.traits["rwsem_bias"] and self.traits["i_mmap_split"]:
            raise ValueError("an i_mmap_rwsem split per node cannot be biased towards readers as well")
        self.m.traits.i_mmap_split = self.traits["i_mmap_split"]
        self.m.w = world.w
        self.m.nr_cpus = topology.cpus
        self.m.nr_nodes = topology.nodes
        self.m.epoch_lines = max(1, topology.cache_lines // 16) if topology.cache_lines else 1 << 30
        a = self.arrays = {}
        a["queue"] = np.full(4 << (topology.cpus - 1).bit_length(), INT64_MAX, np.int64)
        a["queue_slots"] = np.full(topology.cpus, -1, np.int32)
        a["queue_size"] = np.array([(LEAST_WIDTH, 0)], STRUCTS["QueueSize"])
        a["cpus"] = np.zeros(topology.cpus, STRUCTS["Cpu"])
        a["evicted_ns"] = np.zeros(1 + topology.cpus, np.int64)
        a["evicted_ns"][0] = INT64_MAX
        a["cpus"]["park_state"] = a["cpus"]["idle_state"] = ACC_IDLE
        a["cpus"]["idle_mean_ns"] = FAR_NS          # idle for long, so deeply
        a["cpus"]["slept_us"] = FAR_NS // 1000
        a["cpus"]["asleep"] = 1
        a["cpus"]["idle_depth"] = max(len(topology.idle_states) - 1, 0)
        a["tasks"] = np.zeros(0, STRUCTS["TaskRec"])
        a["accounts"] = np.zeros((topology.cpus, NR_ACCOUNTS), np.int64)
        a["lock_stat"] = np.zeros((NR_LOCK_CLASSES, 2), STRUCTS["LockStat"])
        a["reports"] = np.zeros(MAX_REPORTS, STRUCTS["Report"])
        a["clock"] = np.zeros(1, STRUCTS["Clock"])
        a["lines"] = np.zeros(0, np.int64)
        a["page_queues"] = np.zeros(PAGE_QUEUES, STRUCTS["WaitQueue"])
        for name, (_, record, pool) in _LOCKS.items():
            a[name] = np.zeros(0 if pool else test_locks, STRUCTS[record])
        a["position"] = topology.position()
        a["cpu_node"] = topology.node_of_cpu()
        a["memory_ns"] = np.ascontiguousarray(topology.memory_matrix(), np.int32)
        for i, ns in enumerate(topology.level_ns()):
            self.m.level_ns[i] = ns
        self.m.row_ns = topology.row_ns
        self.m.nr_idle = len(topology.idle_states)
        for i, (exit_us, residency_us) in enumerate(topology.idle_states):
            self.m.idle_exit_ns[i] = exit_us * 1000
            self.m.idle_residency_ns[i] = residency_us * 1000
        record = np.zeros(1, STRUCTS["Costs"])
        for i, name in enumerate(WORK):
            record["work_ps"][0, i] = round(costs[f"work.{name}"].ns * 1000)
        for name in STRUCTS["Costs"].names[1:]:
            record[name] = costs[name.removesuffix("_ns")].ns
        self.m.costs = (<Costs *><uintptr_t>record.ctypes.data)[0]
        record = np.zeros(1, STRUCTS["LockTraits"])
        for name, value in self.traits.items():
            record[name] = value
        self.m.traits = (<LockTraits *><uintptr_t>record.ctypes.data)[0]
        a["clock"]["next_sample_ns"] = min(self.m.costs.watchdog_sample_ns, self.m.costs.hung_task_ns)
        a["clock"]["next_hung_ns"] = self.m.costs.hung_task_ns
        self.fit()

    cdef int fit(self) except -1:
        """Gives every record of the world its line or lock; the world's pools may have grown."""
        a, w = self.arrays, self.world.arrays
        wanted = {"lines": len(w["pages"]), "tasks": len(w["tasks"])}
        wanted.update({name: len(w[pool]) for name, (_, _, pool) in _LOCKS.items() if pool})
        if self.m.traits.i_mmap_split:
            wanted["i_mmap_rwsems"] *= self.m.nr_nodes
        moved = False
        for name, size in wanted.items():
            if len(a[name]) < size:
                grown = np.zeros(size, a[name].dtype)
                grown[:len(a[name])] = a[name]
                if name == "tasks":
                    grown["exit_ns"][len(a[name]):] = -1
                a[name] = grown
                moved = True
        if moved or self.m.queue.tree == NULL:
            self.repoint()
        return 0

    cdef int repoint(self) except -1:
        cdef int lock_class
        a = self.arrays
        self.m.nr_tasks = len(a["tasks"])
        self.m.queue.tree = <int64_t *><uintptr_t>a["queue"].ctypes.data
        self.m.queue.slot = <int32_t *><uintptr_t>a["queue_slots"].ctypes.data
        self.m.queue.size = <QueueSize *><uintptr_t>a["queue_size"].ctypes.data
        self.m.cpus = <Cpu *><uintptr_t>a["cpus"].ctypes.data
        self.m.evicted_ns = <int64_t *><uintptr_t>a["evicted_ns"].ctypes.data
        self.m.tasks = <TaskRec *><uintptr_t>a["tasks"].ctypes.data
        self.m.acct = <int64_t *><uintptr_t>a["accounts"].ctypes.data
        self.m.stats = <LockStat *><uintptr_t>a["lock_stat"].ctypes.data
        self.m.reports = <Report *><uintptr_t>a["reports"].ctypes.data
        self.m.clock = <Clock *><uintptr_t>a["clock"].ctypes.data
        self.m.pages = <Line *><uintptr_t>a["lines"].ctypes.data
        self.m.queues = <WaitQueue *><uintptr_t>a["page_queues"].ctypes.data
        self.m.pos = <uint32_t *><uintptr_t>a["position"].ctypes.data
        self.m.cpu_node = <uint16_t *><uintptr_t>a["cpu_node"].ctypes.data
        self.m.memory_ns = <int32_t *><uintptr_t>a["memory_ns"].ctypes.data
        for name, (lock_class, record, _) in _LOCKS.items():
            if record == "SpinLock":
                self.m.spins[lock_class] = <SpinLock *><uintptr_t>a[name].ctypes.data
            else:
                self.m.rwsems[lock_class] = <RwSem *><uintptr_t>a[name].ctypes.data
        return 0

    # ---- running
    def start(self, int task, int64_t at_ns=0, *, flow=None, args=()):
        """Makes a task ready to run on its CPU at `at_ns` of virtual time, or now if that is past.

        The task's flow has been started, or is started here: number `flow` with up to four integers `args`.
        Raises ValueError in one line if it cannot be.
        """
        cdef int64_t a, b, c, d
        self.fit()
        if not 0 <= task < self.m.nr_tasks:
            raise ValueError(f"no task {task}")
        if flow is not None and self.m.tasks[task].state in (TASK_NEW, TASK_DEAD):
            a, b, c, d = (*args, 0, 0, 0, 0)[:4]
            flow_start(self.m.w, task, flow, a, b, c, d)
        if self.m.w.tasks[task].depth < 0:
            raise ValueError(f"task {task} has no flow to run")
        if not 0 <= self.m.w.tasks[task].cpu < self.m.nr_cpus:
            raise ValueError(f"task {task} is on CPU {self.m.w.tasks[task].cpu} of {self.m.nr_cpus}")
        if self.m.tasks[task].state not in (TASK_NEW, TASK_DEAD):
            raise ValueError(f"task {task} is running already")
        if not 0 <= at_ns < 1 << 50:
            raise ValueError(f"at_ns={at_ns}: between 0 and 2**50 is needed")
        sched_start(&self.m, task, max(at_ns, self.m.clock.now_ns))

    def run(self, until_ns=None, max_events=None):
        """Runs until nothing is left to happen, or past `until_ns`, or for about `max_events` events.

        Returns how many events happened: 0 means that there is nothing to do. Releases the GIL; Ctrl-C is
        heeded between slices of a few million events, and the run can then go on. Raises ModelError if a
        flow failed or if tasks wait for what nobody will give.
        """
        cdef int64_t until = INT64_MAX if until_ns is None else until_ns
        cdef int64_t left = INT64_MAX if max_events is None else max_events
        cdef int64_t total = 0, done, piece
        self.fit()
        # what untimed calls have counted is not this run's
        memcpy(self.m.w.work_ps, self.m.costs.work_ps, sizeof(self.m.w.work_ps))
        self.m.w.spent_ps = 0
        self.m.w.nr_touch = 0
        self.m.w.last_touch = 0
        while left > 0:
            piece = min(left, <int64_t> 1 << 22)
            with nogil:
                self.m.w.touch_max = TOUCH_MAX
                done = engine_run(&self.m, until, piece)
                self.m.w.touch_max = 0
            total += done
            left -= done
            if self.m.clock.error:
                self.fail()
            if done < piece:
                break
            PyErr_CheckSignals()
        return total

    def fail(self):
        """Raises ModelError with what is known about why the run could not go on."""
        from fastmlock.state.world import ModelError
        if self.m.w.error == ERR_DEADLOCK:
            waiting = [f"task {i} for {LOCK_CLASSES[self.m.tasks[i].wait_class]} {self.m.tasks[i].wait_obj}"
                       for i in range(self.m.nr_tasks) if self.m.tasks[i].waiting]
            raise ModelError(f"{self.m.clock.live} tasks wait and nothing will wake them: "
                             + ", ".join(waiting[:4]) + (", ..." if len(waiting) > 4 else ""))
        self.world.check()
        raise ModelError("a flow asked for something the machine does not know")

    @property
    def now_ns(self):
        """Virtual time of the latest event, ns."""
        return self.m.clock.now_ns

    @property
    def events(self):
        """Events processed so far."""
        return self.m.clock.events

    @property
    def live(self):
        """Tasks started and not over."""
        return self.m.clock.live

    @property
    def transfers(self):
        """Cache lines that came from another CPU or from memory."""
        return self.m.clock.transfers

    # ---- results
    @property
    def tasks(self):
        """One record per task, not copied: start_ns, exit_ns (-1: not over), slept_ns, switches, ..."""
        return self.arrays["tasks"]

    @property
    def lock_stat(self):
        """[class, (read, write)] of the columns of /proc/lock_stat, not copied; times in ns. Rows are named
        by LOCK_CLASSES. Spinlocks and page locks count as written."""
        return self.arrays["lock_stat"]

    @property
    def reports(self):
        """What the watchdogs reported, in order, not copied; `kind` indexes REPORTS."""
        return self.arrays["reports"][:self.m.clock.nr_reports]

    def callstacks(self, tasks):
        """int32[len(tasks), CALLSTACK]: what the tasks of these numbers are doing, as rows of
        fastmlock.machine.callstack. Raises ValueError where there is no such task."""
        cdef int64_t[::1] which = np.ascontiguousarray(tasks, np.int64)
        out = np.empty((len(which), CALLSTACK), np.int32)
        cdef int32_t[:, ::1] rows = out
        cdef Py_ssize_t i
        for i in range(which.shape[0]):
            if not 0 <= which[i] < self.m.nr_tasks:
                raise ValueError(f"no task {which[i]}")
            callstack(&self.m, <int>which[i], &rows[i, 0])
        return out

    def end_ns(self):
        """The latest time up to which some CPU's time is known, ns."""
        return max(int(self.arrays["cpus"]["acct_ns"].max()), self.m.clock.now_ns)

    def cpu_ns(self):
        """What each CPU's time went to: structured int64[cpus], fields ACCOUNTS, ns. Every row sums to
        `end_ns()`."""
        out = self.arrays["accounts"].copy()
        cpus = self.arrays["cpus"]
        rest = self.end_ns() - cpus["acct_ns"]
        state = np.where(cpus["curr"] == 0, cpus["park_state"], self.open_states())
        out[np.arange(len(out)), state] += rest
        return out.view(ACCOUNT_DTYPE).reshape(-1)

    def open_states(self):
        """int32[cpus]: what the time of each CPU since it was last charged will be charged to."""
        cdef int cpu
        cdef TaskRec *r
        out = np.zeros(self.m.nr_cpus, np.int32)
        for cpu in range(self.m.nr_cpus):
            if not self.m.cpus[cpu].curr:
                continue
            r = &self.m.tasks[self.m.cpus[cpu].curr - 1]
            if r.phase == PH_SPIN:
                out[cpu] = {LK_LRU: ACC_LRU_SPIN, LK_PTL: ACC_PTL_SPIN}.get(r.wait_class, ACC_OTHER_SPIN)
            elif PH_RW_REVOKE <= r.phase <= PH_RW_HANDOFF:
                out[cpu] = (ACC_I_MMAP_READ_SPIN if r.wait_class == LK_I_MMAP else ACC_RWSEM_READ_SPIN) \
                    + 2 * r.wait_write
            elif r.phase >= PH_PAGE_SECTION:
                out[cpu] = ACC_PAGE_SPIN
        return out

    def nbytes(self):
        """Bytes of all arrays of the machine; those of the world not counted."""
        return sum(array.nbytes for array in self.arrays.values())

    # ---- checkpoints
    def save(self):
        """A copy of everything that changes, as a dict of arrays. The world must be saved with it."""
        return {name: array.copy() for name, array in self.arrays.items()}

    def load(self, saved, *, bint copy=True):
        """Goes back to what `save` returned, on a machine of the same topology. Costs and traits stay. Without `copy`
        the arrays given are worked on from then on."""
        if len(saved["cpus"]) != self.m.nr_cpus or set(saved) != set(self.arrays):
            raise ValueError("the checkpoint is of another machine")
        self.arrays.update({name: np.array(array) if copy else array for name, array in saved.items()})
        self.repoint()
