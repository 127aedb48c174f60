"""A single process's munlock in 2013: what pages of interleaved nodes cost against pages of one node."""
from __future__ import annotations

from fastmlock.flows.ids import FLOWS
from fastmlock.machine.machine import Machine
from fastmlock.machine.topology import Topology
from fastmlock.system import System
from fastmlock.verification.point import Comparison, Point

ADDRESS = 0x100000000000


def per_page_ns(machine_name: str, nodes: int, pages: int, interleave: bool) -> float:
    """Virtual time of one munlock of `pages` pages that nobody else maps, per page."""
    topology = Topology.preset(machine_name, cpus=8 * nodes, nodes=nodes)
    system = System("5.17-rc2", cpus=topology.cpus, nodes=nodes)
    file = system.create_file("tmpfs", pages, observe=False, interleave=interleave)
    pid = system.spawn(cpu=0)
    system.mmap(pid, ADDRESS, pages * 4096, 3, 1 | 0x10, file, 0)
    system.mlock(pid, ADDRESS, pages * 4096)
    system.drain_all()
    machine = Machine(system, topology)
    machine.start(pid, flow=FLOWS["F_SYS_MUNLOCK"], args=(ADDRESS, pages * 4096))
    machine.run()
    return machine.end_ns() / pages


def point(quick: bool) -> Point:
    pages = 1 << 15 if quick else 1 << 18
    rows, notes = [], []
    for name, nodes in (("sandybridge-e5-2690", 2), ("sandybridge-e5-2690", 4), ("xeon-6242", 2)):
        one, spread = per_page_ns(name, nodes, pages, False), per_page_ns(name, nodes, pages, True)
        notes.append(f"{name}, {nodes} nodes: {one:.0f} ns a page on one node, {spread:.0f} interleaved "
                     "(published, if it was 56 GiB: 131 and 237)")
        rows.append(Comparison(what=f"{name}, {nodes} nodes: interleaved / one node", model=spread / one,
                               known=3.48 / 1.92))
    return Point(name="munlock-2013", title="munlock of pages interleaved over nodes", factor=1.15, comparisons=rows,
                 source="Vlastimil Babka, 19 Aug 2013, 1376915022-12741-1-git-send-email-vbabka@suse.cz: 3.48 s / 1.92 s",
                 notes=[*notes, "the published machine is not named; this is a two-socket machine of its time, four "
                        "nodes of it, and a later one; mapped once as there, but of a shared file"])


POINTS = {"munlock-2013": point}
