"""What khugepaged's collapse of a file costs those who share it, before and after patch 12: on a simulated machine,
with the locks it takes counted."""
from __future__ import annotations

from fastmlock import kernels
from fastmlock.machine.machine import LOCK_CLASSES, Machine
from fastmlock.machine.topology import Topology
from fastmlock.scenario.system import MAP_FIXED_NOREPLACE, MAP_SHARED, PAGE_SIZE, PROT_READ, PROT_WRITE
from fastmlock.system import System

ADDRESS = 0x100000000000
PAGES = 512
MACHINE = "generic"


def collapsing(kernel: str, lockers: int, mappers: int) -> Machine:
    """A machine on which khugepaged has collapsed 512 small pages that some have locked, and others map without having
    touched them."""
    topology = Topology.preset(MACHINE, cpus=8, nodes=None)
    system = System(kernel, cpus=8, nodes=topology.nodes)
    system.sysctl("/sys/kernel/mm/transparent_hugepage/enabled", "madvise")
    file = system.create_file("tmpfs", PAGES, huge=True, observe=False)
    system.punch(file, 0, 1)
    system.pwrite(file, 0, 1)
    for number in range(lockers + mappers):
        pid = system.spawn(cpu=number % 8)
        system.mmap(pid, ADDRESS, PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0)
        if number < lockers:
            system.mlock(pid, ADDRESS, PAGES * PAGE_SIZE)
    system.drain_all()
    system.defer()
    system.khugepaged()
    task, = system.deferred_tasks()
    machine = Machine(system, topology)
    machine.start(task, 0)
    while machine.run(max_events=1 << 20):
        pass
    return machine


def report() -> list[str]:
    """Lines: both kernels, and numbers of processes that map the file without using it."""
    lines = [f"{PAGES} small pages, locked by two processes, become a THP, beside M others that map the file:"]
    for mappers in (0, 62):
        for kernel in kernels.SERIES[11:13]:
            machine = collapsing(kernel, 2, mappers)
            read, write = machine.lock_stat[LOCK_CLASSES.index("i_mmap_rwsem")]
            held_us = int(write["holdtime_total"]) / 1000
            lines.append(f"{kernel} M = {mappers:2}: {machine.end_ns() / 1000:6.0f} us; i_mmap_rwsem taken "
                         f"{int(write['acquisitions']):3} times for write, held so {held_us:6.1f} us, "
                         f"{int(read['acquisitions']):3} times for read")
    return lines
