"""Machines read from what tools write: a core-to-core CSV, `lscpu -p`, or /sys of the running machine.

A Topology is regular: all nodes alike, CPUs numbered node by node, cores before their SMT siblings. A machine that is
read is numbered anew in that order; what does not fit (nodes of different sizes) is refused in one line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastmlock.machine.topology import Topology, TopologyError

#: two levels of distance are told apart where the sorted latencies rise by this factor within a step
GAP = 1.25


# ---- core-to-core CSV (nviennot/core-to-core-latency --csv): row i holds the ns to CPUs 0 .. i - 1
def from_core_to_core(text: str, where: str) -> Topology:
    """Raises TopologyError."""
    matrix = _matrix(text, where)
    n = len(matrix)
    levels = _levels(matrix)
    if not levels:
        raise TopologyError(f"{where}: latencies of at least two CPUs are needed")
    sizes = [(_common(groups, where), ns) for groups, ns in levels]
    ns = [latency for _, latency in sizes]
    smt = cluster = None
    threads = 1
    if len(sizes) > 1 and sizes[0][0] == 2 and ns[0] < 0.6 * ns[1]:
        smt, threads = sizes.pop(0), 2
    remote = sizes[-1][1] if len(sizes) > 1 else None
    inside = sizes[-2] if remote is not None else sizes[-1]
    if len(sizes) > (2 if remote is not None else 1):
        cluster = sizes[0]
    if remote is not None and cluster is None and inside[0] <= 8 * threads and n // inside[0] > 2:
        cluster, inside, remote = inside, (n, remote), None  # small groups on one node: clusters, not nodes
    nodes = n // inside[0]
    return Topology(
        name=Path(where).stem,
        source=f"measured: {where}, core-to-core CSV; memory latencies assumed",
        cpus=n,
        nodes=nodes,
        cores_per_node=max(1, inside[0] // threads),
        threads_per_core=threads,
        cores_per_cluster=cluster[0] // threads if cluster else 0,
        smt_ns=round(smt[1]) if smt else 9,
        cluster_ns=round(cluster[1]) if cluster else 0,
        node_transfer_ns=round(inside[1]),
        remote_ns=round(remote if remote is not None else 2 * inside[1]),
    )


def _matrix(text: str, where: str) -> np.ndarray:
    rows = [line.strip().split(",") for line in text.removesuffix("\n").split("\n")]
    n = max(len(rows), max((len(row) for row in rows), default=0))
    out = np.full((n, n), np.nan)
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            if cell.strip():
                try:
                    out[i, j] = float(cell)
                except ValueError:
                    raise TopologyError(f"{where}: line {i + 1}: {cell.strip()!r} is no number of ns") from None
    out = np.where(np.isnan(out), out.T, out)
    np.fill_diagonal(out, 0)
    if n < 2 or np.isnan(out).any():
        raise TopologyError(f"{where}: a row of latencies for each CPU is needed, to all CPUs before it")
    if (out < 0).any() or not np.isfinite(out).all() or (out > 1e6).any():
        raise TopologyError(f"{where}: latencies must be between 0 and 1e6 ns")
    return out


def _levels(matrix: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """From near to far: (the group of each CPU, median latency between CPUs that this level brings together)."""
    n = len(matrix)
    pairs = np.sort(matrix[np.triu_indices(n, 1)])
    steps = np.flatnonzero(pairs[1:] > GAP * np.maximum(pairs[:-1], 1e-9))
    thresholds = [float(np.sqrt(max(pairs[i], 1e-9) * pairs[i + 1])) for i in steps] + [float(pairs[-1]) + 1]
    out: list[tuple[np.ndarray, float]] = []
    before = np.arange(n)
    for threshold in thresholds:
        groups = _components(matrix < threshold)
        if len(set(Counter(groups.tolist()).values())) != 1 or (groups == before).all():
            continue  # noise, or nothing new
        new = (groups[:, None] == groups) & (before[:, None] != before)
        out.append((groups, float(np.median(matrix[new]))))
        before = groups
    return out


def _components(near: np.ndarray) -> np.ndarray:
    """The lowest CPU that each can be reached from."""
    label = np.arange(len(near))
    reach = near | np.eye(len(near), dtype=bool)
    while True:
        new = np.where(reach, label[None, :], len(near)).min(axis=1)
        if (new == label).all():
            return label
        label = new


def _common(groups: np.ndarray, where: str) -> int:
    sizes = set(Counter(groups.tolist()).values())
    if len(sizes) != 1:
        raise TopologyError(f"{where}: groups of {', '.join(map(str, sorted(sizes)))} CPUs: they must be alike")
    return sizes.pop()


# ---- lscpu -p and /sys: the shape only
def from_lscpu(text: str, where: str) -> Topology:
    """`lscpu -p`: the shape; latencies are the generic machine's. Raises TopologyError."""
    names, cpus = [], []
    for line in text.splitlines():
        if line.startswith("#"):
            if line.startswith(("# CPU", "#CPU")):
                names = [name.strip().lower() for name in line.lstrip("# ").split(",")]
        elif line.strip():
            cpus.append(dict(zip(names, line.strip().split(","))))
    if not names or not cpus or not {"cpu", "core", "socket"} <= set(names):
        raise TopologyError(f"{where}: the output of lscpu -p is needed, with the columns CPU, Core and Socket")
    return _shape(
        [
            {
                "core": f"{cpu['socket']}.{cpu['core']}",
                "socket": cpu["socket"],
                "node": cpu.get("node") or "0",
                "cluster": cpu.get("l3") or cpu["socket"],
            }
            for cpu in cpus
        ],
        where,
    )


