"""The recordings that the package ships, and the conformance table made with them."""
import errno
from pathlib import Path

import pytest
from fake_system import FakeSystem

from fastmlock.data import pack
from fastmlock.scenario import conformance, recordings
from fastmlock.scenario.compare import compare
from fastmlock.scenario.system import NotSupported

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracle"


def test_what_there_is():
    kernels = recordings.kernels()
    assert kernels[0] == "5.10" and kernels[-1] == "host-6.18"
    assert kernels.index("5.17-rc5") < kernels.index("5.17-rc5+01") < kernels.index("6.1") < kernels.index("6.12")
    assert "s02_two_lockers_fifo" in recordings.scenarios()
    assert set(recordings.scenarios("6.1")) <= set(recordings.scenarios())
    for kernel in kernels:
        assert recordings.scenarios(kernel)


def test_what_was_recorded_again():
    """One scenario that was given in a single repetition; six more are not alike from step 64 on."""
    unsettled = [record["step"] for record in recordings.load("6.12", "r001")
                 if record.get("step") and record["agree"][0] != record["agree"][2]]
    assert unsettled == list(range(64, 71))
    assert recordings.load("6.12", "r001")[1]["agree"] == [7, 7, 7]
    assert recordings.load("6.1", "r001")[1]["agree"] == [3, 3, 3]


def test_names_of_kernels():
    assert recordings.release("5.17-rc5+07") == "5.17-rc2+07"
    assert recordings.release("host-6.18") == "6.18"
    assert recordings.release("6.1") == "6.1"
    assert recordings.recorded("5.17-rc2") == "5.17-rc5"
    assert recordings.recorded("6.18") == "host-6.18"


def test_what_there_is_not():
    for call in (lambda: recordings.recorded("4.4"), lambda: recordings.scenarios("4.4"),
                 lambda: recordings.load("6.1", "s99"), lambda: recordings.text("s99"),
                 lambda: recordings.load("6.1", "x01_A_munlock_unmapU")):
        with pytest.raises(recordings.UnknownRecording) as caught:
            call()
        assert str(caught.value).isprintable()


def test_load():
    records = recordings.load("5.17-rc2", "s01_one_locker")
    assert records[0]["step"] == 0 and records[0]["kernel"].startswith("5.17")
    assert [record["step"] for record in records] == list(range(len(records)))


@pytest.mark.parametrize("kernel", recordings.kernels())
def test_every_recording_agrees_with_itself(kernel):
    for scenario in recordings.scenarios(kernel):
        real = recordings.load(kernel, scenario)
        result = compare(real, real)
        assert result.steps and result.equal_soft == result.steps


@pytest.mark.skipif(not ORACLE.exists(), reason=f"the recordings' own folder is not at {ORACLE}")
def test_nothing_is_lost_in_packing(tmp_path):
    for kernel in recordings.kernels():
        folder = ORACLE / "results" / kernel
        given = {path.stem: path for path in folder.glob("*.jsonl")}
        assert set(given) <= set(recordings.scenarios(kernel))      # the others are the project's own
        for name, path in given.items():
            assert len(recordings.load(kernel, name)) == len(path.read_text().splitlines())
    for path in (ORACLE / "scenarios").glob("*.txt"):
        assert recordings.text(path.stem) == path.read_bytes()


def test_packing_is_reproducible(tmp_path):
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "a.txt").write_text("snap\n")
    (tmp_path / "results" / "6.1").mkdir(parents=True)
    (tmp_path / "results" / "6.1" / "a.jsonl").write_text("{}\n")
    first = [path.read_bytes() for path in pack.pack(tmp_path, tmp_path)]
    assert first == [path.read_bytes() for path in pack.pack(tmp_path, tmp_path)]
    assert sorted(path.name for path in tmp_path.glob("*.xz")) == ["recordings-6.1.tar.xz", "scenarios.tar.xz"]
    assert not list(tmp_path.glob("*.unfinished"))


# ---- conformance


class Lacking(FakeSystem):
    """Has no madvise."""

    def madvise(self, *arguments):
        raise NotSupported("madvise")


class Failing(FakeSystem):
    """Fails in mremap, and refuses all anonymous mappings."""

    def mremap(self, *arguments):
        raise RuntimeError("no such page\nat all")

    def mmap(self, pid, addr, length, prot, flags, file, offset):
        return (-1, errno.ENOMEM) if file is None else super().mmap(pid, addr, length, prot, flags, file, offset)


def test_choice():
    assert conformance.choose(["6.1"], ["s0[12]*"]) == [("6.1", "s01_one_locker"), ("6.1", "s02_two_lockers_fifo")]
    assert len(conformance.choose(["6.18", "host-6.18"])) == len(recordings.scenarios("host-6.18"))
    assert len(conformance.choose()) == sum(len(recordings.scenarios(k)) for k in recordings.kernels())
    for bad in ((["4.4"], []), ([], ["s99"]), (["6.1"], ["x01*"])):
        with pytest.raises(recordings.UnknownRecording):
            conformance.choose(*bad)


def test_results_and_table():
    pairs = conformance.choose(["6.1", "5.10"], ["s01*", "s16*", "s29*", "r000"])
    results = list(conformance.check_all(pairs, Lacking))
    assert [result.kernel for result in results] == ["6.1"] * 4 + ["5.10"] * 4
    unsupported = [result for result in results if result.unsupported]
    assert {(one.scenario, one.unsupported) for one in unsupported} == {
        ("s16_madvise_locked", "not supported: madvise"), ("r000", "not supported: madvise")}
    assert all(one.ok and one.comparison is None for one in unsupported)

    lines = list(conformance.table(results))
    assert lines[0].split()[:3] == ["kernel", "scenarios", "steps"]
    assert [line.split()[0] for line in lines[1:3]] == ["6.1", "5.10"]
    assert "not supported: madvise" in lines
    assert "    5.10: r000, s16_madvise_locked" in lines
    each = list(conformance.table(results, each=True))
    assert len(each) == len(lines) + len(results)
    assert any(line.startswith("6.1 s01_one_locker") for line in conformance.differences(results))

    row = conformance.summary(results)[0]
    assert (row.kernel, row.scenarios, row.unsupported) == ("6.1", 2, 2)
    real = recordings.load("6.1", "s01_one_locker"), recordings.load("6.1", "s29_map_locked")
    assert row.steps == sum(len(one) - 1 for one in real)


def test_errors_of_the_model_do_not_end_the_table():
    results = list(conformance.check_all(conformance.choose(["6.1"], ["s10*", "r000"]), Failing))
    assert all(result.failure and not result.ok and result.comparison for result in results)
    assert {result.failure.partition(":")[0] for result in results} == {"RuntimeError", "s10_onfault.txt"}
    assert conformance.summary(results)[0].failures == 2
    assert any("ended early" in line for line in conformance.differences(results))
