"""The exit storm: counting laws, accounting identities, determinism, refusals."""
from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fastmlock.cli import main
from fastmlock.machine.topology import TopologyError
from fastmlock.state.layout import K
from fastmlock.studies import storm as storm_module
from fastmlock.studies.storm import Storm, StormError, StormResult, prepare, run

BEFORE = ("5.10", "5.17-rc2")
AFTER = ("5.18", "6.1")
SIZES = ((1, 1), (2, 15), (3, 16), (5, 100), (8, 600))


def storm(procs: int, pages: int, **options: object) -> Storm:
    return Storm(procs=procs, pages=pages, cpus=options.pop("cpus", max(2, procs)), **options)     # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", BEFORE)
@pytest.mark.parametrize("procs, pages", SIZES)
@pytest.mark.parametrize("order, visits", [("in-turn", 2), ("newest-first", 1)])
def test_one_at_a_time_walks_every_shared_page(kernel: str, procs: int, pages: int, order: str, visits: int) -> None:
    """(N-1)P walks: the last process has every page alone. Oldest first a walk passes the leaver and stops at the next
    (2 VMAs), newest first it stops at the oldest at once (1)."""
    result = run(storm(procs, pages, order=order), kernel)
    assert result.rmap_walks == (procs - 1) * pages
    assert result.rmap_vmas == visits * (procs - 1) * pages
    assert result.vmstat["unevictable_pgs_mlocked"] == (procs - 1) * pages      # every walk re-marked its page
    assert result.vmstat["unevictable_pgs_munlocked"] == pages
    assert result.nr_mlock == result.nr_unevictable == 0


