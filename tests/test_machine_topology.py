"""Topologies and costs: presets, scaling, and one-line errors."""
import numpy as np
import pytest

from fastmlock import kernels
from fastmlock.machine.costs import Cost, CostError, Costs
from fastmlock.machine.loops import start_loop
from fastmlock.machine.machine import WORK, Machine
from fastmlock.machine.topology import Topology, TopologyError
from fastmlock.state.layout import ENUMS, K
from fastmlock.state.world import WorldHandle


@pytest.mark.parametrize("name", Topology.presets())
def test_every_preset_has_a_source_and_a_shape(name):
    machine = Topology.preset(name)
    assert machine.source.split(":")[0] in ("published", "derived")
    assert machine.cpus == machine.nodes * machine.cores_per_node * machine.threads_per_core
    for cpus in (1, 3, 64, 256, 1024):
        scaled = Topology.preset(name, cpus=cpus)
        assert scaled.cpus == cpus
        assert len(set(scaled.position().tolist())) == cpus
        counts = np.bincount(scaled.node_of_cpu(), minlength=scaled.nodes)
        assert counts.min() >= 1 and np.ptp(counts) <= 1


def test_distances_of_ice_lake():
    machine = Topology.preset("icelake-8375c")
    assert machine.latency(0, 0) == 0
    assert machine.latency(0, 32) == machine.latency(32, 0) == 8        # siblings
    assert machine.latency(0, 1) == 51
    assert machine.latency(0, 64) == 108
    assert machine.sockets == 2


def test_clusters_of_rome():
    machine = Topology.preset("rome-7742")
    assert [machine.latency(0, cpu) for cpu in (3, 4, 64, 127, 128)] == [25, 125, 8, 125, 261]


def page_after_others(cache_lines, others):
    """Virtual time of locking page 500 a second time, after so many other pages, on one CPU."""
    topology = Topology(cpus=1, nodes=1, cache_lines=cache_lines)
    world = WorldHandle(kernels.get("5.17-rc2"), capacity={"tasks": others + 3, "pages": 1000}, cpus=1)
    machine = Machine(world, topology)
    for task, page in enumerate([500, *range(10, 10 + others), 500], 1):
        start_loop(world, task, "lock", lock_class=K.LK_PAGE, obj=page, rounds=1, think_ns=0, hold_ns=0)
        machine.start(task)
    machine.run()
    *_, before, last = np.sort(machine.tasks["exit_ns"])
    return last - before


def test_a_cache_forgets():
    """A line is in memory again once its owner has brought in a cacheful of others, give or take a sixteenth."""
    memory = Topology(cpus=1, nodes=1).memory_ns
    assert page_after_others(0, 200) + memory == page_after_others(64, 200)
    assert page_after_others(64, 60) == page_after_others(0, 60)


def test_nodes_of_a_socket():
    machine = Topology(cpus=16, nodes=4, nodes_per_socket=2, cores_per_node=4, node_transfer_ns=40, socket_ns=60,
                       remote_ns=100)
    assert [machine.latency(0, cpu) for cpu in (1, 4, 8, 12)] == [40, 60, 100, 100]
    assert machine.memory_matrix()[0].tolist() == [90, 150, 150, 150]


def test_scaling_adds_sockets():
    assert Topology.preset("icelake-8375c", cpus=1024).nodes == 16
    assert Topology.preset("icelake-8375c", cpus=100).nodes == 2
    machine = Topology.preset("icelake-8375c", cpus=8, nodes=4)
    assert machine.node_of_cpu().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert Topology.preset("graviton3", nodes=2).cpus == 128
    assert Topology.preset("graviton3", cpus=400, nodes=2).latency(0, 199) == 46


@pytest.mark.parametrize("change, text", [
    ({"cpus": 0}, "0 CPUs: at least 1 is needed"),
    ({"cpus": -3}, "-3 CPUs: at least 1 is needed"),
    ({"cpus": 5000}, "5000 CPUs: at most 4094 are possible"),
    ({"cpus": 4, "nodes": 5}, "5 nodes on 4 CPUs: between 1 and the number of CPUs is needed"),
    ({"cpus": 4, "nodes": 0}, "0 nodes on 4 CPUs: between 1 and the number of CPUs is needed"),
])
def test_impossible_machines_are_one_line(change, text):
    with pytest.raises(TopologyError) as error:
        Topology.preset("generic", **change)
    assert str(error.value) == text


def test_unknown_presets_and_bad_files(tmp_path):
    with pytest.raises(TopologyError, match="no machine is called 'vax'; there are: broadwell"):
        Topology.preset("vax")
    path = tmp_path / "m.toml"
    for text, message in [("cpus = ", "Invalid value"), ("cpu = 3", "unknown: cpu"),
                          ("cpus = '3'", "cpus = '3' is of the wrong type"),
                          ("smt_ns = -1", "smt_ns must not be negative")]:
        path.write_text(text)
        with pytest.raises(TopologyError, match=message):
            Topology.load(path)
    with pytest.raises(TopologyError, match="No such file"):
        Topology.load(tmp_path / "none.toml")
    path.write_text("name = 'mine'\ncpus = 4\nnodes = 1\n")
    assert Topology.load(path, cpus=8).cpus == 8


def test_ideal_has_no_distances():
    machine = Topology.ideal(300)
    assert not machine.level_ns().any() and not machine.memory_matrix().any()


# ---- costs
def test_every_cost_has_an_origin_and_every_work_kind_a_cost():
    costs = Costs.default()
    assert {f"work.{name}" for name in WORK} <= set(costs)
    assert len(WORK) == ENUMS["Work"]["NR_WORK"]
    for cost in costs.values():
        assert cost.origin.split(":")[0] in ("measured", "published", "derived", "assumed")


def test_costs_can_be_replaced(tmp_path):
    costs = Costs.default().replace(switch=1200, work_rmap_vma=80.5)
    assert costs["switch"] == Cost(1200, "given")
    assert costs["work.rmap_vma"].ns == 80.5
    path = tmp_path / "c.toml"
    path.write_text('[sched]\nwake = { ns = 900, origin = "measured here" }\n')
    assert Costs.load(path)["wake"] == Cost(900, "measured here")
    assert Costs.load(path)["switch"] == Costs.default()["switch"]


@pytest.mark.parametrize("change, text", [
    ({"swich": 3}, "replace: unknown: swich"), ({"switch": -3}, "switch = -3: nanoseconds from 0"),
    ({"switch": 1.5}, "switch = 1.5: whole nanoseconds"), ({"wake": "3"}, "wake = '3': nanoseconds"),
])
def test_bad_costs_are_one_line(change, text):
    with pytest.raises(CostError, match=text):
        Costs.default().replace(**change)


def test_bad_cost_files(tmp_path):
    path = tmp_path / "c.toml"
    for text, message in [("[sched]\nwake = 3", "wake needs ns and origin"), ("[x]\na = 1", r"unknown group \[x\]"),
                          ('[sched]\nwake = { ns = 3, origin = "rumour" }', "the origin of wake must begin")]:
        path.write_text(text)
        with pytest.raises(CostError, match=message):
            Costs.load(path)
