"""The runner: records in the recordings' form, and the recorder's rules of regions and processes."""
import json

import pytest
from fake_system import FakeSystem

from fastmlock.scenario import ScenarioError, parse, recordings, run
from fastmlock.scenario.observe import runs, vm_flags
from fastmlock.scenario.run import ADDRESS_STEP, FIRST_ADDRESS
from fastmlock.scenario.system import (
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_LOCKED, MAP_PRIVATE, MAP_SHARED, MREMAP_FIXED, MREMAP_MAYMOVE,
    NotSupported, PROT_READ, PROT_WRITE, SIGSEGV, VM_LOCKED, VM_LOCKONFAULT, VM_READ, VM_WRITE,
)

PAGE = 4096


def records(text, system=None, **options):
    return list(run(parse(text), system or FakeSystem(), **options))


def last(text, system=None):
    return records(text, system)[-1]


def calls(text, name):
    system = FakeSystem()
    records(text, system)
    return [call[1:] for call in system.calls if call[0] == name]


def shape(record):
    """What of a record follows from the scenario alone: processes, regions, files, and their lengths."""
    return (record["step"], record["cmd"],
            {name: {r: region["pg"][-1][1] for r, region in state["reg"].items()}
             for name, state in record["p"].items()},
            {name: pages[-1][1] if pages else -1 for name, pages in record["f"].items()})


@pytest.mark.parametrize("kernel", ["5.10", "5.17-rc5", "6.1", "6.12"])
def test_same_shape_as_recordings(kernel):
    """Up to the first mapping that the real kernel refused, which the small system does not. (Of the own recordings,
    those with mremap of a part go beyond it; the small system has nothing but files and anonymous memory.)"""
    beyond = ("s31r", "s31o", "v0", "zf", "d1")
    for name in [name for name in recordings.scenarios(kernel) if not name.startswith(beyond)]:
        real = recordings.load(kernel, name)[1:]
        mine = records(recordings.text(name))[1:]
        assert len(mine) == len(real)
        for one, other in zip(mine, real):
            if other["ret"] == -1 and {"mmap", "mremap"} & set(other["cmd"].split()):
                break
            assert shape(one) == shape(other)
            keys = [key for key in other if key not in ("agree", "sig")]
            assert [key for key in one if key != "sig"] == keys


def test_first_record_is_the_kernel():
    system = FakeSystem()
    first, second = records("p0 ldrain\np3 fork p4\np2 exit\n", system, kernel="6.1")[:2]
    assert first == {"step": 0, "cmd": "", "kernel": "6.1", "drain": 0, "kcore": 1, "wcpu": 0, "kcpu": 1}
    assert system.calls[:4] == [("spawn", 0)] * 3 + [("drain_all",)]
    assert list(second) == ["step", "cmd", "ret", "err", "dv", "dvs", "p", "f"]
    assert list(second["p"]) == ["p0", "p2", "p3"]


def test_records_are_json():
    text = recordings.text("s09_mlockall")
    assert json.loads(json.dumps(records(text))) == records(text)


def test_counters_that_did_not_change_are_left_out():
    first, second, third = records("p0 mmap A anon private rw 0 4\np0 mlock A 0 3\np0 munlock A 0 1\n")[1:]
    assert (first["dv"], first["dvs"]) == ({}, {})
    assert (second["dv"], second["dvs"]) == ({"nr_mlock": 3}, {"nr_mlock": 3})
    assert (third["dv"], third["dvs"]) == ({"nr_mlock": 2}, {"nr_mlock": -1})


def test_each_new_region_has_an_address_of_its_own():
    found = calls("file F tmpfs 8\np0-1 mmap A F shared r 2 4 locked\np0 mmap A anon private rw 0 1\n"
                  "p0 mmap B anon shared none 0 1 at=A+3\np0 mmap C anon private r 0 1\n", "mmap")
    assert [call[0] - FIRST_ADDRESS for call in found] == [
        0, ADDRESS_STEP, 2 * ADDRESS_STEP, 2 * ADDRESS_STEP + 3 * PAGE, 3 * ADDRESS_STEP]
    assert found[0][1:] == (4 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_LOCKED, 1, 2 * PAGE)
    assert found[2][2:] == (PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED_NOREPLACE | MAP_ANONYMOUS, None, 0)
    assert found[3][3] == MAP_SHARED | MAP_FIXED | MAP_ANONYMOUS


def test_addresses_and_lengths_are_unsigned():
    assert calls("p0 mmap A anon private rw 0 4\np0 mlock A -1 4 byteoff=5 bytes=-4096\n", "mlock2") == [
        (FIRST_ADDRESS - PAGE + 5, 2**64 - 4096, 0)]


def test_mremap_follows_the_region():
    text = "file F tmpfs 8\np0 mmap A F shared r 1 6\np0 mremap A 2 3 4 maymove\n"
    system = FakeSystem()
    done = records(text + "p0 mremap A 0 4 4 move B\np0 mremap A 0 4 0 A\n", system)
    assert [record["ret"] for record in done[3:]] == [0, 1, -1]
    assert done[5]["err"] == "EFAULT"
    assert [call[1:] for call in system.calls if call[0] == "mremap"][:2] == [
        (FIRST_ADDRESS + 2 * PAGE, 3 * PAGE, 4 * PAGE, MREMAP_MAYMOVE, 0),
        (FIRST_ADDRESS + 2 * PAGE, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, FIRST_ADDRESS + ADDRESS_STEP)]
    regions = done[4]["p"]["p0"]["reg"]
    assert regions["A"]["vma"] == [] and regions["A"]["pg"] == [[0, 3, "-", -1, "", -1]]
    assert regions["B"]["vma"] == [[0, 4, "rd sh", 0, 0]]