def from_sysfs(root: str | Path = "/sys") -> Topology:
    """The running machine's shape; latencies are the generic machine's. Raises TopologyError."""
    base = Path(root) / "devices/system"
    nodes = {}
    for path in base.glob("node/node[0-9]*"):
        for cpu in _cpulist((path / "cpulist").read_text()):
            nodes[cpu] = path.name[4:]
    cpus = []
    for path in sorted(base.glob("cpu/cpu[0-9]*"), key=lambda path: int(path.name[3:])):
        try:
            socket = (path / "topology/physical_package_id").read_text().strip()
            core = (path / "topology/core_id").read_text().strip()
        except OSError:
            continue  # offline
        caches = {
            (cache / "level").read_text().strip(): (cache / "shared_cpu_list").read_text().strip()
            for cache in path.glob("cache/index[0-9]*")
            if (cache / "shared_cpu_list").exists()
        }
        cpus.append(
            {
                "core": f"{socket}.{core}",
                "socket": socket,
                "node": nodes.get(int(path.name[3:]), "0"),
                "cluster": caches.get("3", socket),
            }
        )
    if not cpus:
        raise TopologyError(f"{base}: no CPUs are described there")
    return replace(_shape(cpus, str(base)), idle_states=_cpuidle(base / "cpu/cpu0/cpuidle"))


def _cpuidle(path: Path) -> tuple[tuple[int, int], ...]:
    """The idle states that the kernel knows, without the one that polls: (us to leave, us worth entering)."""
    states: list[tuple[int, int]] = []
    for state in sorted(path.glob("state[0-9]*"), key=lambda state: int(state.name[5:])):
        exit_us, worth_us = (int((state / name).read_text()) for name in ("latency", "residency"))
        if exit_us and (not states or (exit_us >= states[-1][0] and worth_us > states[-1][1])):
            states.append((exit_us, worth_us))
    return tuple(states)


def _cpulist(text: str) -> list[int]:
    out: list[int] = []
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        out.extend(range(int(first), int(last or first) + 1))
    return out


def _shape(cpus: Sequence[Mapping[str, str]], where: str) -> Topology:
    def alike(key: str, inside: str) -> int:
        """How many different `key` each `inside` holds."""
        found: dict[str, set[str]] = {}
        for cpu in cpus:
            found.setdefault(cpu[inside], set()).add(cpu[key])
        sizes = {len(members) for members in found.values()}
        if len(sizes) != 1:
            raise TopologyError(
                f"{where}: {key}s per {inside} differ ({', '.join(map(str, sorted(sizes)))}): they must be alike"
            )
        return sizes.pop()

    threads = {n for n in Counter(cpu["core"] for cpu in cpus).values()}
    if len(threads) != 1:
        raise TopologyError(f"{where}: threads per core differ: they must be alike")
    nodes = len({cpu["node"] for cpu in cpus})
    cores = alike("core", "node")
    per_cluster = alike("core", "cluster")
    return Topology(
        name=where,
        source=f"measured: shape read from {where}; latencies are the generic machine's, assumed",
        cpus=len(cpus),
        nodes=nodes,
        nodes_per_socket=max(1, alike("node", "socket")),
        cores_per_node=cores,
        threads_per_core=threads.pop(),
        cores_per_cluster=per_cluster if per_cluster < cores else 0,
        cluster_ns=25 if per_cluster < cores else 0,
    )
