"""Snapshots of /proc, their file, and the storms that stand for an exit."""
from __future__ import annotations

import ctypes
import io
import json
import mmap
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmlock.cli import main
from fastmlock.snapshot import File, Mapping, Process, Snapshot, SnapshotError, load, parts, read, save
from fastmlock.snapshot.predict import others
from fastmlock.studies.storm import run

# a pid's comm, start, VmLck and mappings: first address, pages, offset, path, inode, flags, kB of Rss, Shared_Clean,
# Anonymous
Vmas = list[tuple[int, int, int, str, int, str, int, int, int]]
MODEL = "/models/one (2024).gguf"


def fake_proc(folder: Path, processes: dict[int, tuple[str, int, int, Vmas]]) -> Path:
    for pid, (name, started, locked_kb, vmas) in processes.items():
        own = folder / str(pid)
        own.mkdir()
        fields = ["S", *["0"] * 18, str(started), "0"]
        (own / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")
        (own / "status").write_text(f"Name:\t{name}\nVmLck:\t{locked_kb:8} kB\n")
        heads = [f"{first:x}-{first + pages * 4096:x} rw-s {offset * 4096:08x} 08:01 {inode}".ljust(73) + path
                 for first, pages, offset, path, inode, *_ in vmas]
        (own / "maps").write_text("".join(f"{head}\n" for head in heads))
        (own / "smaps").write_text("".join(
            f"{head}\nSize:   {pages * 4} kB\nRss:    {rss} kB\nShared_Clean: {shared} kB\nShared_Dirty: 0 kB\n"
            f"Anonymous: {anonymous} kB\nVmFlags: {flags} \n"
            for head, (_, pages, *_, flags, rss, shared, anonymous) in zip(heads, vmas)))
    (folder / "sys/kernel").mkdir(parents=True)
    (folder / "sys/kernel/osrelease").write_text("5.15.0-fake\n")
    (folder / "stat").write_text("cpu  1 2\ncpu0 1 1\ncpu1 0 1\ncpu2 1 1\nintr 5\n")
    (folder / "self").mkdir()
    return folder


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    base = 0x7f0000000000
    locked: Vmas = [(base, 100, 0, MODEL, 7, "rd wr sh lo", 400, 360, 0),
                    (base + (1 << 30), 8, 0, "", 0, "lo", 32, 0, 32)]
    private: Vmas = [(base, 10, 5, "/lib/libc.so", 9, "rd mr lo", 40, 8, 12), *locked]
    plain: Vmas = [(base, 100, 0, MODEL, 7, "rd wr sh", 400, 0, 0),
                   (base + (1 << 30), 50, 0, MODEL, 7, "rd sh", 0, 0, 0)]
    return fake_proc(tmp_path, {11: ("a (b) c", 500, 432, locked), 12: ("server", 501, 472, private),
                                13: ("reader", 400, 0, plain), 14: ("other", 600, 0, [])})


def test_what_is_read(proc: Path) -> None:
    snapshot = read(proc)
    assert (snapshot.kernel, snapshot.cpus, snapshot.unread) == ("5.15.0-fake", 3, 0)
    assert [file.path for file in snapshot.files] == [MODEL, "/lib/libc.so"]
    model, libc = snapshot.files
    assert model.lockers == {11, 12} and model.locked_pages == 200 and model.key == "08:01:7"
    assert model.mappings == (Mapping(11, 0, 100, True, 100, 90), Mapping(12, 0, 100, True, 100, 90),
                              Mapping(13, 0, 100, False, 0, 0), Mapping(13, 0, 50, False, 0, 0))
    assert libc.mappings == (Mapping(12, 5, 10, True, 7, 2),)           # 12 kB of it are copies
    assert snapshot.processes[11] == Process(11, "a (b) c", 500, 432) and 14 not in snapshot.processes


def test_processes_that_may_not_be_read_and_such_that_end(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.read_bytes

    def read_bytes(self: Path) -> bytes:
        if self.parts[-2:] == ("11", "smaps"):
            raise PermissionError(13, "Permission denied")
        if self.parts[-2:] == ("13", "maps"):
            raise ProcessLookupError(3, "No such process")
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    snapshot = read(proc)
    assert snapshot.unread == 1 and snapshot.files[0].lockers == {12} and set(snapshot.processes) == {12}


def test_no_proc(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="no processes there; is it mounted"):
        read(tmp_path)
    with pytest.raises(SnapshotError, match="No such file"):
        read(tmp_path / "nothing")


def test_this_machine(tmp_path: Path) -> None:
    """Two pages of a file that this process locks are found on the running kernel."""
    path = (tmp_path / "a file").resolve()
    path.write_bytes(bytes(3 * 4096))
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "r+b") as stream, mmap.mmap(stream.fileno(), 3 * 4096) as memory:
        pages = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
        if libc.mlock(pages, ctypes.c_size_t(2 * 4096)):
            pytest.skip(f"mlock: {os.strerror(ctypes.get_errno())}")
        snapshot = read()
        mine = next(file for file in snapshot.files if file.path == str(path))
        assert mine.mappings == (Mapping(os.getpid(), 0, 2, True, 2, 0), Mapping(os.getpid(), 2, 1, False, 0, 0))
        assert snapshot.processes[os.getpid()].locked_kb >= 8 and snapshot.kernel == os.uname().release
        assert parts(snapshot, {os.getpid()})


def written(snapshot: Snapshot) -> str:
    stream = io.StringIO()
    save(snapshot, stream)
    return stream.getvalue()


def test_file_and_back(proc: Path, tmp_path: Path) -> None:
    snapshot = read(proc)
    path = tmp_path / "box.json"
    path.write_text(written(snapshot))
    assert load(path) == snapshot


@pytest.mark.parametrize(("change", "why"), [
    (lambda raw: raw.update(format="x"), '"format" is not "fastmlock snapshot 1"'),
    (lambda raw: raw.pop("cpus"), "cpus is no int"),
    (lambda raw: raw.update(cpus=0), "cpus is 0"),
    (lambda raw: raw["files"][0].pop("path"), r"files\[0\]\.path is no str"),
    (lambda raw: raw["files"][0]["mappings"][1].update(resident=101), r"mappings\[1\]\.resident is 101, of 100 pages"),
    (lambda raw: raw["files"][1]["mappings"][0].update(locked=1), r"mappings\[0\]\.locked is no bool"),
    (lambda raw: raw["processes"].pop(0), "08:01:7 is mapped by 11, which is none of the processes"),
    (lambda raw: raw.update(files={}), "files is no list")])
def test_a_broken_file_is_refused_in_one_line(proc: Path, tmp_path: Path, change, why: str) -> None:
    raw = json.loads(written(read(proc)))
    change(raw)
    path = tmp_path / "box.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(SnapshotError, match=f"box.json: no snapshot: .*{why}") as error:
        load(path)
    assert "\n" not in str(error.value)


def test_any_damage_to_a_file_is_refused_or_harmless(proc: Path, tmp_path: Path) -> None:
    text = written(read(proc)).encode()
    path = tmp_path / "box.json"
    chance = random.Random(1)
    for _ in range(600):
        damaged = bytearray(text)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(damaged))
            damaged[at:at + chance.randint(0, 3)] = bytes(chance.randrange(256) for _ in range(chance.randint(0, 3)))
        path.write_bytes(damaged)
        try:
            snapshot = load(path)
        except SnapshotError as error:
            assert "\n" not in str(error)
        else:
            assert load(path) == snapshot
    path.write_text("[" * 100_000)
    with pytest.raises(SnapshotError):
        load(path)


