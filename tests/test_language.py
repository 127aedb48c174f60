"""The scenario language: what is accepted, what it means, and how what is wrong is told."""
import os

import pytest
from fuzz_scenario import campaign
from hypothesis import given, settings, strategies as st

from fastmlock.scenario import commands as c
from fastmlock.scenario import recordings
from fastmlock.scenario.language import CONTROLLER, PROCESS, ScenarioError, load, parse
from fastmlock.scenario.system import (
    MAP_LOCKED, MAP_NORESERVE, MAP_POPULATE, MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE, PROT_READ, PROT_WRITE,
)

SETUP = "file F tmpfs 16\np0-1 mmap A F shared rw 0 16\nfile S shm 4\n"


def only(text):
    """The last command of `text`, put behind a file F and a region A of p0 and p1."""
    return parse(SETUP + text).commands[-1]


def test_every_recorded_scenario_is_understood():
    for name in recordings.scenarios():
        real = next(recordings.load(k, name) for k in recordings.kernels() if name in recordings.scenarios(k))
        assert [one.text for one in recordings.scenario(name).commands] == [r["cmd"] for r in real[1:]]


@pytest.mark.parametrize("text, command, fields", [
    ("file G ext4 0", c.CreateFile, {"name": "G", "fs": "ext4", "pages": 0, "sparse": False, "owner": 0}),
    ("file G shm 8 sparse uid=1000", c.CreateFile, {"fs": "shm", "sparse": True, "owner": 1000}),
    ("file G tmpfs 4096 sparse", c.CreateFile, {"pages": 4096, "sparse": True}),
    ("file G tmpfs 1024 huge", c.CreateFile, {"pages": 1024, "sparse": False, "huge": True}),
    ("truncate F 3", c.Truncate, {"file": "F", "pages": 3}),
    ("punch F 1 2", c.FileRange, {"verb": "punch", "file": "F", "offset": 1, "pages": 2}),
    ("fadvise F 1 2", c.FileRange, {"verb": "fadvise"}),
    ("fwrite F 1 2", c.FileRange, {"verb": "fwrite"}),
    ("fread F 1 2", c.FileRange, {"verb": "fread"}),
    ("drain", c.Drain, {}),
    ("khugepaged", c.Khugepaged, {}),
    ("compact", c.Compact, {}),
    ("dropcaches 3", c.DropCaches, {"what": 3}),
    ("sysctl /proc/sys/vm/x 1", c.Sysctl, {"path": "/proc/sys/vm/x", "value": "1"}),
    ("sleep 10", c.Sleep, {"ms": 10}),
    ("snap", c.Snap, {}),
    ("p0 mmap B anon private none 0 4", c.Mmap, {"file": None, "shared": False, "prot": 0, "flags": 0, "at": None}),
    ("p1 mmap B F shared rw 2 4 locked populate noreserve at=A+3", c.Mmap,
     {"procs": range(1, 2), "file": "F", "shared": True, "prot": PROT_READ | PROT_WRITE, "offset": 2, "pages": 4,
      "flags": MAP_LOCKED | MAP_POPULATE | MAP_NORESERVE, "at": ("A", 3)}),
    ("p0 mmap B F shared r 0 4 at=A", c.Mmap, {"at": ("A", 0)}),
    ("p0-1 mlock A 1 2", c.RangeCall,
     {"procs": range(0, 2), "verb": "mlock", "offset": 1, "pages": 2, "skip_bytes": 0, "length_bytes": None}),
    ("p0 munlock A 1 1 byteoff=100 bytes=1", c.RangeCall, {"verb": "munlock", "skip_bytes": 100, "length_bytes": 1}),
    ("p0 mlock A 0 4 bytes=-4096", c.RangeCall, {"length_bytes": -4096}),
    ("p0 munmap A -1 4", c.RangeCall, {"verb": "munmap", "offset": -1}),
    ("p0 mlock2 A 0 4", c.RangeCall, {"verb": "mlock2", "flags": 0}),
    ("p0 mlock2 A 0 4 onfault", c.RangeCall, {"flags": 1}),
    ("p0 mlock2 A 0 4 flags=-2", c.RangeCall, {"flags": -2}),
    ("p0 mlockall", c.MlockAll, {"flags": 0}),
    ("p0 mlockall current future onfault", c.MlockAll, {"flags": 7}),
    ("p0 munlockall", c.MunlockAll, {}),
    ("p0 touch A 1 2 w", c.Touch, {"region": "A", "offset": 1, "pages": 2, "write": True}),
    ("p0 mremap A 0 4 8", c.Mremap, {"flags": 0, "target": "A"}),
    ("p0 mremap A 0 4 8 maymove B", c.Mremap, {"new_pages": 8, "flags": MREMAP_MAYMOVE, "target": "B"}),
    ("p0 mremap A 0 4 4 move B", c.Mremap, {"flags": MREMAP_MAYMOVE | MREMAP_FIXED}),
    ("p0 mremap A 0 4 4 B dontunmap", c.Mremap, {"flags": MREMAP_MAYMOVE | MREMAP_DONTUNMAP, "target": "B"}),
    ("p0 mmap B anon private rw 0 4 growsdown", c.Mmap, {"flags": 0x100}),
    ("p0-1 brk H 12", c.Brk, {"region": "H", "pages": 12}),
    ("p0 remappages A 1 2 3", c.RemapPages, {"offset": 1, "pages": 2, "file_offset": 3, "flags": 0}),
    ("p0 remappages A 1 2 3 nonblock", c.RemapPages, {"flags": 0x10000}),
    ("p0 peek A -1 w", c.Peek, {"offset": -1, "write": True}),
    ("p0 exec", c.Exec, {}),
    ("p0 madvise A 0 4 dontneed_locked", c.Madvise, {"advice": 24}),
    ("p0 mprotect A 0 4 none", c.Mprotect, {"prot": 0}),
    ("p0 msync A 0 4 sync invalidate", c.Msync, {"flags": 6}),
    ("p0 shmlock S", c.ShmLock, {"segment": "S", "lock": True}),
    ("p0 shmunlock S", c.ShmLock, {"lock": False}),
    ("p0 rlimit memlock -1", c.Rlimit, {"limit_bytes": -1}),
    ("p0 setuid 65534", c.Setuid, {"uid": 65534}),
    ("p0 cpu 1", c.SetCpu, {"cpu": 1}),
    ("p0 ldrain", c.LocalDrain, {}),
    ("p0 movepages A 3", c.MovePages, {"offset": 3}),
    ("p0 offline A 3", c.Offline, {"region": "A", "offset": 3}),
    ("p0 mmap B secret shared rw 0 4", c.Mmap, {"file": None, "special": "secret"}),
    ("p0 mmap B anon shared rw 0 512 hugetlb", c.Mmap, {"flags": 0x40000, "special": ""}),
    ("p0 fork p7", c.Fork, {"child": 7}),
    ("p0-1 exit", c.Exit, {"procs": range(0, 2)}),
    ("p0 kill", c.Kill, {}),
    ("ksm 1", c.Ksm, {"run": 1}),
    ("p0 madvise A 0 4 unmergeable", c.Madvise, {"advice": 13}),
    ("oomkill p1", c.OomKill, {"victim": 1}),
    ("reap p1", c.Reap, {"victim": 1}),
    ("swapoff", c.Swapoff, {}),
    ("reclaim 40", c.Reclaim, {"pages": 40}),
    ("race p0 munlock A 0 1 | truncate F 0 : p0 for 2, truncate to end, p0 on", c.Race,
     {"parties": ("p0", "truncate")}),
])
def test_meaning(text, command, fields):
    found = only(text)
    assert type(found) is command
    assert {name: getattr(found, name) for name in fields} == fields
    assert (found.line, found.text) == (4, text)


