"""Machines: how CPUs are grouped, and how long a cache line takes from one to another.

A line's one-way transfer time depends on the closest thing two CPUs share: a core (SMT siblings), a cluster (a
CCX), a node, a socket, or only the interconnect. Presets are the TOML files beside this module in `presets/`,
each with its source; any file of the same form can be read.
"""
from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

MAX_CPUS = 4094         # a CPU number must fit into a line word (types.pxd)
MAX_IDLE_STATES = 8

# where each level's bits begin in a CPU's position; types.pxd has NODE_LEVEL
_CORE, _CLUSTER, _NODE, _SOCKET = 4, 12, 20, 24
_LIMITS = {"threads of a core": 1 << _CORE, "cores of a cluster": 1 << _CLUSTER - _CORE,
           "clusters of a node": 1 << _NODE - _CLUSTER, "nodes of a socket": 1 << _SOCKET - _NODE,
           "sockets": 256}


class TopologyError(ValueError):
    """A machine that cannot be; the text is one line and says why."""


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True, kw_only=True)
class Topology:
    """A machine: its shape and its latencies, all in ns.

    `cpus` CPUs are spread evenly over `nodes` nodes, in runs of consecutive numbers; within a node they fill
    whole cores first and become SMT siblings only when the cores are used up, as Linux numbers them.
    Arrays made of it: `position()` uint32[cpus], `level_ns()` int32[33], `node_of_cpu()` uint16[cpus],
    `memory_matrix()` int32[nodes, nodes].
    """

    name: str = "generic"
    source: str = ""
    cpus: int = 64
    nodes: int = 2
    nodes_per_socket: int = 1
    cores_per_node: int = 32
    cores_per_cluster: int = 0          #: 0: no clusters
    threads_per_core: int = 1
    smt_ns: int = 9                     #: to the sibling thread
    cluster_ns: int = 0                 #: inside a cluster; 0: as inside the node
    node_transfer_ns: int = 50          #: inside a node
    socket_ns: int = 0                  #: to another node of the socket; 0: as inside the node
    remote_ns: int = 120                #: to another socket
    row_ns: int = 0                     #: the next line of a row, when others are under way; 0: like any other
    memory_ns: int = 90                 #: from this node's memory
    memory_remote_ns: int = 150         #: from another node's memory
    cache_lines: int = 16384            #: of a CPU's own cache, 64 bytes each; 0: it keeps every line
    #: idle states from shallow to deep: (us to leave it, us for which it is worth entering); none: as if all shallow
    idle_states: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.cpus < 1:
            raise TopologyError(f"{self.cpus} CPUs: at least 1 is needed")
        if self.cpus > MAX_CPUS:
            raise TopologyError(f"{self.cpus} CPUs: at most {MAX_CPUS} are possible")
        if self.nodes < 1 or self.nodes > self.cpus:
            raise TopologyError(f"{self.nodes} nodes on {self.cpus} CPUs: between 1 and the number of CPUs is "
                                "needed")
        if min(self.nodes_per_socket, self.cores_per_node, self.threads_per_core) < 1:
            raise TopologyError("nodes_per_socket, cores_per_node and threads_per_core must be at least 1")
        for field in self.__dataclass_fields__:
            if field.endswith(("_ns", "_cluster", "_lines")) and getattr(self, field) < 0:
                raise TopologyError(f"{field} must not be negative")
        for (what, limit), value in zip(_LIMITS.items(), (
                self._threads(), self._cluster_size(), -(-self._cores() // self._cluster_size()),
                self.nodes_per_socket, self.sockets)):
            if value > limit:
                raise TopologyError(f"{value} {what}: at most {limit} are possible")

    # ---- ways to get one
    @classmethod
    def presets(cls) -> list[str]:
        """The names of the machines that come with the package."""
        return sorted(path.name[:-5] for path in files(__package__).joinpath("presets").iterdir()
                      if path.name.endswith(".toml"))

    @classmethod
    def preset(cls, name: str, *, cpus: int | None = None, nodes: int | None = None) -> Topology:
        """A machine that comes with the package, with as many CPUs or nodes as asked (see `scaled`)."""
        if name not in cls.presets():
            raise TopologyError(f"no machine is called {name!r}; there are: {', '.join(cls.presets())}")
        text = files(__package__).joinpath("presets", f"{name}.toml").read_text()
        return cls._from_toml(text, name).scaled(cpus=cpus, nodes=nodes)

    @classmethod
    def load(cls, path: str | Path, *, cpus: int | None = None, nodes: int | None = None) -> Topology:
        """A machine from a TOML file of the form of the presets, a core-to-core CSV, or the output of `lscpu -p`;
        "/sys" is the running machine (see `topology_files`)."""
        from fastmlock.machine import topology_files

        if str(path).rstrip("/") == "/sys":
            return topology_files.from_sysfs(path).scaled(cpus=cpus, nodes=nodes)
        path = Path(path)
        try:
            text = path.read_text()
        except OSError as error:
            raise TopologyError(f"{path}: {error.strerror}") from None
        if path.suffix == ".csv":
            made = topology_files.from_core_to_core(text, str(path))
        elif text.startswith("# The following is the parsable format"):
            made = topology_files.from_lscpu(text, str(path))
        else:
            made = cls._from_toml(text, str(path))
        return made.scaled(cpus=cpus, nodes=nodes)

    @classmethod
    def _from_toml(cls, text: str, where: str) -> Topology:
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise TopologyError(f"{where}: {error}") from None
        unknown = sorted(set(table) - set(cls.__dataclass_fields__))
        if unknown:
            raise TopologyError(f"{where}: unknown: {', '.join(unknown)}")
        idle_states = cls._idle_states(table.pop("idle_states", []), where)
        for key, value in table.items():
            if not isinstance(value, str if key in ("name", "source") else int) or isinstance(value, bool):
                raise TopologyError(f"{where}: {key} = {value!r} is of the wrong type")
        return cls(**table, idle_states=idle_states)

    @staticmethod
    def _idle_states(value: object, where: str) -> tuple[tuple[int, int], ...]:
        """Raises TopologyError unless it is a list of pairs of whole us, each deeper than the one before."""
        states = []
        for state in value if isinstance(value, list) else [None]:
            if not isinstance(state, list) or len(state) != 2 or any(type(us) is not int or us < 0 for us in state):
                raise TopologyError(f"{where}: idle_states: pairs [us to leave, us worth entering] are needed")
            states.append((state[0], state[1]))
        if len(states) > MAX_IDLE_STATES:
            raise TopologyError(f"{where}: {len(states)} idle_states: up to {MAX_IDLE_STATES} are possible")
        if any(a[0] > b[0] or a[1] >= b[1] for a, b in pairwise(states)):
            raise TopologyError(f"{where}: idle_states must go from shallow to deep")
        return tuple(states)

    @classmethod
    def ideal(cls, cpus: int) -> Topology:
        """A machine without distances: every transfer takes no time. For comparison with closed forms."""
        zero: dict[str, Any] = {field: 0 for field in cls.__dataclass_fields__ if field.endswith("_ns")}
        return cls(name="ideal", source="definition", cpus=cpus, nodes=1, cores_per_node=cpus,
                   cores_per_cluster=min(cpus, 256), cache_lines=0, **zero)

    def scaled(self, *, cpus: int | None = None, nodes: int | None = None) -> Topology:
        """The same machine with more or fewer CPUs.

        Without `nodes`, sockets are added until all CPUs have a place; fewer CPUs than the machine has are
        spread over all its nodes. With `nodes`, that many, each as large as it must be.
        """
        if cpus is None and nodes is None:
            return self
        if cpus is None:
            cpus = max(1, self.cpus * (nodes or 1) // self.nodes)
        if cpus < 1:
            raise TopologyError(f"{cpus} CPUs: at least 1 is needed")
        cores = self.cores_per_node
        if nodes is None:
            per_node = self.cores_per_node * self.threads_per_core
            need = -(-cpus // per_node)
            nodes = max(need, min(self.nodes, cpus))
            if nodes > self.nodes:
                nodes = -(-nodes // self.nodes_per_socket) * self.nodes_per_socket
        elif nodes >= 1:
            cores = max(cores, ceil_div(ceil_div(cpus, nodes), self.threads_per_core))
        return replace(self, cpus=cpus, nodes=nodes, cores_per_node=cores)

    # ---- its shape
    @property
    def sockets(self) -> int:
        return -(-self.nodes // self.nodes_per_socket)

    def _cores(self) -> int:
        return min(self.cores_per_node, -(-self.cpus // self.nodes))

    def _threads(self) -> int:
        return ceil_div(ceil_div(self.cpus, self.nodes), self.cores_per_node)

    def _cluster_size(self) -> int:
        return min(self.cores_per_cluster, self._cores()) or min(self._cores(), 1 << _CLUSTER - _CORE)

    def node_of_cpu(self) -> np.ndarray:
        """uint16[cpus]"""
        return (np.arange(self.cpus, dtype=np.int64) * self.nodes // self.cpus).astype(np.uint16)

    def position(self) -> np.ndarray:
        """uint32[cpus]: socket, node, cluster, core and thread of each CPU, so that the highest bit in which
        two CPUs differ tells how close they are."""
        node = self.node_of_cpu().astype(np.int64)
        first = np.searchsorted(node, np.arange(self.nodes))
        index = np.arange(self.cpus) - first[node]
        core = index % self.cores_per_node
        size = self._cluster_size()
        return (node // self.nodes_per_socket << _SOCKET | node % self.nodes_per_socket << _NODE
                | core // size << _CLUSTER | core % size << _CORE | index // self.cores_per_node).astype(np.uint32)

    def level_ns(self) -> np.ndarray:
        """int32[33]: transfer between two CPUs, by the bit length of the difference of their positions."""
        cluster = self.cluster_ns if self.cores_per_cluster and self.cluster_ns else self.node_transfer_ns
        out = np.zeros(33, np.int32)
        out[1:_CORE + 1] = self.smt_ns
        out[_CORE + 1:_CLUSTER + 1] = cluster
        out[_CLUSTER + 1:_NODE + 1] = self.node_transfer_ns
        out[_NODE + 1:_SOCKET + 1] = self.socket_ns or self.node_transfer_ns
        out[_SOCKET + 1:] = self.remote_ns
        return out

    def memory_matrix(self) -> np.ndarray:
        """int32[nodes, nodes]: a line from a node's memory to a CPU of another."""
        out = np.full((self.nodes, self.nodes), self.memory_remote_ns, np.int32)
        np.fill_diagonal(out, self.memory_ns)
        return out

    def latency(self, a: int, b: int) -> int:
        """One-way transfer of a line from CPU `a` to CPU `b`, ns, as the compiled engine computes it."""
        position = self.position()
        return int(self.level_ns()[int(position[a] ^ position[b]).bit_length()])
