"""The machine as a whole: determinism, scheduling, accounting, checkpoints, watchdogs."""
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastmlock import kernels
from fastmlock.machine.bare import bare_loop
from fastmlock.machine.costs import Costs
from fastmlock.machine.layout import REPORTS
from fastmlock.machine.loops import loop_machine, start_loop
from fastmlock.machine.machine import Machine
from fastmlock.machine.report import lock_stat_text, watchdog_lines
from fastmlock.machine.topology import Topology
from fastmlock.state.layout import K
from fastmlock.state.world import ModelError, WorldHandle

US, MS, S = 1000, 1_000_000, 1_000_000_000


def busy(seed=1, cpus=32):
    return loop_machine(Topology.preset("milan-7r13", cpus=cpus), kind="rwsem", tasks=2 * cpus, rounds=60,
                        think_ns=4000, hold_ns=700, exponential=True, read_percent=70, seed=seed)


def content(machine):
    return {name: array.tobytes() for name, array in machine.save().items()}


# ---- determinism
def test_same_seed_same_bytes_in_one_thread_and_in_several():
    def run(seed):
        machine = busy(seed)
        machine.run()
        return content(machine)

    alone = [run(seed) for seed in (1, 2, 1)]
    assert alone[0] == alone[2] != alone[1]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, [1, 2, 1, 2])) == [alone[0], alone[1]] * 2


def test_slices_do_not_matter():
    whole, sliced = busy(), busy()
    whole.run()
    t = 0
    while sliced.live:
        t += 7777
        sliced.run(until_ns=t, max_events=50)
        sliced.run(max_events=13)
    assert content(whole) == content(sliced)


def test_checkpoint_and_resume():
    whole, first = busy(), busy()
    whole.run()
    first.run(max_events=5000)
    machine, world = first.save(), {k: v.copy() for k, v in first.world.arrays.items()}
    second = busy()
    second.load(machine)
    for name, array in world.items():
        second.world.arrays[name][:] = array
    second.run()
    assert content(second) == content(whole)
    with pytest.raises(ValueError, match="another machine"):
        busy(cpus=16).load(machine)


# ---- time
def test_every_cpu_accounts_for_all_its_time():
    machine = busy()
    while machine.run(max_events=1000):
        rows = machine.cpu_ns()
        assert {sum(row) for row in rows.tolist()} == {machine.end_ns()}
    assert rows["rwsem_write_spin"].sum() > 0 and rows["work"].sum() > 0


def test_work_and_delays_take_their_time():
    machine = loop_machine(Topology.ideal(1), Costs.zero(), rounds=10, think_ns=30, hold_ns=12)
    assert machine.run() > 0
    assert machine.run() == 0
    assert machine.now_ns == machine.tasks["exit_ns"][1] == 420
    assert machine.cpu_ns()["work"][0] == 420


def test_bouncing_counts():
    machine = loop_machine(Topology.preset("generic", cpus=2), rounds=100, think_ns=100, hold_ns=100)
    machine.run()
    stat = machine.lock_stat[K.LK_TEST_SPIN, 1]
    assert stat["acquisitions"] == 200
    assert 150 < stat["acq_bounces"] <= 200
    assert stat["waittime_min"] <= stat["waittime_total"] / stat["contentions"] <= stat["waittime_max"]
    assert stat["holdtime_min"] == 100


def test_lock_stat_reads_like_the_kernel_s():
    machine = busy()
    machine.run()
    head, write, read = lock_stat_text(machine).splitlines()
    assert head.split()[2:] == ["con-bounces", "contentions", "waittime-min", "waittime-max", "waittime-total",
                                "waittime-avg", "acq-bounces", "acquisitions", "holdtime-min", "holdtime-max",
                                "holdtime-total", "holdtime-avg"]
    assert write.split()[:2] == ["test", "rwsem-W:"] and read.split()[:2] == ["test", "rwsem-R:"]
    assert int(write.split()[9]) + int(read.split()[9]) == 64 * 60
    assert len(write.split()) == len(head.split())