def test_every_verb_is_tested_above():
    tested = {case[0].split()[text_at] for case in test_meaning.pytestmark[0].args[1]
              for text_at in (0, 1) if len(case[0].split()) > text_at}
    assert set(CONTROLLER) | set(PROCESS) <= tested


def test_comments_blanks_and_text():
    scenario = parse("# first\n\n  \t \nsnap   # why\n snap \nsnap\tx#\n".replace("\tx", ""))
    assert [(one.line, one.text) for one in scenario.commands] == [(4, "snap"), (5, " snap"), (6, "snap")]


def test_processes_started():
    scenario = parse("procs 2\np4 mmap A anon private rw 0 1\np4 fork p1\np6-7 exit\n")
    assert scenario.processes == (0, 4, 6, 7)
    assert len(scenario.commands) == 3


def test_a_number_may_be_forked_again_after_its_exit():
    parse("p0 fork p1\np1 exit\np0 fork p1\n")
    parse("p0 exit\np0 fork p1\np0 fork p1\n")  # a dead process forks nothing


def test_regions_pass_to_children_and_outlive_processes():
    parse(SETUP + "p0 fork p5\np5 mlock A 0 1\np5 exit\np5 mlock A 0 1\n")


@pytest.mark.parametrize("text, problem", [
    ("frobnicate", "unknown command 'frobnicate'"),
    ("p0 frobnicate", "unknown verb 'frobnicate'"),
    ("p0", "p0 does nothing"),
    ("p72 exit", "p72 is out of range"),
    ("p0-72 exit", "p0-72 is out of range"),
    ("p99999999999 exit", "not a process"),
    ("p3-1 exit", "no process at all"),
    ("p0x exit", "not a process"),
    ("procs 73", "out of range"),
    ("procs", "is missing"),
    ("procs 1 2", "one word too many"),
    ("file F tmpfs 1", "file F exists"),
    ("file anon tmpfs 1", "cannot be called anon"),
    ("file G xfs 1", "'xfs'"),
    ("file G tmpfs 4097", "4097 is out of range"),
    ("file G tmpfs -1", "-1 is out of range"),
    ("file G tmpfs x", "not a number"),
    ("file G tmpfs 1.5", "not a number"),
    ("file G tmpfs 1 holey", "not an option"),
    ("file name-of-16-chars tmpfs 1", "too long"),
    ("file a/b tmpfs 1", "not a name"),
    ("\n".join(f"file G{n} tmpfs 1" for n in range(7)), "more than 8 files"),
    ("truncate G 1", "no file 'G'"),
    ("punch F 1", "is missing"),
    ("fwrite F 4096 1", "ends at page 4097"),
    ("drain now", "one word too many"),
    ("p0 mmap B G shared rw 0 1", "no file 'G'"),
    ("p0 mmap B F mine rw 0 1", "'mine'"),
    ("p0 mmap B F shared rq 0 1", "'rq'"),
    ("p0 mmap B F shared rw 0 5000", "out of range"),
    ("p0 mmap B F shared rw 0 1 hard", "not an option"),
    ("p0 mmap B F shared rw 0 1 at=C+1", "no region 'C'"),
    ("p0 mmap B F shared rw 0 1 at=A+", "not a number"),
    ("p2 mlock A 0 1", "p2 has no region 'A'"),
    ("p0-2 mlock A 0 1", "p2 has no region 'A'"),
    ("p0 mlock A 0", "is missing"),
    ("p0 mlock A 0 1 onfault", "not an option"),
    ("p0 mlock A 0 1 bytes=", "not a number"),
    ("p0 mlock A 0 1 bytes=1 bytes=2", "twice"),
    ("p0 mlock A 0 99999999999999999999", "out of range"),
    ("p0 mlock A 0 999999999999999999999999999999999999999999999999", "not a number"),
    ("p0 mlock2 A 0 1 onfault flags=1", "exclude each other"),
    ("p0 mlockall past", "not an option"),
    ("p0 touch A 0 1 x", "'x'"),
    ("p0 touch A 0 1", "is missing"),
    ("p0 mremap A 0 1 4097", "out of range"),
    ("p0 mremap A 0 1 1 B C", "second new name"),
    ("p0 madvise A 0 1 sometimes", "'sometimes'"),
    ("p0 rlimit stack 1", "'stack'"),
    ("p0 setuid -1", "out of range"),
    ("p0 cpu 2000", "out of range"),
    ("p0 fork 1", "not a process"),
    ("p0 fork p1-2", "one child"),
    ("p0 fork p5\np0 fork p5", "p5 is alive"),
    ("\n".join(f"p0 mmap R{n} anon private r 0 1" for n in range(24)), "more than 24 regions"),
    ("snap " + "#" * 195, "more than 199 bytes"),
    ("snap\r", "CR LF"),
    ("sn\u00e4p", "character '\\xe4'"),
    ("snap\0", "character '\\x00'"),
    ("# \0", "character '\\x00'"),
    (" ".join(["snap"] * 30), "30 words"),
])
def test_errors_name_the_line_and_the_remedy(text, problem):
    with pytest.raises(ScenarioError) as caught:
        parse(SETUP + text, "some/file.txt")
    error = caught.value
    assert problem in error.problem
    assert error.remedy
    assert str(error) == f"some/file.txt:{error.line}: {error.problem}; {error.remedy}"
    assert error.line == 3 + text.rstrip("\r").count("\n") + 1
    assert str(error).isprintable()


