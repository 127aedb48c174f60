"""Where the collapse is: sweeps over how far apart processes leave, how many, and beside whom.

    python benches/collapse.py [FOLDER]         (a few minutes; default: docs/collapse)

Writes one Parquet and JSON file of all storms and two pictures. docs/collapse.md tells what they show.
"""
from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from fastmlock.studies import report
from fastmlock.studies.storm import Storm, StormResult, run

KERNELS = ("5.17-rc2", "5.18")
PAGES = 8192
PROCS = (2, 8, 32, 128, 256)
STAGGER_NS = (0, 400, 10_000, 100_000, 300_000, 1_000_000, 3_000_000)
SETTINGS = {
    "nobody else": {}, "a locker stays, last in i_mmap": {"survivor": "after"},
    "256 others map the file": {"mappers": 256},
    "256 others map the file, a locker stays": {"mappers": 256, "survivor": "after"},
}
WRITERS = (0, 16, 64, 256, 1024)


def sweep(storms: list[Storm]) -> list[StormResult]:
    jobs = [(storm, kernel) for storm in storms for kernel in KERNELS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(tqdm(pool.map(lambda job: run(*job), jobs), total=len(jobs), unit="storm"))


def draw_ratio(results: dict[tuple[str, int, int], tuple[StormResult, StormResult]], path: str) -> None:
    """A map for each setting: median exit before over median exit after."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import LogNorm

    figure, all_axes = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    for axes, name in zip(all_axes.flat, SETTINGS):
        ratio = np.array([[results[name, n, s][0].median_exit_ns / results[name, n, s][1].median_exit_ns
                           for s in STAGGER_NS] for n in PROCS])
        picture = axes.imshow(ratio, norm=LogNorm(0.1, 300), cmap="RdYlBu_r", aspect="auto", origin="lower")
        axes.set(title=name, xlabel="released apart", ylabel="processes",
                 xticks=range(len(STAGGER_NS)), xticklabels=[report.duration(s) for s in STAGGER_NS],
                 yticks=range(len(PROCS)), yticklabels=PROCS)
        for (y, x), value in np.ndenumerate(ratio):
            axes.text(x, y, f"{value:.2g}" if value < 100 else f"{value:.0f}", ha="center", va="center", fontsize=9)
    figure.colorbar(picture, ax=all_axes, label="median exit, 5.17-rc2 / 5.18")
    figure.suptitle(f"{PAGES:,} mlocked pages each, as many CPUs as processes (generic)")
    figure.savefig(path, dpi=100, metadata={"Software": None})


def draw_writers(results: list[StormResult], path: str) -> None:
    """What an innocent process's mmap + munmap of the file takes meanwhile."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    for kernel in KERNELS:
        mine = [r for r in results if r.kernel == kernel]
        axes.plot([r.storm.mappers for r in mine], [r.bystander_round_ns / 1e3 for r in mine], marker="o", label=kernel)
    axes.set(xscale="symlog", yscale="log", xlabel="others that map the file",
             ylabel="mmap + munmap of a page of it, us",
             title=f"a bystander, while 16 processes exit ({report.duration(results[0].storm.stagger_ns)} apart)")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend()
    figure.savefig(path, dpi=100, metadata={"Software": None})


def main(folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    keys = [(name, n, s) for name in SETTINGS for n in PROCS for s in STAGGER_NS]
    storms = [Storm(procs=n, cpus=n, pages=PAGES, stagger_ns=s, **SETTINGS[name]) for name, n, s in keys]  # type: ignore[arg-type]
    results = sweep(storms)
    draw_ratio({key: (results[2 * i], results[2 * i + 1]) for i, key in enumerate(keys)},
               os.path.join(folder, "ratio.png"))
    writers = sweep([Storm(procs=16, cpus=18, pages=2048, stagger_ns=100_000, mappers=m, bystanders=2)
                     for m in WRITERS])
    draw_writers(writers, os.path.join(folder, "writers.png"))
    report.write([result.record(host=False) for result in results + writers], folder, "collapse")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=os.path.join("docs", "collapse"))
    main(parser.parse_args().folder)