# ---- the scheduler
def test_10_000_tasks_on_64_cpus():
    machine = loop_machine(Topology.preset("generic", cpus=64), kind="rwsem", tasks=10_000, rounds=3,
                           think_ns=20 * US, hold_ns=1 * US, exponential=True, read_percent=80)
    machine.run()
    assert machine.live == 0
    assert (machine.tasks["exit_ns"][1:] > 0).all()
    assert machine.lock_stat[K.LK_TEST_RWSEM]["acquisitions"].sum() == 30_000
    assert {sum(row) for row in machine.cpu_ns().tolist()} == {machine.end_ns()}


def test_tasks_share_a_cpu_by_slices():
    """Two programs of 30 ms on one CPU alternate every 3 ms and end together."""
    machine = loop_machine(Topology.ideal(1), Costs.default().replace(tick=0), tasks=2, rounds=1, think_ns=30 * MS,
                           hold_ns=0)
    machine.run()
    first, second = machine.tasks["exit_ns"][1:]
    assert second - first == pytest.approx(3 * MS, rel=0.01)
    assert machine.tasks["switches"][1:].tolist() == [10, 10]
    switch = Costs.default()["switch"].ns
    assert machine.cpu_ns()["switch"][0] == 20 * switch
    assert second == pytest.approx(60 * MS + 19 * switch, abs=1000)


def test_a_spinlock_holder_is_not_preempted():
    machine = loop_machine(Topology.ideal(1), tasks=2, rounds=1, think_ns=0, hold_ns=30 * MS)
    machine.run()
    assert machine.tasks["switches"][1:].tolist() == [1, 1]


def test_a_woken_task_shortens_the_slice():
    """A sleeper that is woken beside a busy task runs after the wake-up granularity, 1 ms, not after 3 ms."""
    world = WorldHandle(kernels.get("5.17-rc2"), cpus=2, nodes=1, capacity={"tasks": 4})
    machine = Machine(world, Topology.preset("graviton3", cpus=2))
    start_loop(world, 1, "rwsem", cpu=0, rounds=1, think_ns=0, hold_ns=100 * US)
    start_loop(world, 2, "rwsem", cpu=1, rounds=1, think_ns=0, hold_ns=0, read_percent=100)
    start_loop(world, 3, "lock", cpu=1, rounds=1, think_ns=50 * MS, hold_ns=0)
    for task, at_ns in ((1, 0), (2, 1 * US), (3, 2 * US)):
        machine.start(task, at_ns)
    machine.run()
    assert 1 * MS < machine.tasks["exit_ns"][2] < 1.1 * MS


def test_start_is_checked():
    machine = loop_machine(Topology.ideal(2), rounds=1, think_ns=0, hold_ns=0)
    with pytest.raises(ValueError, match="task 1 is running already"):
        machine.start(1)
    machine.run()
    with pytest.raises(ValueError, match="task 1 has no flow to run"):
        machine.start(1)
    with pytest.raises(ValueError, match="no task 77"):
        machine.start(77)
    start_loop(machine.world, 1, "lock", rounds=1, think_ns=5, hold_ns=0, cpu=9)
    with pytest.raises(ValueError, match="task 1 is on CPU 9 of 2"):
        machine.start(1)
    machine.world.tasks["cpu"][1] = 0
    before = machine.now_ns
    machine.start(1)
    machine.run()
    assert machine.tasks["exit_ns"][1] >= before + 5
    with pytest.raises(ValueError, match="the world has 2 CPUs on 1 nodes, the machine 4 on 1"):
        Machine(machine.world, Topology.ideal(4))


# ---- the watchdogs
def kinds(machine):
    return [REPORTS[kind] for kind in machine.reports["kind"]]


