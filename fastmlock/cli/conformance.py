"""``fastmlock conformance``: the model against all recordings of real kernels."""
from __future__ import annotations

import argparse
import sys
from typing import Any

from . import DIFFERS, DONE, UNSUPPORTED


def register(commands: Any) -> None:
    sub = commands.add_parser("conformance", help="hold the model against the recordings of real kernels", description=(
        "Runs the recorded scenarios on the model and prints how many steps agree with the real kernels."))
    sub.add_argument("--kernel", metavar="RELEASE", action="append", default=[],
                     help="this recorded kernel only; may be given several times")
    sub.add_argument("--scenario", metavar="NAME", action="append", default=[],
                     help="this scenario only, or those of a pattern like 's2*'; may be given several times")
    sub.add_argument("--reference", action="store_true", help="hold the plain Python reference against them instead")
    sub.add_argument("--verbose", action="store_true", help="show each scenario, and all differing steps")
    sub.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from fastmlock import kernels
    from fastmlock.scenario import conformance, recordings

    from .systems import factory

    pairs = conformance.choose(arguments.kernel, arguments.scenario)
    for kernel in dict.fromkeys(kernel for kernel, _ in pairs):
        kernels.get(recordings.release(kernel))
    system = factory(reference=arguments.reference)
    progress = tqdm(pairs, desc="conformance", unit="scenario", disable=not sys.stderr.isatty(), leave=False)
    results = list(conformance.check_all(progress, system))
    for line in conformance.table(results, each=arguments.verbose):
        print(line)
    wrong = [result for result in results if not result.ok]
    shown = results if arguments.verbose else wrong
    steps = sys.maxsize if arguments.verbose else 1
    lines = list(conformance.differences(shown, steps=steps))
    if lines:
        print("\n" + "\n".join(lines))
    if wrong:
        return DIFFERS
    return UNSUPPORTED if any(result.unsupported for result in results) else DONE
