"""Random programs on real kernels in QEMU guests, by the recorder of the recordings (an "oracle" folder).

The guest records a batch of programs several times over; each recording is then held against the model like those
that are shipped. Needs what the recorder's README names: QEMU, busybox, the kernels.
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fastmlock.scenario.compare import load_records
from fastmlock.scenario.conformance import hold
from fastmlock.scenario.language import parse
from fastmlock.scenario.system import Maker

from .campaign import Totals
from .generate import EMULATED, Profile, program
from .pair import Difference, Fault, Outcome, runnable

BATCH = 60
"""Programs of one boot: a guest boots in ten seconds and has about ten minutes."""
SECONDS = 590
MEMORY = "1G"

Bare = Callable[..., Maker]


class EmulatorError(OSError):
    """The guest did not run; str() says what it said last."""


def record(oracle: Path, kernel: str, programs: dict[str, Sequence[str]], into: Path) -> None:
    """Runs programs in a guest; writes a consensus recording NAME.jsonl of each into a folder."""
    with tempfile.TemporaryDirectory(prefix="fastmlock-") as folder:
        scenarios, out = Path(folder, "scenarios"), Path(folder, "out")
        scenarios.mkdir()
        for name, lines in programs.items():
            (scenarios / f"{name}.txt").write_text("\n".join(lines) + "\n")
        done = subprocess.run(["qemu/run.sh", kernel, "qemu/job_scen.sh", str(out), "2", MEMORY, str(SECONDS)],
                              cwd=oracle, env={**os.environ, "SCEN": str(scenarios)}, capture_output=True, text=True)
        if done.returncode or not (out / "runs").is_dir():
            last = (done.stderr or done.stdout)[-300:].strip()
            raise EmulatorError(0, f"the guest with {kernel} did not finish: {last}")
        subprocess.run(["./compare.py", "consensus", str(out / "runs"), str(Path(folder, "results"))], cwd=oracle,
                       check=True, capture_output=True)
        into.mkdir(parents=True, exist_ok=True)
        for recording in Path(folder, "results").glob("*.jsonl"):
            shutil.copy(recording, into)


def campaign(oracle: Path, kernel: str, seed: str, first: int, programs: int, bare: Bare,
             output: Path | None, profile: Profile = EMULATED) -> Totals:
    """Programs [first, first + programs) of a seed, on a guest with `kernel` and the model of it."""
    model = bare(kernel, reference=False)
    folder = output or Path(tempfile.mkdtemp(prefix="fastmlock-fuzz-"))
    totals = Totals()
    for start in range(first, first + programs, BATCH):
        texts: dict[str, Sequence[str]] = {}
        for index in range(start, min(start + BATCH, first + programs)):
            try:
                texts[f"d{index:06}"] = runnable(program(seed, index, profile).splitlines(), model)[0]
            except Fault as fault:
                totals.programs += 1
                totals.faults += 1
                totals.files.append(f"program {index} broke down at {fault}")
        record(oracle, kernel, texts, folder / kernel)
        for name, lines in texts.items():
            _hold(name, kernel, lines, model, folder / kernel, totals)
        (folder / "checkpoint.json").write_text(json.dumps(vars(totals)))
    return totals


def _hold(name: str, kernel: str, lines: Sequence[str], model: Maker, folder: Path, totals: Totals) -> None:
    """One program's recording against the model; one that agrees is removed, another is kept with its text."""
    recording = folder / f"{name}.jsonl"
    if not recording.exists():
        totals.add(Outcome(list(lines), unsupported=["the guest left no recording"]))
        return
    result = hold(parse("\n".join(lines) + "\n", name), load_records(recording), kernel, lambda release: model())
    if result.comparison is None or result.failure:
        totals.add(Outcome(list(lines), unsupported=[result.unsupported or result.failure]))
        return
    comparison = result.comparison
    hard = [one for one in comparison.differing if one.hard]
    outcome = Outcome(list(lines), comparison.steps, differing=len(hard), soft=comparison.equal - comparison.equal_soft,
                      unsettled=comparison.unsettled_state)
    if hard:
        outcome.difference = Difference(hard[0].step, hard[0].cmd, hard[0].hard)
        (folder / f"{name}.txt").write_text(f"# {outcome.difference}\n"[:190] + "\n" + "\n".join(lines) + "\n")
        totals.files.append(f"{folder / name}.txt: {outcome.difference}")
    else:
        recording.unlink()
    totals.add(outcome)