def test_a_writer_kept_waiting_becomes_a_hung_task():
    """khungtaskd sees it first at 120 s and reports it at 240 s: once per look, 120 s or more of one sleep."""
    world = WorldHandle(kernels.get("5.17-rc2"), cpus=2, nodes=1, capacity={"tasks": 3})
    machine = Machine(world, Topology.preset("graviton3", cpus=2))
    start_loop(world, 1, "rwsem", cpu=0, rounds=1, think_ns=0, hold_ns=300 * S, read_percent=100)
    start_loop(world, 2, "rwsem", cpu=1, rounds=1, think_ns=0, hold_ns=0)
    machine.start(1)
    machine.start(2, 1 * MS)
    machine.run(until_ns=241 * S)
    assert kinds(machine) == ["hung task"]
    report = machine.reports[0]
    assert (report["callstack"] == machine.callstacks([2])[0]).all()
    assert report["time_ns"] == 240 * S and report["task"] == 2 and report["cpu"] == 1
    assert (report["lock_class"], report["lock_obj"], report["write"]) == (K.LK_TEST_RWSEM, 0, 1)
    assert report["since_ns"] == pytest.approx(1 * MS, rel=0.1)
    lines = watchdog_lines(machine, kernel="5.17.0-rc2")
    assert lines[0] == "[  240.000000] INFO: task locker:2 blocked for more than 120 seconds."
    assert lines[1] == "[  240.000000]       Not tainted 5.17.0-rc2 #1"
    assert lines[2].endswith('"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.')
    assert lines[3].startswith("[  240.000000] task:locker          state:D stack:")
    assert [line.split("] ")[1] for line in lines[4:]] == [
        "Call Trace:", " <TASK>", " schedule", " rwsem_down_write_slowpath", " down_write(test rwsem of 0)",
        " rwsem_loop", " </TASK>"]


def test_119_seconds_are_not_hung():
    world = WorldHandle(kernels.get("5.17-rc2"), cpus=2, nodes=1, capacity={"tasks": 3})
    machine = Machine(world, Topology.preset("graviton3", cpus=2))
    start_loop(world, 1, "rwsem", cpu=0, rounds=1, think_ns=0, hold_ns=119 * S, read_percent=100)
    start_loop(world, 2, "rwsem", cpu=1, rounds=1, think_ns=0, hold_ns=0)
    machine.start(1)
    machine.start(2, 1 * MS)
    machine.run()
    assert kinds(machine) == []


def test_a_spinlock_held_for_long_locks_up_its_cpu():
    machine = loop_machine(Topology.ideal(2), rounds=1, think_ns=0, hold_ns=30 * S)
    machine.run()
    assert set(kinds(machine)) == {"soft lockup", "rcu stall"}
    soft = machine.reports[machine.reports["kind"] == 1]
    assert soft["time_ns"][0] == 24 * S                 # the first sample past 20 units of 2**30 ns
    assert set(soft["task"][:2]) == {1, 2}              # the holder and the spinner
    assert "BUG: soft lockup - CPU#0 stuck for 24s! [locker:1]" in watchdog_lines(machine)[0]


def test_long_preemptible_work_is_healthy():
    machine = loop_machine(Topology.ideal(1), rounds=1, think_ns=500 * S, hold_ns=0)
    machine.run()
    assert kinds(machine) == []


def test_a_deadlock_is_an_error():
    world = WorldHandle(kernels.get("5.17-rc2"), cpus=2, nodes=1, capacity={"tasks": 3})
    machine = Machine(world, Topology.preset("graviton3", cpus=2))
    world.pages["flags"][5] = K.PG_locked               # nobody will unlock it
    start_loop(world, 1, "lock", lock_class=K.LK_PAGE, obj=5, rounds=1, think_ns=0, hold_ns=0)
    machine.start(1)
    with pytest.raises(ModelError, match="1 tasks wait and nothing will wake them: task 1 for page lock 5"):
        machine.run()


# ---- size and speed
def test_a_page_costs_8_bytes_and_a_spinlock_24():
    world = WorldHandle(kernels.get("5.17-rc2"), cpus=1, capacity={"pages": 1 << 20, "leaves": 1 << 12})
    machine = Machine(world, Topology.ideal(1))
    assert machine.arrays["lines"].nbytes == 8 << 20
    assert machine.arrays["ptls"].nbytes == 24 << 12


def test_arrays_follow_the_world():
    world = WorldHandle(kernels.get("5.17-rc2"), cpus=1)
    machine = Machine(world, Topology.ideal(1))
    world.reserve(tasks=500, pages=10_000)
    start_loop(world, 400, "lock", rounds=1, think_ns=1, hold_ns=1)
    machine.start(400)
    machine.run()
    assert machine.tasks["exit_ns"][400] > 0
    assert len(machine.arrays["lines"]) == len(world.pages)


def test_the_bare_loop_takes_the_lock_every_other_event():
    assert bare_loop(8, 10_000) == pytest.approx(5000, rel=0.01)
    assert bare_loop(1, 10) == 5
    with pytest.raises(ValueError, match="0 CPUs"):
        bare_loop(0, 10)
    assert bare_loop(1024, 100_000) > 45_000
