"""Machines read from a core-to-core CSV, from lscpu -p and from /sys."""
from __future__ import annotations

import numpy as np
import pytest

from fastmlock.machine.topology import Topology, TopologyError
from fastmlock.machine.topology_files import from_core_to_core, from_lscpu, from_sysfs


def csv(topology: Topology, noise: float = 0.05, full: bool = False) -> str:
    """As the tool would measure that machine: lower triangle, a few per cent of noise."""
    random = np.random.default_rng(1)
    lines = []
    for i in range(topology.cpus):
        cells = [f"{topology.latency(i, j) * (1 + noise * random.standard_normal()):.3f}" for j in range(i)]
        lines.append(",".join(cells + [""] * (topology.cpus - i)))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ["icelake-8375c", "rome-7742", "milan-7773x", "graviton3", "sandybridge-e5-2690"])
def test_presets_are_found_again(name: str) -> None:
    preset = Topology.preset(name)
    found = from_core_to_core(csv(preset, noise=0.01), f"{name}.csv")
    assert (found.cpus, found.nodes, found.threads_per_core) == (preset.cpus, preset.nodes, preset.threads_per_core)
    a, b = (np.array([[t.latency(0, j) for j in range(1, t.cpus)]]) for t in (preset, found))
    assert np.median(np.abs(np.sort(b) / np.sort(a) - 1)) < 0.05


def test_numbers_do_not_matter_only_distances(tmp_path) -> None:
    path = tmp_path / "two.csv"
    near, far = 40, 130                     # even CPUs on one socket, odd ones on the other
    path.write_text("\n".join(",".join(str(near if (i - j) % 2 == 0 else far) for j in range(i)) for i in range(8)))
    topology = Topology.load(path)
    assert (topology.cpus, topology.nodes, topology.node_transfer_ns, topology.remote_ns) == (8, 2, 40, 130)
    assert Topology.load(path, cpus=4).cpus == 4


@pytest.mark.parametrize("text, words", [
    ("", "a row of latencies"), ("1,2\nx,3", "'x' is no number"), ("\n5,,3\n", "a row of latencies"),
    ("0,\n-4,0", "between 0 and 1e6"),
])
def test_bad_tables_are_refused(text: str, words: str) -> None:
    with pytest.raises(TopologyError, match=words) as caught:
        from_core_to_core(text, "bad.csv")
    assert "\n" not in str(caught.value)


LSCPU = """# The following is the parsable format, which can be fed to other
# programs. Each different item in every column has an unique ID
# starting usually from zero.
# CPU,Core,Socket,Node,,L1d,L1i,L2,L3
"""


def test_lscpu(tmp_path) -> None:
    path = tmp_path / "lscpu.txt"
    path.write_text(LSCPU + "".join(f"{i},{i % 8},{i % 8 // 4},{i % 8 // 4},,{i % 8},{i % 8},{i % 8},{i % 8 // 2}\n"
                                    for i in range(16)))
    topology = Topology.load(path)
    assert (topology.cpus, topology.nodes, topology.cores_per_node, topology.threads_per_core) == (16, 2, 4, 2)
    assert topology.cores_per_cluster == 2
    with pytest.raises(TopologyError, match="differ"):
        from_lscpu(LSCPU + "0,0,0,0,,0,0,0,0\n1,1,0,0,,1,1,1,0\n2,2,1,1,,2,2,2,1\n", "x")


def test_this_machine() -> None:
    import os
    topology = from_sysfs()
    assert topology.cpus >= len(os.sched_getaffinity(0))
    with pytest.raises(TopologyError, match="no CPUs"):
        from_sysfs("/nowhere")
