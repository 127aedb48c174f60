"""``fastmlock storm``: processes that have mlocked the same file exit, on a simulated machine."""
from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from . import DONE, InputError
from .storms import run_all


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
                     help="a topology preset; or a file: TOML of one, core-to-core CSV, lscpu -p; or /sys; "
                          "'list' shows the "
                          "presets (generic)")
    sub.add_argument("--kernels", metavar="K,K", default="5.17-rc2,5.18", help="kernels to compare (5.17-rc2,5.18)")
    sub.add_argument("--order", default="together", metavar="ORDER",
                     help="together, in-turn (oldest first) or newest-first (together)")
    sub.add_argument("--survivor", default="none", metavar="WHERE",
                     help="one more locker that stays, before or after the others in i_mmap order (none)")
    sub.add_argument("--mappers", metavar="M[,M...]", type=_numbers, default=[0],
                     help="further processes that map and read the file and never lock it (0)")
    sub.add_argument("--maps", metavar="K", type=int, default=1,
                     help="times that each of these maps the file, touching it through the first only (1)")
    sub.add_argument("--leave", default="exit", metavar="HOW", help=(
        "exit; or munlock: each process munlocks and goes on, and another thread of it has its first write to a page "
        "of its own meanwhile (exit)"))
    sub.add_argument("--bystanders", metavar="B", type=int, default=0,
                     help="further ones that map and unmap a page of the file in a loop meanwhile (0)")
    sub.add_argument("--interleave", action="store_true",
                     help="spread the file's pages over the nodes in turn (all where the first process runs)")
    sub.add_argument("--stagger-ns", metavar="NS", type=int, default=400,
                     help="virtual time between one process's release and the next, with as much jitter (400)")
    sub.add_argument("--coarse", action="store_true",
                     help="let a whole batch be one instant: three times faster here, cruder in lock-step")
    sub.add_argument("--seed", metavar="S", type=int, default=0, help="of that jitter (0)")
    sub.add_argument("--lock", metavar="NAME=VALUE", action="append", default=[], help=(
        "another lock than the kernel's: spin=ticket, rwsem=no-handoff, i_mmap=percpu, ...; several are possible; a "
        "wrong one shows what there is"))
    sub.add_argument("--lock-stat", action="store_true",
                     help="also print each result's locks as /proc/lock_stat and perf lock contention would")
    sub.add_argument("--profile", metavar="SAMPLES", type=int, nargs="?", const=1000, help=(
        "look that often (1000) at what every task does: prints it, and writes folded stacks, a trace for Perfetto and "
        "a picture"))
    sub.add_argument("--costs", metavar="FILE", help="a TOML file of other costs, such as calibrate writes")
    sub.add_argument("--sure", metavar="SAMPLES", type=int, nargs="?", const=64, help=(
        "how sure is the comparison: draws so many tables of costs (64) and prints intervals and what matters most"))
    sub.add_argument("--until", metavar="EVENT", help=(
        "search the smallest number of processes, from --procs up, that makes a watchdog report: hung-task, "
        "soft-lockup or rcu-stall; --cpus is then 64 unless given"))
    sub.add_argument("--vary", metavar="WHAT", default="procs", help=(
        "with --until: search procs, or mappers from --mappers up (procs)"))
    sub.add_argument("--most", metavar="N", type=int, default=4096,
                     help="with --until: how many of them to try at most (4096)")
    sub.add_argument("--hung-task-timeout-secs", metavar="S", type=int, help=(
        "the sysctl of that name: how long a task sleeps until it counts as hung (120)"))
    sub.add_argument("--checkpoint", metavar="DIR", help="keep the state there, every minute and when interrupted")
    sub.add_argument("--checkpoint-s", metavar="S", type=float, default=60.0, help="or every so many seconds (60)")
    sub.add_argument("--resume", action="store_true", help="go on from --checkpoint DIR; storms not begun start anew")
    sub.add_argument("--threads", metavar="T", type=int, default=min(2, os.cpu_count() or 1),
                     help="simulations at a time; the results are the same with any number")
    sub.add_argument("-o", "--out", metavar="DIR", default=os.path.join("results", "storm"),
                     help="where storm.parquet, storm.json and storm.png go (results/storm)")
    sub.add_argument("--plot", metavar="FILE", help="draw the curve into this PNG, SVG or PDF instead")
    sub.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from fastmlock import kernels
    from fastmlock.machine.costs import CostError, Costs
    from fastmlock.machine.locks import LockError
    from fastmlock.machine.profiler import Profiler
    from fastmlock.machine.report import contention_text, lock_stat_text
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
    if arguments.profile is not None and arguments.profile < 1:
        raise InputError(f"--profile {arguments.profile}: at least 1 sample is needed")
    if arguments.sure is not None and arguments.sure < 5:
        raise InputError(f"--sure {arguments.sure}: at least 5 samples are needed")
    if arguments.until:
        from fastmlock.studies.search import EVENTS, VARIES
        if arguments.until not in EVENTS:
            raise InputError(f"--until {arguments.until}: one of {', '.join(EVENTS)} is needed")
        if arguments.vary not in VARIES:
            raise InputError(f"--vary {arguments.vary}: one of {', '.join(VARIES)} is needed")
        if len(arguments.procs) > 1 or len(arguments.mappers) > 1:
            raise InputError("--until: one number of processes and of mappers to begin with is needed, not several")
        first = getattr(arguments, arguments.vary)[0]
        if arguments.most < max(first, 1):
            raise InputError(f"--most {arguments.most}: at least --{arguments.vary} {max(first, 1)} is needed")
        arguments.cpus = 64 if arguments.cpus is None else arguments.cpus
    try:
        costs = Costs.load(arguments.costs) if arguments.costs else None
        if arguments.hung_task_timeout_secs is not None:
            if arguments.hung_task_timeout_secs < 1:
                raise InputError(f"--hung-task-timeout-secs {arguments.hung_task_timeout_secs}: at least 1 is needed")
            costs = (costs or Costs.default()).replace(hung_task=arguments.hung_task_timeout_secs * 10**9)
        storms = [Storm(procs=procs, pages=arguments.pages, nodes=arguments.nodes, machine=arguments.machine,
                        cpus=max(2, procs + arguments.bystanders) if arguments.cpus is None else arguments.cpus,
                        order=arguments.order, leave=arguments.leave, survivor=arguments.survivor, mappers=mappers,
                        maps=arguments.maps,
                        interleave=arguments.interleave, bystanders=arguments.bystanders,
                        stagger_ns=arguments.stagger_ns, coarse=arguments.coarse, seed=arguments.seed,
                        locks=tuple(arguments.lock), costs=costs)
                  for procs in arguments.procs for mappers in arguments.mappers]
    except (StormError, TopologyError, CostError, LockError) as error:
        raise InputError(str(error)) from None
    if arguments.profile and (len(storms) > 1 or arguments.checkpoint or arguments.until or arguments.sure is not None):
        raise InputError("--profile: one storm is needed, without --until, --sure and --checkpoint, which do not keep "
                         "what was seen")
    if arguments.sure is not None:
        if len(storms) > 1 or len(names) != 2 or arguments.until:
            raise InputError("--sure: one storm, two kernels and no --until are needed")
        return _sure(storms[0], names, arguments)
    if arguments.until:
        return _search(storms[0], names, arguments)
    if arguments.resume and not arguments.checkpoint:
        raise InputError("--resume: --checkpoint DIR says from where")
    os.makedirs(arguments.out, exist_ok=True)

    jobs = [(storm, name) for storm in storms for name in names]
    profilers = [Profiler(arguments.profile) for _ in jobs] if arguments.profile else []
    results = run_all(jobs, arguments.threads, _kept(jobs, arguments), profilers)
    report.show(results, sys.stdout)
    for result in results:
        for line in result.dmesg:
            print(line)
        if arguments.lock_stat:
            print(f"\n{result.storm.procs} processes, {result.kernel}:\n{lock_stat_text(result.lock_stat)}\n\n"
                  f"{contention_text(result.lock_stat)}")
    paths = report.write([result.record() for result in results], arguments.out, "storm")
    if profilers:
        paths += _profiles(profilers, results, arguments.out)
    if len(storms) > 1 or arguments.plot:
        paths.append(report.draw(results, arguments.plot or os.path.join(arguments.out, "storm.png")))
    print(f"written: {', '.join(paths)}")
    return DONE


