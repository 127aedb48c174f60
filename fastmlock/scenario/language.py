"""Parser of the scenario language: text -> `Scenario`, or one `ScenarioError` that says what to mend.

The language is the recorder's. Where the recorder guesses (a missing number is 0, an unknown option is
nothing, the 513th line does not exist), this parser refuses; what it accepts means the same in both.

All that can be known before anything runs is checked here: words, numbers and their ranges, names of
files and regions, which processes are alive. What only the run can show (an mmap that failed has left
no region) is reported by `run` in the same form.
"""
from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable

from . import commands as c
from . import races
from .commands import Command, Scenario
from .system import (
    MAP_GROWSDOWN, MAP_HUGETLB, MAP_LOCKED, MAP_NONBLOCK, MAP_NORESERVE, MAP_POPULATE, MCL_CURRENT, MCL_FUTURE,
    MCL_ONFAULT, MLOCK_ONFAULT, MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE, PAGE_SIZE,
)
from .words import (
    INT_MAX, INT_MIN, LONG_MAX, LONG_MIN, ScenarioError, Words, Wrong, name, number, one_line, processes, quoted,
)

__all__ = ["CONTROLLER", "PROCESS", "ScenarioError", "load", "parse"]

MAX_BYTES = c.MAX_LINES * (c.MAX_LINE_BYTES + 1)
FAR_PAGES = 2**31 - 1
HUGE_PAGES = 512

At = tuple[int, str]
"""Line and text of a command of the controller."""
In = tuple[int, str, range]
"""Line, text and processes of a command of processes."""


# ---- what is known of files and processes before the run


class _Process:
    def __init__(self, alive: bool) -> None:
        self.alive = alive
        self.regions: set[str] = set()


class _Known:
    """Follows the program as far as that goes without running it."""

    def __init__(self, started: set[int]) -> None:
        self.swap_pages: int | None = None
        self.files: set[str] = set()
        self.segments: dict[str, int] = {}
        self.huge: set[str] = set()
        self.processes = [_Process(p in started) for p in range(c.MAX_PROCESSES)]

    def file(self, word: str) -> str:
        if word not in self.files:
            raise Wrong(f"no file {quoted(word)}", f"create it before: file {one_line(word)[:15]} tmpfs 16")
        return word

    def small(self, word: str) -> str:
        if self.file(word) in self.huge:
            raise Wrong(f"{word} is a file of huge pages", "it can only be mapped")
        return word

    def segment(self, word: str) -> str:
        if self.file(word) not in self.segments:
            raise Wrong(f"file {word} is no segment", f"create one: file {word} shm 16")
        return word

    def region(self, procs: range, word: str) -> str:
        for p in procs:
            if word not in self.processes[p].regions:
                raise Wrong(f"p{p} has no region {quoted(word)}", "map it before with mmap")
        return word

    def new_region(self, procs: range, word: str) -> str:
        for p in procs:
            regions = self.processes[p].regions
            regions.add(word)
            if len(regions) > c.MAX_REGIONS:
                raise Wrong(f"p{p} has more than {c.MAX_REGIONS} regions", "use a region's name again")
        return word

    def fork(self, procs: range, child: int) -> None:
        new = self.processes[child]
        for p in procs:
            parent = self.processes[p]
            if not parent.alive:
                continue
            if new.alive:
                raise Wrong(f"p{child} is alive when p{p} forks it",
                             "let it exit before, or fork another number")
            new.alive, new.regions = True, set(parent.regions)

    def exec(self, procs: range) -> None:
        for p in procs:
            if self.processes[p].alive:
                self.processes[p].regions.clear()

    def gone(self, procs: range) -> None:
        for p in procs:
            self.processes[p].alive = False


# ---- the controller's commands


