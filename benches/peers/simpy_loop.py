"""The lock loop in SimPy: N processes, one resource, constant times."""
from __future__ import annotations

import time

import simpy

HOLD, THINK = 100, 100


def run(acquisitions: int, processes: int = 64) -> tuple[int, float]:
    """-> acquisitions, CPU seconds"""
    environment = simpy.Environment()
    lock = simpy.Resource(environment, capacity=1)
    taken = 0

    def cpu():
        nonlocal taken
        while True:
            with lock.request() as request:
                yield request
                taken += 1
                yield environment.timeout(HOLD)
            yield environment.timeout(THINK)

    for _ in range(processes):
        environment.process(cpu())
    begin = time.process_time()
    environment.run(until=acquisitions * HOLD)
    return taken, time.process_time() - begin
