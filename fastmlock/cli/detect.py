"""``fastmlock detect``: does this kernel have the rework? Told by what it does, not by its version."""
from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from . import DONE, InputError


def register(commands: Any) -> None:
    sub = commands.add_parser("detect", help="tell by behaviour whether a kernel has the rework", description=(
        "Tells whether the running kernel handles mlocked pages as before or after the rework of 2022, or in part, by "
        "what it does. Needs no root."))
    sub.add_argument("--kernel", metavar="RELEASE", help="ask the model of this release, not the running kernel")
    sub.add_argument("--json", action="store_true", help="print one JSON object")
    sub.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from fastmlock.live import LiveError, LiveSystem, Machine
    from fastmlock.live.detect import detect

    from .systems import bare

    if arguments.kernel:
        name, verdict = arguments.kernel, detect(bare(arguments.kernel, reference=False))
    else:
        try:
            with Machine() as machine:
                name, verdict = machine.release, detect(lambda: LiveSystem(machine))
        except LiveError as error:
            raise InputError(f"not run: {error}") from None
    if arguments.json:
        print(json.dumps({"kernel": name, **asdict(verdict)}, indent=1))
        return DONE
    for one in verdict.evidence:
        print(f"{one.question}  {one.answer}\n    {one.seen}")
    if verdict.batch:
        print(f"per-cpu mlock batch: {verdict.batch} pages")
    print(f"kernel {name}: {verdict}")
    return DONE