@pytest.mark.parametrize("kernel", AFTER)
@pytest.mark.parametrize("procs, pages", SIZES)
@pytest.mark.parametrize("order", storm_module.ORDERS)
def test_after_never_walks(kernel: str, procs: int, pages: int, order: str) -> None:
    """No walk, one munlock for each entry, lru_lock at most once per batch of 15."""
    result = run(storm(procs, pages, order=order), kernel)
    assert result.rmap_walks == result.rmap_vmas == 0
    assert result.munlocks == procs * pages
    assert 0 < result.lru_locks <= procs * -(-pages // 15)
    assert result.nr_mlock == 0
    if order != "together":                 # nobody to race with
        assert result.vmstat["unevictable_pgs_stranded"] == result.nr_unevictable == 0
        assert result.vmstat["unevictable_pgs_munlocked"] == pages


@pytest.mark.parametrize("mappers", [1, 7, 40])
def test_mappers_add_to_each_walk_before_and_nothing_after(mappers: int) -> None:
    """A single leaver beside M that only map: P walks of M + 1 VMAs, exactly."""
    pages = 64
    before = run(storm(1, pages, mappers=mappers), "5.17-rc2")
    assert (before.rmap_walks, before.rmap_vmas) == (pages, pages * (mappers + 1))
    after = run(storm(1, pages, mappers=mappers), "5.18")
    alone = run(storm(1, pages), "5.18")
    assert (after.rmap_walks, after.munlocks, after.lru_locks) == (0, pages, alone.lru_locks)


def test_mappers_add_to_every_walk_of_a_storm() -> None:
    """In turn, mappers in front of all lockers: each walk passes them before it finds the next locker."""
    procs, pages, mappers = 6, 40, 9
    result = run(storm(procs, pages, order="in-turn", mappers=mappers), "5.17-rc2")
    # the last leaver's pages are still mapped by the others, so it walks as well: over all that are left
    assert result.rmap_walks == procs * pages
    assert result.rmap_vmas == pages * ((procs - 1) * (mappers + 2) + mappers + 1)


@pytest.mark.parametrize("procs", [2, 9, 30])
@pytest.mark.parametrize("stagger_ns", [0, 400, 20_000, 150_000])
def test_bounds_with_a_survivor(procs: int, stagger_ns: int) -> None:
    """k at once beside a survivor later in the tree: at most kP walks of at most k + 1 VMAs; one earlier: 1 VMA."""
    pages = 300
    late = run(storm(procs, pages, survivor="after", stagger_ns=stagger_ns), "5.17-rc2")
    assert pages <= late.rmap_walks <= procs * pages
    assert 2 * late.rmap_walks - pages <= late.rmap_vmas <= procs * (procs + 1) * pages
    early = run(storm(procs, pages, survivor="before", stagger_ns=stagger_ns), "5.17-rc2")
    assert early.rmap_vmas == early.rmap_walks <= procs * pages


def test_leavers_in_front_of_a_survivor_pile_up() -> None:
    """The more leave at a time, the more exiting VMAs stand in front of the locked one: visits per walk grow."""
    per_walk = [(r.rmap_vmas / r.rmap_walks) for r in
                (run(storm(n, 2000, survivor="after", stagger_ns=50_000), "5.17-rc2") for n in (2, 8, 24))]
    assert 1.9 < per_walk[0] < per_walk[1] < per_walk[2]
    assert per_walk[2] > 6


@pytest.mark.parametrize("kernel", BEFORE + AFTER)
@pytest.mark.parametrize("survivor", storm_module.SURVIVORS)
@pytest.mark.parametrize("stagger_ns", [0, 5_000, 10_000_000])
def test_accounting_identities(kernel: str, survivor: str, stagger_ns: int) -> None:
    """The specification, 1.7. After: nr_mlock = mlocked - munlocked - stranded - cleared. Before, a munlock whose walk
    found another locker decrements without an event and is counted MLOCKED again; and a page that a second leaver
    strands between the first one's walk and its look at PG_mlocked is counted both MUNLOCKED and STRANDED."""
    system, machine, leavers = prepare(storm(12, 700, survivor=survivor, stagger_ns=stagger_ns), kernel)
    start = system.vmstat()
    for i, pid in enumerate(leavers):
        machine.start(pid, i * stagger_ns, flow=storm_module.FLOWS["F_SYS_EXIT"])
    machine.run()
    system.drain_all()
    end = system.vmstat()
    change = {name.removeprefix("unevictable_pgs_"): end[name] - start[name] for name in end}
    gone = change["munlocked"] + change["stranded"] + change["cleared"]
    if kernel in AFTER:
        assert change["nr_mlock"] == change["mlocked"] - gone
        assert change["mlocked"] == 0
    else:
        assert -gone <= change["nr_mlock"] <= -change["stranded"]
        if stagger_ns == 10_000_000:            # one after another: no race
            assert change["nr_mlock"] == -gone and change["stranded"] == 0
    assert change["nr_unevictable"] == change["culled"] - change["rescued"]
    flags, count = system.pages["flags"], system.pages["mapcount"]
    assert end["nr_mlock"] == np.count_nonzero(flags & K.PG_mlocked)
    assert end["nr_unevictable"] == np.count_nonzero((flags & (K.PG_unevictable | K.PG_lru))
                                                     == K.PG_unevictable | K.PG_lru)
    assert set(count[flags & K.PG_swapbacked != 0]) == {1 if survivor != "none" else 0}
    # every reference that is left is the page cache's or a page-table entry's
    cached = (flags & K.PG_swapbacked) != 0
    assert np.array_equal(system.pages["refcount"][cached], 1 + count[cached])


def same(result: StormResult) -> str:
    return json.dumps(result.record(host=False), sort_keys=True) + str(result.exit_ns.tolist()) \
        + str(result.lock_stat.tolist())


def test_same_bytes_in_one_thread_and_in_several() -> None:
    jobs = [(storm(10, 900, survivor="after", stagger_ns=7_000, seed=3), kernel) for kernel in BEFORE + AFTER]
    alone = [same(run(*job)) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        assert [same(result) for result in pool.map(lambda job: run(*job), jobs * 2)] == alone * 2


def test_the_seed_matters() -> None:
    one, other = (run(storm(8, 500, stagger_ns=3_000, seed=seed), "5.17-rc2") for seed in (1, 2))
    assert same(one) != same(other)


def test_more_processes_than_cpus() -> None:
    result = run(storm(40, 200, cpus=4), "5.17-rc2")
    assert result.nr_mlock == 0 and result.last_exit_ns >= result.max_exit_ns > 0


def test_cpu_time_adds_up() -> None:
    result = run(storm(6, 300), "5.17-rc2")
    assert sum(result.doing.values()) == pytest.approx(6 * result.last_exit_ns, rel=0.05)


# ---------------------------------------------------------------- refusals
@pytest.mark.parametrize("options, words", [
    ({"procs": 0}, "--procs 0"), ({"pages": 0}, "--pages 0"), ({"cpus": 0}, "--cpus 0"), ({"mappers": -1}, "--mappers"),
    ({"order": "all"}, "--order all"), ({"survivor": "here"}, "--survivor here"), ({"stagger_ns": -1}, "--stagger-ns"),
    ({"procs": 100_000, "pages": 100_000_000}, "MiB are free"),
])
def test_what_cannot_be_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(StormError, match=words) as caught:
        Storm(**options)                    # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_more_nodes_than_cpus() -> None:
    with pytest.raises(TopologyError, match="8 nodes on 4 CPUs"):
        Storm(cpus=4, nodes=8)


# ---------------------------------------------------------------- the command
def test_command_writes_what_it_prints(tmp_path, capsys) -> None:
    import pyarrow.parquet as pq

    out = tmp_path / "out"
    assert main(["storm", "--procs", "1,3", "--pages", "50", "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "5.17-rc2" in printed and "5.18" in printed and "rmap walks" in printed
    assert sorted(path.name for path in out.iterdir()) == ["storm.json", "storm.parquet", "storm.png"]
    rows = pq.read_table(out / "storm.parquet").to_pylist()
    assert [(row["kernel"], row["procs"]) for row in rows] == [(k, n) for n in (1, 3) for k in ("5.17-rc2", "5.18")]
    assert rows == json.loads((out / "storm.json").read_text())["results"]


@pytest.mark.parametrize("options, words", [
    (["--cpus", "0"], "0"), (["--cpus", "4", "--nodes", "8"], "8 nodes on 4 CPUs"), (["--kernels", "4.4"], "4.4"),
    (["--pages", "x"], "x"), (["--machine", "nosuch"], "nosuch"), (["--plot", "a.txt"], "a.txt"),
    (["--procs", "1,,2"], "1,,2"), (["--procs", "999999999"], "4094"),
    (["--procs", "4000", "--pages", "100000000"], "MiB"),
])
def test_command_refuses_in_one_line(tmp_path, capsys, monkeypatch, options: list[str], words: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["storm", *options]) == 2
    told = capsys.readouterr()
    assert words in told.err and told.err.count("\n") == 1 and not told.out
    assert not list(tmp_path.iterdir())


def test_bystanders_in_step_with_each_other_see_the_end() -> None:
    """Each of them always found the others' mappings, and took these for leavers that were still there."""
    looks = 0

    def progress(what: str, share: float) -> None:
        nonlocal looks
        looks += 1
        assert looks < 100

    result = run(Storm(procs=48, pages=1024, cpus=52, mappers=7, bystanders=4, stagger_ns=20_000,
                       locks=("i_mmap=bravo",)), "5.17-rc2", progress)
    assert result.bystander_rounds > 4
