"""What a profiler saw of the simulated kernel, for people and for other programs: a table, a picture, folded stacks
(flamegraph.pl, speedscope) and a trace (Perfetto, chrome://tracing). All times are virtual."""
from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastmlock.machine.callstack import RUNNING, STATES, Stack
from fastmlock.machine.profiler import Profiler
from fastmlock.studies.report import duration, save

TRACE_TASKS = 64                #: tasks that a trace shows, evenly picked; its counters are of all
_COLOURS = ("#4c8fbd", "#d9534f", "#e8a33d", "#9a9a9a")         # by state


@dataclass(frozen=True)
class Profile:
    """One run's looks.

    times_ns : int64[looks], one in each window of `every_ns`, for which it stands
    seen : int32[looks, tasks], indexes of `stacks`; 0 = not there
    names : of tasks, by number; others are "task"
    """

    title: str
    every_ns: int
    times_ns: np.ndarray
    seen: np.ndarray
    stacks: Sequence[Stack]
    names: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, profiler: Profiler, title: str) -> Profile:
        return cls(title, profiler.every_ns, profiler.times_ns, profiler.seen, tuple(profiler.stacks), profiler.names)

    def folded(self) -> dict[tuple[str, ...], int]:
        """Virtual ns of all tasks together at each stack, a task's name outermost; as often seen, longest first."""
        total: Counter[tuple[str, ...]] = Counter()
        for task in range(self.seen.shape[1]):
            for number, looks in zip(*np.unique(self.seen[:, task], return_counts=True)):
                if number:
                    total[(self.names.get(task, "task"), *self.stacks[number].frames)] += int(looks) * self.every_ns
        return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))

    def shares(self, callers: int = 3) -> dict[str, dict[tuple[str, ...], float]]:
        """Of each kind of task: (what it was at, up to so many callers of it, innermost first) and the share of their
        time, largest first."""
        ends: dict[str, Counter[tuple[str, ...]]] = {name: Counter() for name in self.names.values()}
        for (name, *frames), ns in self.folded().items():
            ends.setdefault(name, Counter())[tuple(frames[:-callers - 2:-1])] += ns
        return {name: {end: ns / counter.total() for end, ns in counter.most_common()}
                for name, counter in ends.items()}

    def states(self) -> np.ndarray:
        """int64[looks, STATES]: how many tasks were in each state."""
        state = np.array([stack.state for stack in self.stacks])
        return np.column_stack([((state == number) & (np.arange(len(state)) > 0))[self.seen].sum(axis=1)
                                for number in range(len(STATES))])

    def trace(self) -> list[dict[str, object]]:
        """Trace events: nested slices of up to TRACE_TASKS tasks, and how many tasks are in each state."""
        events: list[dict[str, object]] = []
        there = np.flatnonzero(self.seen.any(axis=0))
        picked = there[np.linspace(0, len(there) - 1, min(len(there), TRACE_TASKS)).astype(int)] if len(there) else []
        for task in map(int, picked):
            name = f"{self.names.get(task, 'task')} {task}"
            events.append({"ph": "M", "pid": 1, "tid": task, "name": "thread_name", "args": {"name": name}})
            events += self._slices(task)
        for at_ns, counts in zip(self.times_ns, self.states()):
            events.append({"ph": "C", "pid": 1, "name": "tasks", "ts": self._window_ns(int(at_ns)) / 1000,
                           "args": dict(zip(STATES, map(int, counts)))})
        return events

    def _window_ns(self, at_ns: int) -> int:
        return at_ns // self.every_ns * self.every_ns

    def _slices(self, task: int) -> list[dict[str, object]]:
        out: list[dict[str, object]] = []
        open_: list[tuple[str, int]] = []           # function, since when
        before = 0

        def close(depth: int, at_ns: int) -> None:
            while len(open_) > depth:
                name, since = open_.pop()
                out.append({"ph": "X", "pid": 1, "tid": task, "name": name, "ts": since / 1000,
                            "dur": (at_ns - since) / 1000})

        for at_ns, number in zip(self.times_ns.tolist(), self.seen[:, task].tolist()):
            begin = self._window_ns(at_ns)
            if begin > before:
                close(0, before)
            frames = self.stacks[number].frames
            same = 0
            while same < min(len(open_), len(frames)) and open_[same][0] == frames[same]:
                same += 1
            close(same, begin)
            open_ += [(frame, begin) for frame in frames[same:]]
            before = begin + self.every_ns
        close(0, before)
        return out[::-1]


