"""``fastmlock verify``: scenarios on the kernel that runs here and on the model of it."""
from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from . import DIFFERS, DONE, InputError


def register(commands: Any) -> None:
    sub = commands.add_parser("verify", help="hold the model against the kernel that runs here", description=(
        "Runs scenarios on the running kernel and on the model for its release, and prints how far they agree. As root "
        "flags and mapcounts of pages are compared too."))
    sub.add_argument("scenario", metavar="SCENARIO", nargs="*",
                     help="scenario files, or names of recorded scenarios; without any, all recorded ones")
    sub.add_argument("--kernel", metavar="RELEASE", help="the model; default: that of the running release")
    sub.add_argument("--reference", action="store_true", help="hold the plain Python reference against it instead")
    sub.add_argument("--repeats", metavar="N", type=int, default=5,
                     help="a step differs if it does so in each of N runs (default 5)")
    sub.add_argument("--disturb", action="store_true", help="allow compact, dropcaches and sysctl, which all feel")
    sub.add_argument("--json", action="store_true", help="print one JSON object")
    sub.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from fastmlock import kernels
    from fastmlock.live import LiveError, Machine
    from fastmlock.live.verify import table, verify
    from fastmlock.scenario import language, recordings

    from .systems import bare

    if arguments.repeats < 1:
        raise InputError(f"--repeats {arguments.repeats}: at least one run is needed")
    known = {**{name: recordings.scenario(name) for name in recordings.scenarios()},
             **{name: scenario for name, (scenario, _) in recordings.live().items()}}
    scenarios = [known[name] if name in known and not os.path.lexists(name) else language.load(name)
                 for name in arguments.scenario or known]
    if arguments.kernel:
        kernels.get(arguments.kernel)
    try:
        with Machine(disturb=arguments.disturb) as machine:
            release = arguments.kernel or machine.model
            model = bare(release, reference=arguments.reference)
            progress = tqdm(scenarios, desc="verify", unit="scenario", disable=not sys.stderr.isatty(), leave=False)
            results = list(verify(progress, machine, model, repeats=arguments.repeats))
            blind = list(machine.blind())
            if arguments.json:
                print(json.dumps({"kernel": machine.release, "model": release, "not_looked_at": blind,
                                  "scenarios": [result.as_json() for result in results]}, indent=1))
            else:
                print(f"kernel {machine.release}, model {release}")
                print(*table(results), *(f"not looked at: {what}" for what in blind), sep="\n")
    except LiveError as error:
        raise InputError(f"not run: {error}") from None
    return DONE if all(result.ok for result in results) else DIFFERS
