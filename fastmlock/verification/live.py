"""The live kernel's cost per page, after ``fastmlock calibrate`` has set constants by other operations of it."""
from __future__ import annotations

import json
from pathlib import Path

from fastmlock.verification.point import Comparison, Point

#: where `fastmlock calibrate` writes unless told otherwise
DIRECTORY = Path("results/calibration")
KERNEL = "6.18"


def point(quick: bool) -> Point:
    from fastmlock.calibrate.fit import HELD_OUT
    from fastmlock.calibrate.model import costs_of
    from fastmlock.machine.costs import Costs
    from fastmlock.machine.topology import Topology

    title = "Cost per page on this machine's kernel, one and two CPUs"
    path = DIRECTORY / "measured.json"
    if not path.exists():
        return Point(name="live", title=title, factor=1.25, comparisons=[], source="this machine",
                     skipped=f"no {path}: run fastmlock calibrate here first")
    record = json.loads(path.read_text())
    model = costs_of(KERNEL, Costs.load(DIRECTORY / "costs.toml"), Topology.load(DIRECTORY / "machine.toml"))
    rows = [Comparison(what=name.replace("_", " ").replace(" 2", ", two CPUs"), model=model[name],
                       known=record["operations"][name]["ns"], unit="ns/page")
            for name in HELD_OUT if name in record["operations"] and name in model]
    return Point(name="live", title=title, factor=1.25, comparisons=rows,
                 source=f"Linux {record['kernel']} here, by fastmlock calibrate; constants set by faults, unmap, "
                        "MADV_COLD, a system call and the lock probe, none of them by mlock or munlock",
                 notes=[f"the model is the {KERNEL} of its releases"])


POINTS = {"live": point}