# ---- what stands for an exit
MAPPINGS = st.builds(lambda pid, first, pages, locked, resident, shared: Mapping(
    pid, first, pages, locked, min(resident, pages) * locked, min(shared, resident, pages) * locked),
    st.integers(1, 5), st.integers(0, 6), st.integers(1, 6), st.booleans(), st.integers(0, 6), st.integers(0, 6))


@settings(deadline=None)
@given(mappings=st.lists(MAPPINGS, min_size=1, max_size=10), ages=st.permutations(range(1, 6)))
def test_others_page_by_page(mappings: list[Mapping], ages: list[int]) -> None:
    file = File("1:1:1", "f", tuple(mappings))
    snapshot = Snapshot("6.1", 2, 0, {pid: Process(pid, "p", age, 0) for pid, age in enumerate(ages, 1)}, (file,))
    leaving = {1, 2}
    passed = stays = before = weight = 0.0
    for page in range(12):
        here = sorted((one for one in mappings if one.first <= page < one.first + one.pages),
                      key=lambda one: (one.first, ages[one.pid - 1], one.pid))
        leavers = [one for one in here if one.pid in leaving and one.shared]
        mine = sum(one.shared / one.pages for one in leavers)
        met, stopped = 0, False
        for one in here:
            if one.pid not in leaving and one.resident:
                stopped = True
                met += 1
                before += mine * (not any(other in leavers for other in here[:here.index(one)]))
                break
            met += one not in leavers
        weight += mine
        passed += mine * (met - stopped)
        stays += mine * stopped
    if not weight:
        return
    found = others(file, snapshot, leaving)
    assert found.passed == pytest.approx(passed / weight) and found.stays == pytest.approx(stays / weight)
    assert found.before == pytest.approx(before / weight)


