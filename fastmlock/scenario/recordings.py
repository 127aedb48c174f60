"""The recordings of real kernels that the package ships: which there are, and what they say.

A recording has the name of the kernel it was made on. `release` says which of the model's releases
that is: 5.17-rc5 differs from 5.17-rc2 in nothing that is modelled, and host-6.18 is 6.18 on a machine
that other programs used at the same time.

Beside the given recordings there are the project's own, made in the same way: a set for each subject, own-SUBJECT-...
"""
from __future__ import annotations

import re
import tarfile
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from .commands import Scenario
from .compare import read_records, with_repetitions
from .language import parse

ARCHIVE = re.compile(r"recordings-(.+)\.tar\.xz")
OWN = re.compile(r"own-[a-z]+-(.+)\.tar\.xz")


class UnknownRecording(LookupError):
    """No such kernel or scenario among the recordings; str() is one line that lists what there is."""

    def __str__(self) -> str:
        return str(self.args[0])


def live() -> dict[str, tuple[Scenario, list[dict[str, Any]]]]:
    """Scenarios that the recorder has no words for, as a live 6.18 carried them out (`fastmlock.live.record`): name ->
    scenario and records."""
    unpacked = _unpacked("live-6.18.tar.xz", endings=True)
    names = [name.removesuffix(".txt") for name in unpacked if name.endswith(".txt")]
    return {name: (parse(unpacked[f"{name}.txt"], f"{name}.txt"), read_records(unpacked[f"{name}.jsonl"], name))
            for name in names}


def huge(kernel: str, *, files: bool = False) -> dict[str, tuple[Scenario, list[dict[str, Any]]]]:
    """Scenarios with transparent huge pages, anonymous or (`files`) of tmpfs, as recorded on `kernel`
    (docs/conformance.md says how): name -> scenario and records; empty for a kernel they were not recorded on."""
    return _beside("thp-files" if files else "thp", kernel)


def hotplug(kernel: str) -> dict[str, tuple[Scenario, list[dict[str, Any]]]]:
    """Cpus and memory that leave, as `huge`; recorded with three cpus."""
    return _beside("hotplug", kernel)


def _beside(archive: str, kernel: str) -> dict[str, tuple[Scenario, list[dict[str, Any]]]]:
    unpacked = _with_endings(f"{archive}.tar.xz")
    ending = f"@{kernel}.jsonl"
    names = [name.removesuffix(ending) for name in unpacked if name.endswith(ending)]
    return {name: (parse(unpacked[f"{name}.txt"], f"{name}.txt"), read_records(unpacked[name + ending], name))
            for name in names}


def release(kernel: str) -> str:
    """The model's release that stands for a recorded kernel."""
    return kernel.removeprefix("host-").replace("5.17-rc5", "5.17-rc2")


def recorded(name: str) -> str:
    """The recorded kernel meant by `name`, its own name or the release's. Raises `UnknownRecording`."""
    for kernel in kernels():
        if name in (kernel, release(kernel)):
            return kernel
    raise UnknownRecording(f"no recordings of kernel {name!r}; there are: {', '.join(kernels())}")


@cache
def kernels() -> tuple[str, ...]:
    """The kernels recorded, oldest first."""
    names = [match[1] for entry in files("fastmlock.data").iterdir() if (match := ARCHIVE.fullmatch(entry.name))]
    return tuple(sorted(names, key=_age))


def scenarios(kernel: str | None = None) -> tuple[str, ...]:
    """Names of all scenarios, or of those recorded on `kernel`. Raises `UnknownRecording`."""
    return tuple(_scenario_texts() if kernel is None else _recordings(recorded(kernel)))


def text(scenario: str) -> bytes:
    """The scenario's own text. Raises `UnknownRecording`."""
    found = _scenario_texts().get(scenario)
    if found is None:
        raise UnknownRecording(f"no scenario {scenario!r}; there are: {', '.join(scenarios())}")
    return found


def scenario(name: str) -> Scenario:
    """The scenario, parsed. Raises `UnknownRecording`."""
    return parse(text(name), f"{name}.txt")


def load(kernel: str, scenario: str) -> list[dict[str, Any]]:
    """What `kernel` left behind after each step, step 0 first. A recording that was made again has the repetitions of
    both in its `agree`. Raises `UnknownRecording`."""
    kernel = recorded(kernel)
    packed = _recordings(kernel).get(scenario)
    if packed is None:
        raise UnknownRecording(f"scenario {scenario!r} is not recorded on {kernel}")
    records = read_records(packed, f"{kernel}/{scenario}.jsonl")
    again = _again(kernel).get(scenario)
    return with_repetitions(records, read_records(again, f"again, {kernel}/{scenario}.jsonl")) if again else records


def _age(kernel: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", kernel))


@cache
def _scenario_texts() -> dict[str, bytes]:
    return _with_own("scenarios.tar.xz", "scenarios")


@cache
def _with_endings(archive: str) -> dict[str, bytes]:
    return _unpacked(archive, endings=True)


@lru_cache(maxsize=4)
def _recordings(kernel: str) -> dict[str, bytes]:
    return _with_own(f"recordings-{kernel}.tar.xz", kernel)


@lru_cache(maxsize=4)
def _again(kernel: str) -> dict[str, bytes]:
    """Given scenarios that were recorded once, and in whose recording the model differed: recorded again."""
    name = f"again-{kernel}.tar.xz"
    return _unpacked(name) if (files("fastmlock.data") / name).is_file() else {}


def _with_own(archive: str, what: str) -> dict[str, bytes]:
    """What is in this archive and in those of all own sets for `what`."""
    names = sorted(entry.name for entry in files("fastmlock.data").iterdir())
    own = [name for name in names if (match := OWN.fullmatch(name)) and match[1] == what]
    return {name: data for part in (archive, *own) for name, data in _unpacked(part).items()}


def _unpacked(archive: str, *, endings: bool = False) -> dict[str, bytes]:
    """Contents by name, without its ending unless `endings`, in order of names."""
    with (files("fastmlock.data") / archive).open("rb") as stream, tarfile.open(fileobj=stream, mode="r:xz") as tar:
        contents = {}
        for member in tar:
            data = tar.extractfile(member)
            assert data is not None
            contents[member.name if endings else member.name.rpartition(".")[0]] = data.read()
        return contents
