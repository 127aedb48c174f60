"""Idle states, the governor's choice among them, timer ticks and interrupts that are off."""
from dataclasses import replace

import pytest

from fastmlock.machine.costs import Costs
from fastmlock.machine.loops import loop_machine
from fastmlock.machine.topology import Topology, TopologyError
from fastmlock.state.layout import K

US, MS = 1000, 1_000_000
STATES = ((2, 2), (10, 20), (41, 600))


def by_turns(sleep_ns, states, rounds=2000, **costs):
    """Two writers who cannot spin hand a semaphore to and fro: each comes back 60 us after it let go, and sleeps for
    what is left of the other's turn."""
    topology = replace(Topology.preset("generic", cpus=2, nodes=1), idle_states=states)
    machine = loop_machine(topology, Costs.default().replace(**costs), kind="rwsem", rounds=rounds, think_ns=60 * US,
                           hold_ns=60 * US + sleep_ns, traits={"rwsem_spin": 0, "rwsem_handoff": 0})
    machine.run()
    return machine


@pytest.mark.parametrize(("sleep_us", "more_us"), [(10, 0), (100, 8), (1500, 39)])
def test_the_governor_learns_how_long_it_sleeps(sleep_us, more_us):
    """Each wake-up takes as much longer as the state worth entering takes longer to leave than the shallowest."""
    plain, deep = (by_turns(sleep_us * US, states, tick=0) for states in ((), STATES))
    sleeps = int(deep.tasks["switches"].sum())
    assert sleeps == pytest.approx(4000, abs=100) and abs(sleeps - plain.tasks["switches"].sum()) <= 100
    learning = 100 * 39 * US                            # a cpu begins as one that has been idle for long
    assert deep.end_ns() - plain.end_ns() == pytest.approx(sleeps * more_us * US, abs=learning)


def test_a_tick_before_it_is_worth_while_keeps_the_state_shallow():
    """Who expects to sleep for 700 us keeps a tick of 1 ms, and it comes before 600 us are over as often as not."""
    ends = [by_turns(700 * US, STATES, tick=tick).end_ns() for tick in (0, 1_000_000)]
    assert ends[0] != ends[1]


def test_ticks_cost_their_time():
    machine = loop_machine(Topology.preset("generic", cpus=1, nodes=1), rounds=200_000, think_ns=0, hold_ns=100)
    machine.run()
    ticks = machine.end_ns() // (4 * MS)
    assert ticks > 4
    assert machine.cpu_ns()["switch"][0] - Costs.default()["switch"].ns == ticks * Costs.default()["tick_work"].ns


@pytest.mark.parametrize(("lock_class", "late"), [(K.LK_TEST_SPIN, 1500), (K.LK_LRU, 0)])
def test_a_tick_waits_while_interrupts_are_off(lock_class, late):
    """lru_lock is held with interrupts off, so no tick makes anybody hold it for longer."""
    machine = loop_machine(Topology.preset("generic", cpus=1, nodes=1), rounds=100, think_ns=50_000, hold_ns=1 * MS,
                           lock_class=lock_class)
    machine.run()
    longest = int(machine.lock_stat[lock_class, 1]["holdtime_max"])
    assert longest == 1 * MS + late
    assert machine.cpu_ns()["switch"][0] >= 20 * Costs.default()["tick_work"].ns


@pytest.mark.parametrize(("states", "what"), [
    ("[[2, 2], [10, 20], [5, 30]]", "shallow to deep"), ("[[2]]", "pairs"), ("3", "pairs"), ("[[2, -1]]", "pairs"),
    ("[[1, 1], [2, 2], [3, 3], [4, 4], [5, 5], [6, 6], [7, 7], [8, 8], [9, 9]]", "up to 8")])
def test_idle_states_that_cannot_be(tmp_path, states, what):
    path = tmp_path / "m.toml"
    path.write_text(f"cpus = 2\nnodes = 1\nidle_states = {states}\n")
    with pytest.raises(TopologyError, match=what):
        Topology.load(path)


def test_presets_name_their_idle_states():
    for name in Topology.presets():
        preset = Topology.preset(name)
        assert not preset.idle_states or "idle states" in preset.source
    assert Topology.preset("xeon-6242").idle_states == STATES
