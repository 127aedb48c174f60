"""The rules of the rw_semaphore (specification 6.1), seen from outside."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmlock import kernels
from fastmlock.machine.costs import Costs
from fastmlock.machine.loops import loop_machine, start_loop
from fastmlock.machine.machine import LOCK_TRAITS, Machine, lock_traits
from fastmlock.machine.topology import Topology
from fastmlock.state.layout import K
from fastmlock.state.world import WorldHandle

US, MS = 1000, 1_000_000
READ, WRITE = 100, 0


def scene(cpus, *loops, costs=None, traits=None, topology=None):
    """A machine with one loop per CPU: (at_ns, read_percent, rounds, think_ns, hold_ns)."""
    topology = topology or Topology.preset("icelake-8375c", cpus=cpus)
    world = WorldHandle(kernels.get("5.17-rc2"), cpus=cpus, nodes=topology.nodes,
                        capacity={"tasks": len(loops) + 1})
    machine = Machine(world, topology, costs, traits=traits)
    for task, (at_ns, read, rounds, think, hold) in enumerate(loops, 1):
        start_loop(world, task, "rwsem", cpu=(task - 1) % cpus, rounds=rounds, think_ns=think, hold_ns=hold,
                   read_percent=read)
        machine.start(task, at_ns)
    return machine


def exits(machine):
    return machine.tasks["exit_ns"][1:].tolist()


def at_rest(machine):
    """Nobody holds it, nobody waits, nothing is left over."""
    sem = machine.arrays["test_rwsems"][0]
    assert sem["count"] == 0 and not sem["head"] and not sem["tail"]
    assert not sem["osq_tail"] and not sem["spinner"] and not sem["handoff_spinner"]
    assert not sem["wait_lock"]["locked"] and not sem["wait_lock"]["tail"]
    assert machine.live == 0


def holders(machine):
    """Who is inside, by the state of the flows: (readers, writers)."""
    frame = machine.world.tasks["stack"][1:, 0]
    inside = (frame["pc"] == 3) & (machine.world.tasks["depth"][1:] >= 0)
    return int((inside & (frame["i"] == 1)).sum()), int((inside & (frame["i"] == 0)).sum())


trait_sets = st.fixed_dictionaries({
    "rwsem_handoff": st.integers(0, 1), "rwsem_handoff_setter": st.integers(0, 1),
    "rwsem_steal": st.integers(0, 1), "rwsem_spin": st.integers(0, 1), "rwsem_reader_spin": st.integers(0, 1),
    "rwsem_wake_readers": st.sampled_from([1, 2, 256]), "rwsem_xadd": st.integers(0, 1)})


@settings(max_examples=60, deadline=None)
@given(cpus=st.integers(1, 6), tasks=st.integers(1, 14), rounds=st.integers(1, 12), read=st.integers(0, 100),
       think=st.sampled_from([0, 300, 5000]), hold=st.sampled_from([0, 200, 9000, 60_000, 900_000]),
       exponential=st.booleans(), seed=st.integers(0, 1000), traits=trait_sets)
def test_exclusion_and_no_lost_wake_up(cpus, tasks, rounds, read, think, hold, exponential, seed, traits):
    machine = loop_machine(Topology.preset("generic", cpus=cpus), kind="rwsem", tasks=tasks, rounds=rounds,
                           think_ns=think, hold_ns=hold, exponential=exponential, read_percent=read, seed=seed,
                           traits=traits, costs=Costs.default().replace(slice=200_000, wake_granularity=50_000))
    while machine.run(max_events=1):
        readers, writers = holders(machine)
        assert writers == 0 or (writers == 1 and readers == 0)
    at_rest(machine)
    stat = machine.lock_stat[K.LK_TEST_RWSEM]
    assert stat["acquisitions"].sum() == tasks * rounds
    assert {sum(row) for row in machine.cpu_ns().tolist()} == {machine.end_ns()}


def test_queued_writers_go_in_order():
    """While one holds it for a long time ten queue; without spinners they follow one another FIFO."""
    loops = [(0, WRITE, 1, 0, 500 * US)] + [((10 + i) * US, WRITE, 1, 0, 20 * US) for i in range(10)]
    machine = scene(11, *loops, traits={"rwsem_spin": 0})
    machine.run()
    assert exits(machine) == sorted(exits(machine))
    at_rest(machine)


def test_spinning_writers_go_in_order_too():
    loops = [(0, WRITE, 1, 0, 100 * US)] + [((10 + i) * US, WRITE, 1, 0, 2 * US) for i in range(10)]
    machine = scene(11, *loops)
    machine.run()
    assert exits(machine) == sorted(exits(machine))
    assert machine.tasks["slept_ns"].sum() == 0         # the owner ran all along
    at_rest(machine)


def test_a_release_wakes_256_readers_at_once():
    """300 readers behind a writer come in as 256, and 44 when those are out."""
    loops = [(0, WRITE, 1, 0, 1 * MS)] + [(10 * US, READ, 1, 0, 2 * MS)] * 300
    machine = scene(301, *loops)
    machine.run()
    ends = np.sort(np.array(exits(machine)[1:]))
    assert (ends < 4 * MS).sum() == 256
    assert (ends > 5 * MS).sum() == 44
    at_rest(machine)


def test_readers_are_woken_past_queued_writers():
    """R W R R behind a writer: all three readers are granted together, the writer after them."""
    loops = [(0, WRITE, 1, 0, 1 * MS), (10 * US, READ, 1, 0, 2 * MS), (20 * US, WRITE, 1, 0, 1 * MS),
             (30 * US, READ, 1, 0, 2 * MS), (40 * US, READ, 1, 0, 2 * MS)]
    machine = scene(5, *loops, traits={"rwsem_spin": 0})
    machine.run()
    first, r1, w, r2, r3 = exits(machine)
    assert max(r1, r2, r3) < first + 2.1 * MS
    assert w > max(r1, r2, r3)


def reader_again_and_again(handoff):
    """One reader that lets go for a moment every 100 us and a writer that it always beats."""
    return scene(2, (0, READ, 100, 0, 100 * US), (30 * US, WRITE, 1, 0, 10 * US),
                 traits={"rwsem_handoff": handoff})


def test_handoff_after_4_ms():
    machine = reader_again_and_again(1)
    machine.run()
    wait = machine.lock_stat[K.LK_TEST_RWSEM, 1]["waittime_max"]
    assert 4 * MS < wait < 4.3 * MS
    at_rest(machine)


def test_without_handoff_the_writer_starves():
    machine = reader_again_and_again(0)
    machine.run()
    assert machine.lock_stat[K.LK_TEST_RWSEM, 1]["waittime_max"] > 9 * MS
    at_rest(machine)


def test_a_reader_joins_readers_only_if_nobody_waits():
    """A reader that meets readers and a queued writer queues behind the writer (no steal while r > 1)."""
    loops = [(0, READ, 1, 0, 1 * MS), (50 * US, WRITE, 1, 0, 1 * MS), (200 * US, READ, 1, 0, 1 * MS)]
    machine = scene(3, *loops)
    machine.run()
    first, writer, late = exits(machine)
    assert first < writer < late
    alone = scene(3, loops[0], (0, READ, 0, 0, 0), loops[2])
    alone.run()
    assert exits(alone)[2] < 1.3 * MS                   # without the writer it joins at once


def test_a_reader_steals_from_a_waking_writer():
    """Between the last reader's release and the writer's waking up, one reader may take the free lock."""
    loops = [(0, READ, 1, 0, 1 * MS), (50 * US, WRITE, 1, 0, 1 * MS), (1 * MS + 1 * US, READ, 1, 0, 1 * MS)]
    machine = scene(3, *loops)
    machine.run()
    first, writer, thief = exits(machine)
    assert first < thief < writer
    machine = scene(3, *loops, traits={"rwsem_steal": 0})
    machine.run()
    first, writer, late = exits(machine)
    assert first < writer < late


@pytest.mark.parametrize("hold_us, sleeps", [(5, False), (10, False), (14, True), (100, True)])
def test_a_writer_spins_on_a_reader_for_10_us(hold_us, sleeps):
    """(20 + 1 reader) / 2 us, looked at every 16 loops of 50 ns: it gives up between 10.5 and 11.3 us."""
    machine = scene(2, (0, READ, 1, 0, hold_us * US), (200, WRITE, 1, 0, 1 * US))
    machine.run()
    assert (machine.tasks["slept_ns"][2] > 0) == sleeps
    at_rest(machine)


def test_many_readers_are_spun_on_for_25_us():
    readers = [(0, READ, 1, 0, 20 * US)] * 40
    machine = scene(41, *readers, (5 * US, WRITE, 1, 0, 1 * US))
    machine.run()
    assert machine.tasks["slept_ns"][41] == 0


def test_readers_of_5_10_spin_instead_of_sleeping():
    """Behind a running writer a reader of 5.10 waits awake, one of 5.17 asleep."""
    loops = [(0, WRITE, 1, 0, 100 * US), (1 * US, READ, 1, 0, 0), (2 * US, READ, 1, 0, 0)]
    old = scene(3, *loops, traits=lock_traits(510))
    old.run()
    assert old.tasks["slept_ns"].sum() == 0
    assert old.cpu_ns()["rwsem_read_spin"].sum() > 190 * US
    new = scene(3, *loops, traits=lock_traits(517))
    new.run()
    assert (new.tasks["slept_ns"][2:4] > 90 * US).all()
    for machine in (old, new):
        at_rest(machine)


def test_locks_of_releases():
    assert lock_traits(517) == LOCK_TRAITS
    assert lock_traits(601)["rwsem_handoff_setter"] == 1
    assert lock_traits(510)["rwsem_reader_spin"] == 1


def test_a_writer_does_not_spin_on_an_owner_that_is_not_running():
    """Two tasks share CPU 0: the owner is preempted by the other, so the spinner on CPU 1 goes to sleep."""
    world = WorldHandle(kernels.get("5.17-rc2"), cpus=2, nodes=1, capacity={"tasks": 4})
    topology = Topology.preset("graviton3", cpus=2)
    machine = Machine(world, topology)
    start_loop(world, 1, "rwsem", cpu=0, rounds=1, think_ns=0, hold_ns=10 * MS)
    start_loop(world, 2, "lock", cpu=0, rounds=1, think_ns=10 * MS, hold_ns=0)
    start_loop(world, 3, "rwsem", cpu=1, rounds=1, think_ns=0, hold_ns=0)
    for task in (1, 2, 3):
        machine.start(task, 1000 * task)
    machine.run()
    assert machine.tasks["slept_ns"][3] > 0
    spun = machine.cpu_ns()["rwsem_write_spin"][1]
    assert 2.9 * MS < spun < 3.2 * MS                   # until the owner's slice was over
    at_rest(machine)


def test_reader_after_writer_sees_the_costs_of_sleeping():
    """A lone waiter behind a writer pays the wake-up latency once."""
    costs = Costs.default()
    machine = scene(2, (0, WRITE, 1, 0, 50 * US), (1 * US, READ, 1, 0, 0), costs=costs)
    machine.run()
    _, reader = exits(machine)
    assert costs["wake_latency"].ns < reader - 50 * US < 3 * costs["wake_latency"].ns


def test_traits_are_checked():
    with pytest.raises(ValueError, match="unknown lock traits: rwsem_magic"):
        scene(2, traits={"rwsem_magic": 1})
    assert set(LOCK_TRAITS) >= {"rwsem_handoff", "rwsem_spin", "rwsem_steal"}