def write(profile: Profile, stem: str) -> list[str]:
    """`stem`.folded, a line for each stack and its virtual ns, and `stem`.trace.json.gz. Each is complete or not there.
    -> the paths"""
    lines = [f"{';'.join(frames)} {ns}\n" for frames, ns in profile.folded().items()]
    text = json.dumps({"traceEvents": profile.trace(), "displayTimeUnit": "ns",
                       "otherData": {"title": profile.title, "every_ns": profile.every_ns}})
    contents = {f"{stem}.folded": "".join(lines).encode(),
                f"{stem}.trace.json.gz": gzip.compress(text.encode(), mtime=0)}
    for path, content in contents.items():
        with open(f"{path}.unfinished", "wb") as stream:
            stream.write(content)
        os.replace(f"{path}.unfinished", path)
    return list(contents)


def table(profile: Profile, most: int = 6) -> object:
    """The first `most` of `Profile.shares` of each kind of task."""
    from rich.markup import escape
    from rich.table import Table

    out = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in (profile.title, "share", "at < called by"):
        out.add_column(column, justify="right" if column == "share" else "left")
    for name, shares in profile.shares().items():
        for number, (functions, share) in enumerate(list(shares.items())[:most]):
            out.add_row("" if number else name, f"{100 * share:.1f} %", escape(" < ".join(functions)))
    return out


def draw(profiles: Sequence[Profile], path: str) -> str:
    """A panel for each profile and kind of task: stacks as bars, callers below, as wide as their share of the time of
    these tasks. -> the path"""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    names = list(dict.fromkeys(name for profile in profiles for name in profile.names.values()))
    figure, panels = plt.subplots(len(profiles), len(names), figsize=(max(12, 8 * len(names)), 3.4 * len(profiles)),
                                  layout="constrained", squeeze=False)
    for profile, row in zip(profiles, panels):
        folded = profile.folded()
        for name, axes in zip(names, row):
            mine = {frames[1:]: ns for frames, ns in folded.items() if frames[0] == name}
            axes.set_title(f"{profile.title}, {name}: {duration(sum(mine.values()))} of all of them together",
                           fontsize=10, loc="left")
            _flames(axes, mine, {stack.frames: stack.state for stack in profile.stacks})
    figure.legend(handles=[Patch(color=colour, label=name) for colour, name in zip(_COLOURS, STATES)],
                  loc="outside lower center", ncols=len(STATES), fontsize=8, frameon=False)
    return save(figure, path)


def _flames(axes: Any, folded: Mapping[tuple[str, ...], int], states: Mapping[tuple[str, ...], int]) -> None:
    total = sum(folded.values())
    deepest = 0
    inches = axes.get_figure().get_size_inches()[0] / axes.get_gridspec().ncols
    for depth, frames, begin, width in _bars(folded):
        if width < total / 500:
            continue
        deepest = max(deepest, depth)
        axes.barh(depth, width / total, left=begin / total, height=0.92, edgecolor="white", linewidth=0.5,
                  color=_COLOURS[states[frames] if frames in folded else RUNNING])
        room = int(14 * inches * width / total)         # letters
        if room > 3:
            label = frames[-1] if len(frames[-1]) <= room else frames[-1][:room - 1] + "…"
            axes.text((begin + width / 2) / total, depth, label, ha="center", va="center", fontsize=7, clip_on=True)
    axes.set(xlim=(0, 1), ylim=(-0.5, deepest + 0.5), yticks=[], xticks=[])
    axes.spines[:].set_visible(False)


def _bars(folded: Mapping[tuple[str, ...], int]) -> list[tuple[int, tuple[str, ...], int, int]]:
    """(depth, functions down to it, where it begins, width) of every bar, ns; neighbours in the order of names."""
    widths: Counter[tuple[str, ...]] = Counter()
    for frames, ns in folded.items():
        for depth in range(len(frames)):
            widths[frames[:depth + 1]] += ns
    begins: dict[tuple[str, ...], int] = {}
    ends: dict[tuple[str, ...], int] = {(): 0}          # where the next callee of each begins
    for prefix in sorted(widths):
        begins[prefix] = ends[prefix] = ends[prefix[:-1]]
        ends[prefix[:-1]] += widths[prefix]
    return [(len(prefix) - 1, prefix, begin, widths[prefix]) for prefix, begin in begins.items()]
