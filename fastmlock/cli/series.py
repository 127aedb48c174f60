"""``fastmlock series``: one workload at every point of the series; what each patch does."""
from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from . import DONE, InputError


def register(commands: Any) -> None:
    sub = commands.add_parser("series", help="the series patch by patch", description=(
        "Runs one workload at all fourteen points of the series on one simulated machine and prints what each point "
        "costs and what it gets wrong; or explains one patch, with a scenario run before and after it."))
    sub.add_argument("workload", metavar="WORKLOAD", nargs="?", default="storm",
                     help="the workload; 'list' shows those there are (storm)")
    sub.add_argument("--explain", metavar="NN", help="explain patch NN (01 to 13) instead")
    sub.add_argument("--kernels", metavar="K,K",
                     help="these points in place of all fourteen, e.g. 5.17-rc2,5.17-rc2+01..07,5.17-rc2+13-10..12")
    sub.add_argument("--procs", metavar="N", type=int, default=16, help="processes, each on a CPU of its own (16)")
    sub.add_argument("--pages", metavar="P", type=int, default=1024, help="pages of the file (1024)")
    sub.add_argument("--machine", metavar="NAME", default="generic", help="a topology preset (generic)")
    sub.add_argument("--untimed", action="store_true", help="count only: the calls take turns, nothing has a duration")
    sub.add_argument("-o", "--out", metavar="DIR", default=os.path.join("results", "series"),
                     help="where WORKLOAD.parquet, .json and .png go (results/series)")
    sub.add_argument("--plot", metavar="FILE", help="draw into this PNG, SVG or PDF instead")
    sub.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from fastmlock.series.workloads import WORKLOADS, about

    if arguments.explain is not None:
        return _explain(arguments.explain)
    if arguments.workload == "list":
        for name in WORKLOADS:
            print(f"{name:12} {about(name)}")
        return DONE
    return _measure(arguments)


def _explain(number: str) -> int:
    from fastmlock.series.explain import NoPatch, explain

    try:
        print("\n".join(explain(number)))
    except NoPatch as error:
        raise InputError(str(error)) from None
    return DONE


def _measure(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from fastmlock import kernels
    from fastmlock.series import report
    from fastmlock.series.measure import SeriesError, measure
    from fastmlock.studies.report import write

    names = arguments.kernels.split(",") if arguments.kernels else kernels.SERIES
    names = _joined(names)
    if arguments.plot and not arguments.plot.endswith((".png", ".svg", ".pdf")):
        raise InputError(f"--plot {arguments.plot}: a name that ends in .png, .svg or .pdf is needed")
    try:
        if not arguments.untimed:
            from fastmlock.machine.topology import Topology

            Topology.preset(arguments.machine, cpus=2, nodes=None)
        with tqdm(total=len(names), unit="point", disable=not sys.stderr.isatty(), leave=False) as bar:
            def each(name: str) -> None:
                bar.set_description_str(name)
                bar.update()
            rows = measure(arguments.workload, names, procs=arguments.procs, pages=arguments.pages,
                           machine=None if arguments.untimed else arguments.machine, each=each)
    except (SeriesError, ValueError) as error:
        if isinstance(error, kernels.UnknownKernel):
            raise
        raise InputError(str(error)) from None
    report.show(rows, sys.stdout)
    paths = write(rows, arguments.out, arguments.workload)
    paths.append(report.draw(rows, arguments.plot or os.path.join(arguments.out, f"{arguments.workload}.png")))
    print(f"written: {', '.join(paths)}")
    return DONE


def _joined(words: list[str]) -> list[str]:
    """Kernels' names may have commas themselves: a word that begins with a digit pair alone goes on the one before."""
    names: list[str] = []
    for word in words:
        if names and word[:2].isdigit() and "." not in word.replace("..", "", 1)[:4]:
            names[-1] += f",{word}"
        else:
            names.append(word)
    return names
