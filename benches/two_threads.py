"""Two storms that have nothing to do with each other, in turn and in two threads: how much faster, and the same bytes?

    python -m benches.two_threads [--coarse] [--pages P] [--rounds N]

A processor that other tenants share gives a second thread less than a second CPU's worth. So each round is set beside
the same work in two processes, which share neither interpreter nor memory: what the machine itself had to give then.
"""
from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor

from fastmlock.studies.storm import Storm, run


def result(storm: Storm) -> str:
    """What the storm comes to, without anything of the host."""
    return repr(run(storm, "5.18").record(host=False))


def timed(pool: Executor, storms: list[Storm]) -> tuple[float, list[str]]:
    began = time.perf_counter()
    results = list(pool.map(result, storms))
    return time.perf_counter() - began, results


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.two_threads", description=__doc__.splitlines()[0])
    parser.add_argument("--coarse", action="store_true")
    parser.add_argument("--pages", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    storms = [Storm(procs=64, cpus=64, pages=arguments.pages, coarse=arguments.coarse, seed=seed) for seed in (1, 2)]
    threads, processes = [], []
    with (ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two,
          ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as apart):
        for pool in (one, two, apart):
            timed(pool, [Storm(procs=2, cpus=2, pages=64)] * 2)        # imports, and the first of everything
        for _ in range(arguments.rounds):
            single, results = timed(one, storms)
            both, again = timed(two, storms)
            away, elsewhere = timed(apart, storms)
            if not results == again == elsewhere:
                print("two_threads: the results differ", file=sys.stderr)
                return 1
            threads.append(single / both)
            processes.append(single / away)
            print(f"in turn {single:6.2f} s   two threads {both:6.2f} s, {threads[-1]:.2f} times as fast   "
                  f"two processes {away:6.2f} s, {processes[-1]:.2f} times", flush=True)
    print(f"median: threads {statistics.median(threads):.2f}, processes {statistics.median(processes):.2f}; "
          "same results")
    return 0


if __name__ == "__main__":
    sys.exit(main())
