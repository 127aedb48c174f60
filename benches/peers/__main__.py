"""The lock loop side by side, in one run: the bare loop, this package's machine layer, cimba, SimPy.

    pip install simpy cimba
    python benches/peers

64 CPUs, one FIFO lock, hold 100 and think 100 units of virtual time, constant. The machine layer moves cache lines,
keeps lock_stat, charges every CPU's time and watches for lockups; the others only hand the lock over. CPU seconds, the
best of the rounds.
"""
from __future__ import annotations

import sys
import time
from collections.abc import Callable

ROUNDS = 3


def bare(acquisitions: int) -> tuple[int, float]:
    from fastmlock.machine.bare import bare_loop

    begin = time.process_time()
    taken = bare_loop(64, 2 * acquisitions)
    return taken, time.process_time() - begin


def machine(acquisitions: int) -> tuple[int, float]:
    from fastmlock.machine.loops import loop_machine
    from fastmlock.machine.topology import Topology
    from fastmlock.state.layout import K

    loop = loop_machine(Topology.preset("icelake-8375c", cpus=64), rounds=1 << 40, think_ns=100, hold_ns=100)
    begin = time.process_time()
    loop.run(max_events=3 * acquisitions)
    spent = time.process_time() - begin
    return int(loop.lock_stat[K.LK_TEST_SPIN, 1]["acquisitions"]), spent


def simpy_loop(acquisitions: int) -> tuple[int, float]:
    from simpy_loop import run

    return run(acquisitions)


def cimba_loop(acquisitions: int) -> tuple[int, float]:
    from cimba_loop import run

    return run(acquisitions)


def main() -> int:
    runs: list[tuple[str, Callable[[int], tuple[int, float]], int]] = [
        ("bare loop", bare, 5_000_000), ("fastmlock machine layer", machine, 3_000_000),
        ("cimba", cimba_loop, 1_000_000), ("SimPy", simpy_loop, 60_000)]
    best: dict[str, float] = {}
    for _ in range(ROUNDS):                     # in turn, so that a slow moment of the host hits all
        for name, run, n in runs:
            try:
                taken, spent = run(n)
            except ImportError as error:
                print(f"{name}: not installed ({error})", file=sys.stderr)
                continue
            best[name] = max(best.get(name, 0.0), taken / spent)
    ours = best["fastmlock machine layer"]
    print(f"{'':26}{'acquisitions/s':>16}{'ns each':>10}{'machine layer is':>19}")
    for name, rate in best.items():
        print(f"{name:26}{rate / 1e6:14.2f} M{1e9 / rate:10.1f}{ours / rate:17.2f} x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
