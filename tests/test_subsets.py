"""Names of kernels that are not releases: parts of the series, and later fixes on top."""
import itertools

import pytest

from fastmlock import System, kernels


def patches(name):
    traits = kernels.get(name)
    return [n for n in range(1, 14) if getattr(traits, f"p{n:02}")]


@pytest.mark.parametrize(("name", "expected"), [
    ("5.17-rc2+07", range(1, 8)),
    ("5.17-rc2+01..07", range(1, 8)),
    ("5.17-rc2+13-10-11-12", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13]),
    ("5.17-rc2+13-10-11", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13]),
    ("5.17-rc2+13-10..12", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13]),
    ("5.17-rc2+05,08", [1, 2, 3, 4, 5, 8]),
    ("5.17-rc2+08..08", [8]),
    ("5.18-09", [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13]),
    ("5.10+13", range(1, 14)),
])
def test_patches(name, expected):
    assert patches(name) == list(expected)


def test_points_are_subsets_too():
    for n in range(1, 14):
        assert kernels.parse(f"5.17-rc2+{n:02}") == kernels.RELEASES[f"5.17-rc2+{n:02}"]
        assert kernels.parse(f"5.17-rc2+01..{n:02}") == kernels.RELEASES[f"5.17-rc2+{n:02}"]


def test_series_and_its_later_fixes_make_the_release():
    """5.18 is point 13, the fixes, and four changes that have nothing to do with the series: of COW, of truncation, of
    MADV_DONTNEED of huge pages, of read-ahead under MADV_HUGEPAGE."""
    built = kernels.get("5.17-rc2+13" + "".join(f"+{fix}" for fix in kernels.FIXES))
    mine, real = built.array_fields(), kernels.get("5.18").array_fields()
    assert {name for name in mine if mine[name] != real[name]} == {
        "release", "cow_reuse_refcount", "zap_keeps_swap", "hugetlb_dontneed", "ra_huge"}


@pytest.mark.parametrize(("name", "size"), [
    ("6.1", 15), ("6.12", 31), ("6.12+mlock_pvec_size=15", 15), ("5.17-rc2+13-11-12+mlock_pvec_size=1", 1),
    ("5.17-rc2+mlock_pvec_size=2+13", 2)])
def test_size_of_the_mlock_batch(name, size):
    traits = kernels.get(name)
    assert traits.mlock_pvec_size == size and traits.pvec_size == kernels.get(name.partition("+")[0]).pvec_size


@pytest.mark.parametrize("size", range(1, 32))
def test_what_waits_in_the_mlock_batch(size):
    """LTP's 33 pages without the drain at the end of populate: only whole batches are counted."""
    s = System(f"5.17-rc2+13+mlock_pvec_size={size}", check=True)
    pid = s.spawn()
    s.mmap(pid, 1 << 44, 33 * 4096, 3, 0x22 | 0x10, None, 0)
    s.mlock(pid, 1 << 44, 33 * 4096)
    assert s.vmstat()["nr_unevictable"] == 33 - 33 % size
    s.drain_all()
    assert s.vmstat()["nr_unevictable"] == 33


def test_fix_taken_out():
    assert kernels.get("6.1").drain_on_populate == 1
    assert kernels.get("6.1-drain_on_populate").drain_on_populate == 0


@pytest.mark.parametrize(("name", "why"), [
    ("5.17-rc2+10..10", "10 needs 07"),
    ("5.17-rc2+13-06", "07 needs 06"),
    ("5.17-rc2+13-01", "04 needs 01"),
    ("5.17-rc2+13-02-03", "04 needs 02 and 03"),
    ("5.17-rc2+13-04", "05 needs 04"),
    ("5.17-rc2+13-05", "06 needs 05"),
    ("5.17-rc2+05,09", "09 needs 07"),
    ("5.17-rc2+09,11", "11 needs 10"),
    ("5.17-rc2+03,13", "13 needs 04"),
    ("5.17-rc2+13-11", "10 and 12 together need 11"),
    ("5.17-rc2+special_check", "special_check needs 04"),
    ("5.17-rc2+09+local_lock", "local_lock needs 10"),
    ("5.17-rc2+09+mlock_pvec_size=1", "mlock_pvec_size needs 10"),
])
def test_what_cannot_work_is_refused_with_the_reason(name, why):
    with pytest.raises(kernels.ImpossibleKernel) as error:
        kernels.get(name)
    assert f"cannot work: {why}: " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "part"), [
    ("5.17-rc2+01-07", "two dots"),
    ("5.17-rc2+14", "no part of patches"),
    ("5.17-rc2+00", "no part of patches"),
    ("5.17-rc2+07..02", "no part of patches"),
    ("5.17-rc2+7", "neither patches"),
    ("5.17-rc2+drain", "neither patches"),
    ("5.17-rc2+", "write 5.17-rc2"),
    ("6.1+mlock_pvec_size=0", "between 1 and 31"),
    ("6.1+mlock_pvec_size=32", "between 1 and 31"),
    ("6.1-mlock_pvec_size=1", "a size is set as"),
    ("6.1+pvec_size=1", "a size is set as"),
    ("6.1+mlock_pvec_size=x", "a size is set as"),
    ("5.17-rc2++07", "write 5.17-rc2"),
    ("5.17-rc2 07", "no kernel"),
    ("", "no kernel"),
    ("5.17-rc", "no kernel"),
])
def test_what_is_no_name(name, part):
    with pytest.raises(kernels.UnknownKernel, match=part) as error:
        kernels.get(name)
    assert "\n" not in str(error.value)


def test_every_point_of_the_series_can_work():
    for name in kernels.RELEASES:
        traits = kernels.RELEASES[name]
        assert kernels.why_not({one for one in (*kernels.PATCHES, *kernels.FIXES) if getattr(traits, one)}) == ""


def test_needs_are_a_partial_order_within_the_series():
    """A patch needs only earlier ones, so that each point of the series is closed under the rules."""
    for trait, (needed, reason) in kernels.NEEDS.items():
        assert reason
        if trait in kernels.PATCHES:
            assert all(one < trait for one in needed)
    accepted = sum(not kernels.why_not(set(chosen)) for n in range(14)
                   for chosen in itertools.combinations(kernels.PATCHES, n))
    assert 14 < accepted < 2 ** 13
