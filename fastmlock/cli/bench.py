"""``fastmlock bench``: what the laboratory itself costs, as a table."""
from __future__ import annotations

import argparse
import sys
from typing import Any

from . import DONE, InputError


def register(commands: Any) -> None:
    sub = commands.add_parser("bench", help="time the engine beside a bare event loop", description=(
        "Times lock loops and exit storms beside a bare event loop over as many CPUs, in one run, and prints the "
        "README's table. Times are of this machine; the ratios are what can be compared."))
    sub.add_argument("--cpus", metavar="C,C", default="64,256", help="numbers of CPUs (64,256)")
    sub.add_argument("--pages", metavar="P", type=int, default=16384, help="pages of the storm's file (16384)")
    sub.add_argument("--kernels", metavar="K,K", default="5.17-rc2,5.18", help="kernels (5.17-rc2,5.18)")
    sub.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from fastmlock import kernels
    from fastmlock.studies import bench
    from fastmlock.studies.storm import Storm, StormError

    names = tuple(arguments.kernels.split(","))
    for name in names:
        kernels.get(name)
    try:
        cpus = tuple(int(word) for word in arguments.cpus.split(","))
        for n in cpus:
            Storm(procs=n, cpus=n, pages=arguments.pages)
    except StormError as error:
        raise InputError(str(error)) from None
    except ValueError as error:
        raise InputError(f"--cpus {arguments.cpus}: {error}") from None
    with tqdm(total=1.0, disable=not sys.stderr.isatty(), leave=False, bar_format="{desc}") as bar:
        def progress(what: str, share: float) -> None:
            bar.set_description_str(f"{what} {100 * share:.0f} %")
        for line in bench.table(bench.lines(cpus, arguments.pages, names, progress)):
            print(line, flush=True)
    return DONE