def test_dead_processes_answer_esrch_and_use_up_addresses():
    text = "p0 mmap A anon private r 0 1\np0 exit\np0 mlock A 0 1\np0 mmap B anon private r 0 1\np0 exit\n"
    done = records(text + "p0 kill\np0 fork p3\np0-1 exit\np0-1 exit\np2 mmap A anon private r 0 1\n")
    assert [(one["ret"], one["err"]) for one in done[1:]] == [(0, "")] * 2 + [(-1, "ESRCH")] * 5 + [(0, "")] * 3
    assert calls(text + "p2 mmap A anon private r 0 1\n", "mmap")[1][0] == FIRST_ADDRESS + 2 * ADDRESS_STEP


def test_processes_that_die_on_their_own_are_not_shown():
    system = FakeSystem()
    steps = run(parse("p0 mmap A anon private r 0 1\np0 mlock A 0 1\n"), system)
    next(steps), next(steps)
    del system.processes[next(iter(system.processes))]
    record = next(steps)
    assert (record["ret"], record["err"], record["p"]) == (-1, "ESRCH", {})


def test_fork_copies_regions():
    done = records("p0 mmap A anon private r 0 2\np0 fork p9\np9 mmap B anon private r 0 1\np0 munmap A 0 2\n")
    assert list(done[2]["p"]["p9"]["reg"]) == ["A"]
    assert list(done[3]["p"]["p0"]["reg"]) == ["A"] and list(done[3]["p"]["p9"]["reg"]) == ["A", "B"]
    assert done[4]["p"]["p9"]["reg"]["A"]["vma"] == [[0, 2, "rd", 0, 0]]


def test_reply_of_several_processes():
    text = "p0-2 mmap A anon private rw 0 4\np1 munmap A 2 2\n"
    record = last(text + "p0-2 touch A 0 4 w\n")
    assert (record["ret"], "sig" in record) == (4, False)  # that of the first
    record = last(text + "p1 exit\np0-2 touch A 0 4 w\n")
    assert (record["ret"], record["err"]) == (-1, "ESRCH")  # unless another answers -1


def test_signals_are_shown():
    record = last("p0 mmap A anon private rw 0 4\np0 touch A 2 4 w\n")
    assert (record["ret"], record["err"], record["sig"]) == (2, "", SIGSEGV)
    assert list(record)[:5] == ["step", "cmd", "ret", "err", "sig"]
    assert last("p0 mmap A anon private rw 0 4\np0 touch A 0 -4 w\n")["ret"] == 0


def test_a_page_is_known_once_a_region_has_shown_it():
    text = "file F tmpfs 6 sparse\nfwrite F 0 3\np0 mmap A F shared rw 1 5\n"
    assert last(text)["f"]["F"] == [[0, 2, "?", -1, "", -1], [3, 5, "x", -1, "", -1]]
    touched = last(text + "p0 touch A 1 2 r\n")["f"]["F"]
    assert touched == [[0, 1, "?", -1, "", -1], [2, 3, "c", 1, "D", -1], [4, 5, "x", -1, "", -1]]
    assert last(text + "p0 touch A 1 2 r\np0 exit\n")["f"]["F"] == touched
    cut = last(text + "p0 touch A 1 2 r\ntruncate F 1\n")["f"]["F"]
    assert cut == [[0, 0, "?", -1, "", -1], [1, 5, "x", -1, "", -1]]


def test_an_empty_file_shows_one_page():
    assert last("file F tmpfs 0\n")["f"]["F"] == [[0, 0, "x", -1, "", -1]]


def test_vm_flags():
    bits = VM_READ | VM_WRITE | VM_LOCKED | VM_LOCKONFAULT | 0x20000000
    assert vm_flags(bits, shows_lf=True) == "rd wr lo lf hg"
    assert vm_flags(bits, shows_lf=False) == "rd wr lo hg"


def test_runs():
    a, b = ("f", 1, "LU", 1), ("-", -1, "", -1)
    assert runs([a, a, b, a]) == [[0, 1, *a], [2, 2, *b], [3, 3, *a]]
    assert runs([]) == []


def test_answers_of_the_controller():
    text = "file F tmpfs 4\n"
    for command, ret in [("fadvise F 0 1", 22), ("dropcaches 0", -22), ("dropcaches 1", 0), ("dropcaches 2", 0),
                         ("compact", 0),
                         ("sysctl /proc/sys/vm/x 1", -2), ("fread F 0 1", 4096), ("fread F 0 0", 0), ("sleep 1", 0)]:
        record = last(text + command)
        assert (record["ret"], record["err"]) == (ret, "")
    record = last(text + "punch F 0 0")
    assert (record["ret"], record["err"]) == (-1, "EINVAL")


def test_a_cpu_the_machine_has_not_changes_nothing():
    system = FakeSystem()
    assert [one["ret"] for one in records("p0 cpu 1\np0 cpu 2\n", system)[1:]] == [0, 0]
    assert next(iter(system.processes.values())).cpu == 1


def test_what_only_the_run_can_show_is_told_alike():
    class Refusing(FakeSystem):
        def mmap(self, *arguments):
            return -1, 12
    with pytest.raises(ScenarioError, match=r"^<scenario>:2: p0 has no region A here; "):
        records("p0 mmap A anon private r 0 1\np0 mlock A 0 1\n", Refusing())


def test_what_a_system_lacks_is_named():
    with pytest.raises(NotSupported, match=r"^not supported: reclaim on this system$"):
        records("p0 mmap A anon private r 0 1\nreclaim 4\n")