def _create_file(at: At, words: Words, known: _Known) -> Command:
    file = words.name("the file's name")
    if file == "anon" or file in c.SPECIAL:
        raise Wrong(f"a file cannot be called {file}", "mmap reads that word as something else")
    if file in known.files:
        raise Wrong(f"file {file} exists", "use another name")
    if len(known.files) == c.MAX_FILES:
        raise Wrong(f"more than {c.MAX_FILES} files", "use fewer")
    fs = words.choice("the file system", ("tmpfs", "ext4", "shm", "hugetlb"))
    pages = words.number("the file's length in pages", 0, c.MAX_PAGES)
    values = words.values(*(["uid"] if fs == "shm" else []))
    owner = number(values.get("uid", "0"), "the owner", 0, 2**32 - 2)
    options = words.options({"sparse": 1, "huge": 2})
    if options & 2 and fs != "tmpfs":
        raise Wrong(f"huge pages on {fs}", "only tmpfs can be mounted huge=always")
    if fs == "shm":
        if not pages:
            raise Wrong("a segment of no pages", "give it one at least")
        known.segments[file] = pages
    if fs == "hugetlb":
        if pages % HUGE_PAGES:
            raise Wrong(f"{pages} pages on hugetlb", f"use a multiple of {HUGE_PAGES}")
        known.huge.add(file)
    known.files.add(file)
    return c.CreateFile(*at, file, fs, pages, bool(options & 1), owner, bool(options & 2))


def _truncate(at: At, words: Words, known: _Known) -> Command:
    file = known.small(words.take("the file's name"))
    if file in known.segments:
        raise Wrong(f"{file} is a segment", "a segment keeps its length")
    return c.Truncate(*at, file, words.number("the length in pages", 0, c.MAX_PAGES))


def _file_range(verb: str) -> _Parser:
    def parse(at: At, words: Words, known: _Known) -> Command:
        file = known.small(words.take("the file's name"))
        offset = words.number("the offset in pages", 0, c.MAX_PAGES)
        pages = words.number("the number of pages", 0, c.MAX_PAGES)
        if verb == "fwrite" and offset + pages > c.MAX_PAGES:
            raise Wrong(f"fwrite ends at page {offset + pages}", f"files have at most {c.MAX_PAGES} pages")
        if verb == "fwrite" and offset + pages > known.segments.get(file, c.MAX_PAGES):
            raise Wrong(f"fwrite ends at page {offset + pages}", "a segment keeps its length")
        return c.FileRange(*at, verb, file, offset, pages)
    return parse


def _reclaim(at: At, words: Words, known: _Known) -> Command:
    return c.Reclaim(*at, words.number("the number of pages", 0, c.MAX_PAGES))


def _reap(at: At, words: Words, known: _Known) -> Command:
    return c.Reap(*at, _victim(words))


def _ksm(at: At, words: Words, known: _Known) -> Command:
    return c.Ksm(*at, words.number("what ksmd shall do", 0, 2))


def _oom_kill(at: At, words: Words, known: _Known) -> Command:
    victim = _victim(words)
    known.gone(range(victim, victim + 1))
    return c.OomKill(*at, victim)


def _victim(words: Words) -> int:
    victims = processes(words.take("the process"))
    if len(victims) != 1:
        raise words.wrong("the reaper takes one process at a time")
    return victims.start


def _drop_caches(at: At, words: Words, known: _Known) -> Command:
    return c.DropCaches(*at, words.number("what to drop", 0, 7))


def _sysctl(at: At, words: Words, known: _Known) -> Command:
    return c.Sysctl(*at, words.take("the path"), words.take("the value"))


def _sleep(at: At, words: Words, known: _Known) -> Command:
    return c.Sleep(*at, words.number("the time in ms", 0, INT_MAX))


def _race(at: At, words: Words, known: _Known) -> Command:
    return races.parse(at, words, lambda text, part: _command(at[0], text, part, known))


# ---- commands of processes


def _pages_of(at: In, words: Words, known: _Known) -> tuple[str, int, int]:
    """R OFF N: region, offset and number of pages."""
    region = known.region(at[2], words.take("the region's name"))
    return region, words.pages("the offset in pages"), words.pages("the number of pages")


