"""Read-ahead of disk files, beside the recordings own-disk-*: both models in random programs, and what is refused."""
from __future__ import annotations

import pytest

from fastmlock import System
from fastmlock.cli import main
from fastmlock.cli.systems import bare
from fastmlock.fuzz.generate import DISK, program
from fastmlock.fuzz.pair import against_exact
from fastmlock.reference import ReferenceSystem
from fastmlock.scenario import parse
from fastmlock.scenario.run import run
from fastmlock.scenario.system import NotSupported

KERNELS = ["5.10", "5.17-rc2", "5.18", "6.1", "6.12", "6.18"]
BEFORE_LARGE_FOLIOS = KERNELS[:-1]


def cached(text: str, kernel: str, model: type = System) -> list[list[int]]:
    """After each fread or touch of the program: which pages of F are cached."""
    out = []
    for record in run(parse(text, "program"), model(kernel)):
        if any(word in str(record["cmd"]) for word in ("fread", "touch")):
            runs = record["f"]["F"]                                     # type: ignore[index]
            out.append([page for first, last, kind, *_ in runs if kind != "x" for page in range(first, last + 1)])
    return out


@pytest.mark.parametrize("kernel", KERNELS)
def test_both_models_agree(kernel: str) -> None:
    refused = 0
    for index in range(60):
        outcome = against_exact(program("readahead", index, DISK).splitlines(), bare(kernel, reference=False),
                                bare(kernel, reference=True))
        assert outcome.difference is None, (index, outcome.difference)
        refused += len(outcome.unsupported)
    assert bool(refused) == (kernel == "6.18")


@pytest.mark.parametrize("kernel", BEFORE_LARGE_FOLIOS)
def test_a_stream_doubles_its_window(kernel: str) -> None:
    text = "file F ext4 100 sparse\n" + "".join(f"fread F {i} 1\n" for i in range(13))
    ends = [pages[-1] + 1 for pages in cached(text, kernel)]
    assert ends == [4, 12, 12, 12, 28, 28, 28, 28, 28, 28, 28, 28, 60]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_read_that_follows_nothing_brings_one_page(kernel: str) -> None:
    assert cached("file F ext4 100 sparse\nfread F 50 1\nfread F 20 1\n", kernel) == [[50], [20, 50]]


@pytest.mark.parametrize("model", [System, ReferenceSystem])
def test_the_next_window_may_lie_elsewhere(model: type) -> None:
    """Through 6.10 the page after the last window starts the next, even if it is itself missing again."""
    text = "file F ext4 5\nfadvise F 0 0\nfread F 0 2\nfadvise F 0 0\nfread F 4 1\n"
    assert cached(text, "5.17-rc2", model)[-1] == [4]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("advice", "pages"), [("normal", range(24, 56)), ("random", range(40, 41)),
                                               ("sequential", range(40, 72))])
def test_what_a_fault_reads(kernel: str, advice: str, pages: range) -> None:
    text = f"file F ext4 200 sparse\np0 mmap A F shared r 0 200\np0 madvise A 0 200 {advice}\np0 touch A 40 1 r\n"
    assert cached(text, kernel) == [list(pages)]


@pytest.mark.parametrize(("kernel", "pages"), [("5.17-rc2", range(24, 56)), ("5.18", range(200)), ("6.12", range(200))])
def test_advice_for_huge_pages_reads_two_of_them(kernel: str, pages: range) -> None:
    text = "file F ext4 200 sparse\np0 mmap A F shared r 0 200\np0 madvise A 0 200 hugepage\np0 touch A 40 1 r\n"
    assert cached(text, kernel) == [list(pages)]


@pytest.mark.parametrize(("kernel", "pages"), [("6.12", range(24, 56)), ("6.18", range(40, 70))])
def test_executable_memory_is_read_within_its_mapping(kernel: str, pages: range) -> None:
    text = "file F ext4 200 sparse\np0 mmap A F shared rx 10 60\np0 touch A 30 1 r\n"
    assert cached(text, kernel) == [list(pages)]


@pytest.mark.parametrize("model", [System, ReferenceSystem])
@pytest.mark.parametrize("text", [
    "file F ext4 40 sparse\nfread F 0 2\n",
    "file F ext4 100 sparse\np0 mmap A F shared r 0 100\np0 touch A 0 25 r\n",
    "file F ext4 40 sparse\np0 mmap A F shared r 0 40\np0 madvise A 0 40 hugepage\np0 touch A 0 1 r\n",
])
def test_large_folios_are_refused_by_name(model: type, text: str) -> None:
    with pytest.raises(NotSupported, match="read-ahead of a disk file, which this kernel does in large folios"):
        cached(text, "6.18", model)


@pytest.mark.parametrize("model", [System, ReferenceSystem])
@pytest.mark.parametrize("hole", ["punch F 8 4", "p0 madvise A 8 4 remove"])
def test_a_hole_ends_at_the_end_of_a_disk_file(model: type, hole: str) -> None:
    """5.10 reads pages in behind it, which stay."""
    text = f"file F ext4 12\np0 mmap A F shared rw 0 12\ntruncate F 6\nfread F 5 6\n{hole}\nfread F 5 1\n"
    before, after = cached(text, "5.10", model)
    assert after == before and before[-1] == 10


@pytest.mark.parametrize("kernel", ["5.18", "6.1", "6.12", "6.18"])
def test_populate_drains_each_time_it_lets_go_of_mmap_lock(kernel: str) -> None:
    """Page 4 is read first, so the others come by two reads; without the drain in between they would be locked while
    they wait in the batch, and their count be lost."""
    text = "file F ext4 12 sparse\nfread F 4 1\ndrain\np0 mmap A F shared r 0 12 locked\n"
    *_, last = run(parse(text, "program"), System(kernel))
    (*_, count), = last["p"]["p0"]["reg"]["A"]["pg"]                    # type: ignore[index]
    assert count == 1


@pytest.mark.parametrize("model", [System, ReferenceSystem])
def test_only_5_10_reads_behind_the_end_and_not_far(model: type) -> None:
    text = "file F ext4 20 sparse\ntruncate F 4\nfread F 3 5\n"
    assert cached(text, "5.10", model) == [[3, 4, 5, 6, 7]]
    assert cached(text, "6.1", model) == [[3]]
    systems = {kernel: model(kernel) for kernel in ("5.10", "6.1")}
    files = {kernel: system.create_file("ext4", 4) for kernel, system in systems.items()}
    assert systems["6.1"].pread(files["6.1"], 2**31, 3) == (0, 0)
    with pytest.raises(NotSupported, match="behind the end of a disk file"):
        systems["5.10"].pread(files["5.10"], 2**31, 3)


@pytest.mark.parametrize("model", [System, ReferenceSystem])
@pytest.mark.parametrize(("kernel", "error"), [("5.10", -14), ("5.18", -14), ("6.1", -2), ("6.12", -14)])
def test_move_pages_of_prot_none_memory(model: type, kernel: str, error: int) -> None:
    """6.1 does not see its entries, not even the zero page's (seen in a random program of this kind)."""
    text = "p0 mmap E anon private r 0 4 populate\np0 mprotect E 0 4 none\np0 movepages E 2\n"
    *_, last = run(parse(text, "program"), model(kernel))
    assert last["ret"] == error


def test_the_fuzzer_can_be_told_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fuzz", "--disk", "--programs", "3", "--kernel", "6.12", "--coverage"]) == 0
    out = capsys.readouterr().out
    assert "3 programs" in out and "0 programs differ" in out and "fread" in out
