"""What the mlock batch is worth: storms and mlock() loops with batches of other sizes, and with none.

    python benches/batch.py [FOLDER]            (half a minute; default: docs/collapse)

Patch 10 lets mlock and munlock wait in a batch for each CPU, each page with a reference more. What that buys was asked
when such a reference kept pages from being pinned (linux-mm, September 2025), and not answered with numbers. Writes one
Parquet and JSON file and a picture. docs/collapse.md tells what they show.
"""
from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import median

from tqdm import tqdm

from fastmlock.studies import report
from fastmlock.studies.storm import Storm, run
from fastmlock.verification import mlockmany_2024

BASE = "6.12"
KERNELS = {"none": f"{BASE}-local_lock-10..12", **{str(n): f"{BASE}+mlock_pvec_size={n}" for n in (1, 2, 4, 8, 15, 31)}}
AS_IT_IS = "31"
SEEDS = range(5)
STORMS = {
    "1 exits alone": Storm(procs=1, cpus=2, pages=8192),
    **{f"{n} exit together": Storm(procs=n, cpus=n, pages=8192) for n in (4, 16, 64, 256)},
    "64 exit, 100 us apart": Storm(procs=64, cpus=64, pages=8192, stagger_ns=100_000),
    "64 exit, 3 ms apart": Storm(procs=64, cpus=64, pages=8192, stagger_ns=3_000_000),
}
LOOPS = {f"{n} mlock() their own memory": n for n in (1, 4, 16, 64)}
LOOP_NS, CALLS = 20_000_000, 40


def storm(name: str, kernel: str) -> float:
    """Nanoseconds until the last exit, less when the last process was released: the median over seeds."""
    made = STORMS[name]
    return median(run(replace(made, seed=seed), kernel).last_exit_ns for seed in SEEDS) \
        - (made.procs - 1) * made.stagger_ns


def loops(name: str, kernel: str) -> float:
    """Nanoseconds of each CPU for a page: processes that lock fresh memory 16 pages a call, unmap it, and begin again,
    with no time between."""
    threads = LOOPS[name]
    system, machine = mlockmany_2024.start(threads, CALLS, 0, 400_000, mlockmany_2024.AGAIN, kernel)
    machine.run(until_ns=LOOP_NS)
    before = system.vmstat()["unevictable_pgs_mlocked"]
    machine.run(until_ns=2 * LOOP_NS)
    return threads * LOOP_NS / (system.vmstat()["unevictable_pgs_mlocked"] - before)


def draw(found: dict[tuple[str, str], float], path: str) -> None:
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, sides = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained", sharey=True)
    for axes, title, names in zip(sides, ("the last exit", "mlock() and munmap(), a page"), (STORMS, LOOPS)):
        for name in names:
            axes.plot(list(KERNELS), [found[name, size] / found[name, AS_IT_IS] for size in KERNELS], marker="o",
                      label=name)
        axes.set(title=title, xlabel="slots of the mlock batch", yscale="log")
        axes.set_yticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
        axes.minorticks_off()
        axes.grid(True, alpha=0.25)
        axes.legend()
    sides[0].set_ylabel(f"virtual time / that with {AS_IT_IS}")
    figure.savefig(path, dpi=100, metadata={"Software": None})


def main(folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    jobs = [(name, size) for name in (*STORMS, *LOOPS) for size in KERNELS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        times = list(tqdm(pool.map(lambda job: (storm if job[0] in STORMS else loops)(job[0], KERNELS[job[1]]), jobs),
                          total=len(jobs), unit="run"))
    found = dict(zip(jobs, times))
    draw(found, os.path.join(folder, "batch.png"))
    report.write([{"load": name, "slots": size, "kernel": KERNELS[size], "time_ns": found[name, size]}
                  for name, size in jobs], folder, "batch")
    print("virtual time", *(f"{size:>9}" for size in KERNELS), sep="\t")
    for name in (*STORMS, *LOOPS):
        print(f"{name:30}", *(f"{report.duration(found[name, size]):>9}" for size in KERNELS), sep="\t")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=os.path.join("docs", "collapse"))
    main(parser.parse_args().folder)