def test_the_storm_passes_what_the_kernel_would(proc: Path) -> None:
    """One leaver: each page that others map costs a walk as far as the first locker that stays; pages of its own none.
    """
    snapshot = read(proc)
    model, alone, libc, libc_alone = parts(snapshot, {12})
    assert (model.storm.procs, model.storm.pages, model.storm.survivor, model.storm.cpus) == (1, 90, "before", 3)
    assert (alone.shared, alone.storm.pages, libc.storm.pages, libc_alone.storm.pages) == (False, 10, 2, 5)
    # 13 maps it twice, the second time half of it (1.5 VMAs, taken for 2), and at 11, which stays, the search ends
    assert (model.storm.mappers, model.storm.maps) == (1, 2)
    assert run(model.storm, "5.17-rc2").rmap_vmas == 90 * (2 + 1)
    assert run(alone.storm, "5.17-rc2").rmap_walks == run(libc_alone.storm, "5.17-rc2").rmap_walks == 0
    both = parts(snapshot, {11, 12})[0].storm
    assert (both.procs, both.survivor, both.mappers, both.maps) == (2, "none", 1, 2)


def test_command_line(proc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "box.json")
    Path(path).write_text(written(read(proc)))
    assert main(["snapshot", "--from", path]) == 0
    assert "5.15.0-fake, 3 CPUs: 2 files with mlocked pages" in capsys.readouterr().out
    assert main(["snapshot", "--from", path, "-o", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["cpus"] == 3
    assert main(["snapshot", "--from", path, "--exit", "server,11", "--kernels", "5.17-rc2,6.12"]) == 0
    out = capsys.readouterr().out
    assert "if a (b) c, server left now" in out and "6.12" in out and "fastmlock storm --procs 2 --pages 90" in out
    for words, why in ((["--exit", "reader"], "--exit reader: no such process"),
                       (["--kernels", "4.4"], "no kernel '4.4'"),
                       (["--exit", "11", "--machine", "none"], "none")):
        assert main(["snapshot", "--from", path, *words]) == 2
        error = capsys.readouterr().err
        assert why in error and error.count("\n") == 1
    assert main(["snapshot", "--from", str(tmp_path / "nothing.json")]) == 2
    assert "nothing.json" in capsys.readouterr().err