def _mmap(at: In, words: Words, known: _Known) -> Command:
    region = words.name("the region's name")
    source = words.take("the file's name")
    file = None if source == "anon" or source in c.SPECIAL else known.file(source)
    shared = words.choice("the sharing", ("shared", "private")) == "shared"
    prot = words.protection()
    offset = words.number("the offset in pages", 0, FAR_PAGES)
    pages = words.number("the number of pages", 0, c.MAX_PAGES)
    over, values = None, words.values("at")
    if "at" in values:
        under, plus, distance = values["at"].partition("+")
        over = (known.region(at[2], under),
                number(distance, "the offset after +", LONG_MIN // PAGE_SIZE, LONG_MAX // PAGE_SIZE) if plus else 0)
    flags = words.options({"locked": MAP_LOCKED, "populate": MAP_POPULATE, "noreserve": MAP_NORESERVE,
                           "growsdown": MAP_GROWSDOWN, "hugetlb": MAP_HUGETLB})
    if flags & MAP_HUGETLB and source != "anon":
        raise words.wrong("hugetlb is for anonymous memory")
    known.new_region(at[2], region)
    special = source if source in c.SPECIAL else ""
    return c.Mmap(*at, region, file, shared, prot, offset, pages, flags, over, special)


def _range_call(verb: str) -> _ProcessParser:
    def parse(at: In, words: Words, known: _Known) -> Command:
        where = _pages_of(at, words, known)
        values = words.values("byteoff", "bytes", *(["flags"] if verb == "mlock2" else []))
        skip_bytes = number(values.get("byteoff", "0"), "byteoff", LONG_MIN, LONG_MAX)
        length_bytes = number(values["bytes"], "bytes", LONG_MIN, LONG_MAX) if "bytes" in values else None
        flags = words.options({"onfault": MLOCK_ONFAULT} if verb == "mlock2" else {})
        if "flags" in values:
            if flags:
                raise words.wrong("onfault and flags= exclude each other")
            flags = number(values["flags"], "flags", INT_MIN, INT_MAX)
        return c.RangeCall(*at, verb, *where, skip_bytes, length_bytes, flags)
    return parse


def _mlockall(at: In, words: Words, known: _Known) -> Command:
    return c.MlockAll(*at, words.options({"current": MCL_CURRENT, "future": MCL_FUTURE, "onfault": MCL_ONFAULT}))


def _touch(at: In, words: Words, known: _Known) -> Command:
    where = _pages_of(at, words, known)
    return c.Touch(*at, *where, words.choice("the access", ("r", "w")) == "w")


def _mremap(at: In, words: Words, known: _Known) -> Command:
    region, offset, old = _pages_of(at, words, known)
    new = words.number("the new number of pages", 0, c.MAX_PAGES)
    bits = {"maymove": MREMAP_MAYMOVE, "dontunmap": MREMAP_DONTUNMAP | MREMAP_MAYMOVE,
            "move": MREMAP_FIXED | MREMAP_MAYMOVE}
    names = words.others(bits)
    if len(names) > 1:
        raise words.wrong(f"{quoted(names[1])} is a second new name")
    target = name(names[0], "the new region's name") if names else region
    return c.Mremap(*at, region, offset, old, new, words.options(bits), known.new_region(at[2], target))


def _brk(at: In, words: Words, known: _Known) -> Command:
    region = words.name("the heap's name")
    return c.Brk(*at, known.new_region(at[2], region), words.number("the number of pages", 0, c.MAX_PAGES))


def _remap_pages(at: In, words: Words, known: _Known) -> Command:
    where = _pages_of(at, words, known)
    file_offset = words.number("the offset in the file in pages", 0, FAR_PAGES)
    return c.RemapPages(*at, *where, file_offset, words.options({"nonblock": MAP_NONBLOCK}))


def _peek(at: In, words: Words, known: _Known) -> Command:
    region = known.region(at[2], words.take("the region's name"))
    return c.Peek(*at, region, words.pages("the offset in pages"), words.choice("the access", ("r", "w")) == "w")


def _madvise(at: In, words: Words, known: _Known) -> Command:
    where = _pages_of(at, words, known)
    return c.Madvise(*at, *where, c.ADVICE[words.choice("the advice", tuple(c.ADVICE))])


def _mprotect(at: In, words: Words, known: _Known) -> Command:
    where = _pages_of(at, words, known)
    return c.Mprotect(*at, *where, words.protection())


def _msync(at: In, words: Words, known: _Known) -> Command:
    where = _pages_of(at, words, known)
    return c.Msync(*at, *where, words.options(c.MSYNC))


def _shm_lock(lock: bool) -> _ProcessParser:
    def parse(at: In, words: Words, known: _Known) -> Command:
        return c.ShmLock(*at, known.segment(words.take("the segment's name")), lock)
    return parse


def _rlimit(at: In, words: Words, known: _Known) -> Command:
    words.choice("the resource", ("memlock",))
    return c.Rlimit(*at, words.number("the limit in bytes", -1, LONG_MAX))


def _setuid(at: In, words: Words, known: _Known) -> Command:
    return c.Setuid(*at, words.number("the user", 0, 2**32 - 2))


def _set_cpu(at: In, words: Words, known: _Known) -> Command:
    return c.SetCpu(*at, words.number("the cpu", 0, 1023))


def _move_pages(at: In, words: Words, known: _Known) -> Command:
    region = known.region(at[2], words.take("the region's name"))
    return c.MovePages(*at, region, words.pages("the offset in pages"))


def _offline(at: In, words: Words, known: _Known) -> Command:
    region = known.region(at[2], words.take("the region's name"))
    return c.Offline(*at, region, words.pages("the offset in pages"))


def _fork(at: In, words: Words, known: _Known) -> Command:
    child = processes(words.take("the child"))
    if len(child) != 1:
        raise words.wrong("fork makes one child")
    known.fork(at[2], child.start)
    return c.Fork(*at, child.start)


def _exec(at: In, words: Words, known: _Known) -> Command:
    known.exec(at[2])
    return c.Exec(*at)


def _exit(at: In, words: Words, known: _Known) -> Command:
    known.gone(at[2])
    return c.Exit(*at)


def _kill(at: In, words: Words, known: _Known) -> Command:
    known.gone(at[2])
    return c.Kill(*at)


_Parser = Callable[[At, Words, _Known], Command]
_ProcessParser = Callable[[In, Words, _Known], Command]

CONTROLLER: dict[str, tuple[str, _Parser]] = {
    "file": ("file F tmpfs|ext4|shm|hugetlb N [sparse] [huge] [uid=U]", _create_file),
    "truncate": ("truncate F N", _truncate),
    "punch": ("punch F OFF N", _file_range("punch")),
    "fadvise": ("fadvise F OFF N", _file_range("fadvise")),
    "fwrite": ("fwrite F OFF N", _file_range("fwrite")),
    "fread": ("fread F OFF N", _file_range("fread")),
    "drain": ("drain", lambda at, *_: c.Drain(*at)),
    "khugepaged": ("khugepaged", lambda at, *_: c.Khugepaged(*at)),
    "compact": ("compact", lambda at, *_: c.Compact(*at)),
    "reclaim": ("reclaim N", _reclaim),
    "swapoff": ("swapoff", lambda at, *_: c.Swapoff(*at)),
    "reap": ("reap pJ", _reap),
    "ksm": ("ksm 0|1|2", _ksm),
    "oomkill": ("oomkill pJ", _oom_kill),
    "dropcaches": ("dropcaches N", _drop_caches),
    "sysctl": ("sysctl PATH VALUE", _sysctl),
    "sleep": ("sleep MS", _sleep),
    "snap": ("snap", lambda at, *_: c.Snap(*at)),
    "race": (races.USAGE, _race),
}
PROCESS: dict[str, tuple[str, _ProcessParser]] = {
    "mmap": ("pJ mmap R F|anon|secret|packet|devmem shared|private r|rw|none OFF N [locked] [populate] [noreserve] "
             "[growsdown] [hugetlb] [at=R2+K]", _mmap),
    "mlock": ("pJ mlock R OFF N [byteoff=B] [bytes=B]", _range_call("mlock")),
    "mlock2": ("pJ mlock2 R OFF N onfault|flags=X [byteoff=B] [bytes=B]", _range_call("mlock2")),
    "munlock": ("pJ munlock R OFF N [byteoff=B] [bytes=B]", _range_call("munlock")),
    "munmap": ("pJ munmap R OFF N [byteoff=B] [bytes=B]", _range_call("munmap")),
    "mlockall": ("pJ mlockall current|future|onfault...", _mlockall),
    "munlockall": ("pJ munlockall", lambda at, *_: c.MunlockAll(*at)),
    "touch": ("pJ touch R OFF N r|w", _touch),
    "brk": ("pJ brk R N", _brk),
    "remappages": ("pJ remappages R OFF N FILEOFF [nonblock]", _remap_pages),
    "peek": ("pJ peek R OFF r|w", _peek),
    "mremap": ("pJ mremap R OFF N NEWN [maymove] [move] [dontunmap] [R2]", _mremap),
    "madvise": ("pJ madvise R OFF N ADVICE", _madvise),
    "mprotect": ("pJ mprotect R OFF N none|r|rw", _mprotect),
    "msync": ("pJ msync R OFF N [async] [sync] [invalidate]", _msync),
    "shmlock": ("pJ shmlock F", _shm_lock(True)),
    "shmunlock": ("pJ shmunlock F", _shm_lock(False)),
    "rlimit": ("pJ rlimit memlock BYTES", _rlimit),
    "setuid": ("pJ setuid U", _setuid),
    "cpu": ("pJ cpu C", _set_cpu),
    "ldrain": ("pJ ldrain", lambda at, *_: c.LocalDrain(*at)),
    "movepages": ("pJ movepages R OFF", _move_pages),
    "offline": ("pJ offline R OFF", _offline),
    "fork": ("pJ fork pK", _fork),
    "exec": ("pJ exec", _exec),
    "exit": ("pJ exit", _exit),
    "kill": ("pJ kill", _kill),
}


# ---- the whole text


def _is_process(word: str) -> bool:
    return word[0] == "p" and word[1:2].isdigit()


def _started(lines: list[list[str]]) -> set[int]:
    """The processes that exist at the start: those named, less those that a fork makes."""
    needed: set[int] = set()
    forked: set[int] = set()
    alone = [part for words in lines for part in (races.split(words[1:])[0] if words[:1] == ["race"] else [words])]
    for words in alone:
        if not words:
            continue
        try:
            if words[0] == "procs" and len(words) > 1:
                needed.update(range(number(words[1], "procs", 0, c.MAX_PROCESSES)))
            elif _is_process(words[0]):
                needed.update(processes(words[0]))
                if words[1:2] == ["fork"]:
                    forked.update(processes(words[2]) if len(words) > 2 else ())
        except Wrong:
            pass  # told with its line when that line is parsed
    return needed - forked


def _command(line: int, text: str, words: list[str], known: _Known) -> Command | None:
    if len(words) > c.MAX_WORDS and words[0] != "race":
        raise Wrong(f"{len(words)} words", f"a command has at most {c.MAX_WORDS}")
    verb = words[0]
    if verb == "procs":
        rest = Words(words[1:], "procs N")
        rest.number("the number of processes", 0, c.MAX_PROCESSES)
        rest.end()
        return None
    if verb == "swap":
        rest = Words(words[1:], "swap PAGES")
        if known.swap_pages is not None:
            raise Wrong("swap is on already", "leave this line out")
        known.swap_pages = rest.number("the pages of the swap device", c.MIN_SWAP, c.MAX_SWAP)
        rest.end()
        return None
    if _is_process(verb):
        procs = processes(verb)
        if len(words) == 1:
            raise Wrong(f"{verb} does nothing", f"add one of: {', '.join(PROCESS)}")
        if words[1] not in PROCESS:
            raise Wrong(f"unknown verb {quoted(words[1])} after {verb}", f"use one of: {', '.join(PROCESS)}")
        usage, parse_process = PROCESS[words[1]]
        rest = Words(words[2:], usage)
        command = parse_process((line, text, procs), rest, known)
    else:
        if verb not in CONTROLLER:
            raise Wrong(f"unknown command {quoted(verb)}",
                         f"use a process (p0 ...), procs N, swap PAGES, or one of: {', '.join(CONTROLLER)}")
        usage, parse = CONTROLLER[verb]
        rest = Words(words[1:], usage)
        command = parse((line, text), rest, known)
    rest.end()
    return command


def _decoded(text: bytes, file: str) -> list[str]:
    """The lines of `text`, or the error of the first line that is no text or too long."""
    lines: list[str] = []
    for at, raw in enumerate(text.removesuffix(b"\n").split(b"\n", c.MAX_LINES), 1):
        if at > c.MAX_LINES:
            raise ScenarioError(file, at, f"more than {c.MAX_LINES} lines", "split the scenario")
        if len(raw) > c.MAX_LINE_BYTES:
            raise ScenarioError(file, at, f"the line has more than {c.MAX_LINE_BYTES} bytes", "shorten it")
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            raise ScenarioError(file, at, f"byte {error.start + 1} is not UTF-8", "save it as UTF-8") from None
        if line.endswith("\r"):
            raise ScenarioError(file, at, "the line ends in CR LF", "save it with plain newlines")
        code = line.partition("#")[0]
        for ch in line if "\0" in line else code:
            if ch != "\t" and not " " <= ch <= "~":
                raise ScenarioError(file, at, f"character {ch!a}", "commands are plain ASCII")
        lines.append(code)
    return lines


def parse(text: str | bytes, file: str = "<scenario>") -> Scenario:
    """Parse and check a whole scenario; `file` names it in errors. Raises `ScenarioError`.

    Swap is on if a line ``swap PAGES`` says so, and, as where the recordings were made, for a file whose name begins
    with s31.
    """
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    lines = _decoded(text, file)
    split = [re.split("[ \t]+", line.strip(" \t")) if line.strip(" \t") else [] for line in lines]
    started = _started(split)
    known = _Known(started)
    commands: list[Command] = []
    for at, (line, words) in enumerate(zip(lines, split), 1):
        if not words:
            continue
        try:
            command = _command(at, line.rstrip(" "), words, known)
        except Wrong as wrong:
            raise ScenarioError(file, at, wrong.problem, wrong.remedy) from None
        if command is not None:
            commands.append(command)
    swap_pages = known.swap_pages
    if swap_pages is None:
        swap_pages = c.RECORDED_SWAP if os.path.basename(file).startswith(c.RECORDED_WITH_SWAP) else 0
    return Scenario(file, tuple(commands), tuple(sorted(started)), tuple(lines), swap_pages)


def load(path: str | os.PathLike[str]) -> Scenario:
    """Parse the scenario in a file, "-" for standard input. Raises `ScenarioError`.

    Reads no more than a scenario can have, and from nothing but files, pipes and standard input.
    """
    name = os.fspath(path)
    try:
        if name == "-":
            return parse(sys.stdin.buffer.read(MAX_BYTES + 1), "<stdin>")
        mode = os.stat(name).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise ScenarioError(name, 0, "not a file", "give a scenario file, or - for standard input")
        with open(name, "rb") as stream:
            return parse(stream.read(MAX_BYTES + 1), name)
    except (OSError, ValueError) as error:
        if isinstance(error, ScenarioError):
            raise
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ScenarioError(name, 0, f"cannot be read: {why}", "check the path") from None