def _kept(jobs: list[tuple[Any, str]], arguments: argparse.Namespace) -> list[Any]:
    """The jobs' checkpoints, those of an earlier run removed unless it is gone on with."""
    from fastmlock.studies.checkpoint import Checkpoint

    if not arguments.checkpoint:
        return []
    kept = [Checkpoint(arguments.checkpoint, *job, every_s=arguments.checkpoint_s) for job in jobs]
    if not arguments.resume:
        for one in kept:
            one.remove()
    return kept


def _profiles(profilers: list[Any], results: list[Any], folder: str) -> list[str]:
    from rich.console import Console

    from fastmlock.studies import profile

    seen = [profile.Profile.of(profiler, result.kernel) for profiler, result in zip(profilers, results)]
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    paths = []
    console.print("where the tasks' time goes", style="bold")
    for one in seen:
        console.print(profile.table(one))
        console.print(f"  seen {len(one.times_ns):,} times, once in every {one.every_ns:,} ns\n")
        paths += profile.write(one, os.path.join(folder, f"storm-{one.title}"))
    return [*paths, profile.draw(seen, os.path.join(folder, "storm-profile.png"))]


def _sure(storm: Any, names: list[str], arguments: argparse.Namespace) -> int:
    import json

    from tqdm import tqdm

    from fastmlock.studies import sure

    os.makedirs(arguments.out, exist_ok=True)
    with tqdm(total=100, unit="%", disable=not sys.stderr.isatty(), leave=False) as bar:
        answers = sure.sure(storm, (names[0], names[1]), samples=arguments.sure, seed=arguments.seed,
                            threads=arguments.threads, progress=lambda share: bar.update(int(100 * share) - bar.n))
    print("\n".join(sure.sentences(answers)))
    record = {"constants": answers.constants, "spreads": answers.spreads.tolist(), "samples": answers.samples.tolist(),
              "values": {name: values.tolist() for name, values in answers.values.items()}, "central": answers.central}
    path = os.path.join(arguments.out, "sure.json")
    with open(path, "w") as file:
        json.dump(record, file)
    picture = sure.draw(answers, arguments.plot or os.path.join(arguments.out, "sure.png"))
    print(f"written: {path}, {picture}")
    return DONE


def _search(storm: Any, names: list[str], arguments: argparse.Namespace) -> int:
    from fastmlock.studies.search import VARIES, Trial, smallest
    from fastmlock.studies.storm import StormError

    what = VARIES[arguments.vary]

    def tell(number: int, trial: Trial) -> None:
        came = f"{arguments.until} reported" if trial.tripped else "no report"
        print(f"  {number:6} {what}: {came}, virtual time {trial.end_ns / 1e9:.4g} s", flush=True)

    for name in names:
        print(f"{name}: {storm.pages} pages, {storm.cpus} CPUs ({storm.machine})", flush=True)
        try:
            found = smallest(storm, name, arguments.until, most=arguments.most, vary=arguments.vary, tell=tell)
        except StormError as error:
            raise InputError(f"no {arguments.until} up to there: {error}") from None
        print(found.sentence())
        for line in found.dmesg:                # the first report
            print(line)
            if line.endswith("</TASK>"):
                break
    return DONE
