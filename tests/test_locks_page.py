"""The page lock (specification 6.2): PG_locked, hashed wait queues, retries, direct hand-over."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmlock import kernels
from fastmlock.machine.costs import Costs
from fastmlock.machine.loops import loop_machine, start_loop
from fastmlock.machine.machine import Machine
from fastmlock.machine.topology import Topology
from fastmlock.series.bench import ADDRESS, Bench
from fastmlock.state.layout import K
from fastmlock.state.world import WorldHandle

US, MS = 1000, 1_000_000
PAGE = 7


def inside(machine):
    frame = machine.world.tasks["stack"][1:, 0]
    return int(((frame["pc"] == 3) & (machine.world.tasks["depth"][1:] >= 0)).sum())


def at_rest(machine):
    flags = machine.world.pages["flags"]
    assert not (flags & K.PG_locked).any()
    queues = machine.arrays["page_queues"]
    assert not queues["head"].any() and not queues["tail"].any() and not queues["lock"]["locked"].any()
    assert machine.live == 0


@settings(max_examples=60, deadline=None)
@given(cpus=st.integers(1, 6), tasks=st.integers(1, 14), rounds=st.integers(1, 12),
       think=st.sampled_from([0, 300, 5000]), hold=st.sampled_from([0, 200, 9000, 200_000]),
       exponential=st.booleans(), seed=st.integers(0, 1000), unfairness=st.integers(0, 6))
def test_exclusion_and_no_lost_wake_up(cpus, tasks, rounds, think, hold, exponential, seed, unfairness):
    machine = loop_machine(Topology.preset("generic", cpus=cpus), kind="lock", lock_class=K.LK_PAGE, obj=PAGE,
                           tasks=tasks, rounds=rounds, think_ns=think, hold_ns=hold, exponential=exponential,
                           seed=seed, traits={"page_unfairness": unfairness},
                           costs=Costs.default().replace(slice=100_000, wake_granularity=20_000))
    while machine.run(max_events=1):
        assert inside(machine) <= 1
        assert not inside(machine) or machine.world.pages["flags"][PAGE] & K.PG_locked
    at_rest(machine)
    assert machine.lock_stat[K.LK_PAGE, 1]["acquisitions"] == tasks * rounds
    assert {sum(row) for row in machine.cpu_ns().tolist()} == {machine.end_ns()}


def test_alone_it_never_sleeps():
    machine = loop_machine(Topology.preset("generic", cpus=1), lock_class=K.LK_PAGE, obj=PAGE, rounds=100,
                           think_ns=10, hold_ns=10)
    machine.run()
    assert machine.tasks["slept_ns"].sum() == 0
    assert machine.lock_stat[K.LK_PAGE, 1]["contentions"] == 0


def lost_tries(unfairness):
    """A task that takes the lock again at once beats a woken waiter; how often, before the waiter has it?"""
    topology = Topology.preset("generic", cpus=2)
    world = WorldHandle(kernels.get("5.17-rc2"), cpus=2, nodes=topology.nodes, capacity={"tasks": 3})
    machine = Machine(world, topology, traits={"page_unfairness": unfairness})
    start_loop(world, 1, "lock", lock_class=K.LK_PAGE, obj=PAGE, cpu=0, rounds=50, think_ns=0, hold_ns=100 * US)
    start_loop(world, 2, "lock", lock_class=K.LK_PAGE, obj=PAGE, cpu=1, rounds=1, think_ns=0, hold_ns=0)
    machine.start(1)
    machine.start(2, 10 * US)
    machine.run()
    at_rest(machine)
    return round(machine.tasks["exit_ns"][2] / (100 * US))


@pytest.mark.parametrize("unfairness", [0, 1, 5])
def test_the_bit_is_handed_over_after_so_many_lost_tries(unfairness):
    # queued `unfairness` times as one who must try, woken and beaten each time, then handed the bit
    assert lost_tries(unfairness) == unfairness + 1


def test_pages_that_share_a_queue_do_not_share_wake_ups():
    def bucket(page):
        return (page * 64 * 0x61C8864680B583EB & (1 << 64) - 1) >> 56

    other = next(page for page in range(PAGE + 1, 4096) if bucket(page) == bucket(PAGE))
    topology = Topology.preset("generic", cpus=4)
    world = WorldHandle(kernels.get("5.17-rc2"), cpus=4, nodes=topology.nodes, capacity={"tasks": 5})
    machine = Machine(world, topology)
    for task, (page, at_ns, hold) in enumerate(
            [(PAGE, 0, 1 * MS), (other, 0, 2 * MS), (other, 10 * US, 0), (PAGE, 20 * US, 0)], 1):
        start_loop(world, task, "lock", lock_class=K.LK_PAGE, obj=page, cpu=task - 1, rounds=1, think_ns=0,
                   hold_ns=hold)
        machine.start(task, at_ns)
    machine.run()
    at_rest(machine)
    exits = machine.tasks["exit_ns"]
    assert exits[4] < 1.1 * MS and 2 * MS < exits[3] < 2.1 * MS


def test_faults_wait_for_a_migration_without_taking_the_lock():
    bench = Bench("6.1", 16, 16, "generic")
    pids = bench.spawn_mapped(bench.file(), 16)
    bench.begin()
    system, machine = bench.system, bench.running.machine
    bench.together([system.compact, *(lambda pid=pid: system.touch(pid, ADDRESS, 16, False) for pid in pids[1:])])
    assert (machine.tasks["slept_ns"] > 0).sum() > 4        # those who found a migration entry
    assert not (system.pages["flags"] & (K.PG_locked | K.PG_waiters)).any()
    assert not machine.arrays["page_queues"]["head"].any() and not machine.live
