"""Does host time grow linearly? ns of CPU time per entry and per event as pages, processes and CPUs grow by fours.

    python -m benches.growth [--coarse]
"""
from __future__ import annotations

import argparse
import sys

from fastmlock.studies.bench import exits
from fastmlock.studies.storm import Storm

KERNELS = ("5.17-rc2", "5.18")
STEPS = {
    "pages": [dict(procs=16, pages=pages, cpus=16) for pages in (1024, 4096, 16384, 65536)],
    "processes": [dict(procs=procs, pages=2048, cpus=16) for procs in (4, 16, 64, 256)],
    "processes and CPUs": [dict(procs=n, pages=2048, cpus=n) for n in (4, 16, 64, 256)],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coarse", action="store_true")
    coarse = parser.parse_args().coarse
    print(f"{'what grows':20}{'procs':>7}{'pages':>8}{'cpus':>6}  " + "".join(
        f"{kernel + ': ns/entry':>20}{'ns/event':>10}" for kernel in KERNELS))
    for what, steps in STEPS.items():
        for step in steps:
            line = f"{what:20}{step['procs']:7}{step['pages']:8}{step['cpus']:6}  "
            for kernel in KERNELS:
                storm = Storm(coarse=coarse, **step)
                spent, events = exits(storm, kernel)
                line += f"{1e9 * spent / storm.procs / storm.pages:20.0f}{1e9 * spent / events:10.0f}"
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
