"""``fastmlock storm``: processes that have mlocked the same file exit, on a simulated machine."""
from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from . import DONE, InputError


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number or several with commas between") from None


def register(commands: Any) -> None:
    sub = commands.add_parser("storm", help="the exit storm, before and after", description=(
        "N processes map the same file shared, all mlock it, and exit on a simulated NUMA machine: once on a kernel "
        "before the rework and once after it. Prints both side by side; with several N draws the curve."))
    sub.add_argument("--procs", metavar="N[,N...]", type=_numbers, default=[16], help="processes (16)")
    sub.add_argument("--pages", metavar="P", type=int, default=16384, help="pages of the file (16384)")
    sub.add_argument("--cpus", metavar="C", type=int, help="CPUs of the machine (as many as processes, at least 2)")
    sub.add_argument("--nodes", metavar="K", type=int, help="NUMA nodes (the machine's own)")
    sub.add_argument("--machine", metavar="NAME", default="generic",
                     help="a topology preset, or a TOML file of one; 'list' shows those there are (generic)")
    sub.add_argument("--kernels", metavar="K,K", default="5.17-rc2,5.18", help="kernels to compare (5.17-rc2,5.18)")
    sub.add_argument("--order", default="together", metavar="ORDER",
                     help="together, in-turn (oldest first) or newest-first (together)")
    sub.add_argument("--survivor", default="none", metavar="WHERE",
                     help="one more locker that stays, before or after the others in i_mmap order (none)")
    sub.add_argument("--mappers", metavar="M[,M...]", type=_numbers, default=[0],
                     help="further processes that map and read the file and never lock it (0)")
    sub.add_argument("--bystanders", metavar="B", type=int, default=0,
                     help="further ones that map and unmap a page of the file in a loop meanwhile (0)")
    sub.add_argument("--stagger-ns", metavar="NS", type=int, default=400,
                     help="virtual time between one process's release and the next, with as much jitter (400)")
    sub.add_argument("--coarse", action="store_true",
                     help="let a whole batch be one instant: three times faster here, cruder in lock-step")
    sub.add_argument("--seed", metavar="S", type=int, default=0, help="of that jitter (0)")
    sub.add_argument("--threads", metavar="T", type=int, default=min(2, os.cpu_count() or 1),
                     help="simulations at a time; the results are the same with any number")
    sub.add_argument("-o", "--out", metavar="DIR", default=os.path.join("results", "storm"),
                     help="where storm.parquet, storm.json and storm.png go (results/storm)")
    sub.add_argument("--plot", metavar="FILE", help="draw the curve into this PNG, SVG or PDF instead")
    sub.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from fastmlock import kernels
    from fastmlock.machine.topology import Topology, TopologyError
    from fastmlock.studies import report
    from fastmlock.studies.storm import Storm, StormError

    if arguments.machine == "list":
        for name in Topology.presets():
            print(f"{name:24}{Topology.preset(name).source}")
        return DONE
    names = arguments.kernels.split(",")
    for name in names:
        kernels.get(name)
    if arguments.threads < 1:
        raise InputError(f"--threads {arguments.threads}: at least 1 is needed")
    if arguments.plot and not arguments.plot.endswith((".png", ".svg", ".pdf")):
        raise InputError(f"--plot {arguments.plot}: a name that ends in .png, .svg or .pdf is needed")
    if len(arguments.procs) > 1 and len(arguments.mappers) > 1:
        raise InputError("--procs and --mappers: only one of them may have several numbers")
    try:
        storms = [Storm(procs=procs, pages=arguments.pages, nodes=arguments.nodes, machine=arguments.machine,
                        cpus=max(2, procs + arguments.bystanders) if arguments.cpus is None else arguments.cpus,
                        order=arguments.order, survivor=arguments.survivor, mappers=mappers,
                        bystanders=arguments.bystanders, stagger_ns=arguments.stagger_ns, coarse=arguments.coarse,
                        seed=arguments.seed)
                  for procs in arguments.procs for mappers in arguments.mappers]
    except (StormError, TopologyError) as error:
        raise InputError(str(error)) from None
    os.makedirs(arguments.out, exist_ok=True)

    results = _run_all([(storm, name) for storm in storms for name in names], arguments.threads)
    report.show(results, sys.stdout)
    paths = report.write([result.record() for result in results], arguments.out, "storm")
    if len(storms) > 1 or arguments.plot:
        paths.append(report.draw(results, arguments.plot or os.path.join(arguments.out, "storm.png")))
    print(f"written: {', '.join(paths)}")
    return DONE


def _run_all(jobs: list[tuple[Any, str]], threads: int) -> list[Any]:
    """The jobs' results in their order; each simulation is one thread, and the bar shows how much of all is done."""
    from tqdm import tqdm

    from fastmlock.studies.storm import run

    shares = [0.0] * len(jobs)
    weights = [storm.procs * storm.pages for storm, _ in jobs]
    with tqdm(total=100, unit="%", disable=not sys.stderr.isatty(), leave=False,
              bar_format="{desc}: {percentage:3.0f} % |{bar}| {elapsed}<{remaining}") as bar:
        def one(index: int) -> Any:
            def progress(what: str, share: float) -> None:
                shares[index] = 0.3 * share if "locking" in what else 0.3 + 0.7 * share
                bar.set_description_str(what, refresh=False)
                bar.n = 100 * sum(a * b for a, b in zip(shares, weights)) / sum(weights)
                bar.update(0)
            return run(*jobs[index], progress)

        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(one, index) for index in range(len(jobs))]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


