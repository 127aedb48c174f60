# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Starting synthetic lock loops (fastmlock.flows.synthetic) from Python."""
from libc.stdint cimport int64_t
from fastmlock.flows.step cimport flow_start
from fastmlock.flows.frame cimport F_LOCK_LOOP, F_RWSEM_LOOP, F_TWO_LOCKS
from fastmlock.state.types cimport (LK_ANON_VMA, LK_I_MMAP, LK_LRU, LK_MMAP, LK_PAGE, LK_PTL, LK_TEST_RWSEM,
                                    LK_TEST_SPIN)
from fastmlock.state.world cimport WorldHandle

_FLOWS = {"lock": F_LOCK_LOOP, "rwsem": F_RWSEM_LOOP, "two_locks": F_TWO_LOCKS}
_CLASSES = {"lock": (LK_TEST_SPIN, LK_PAGE, LK_LRU, LK_PTL), "rwsem": (LK_TEST_RWSEM, LK_MMAP, LK_I_MMAP, LK_ANON_VMA),
            "two_locks": (LK_TEST_SPIN, LK_PAGE, LK_LRU, LK_PTL)}


def start_loop(WorldHandle world not None, int task, str kind, *, int64_t rounds, int64_t think_ns,
               int64_t hold_ns, bint exponential=False, bint constant_hold=False, int obj=0, lock_class=None, int read_percent=0,
               bint by_turns=False, int64_t seed=0, cpu=None):
    """Starts a lock loop on an idle task.

    kind : "lock" (a spinlock or page lock), "rwsem" or "two_locks"
    think_ns, hold_ns : means, ns; constant or exponential times
    constant_hold : exponential means the think time only ("lock" loops)
    lock_class : LockClass number; default LK_TEST_SPIN or LK_TEST_RWSEM
    read_percent : share of rounds that read, rwsem only
    by_turns : reads and writes alternate instead, rwsem only
    cpu : where the task runs; default: where it is

    Raises ValueError in one line.
    """
    if kind not in _FLOWS:
        raise ValueError(f"no loop is called {kind!r}; there are: {', '.join(_FLOWS)}")
    if not 0 <= task < <int> world.w.tasks_cap:
        raise ValueError(f"no task {task}")
    if rounds < 0 or think_ns < 0 or hold_ns < 0:
        raise ValueError("rounds and times must not be negative")
    if not (0 <= obj < 1 << 24 and 0 <= read_percent <= 100 and 0 <= seed < 1 << 23):
        raise ValueError("obj must be below 2**24, read_percent from 0 to 100, seed below 2**23")
    lock_class = _CLASSES[kind][0] if lock_class is None else lock_class
    if lock_class not in _CLASSES[kind]:
        raise ValueError(f"lock class {lock_class} is none of a {kind} loop")
    if cpu is not None:
        world.w.tasks[task].cpu = cpu
    flow_start(world.w, task, _FLOWS[kind], rounds, think_ns, hold_ns,
               <int64_t> obj | <int64_t> lock_class << 24 | <int64_t> exponential << 28 | <int64_t> constant_hold << 29
               | <int64_t> by_turns << 30 | <int64_t> read_percent << 32 | seed << 40)


def loop_machine(topology, costs=None, *, tasks=None, kernel="5.17-rc2", traits=None, int test_locks=1,
                 str kind="lock", place=None, **loop):
    """A Machine whose tasks, one per CPU or as many as asked, all run the same lock loop from time 0.

    Task i runs on CPU place[i - 1], or (i - 1) % cpus; task numbers begin at 1. `loop` goes to `start_loop`, `traits` to
    Machine.
    """
    from fastmlock import kernels
    from fastmlock.machine.machine import Machine
    tasks = topology.cpus if tasks is None else tasks
    world = WorldHandle(kernels.get(kernel), cpus=topology.cpus, nodes=topology.nodes,
                        capacity={"tasks": tasks + 1})
    machine = Machine(world, topology, costs, seed=loop.get("seed", 0), traits=traits, test_locks=test_locks)
    for task in range(1, tasks + 1):
        start_loop(world, task, kind, cpu=place[task - 1] if place else (task - 1) % topology.cpus, **loop)
        machine.start(task)
    return machine
