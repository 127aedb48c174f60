"""Records scenarios on the running kernel, and packs them for those who have no such kernel.

    python -m fastmlock.live.record FOLDER [DESTINATION]

FOLDER holds NAME.txt. Each is run many times, since other programs fill and drain per-cpu batches as they like, and of
every step the version is kept that came most often. Where that was in no more than half of the runs, "agree" says so,
and `compare` leaves the step's pages or counters out. The archive live-RELEASE.tar.xz holds scenarios and recordings.
"""
from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fastmlock.data.pack import archive
from fastmlock.scenario import language
from fastmlock.scenario.commands import Scenario
from fastmlock.scenario.compare import COUNTERS
from fastmlock.scenario.run import Record, run
from fastmlock.scenario.system import opened

from .machine import Machine
from .system import LiveSystem

REPEATS = 15
_STATE = ("ret", "err", "sig", "p", "f")


def record(scenario: Scenario, machine: Machine, *, repeats: int = REPEATS) -> list[Record]:
    """What the kernel did most often, step by step; "agree", where there is one, = [1 if the state came in most of the
    runs, 1 if the counters did so too, 1]."""
    runs: list[list[Record]] = []
    for _ in range(repeats):
        with opened(lambda: LiveSystem(machine)) as system:
            runs.append(list(run(scenario, system, kernel=machine.model, forget_lost=True)))
    return [runs[0][0], *(_most_common(versions) for versions in list(zip(*runs))[1:])]


def _most_common(versions: Sequence[Record]) -> Record:
    state, settled = _majority([json.dumps([one.get(key) for key in _STATE]) for one in versions])
    counted = [{name: change for name, change in _changes(one).items() if name in COUNTERS} for one in versions]
    counters, exact = _majority([json.dumps(one, sort_keys=True) for one in counted])
    out: Record = {**versions[state], "dvs": counted[counters]}
    del out["dv"]
    if not (settled and exact):
        out["agree"] = [int(settled), int(settled and exact), 1]
    return out


def _majority(texts: Sequence[str]) -> tuple[int, bool]:
    """Index of the most common text, and whether it is more than half of them."""
    text, times = Counter(texts).most_common(1)[0]
    return texts.index(text), 2 * times > len(texts)


def _changes(one: Record) -> dict[str, int]:
    changes = one["dvs"]
    assert isinstance(changes, dict)
    return changes


def main(argv: list[str]) -> int:
    if len(argv) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    source = Path(argv[0])
    destination = Path(argv[1]) if len(argv) == 2 else Path(__file__).parent.parent / "data"
    with Machine(disturb=True) as machine, tempfile.TemporaryDirectory() as folder:
        files = sorted(source.glob("*.txt"))
        for file in list(files):
            records = record(language.load(file), machine)
            made = Path(folder) / f"{file.stem}.jsonl"
            made.write_text("".join(json.dumps(one) + "\n" for one in records))
            files.append(made)
            print(f"{file.stem}: {len(records) - 1} steps, {sum('agree' in one for one in records)} not settled")
        (destination / f"live-{machine.model}.tar.xz").write_bytes(archive(files))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