def test_limits_of_size():
    assert len(parse("snap\n" * 512).commands) == 512
    for long in (b"snap\n" * 513, b"\n" * 513, b"#" * (1 << 20), b"snap\n" * (1 << 20)):
        with pytest.raises(ScenarioError):
            parse(long)
    assert parse(b"").commands == ()


def test_bytes_that_are_no_text():
    with pytest.raises(ScenarioError, match=r"<scenario>:2: byte 3 is not UTF-8"):
        parse(b"snap\n# \xff\n")


def test_names_of_files_cannot_break_the_line():
    with pytest.raises(ScenarioError) as caught:
        parse("x", "a\nb")
    assert str(caught.value).startswith("a?b:1: ")


def test_load(tmp_path):
    path = tmp_path / "s.txt"
    path.write_text("snap\n")
    assert len(load(path).commands) == 1
    for bad in (tmp_path, tmp_path / "none", "/dev/zero", "a\0b"):
        with pytest.raises(ScenarioError) as caught:
            load(bad)
        assert caught.value.line == 0 and "\n" not in str(caught.value)


def test_load_reads_no_more_than_a_scenario_can_have(tmp_path):
    path = tmp_path / "huge"
    with open(path, "wb") as stream:
        os.truncate(stream.fileno(), 1 << 40)
    with pytest.raises(ScenarioError, match="more than 199 bytes"):
        load(path)


@given(st.text() | st.binary())
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_scenario_or_an_error(text):
    try:
        parse(text)
    except ScenarioError as error:
        assert str(error).isprintable()


def test_short_fuzz_campaign():
    assert campaign(seed=1, total_bytes=300_000) >= 300_000
