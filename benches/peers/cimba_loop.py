"""The lock loop in cimba (PyPI; compiled models on a C engine): N processes, one resource, constant times."""
from __future__ import annotations

import time

import cimba as cb

HOLD, THINK = 100.0, 100.0


class LockLoop(cb.Model):
    lock: cb.Resource
    taken: cb.Output[float]

    @cb.process(copies=64)
    def cpu(self):
        while True:
            self.lock.acquire()
            cb.hold(100.0)
            self.lock.release()
            cb.hold(100.0)

    @cb.on_end
    def measure(self):
        self.taken = 0.0


def run(acquisitions: int, processes: int = 64) -> tuple[int, float]:
    """-> acquisitions, CPU seconds, the compilation not counted. 64 processes only: the number is compiled in."""
    if processes != 64:
        raise ValueError("64 processes are compiled in")
    model = LockLoop()
    cb.Experiment(model, replications=1, window=cb.Window(warmup=0, duration=10 * HOLD), seed=1).run()
    begin = time.process_time()
    cb.Experiment(model, replications=1, window=cb.Window(warmup=0, duration=acquisitions * HOLD), seed=1).run()
    return acquisitions, time.process_time() - begin        # saturated: one acquisition each hold time
