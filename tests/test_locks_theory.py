"""A lock alone behaves as queueing theory says: the closed forms, within 1 %."""
import numpy as np
import pytest

from fastmlock.machine.costs import Costs
from fastmlock.machine.loops import loop_machine
from fastmlock.machine.topology import Topology
from fastmlock.state.layout import K


def machine_repairman(n, think, hold):
    """M/M/1//N: throughput and mean number at the server, by the recursion of mean-value analysis."""
    queue = 0.0
    for k in range(1, n + 1):
        response = hold * (1 + queue)
        throughput = k / (response + think)
        queue = throughput * response
    return throughput, queue


def two_servers(n, think, hold):
    """Closed network of two exponential FIFO servers in a row: throughput, by mean-value analysis."""
    queue = 0.0
    for k in range(1, n + 1):
        response = hold * (1 + queue)
        throughput = k / (2 * response + think)
        queue = throughput * response
    return throughput


def measured(machine, lock_class):
    stat = machine.lock_stat[lock_class, 1]
    end = machine.now_ns
    at_lock = (stat["waittime_total"] + stat["holdtime_total"]) / end
    return stat["acquisitions"] / end, at_lock


@pytest.mark.parametrize("cpus, think, hold", [(2, 20_000, 10_000), (8, 100_000, 10_000), (16, 100_000, 10_000),
                                               (64, 500_000, 10_000), (32, 50_000, 10_000)])
def test_one_fifo_lock_is_the_machine_repairman(cpus, think, hold):
    machine = loop_machine(Topology.ideal(cpus), Costs.zero(), rounds=1 << 40, think_ns=think, hold_ns=hold,
                           exponential=True, seed=3)
    machine.run(until_ns=2_000_000 * hold)
    throughput, queue = machine_repairman(cpus, think, hold)
    x, at_lock = measured(machine, K.LK_TEST_SPIN)
    assert x == pytest.approx(throughput, rel=0.01)
    assert at_lock == pytest.approx(queue, rel=0.01)


def test_a_rwsem_of_writers_is_the_machine_repairman_too():
    # queued without spinning or stealing, so FIFO, and sleeping costs nothing
    machine = loop_machine(Topology.ideal(16), Costs.zero(), kind="rwsem", rounds=1 << 40, think_ns=100_000,
                           hold_ns=10_000, exponential=True, traits={"rwsem_spin": 0})
    machine.run(until_ns=10_000_000_000)
    throughput, queue = machine_repairman(16, 100_000, 10_000)
    x, at_lock = measured(machine, K.LK_TEST_RWSEM)
    assert x == pytest.approx(throughput, rel=0.01)
    assert at_lock == pytest.approx(queue, rel=0.01)


def test_readers_alone_do_not_wait_for_each_other():
    machine = loop_machine(Topology.ideal(16), Costs.zero(), kind="rwsem", rounds=1000, think_ns=1000,
                           hold_ns=3000, read_percent=100)
    machine.run()
    assert machine.end_ns() == 1000 * 4000
    assert machine.lock_stat[K.LK_TEST_RWSEM, 0]["contentions"] == 0


@pytest.mark.parametrize("cpus, think", [(4, 10_000), (16, 200_000)])
def test_two_locks_are_a_closed_network(cpus, think):
    machine = loop_machine(Topology.ideal(cpus), Costs.zero(), kind="two_locks", test_locks=2,
                           rounds=1 << 40, think_ns=think, hold_ns=10_000, exponential=True)
    machine.run(until_ns=10_000_000_000)
    x, _ = measured(machine, K.LK_TEST_SPIN)
    assert x / 2 == pytest.approx(two_servers(cpus, think, 10_000), rel=0.01)


def test_hand_over_costs_what_the_lines_cost():
    """Two CPUs that always wait for each other: each hand-over is two transfers and one atomic."""
    topology = Topology.preset("icelake-8375c", cpus=2)
    costs = Costs.zero().replace(atomic=6)
    machine = loop_machine(topology, costs, rounds=10_000, think_ns=0, hold_ns=1000)
    machine.run()
    per_round = machine.end_ns() / 20_000
    assert per_round == pytest.approx(1000 + 2 * topology.latency(0, 1) + 6, rel=0.001)


def test_a_spinlock_collapses_no_further_than_its_lines():
    """An MCS lock keeps its throughput as CPUs are added; a line's transfer bounds it from above."""
    rates = {}
    for cpus in (2, 8, 16):
        machine = loop_machine(Topology.preset("icelake-8375c", cpus=cpus).scaled(cpus=cpus, nodes=1),
                               rounds=2000, think_ns=0, hold_ns=0)
        machine.run()
        rates[cpus] = machine.lock_stat[K.LK_TEST_SPIN, 1]["acquisitions"] / machine.end_ns()
    assert np.ptp(list(rates.values())) < 0.5 * rates[2]
    assert rates[2] < 1 / 51
