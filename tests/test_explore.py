"""Races: pinned orders, and the search of all of them."""
import pytest

from fastmlock import System
from fastmlock.explore import barrier
from fastmlock.audit.account import audit, lockers
from fastmlock.explore.interleave import Interleaving
from fastmlock.explore.outcome import SearchLimit
from fastmlock.explore.race import default_race, play_all, search
from fastmlock.explore.schedule import ScheduleError, parse_schedule
from fastmlock.kernels import SERIES
from fastmlock.scenario import language
from fastmlock.scenario.run import run
from fastmlock.scenario.system import NotSupported
from fastmlock.scenario.words import ScenarioError

TWO_MUNLOCKS = "p0 munlock A 0 1 | p1 munlock A 0 1"
TWO_EXITS = "p0 exit | p1 exit"


def point(number):
    return SERIES[number]


def wrong(found):
    return [one for one in found.outcomes if not one.audit.right]


# ---- O1: two munlocks of one page at once (the specification, 4.1)
@pytest.mark.parametrize("race", [TWO_EXITS, TWO_MUNLOCKS])
@pytest.mark.parametrize("number", [6, 7, 8, 9])
def test_munlocks_under_the_lock_strand_nothing(number, race):
    found = search(default_race(race), point(number))
    assert not any(one.audit.left_unevictable for one in found.outcomes)
    if number > 6 or race == TWO_EXITS:
        assert len(found.outcomes) == 1


@pytest.mark.parametrize("race", [TWO_EXITS, TWO_MUNLOCKS])
@pytest.mark.parametrize("number", [10, 11, 12, 13])
def test_search_finds_the_stranded_page(number, race):
    found = search(default_race(race), point(number))
    bad = wrong(found)
    assert [one.audit.left_unevictable for one in bad] == [1]
    one, = bad
    assert one.audit.count_high == 1
    assert one.pages[0].endswith("LU mlock_count 1")
    assert one.counters["unevictable_pgs_stranded"] == 1 and one.counters["nr_mlock"] == -1
    assert one.switches == 2, "one party goes in between, and comes to its end"


@pytest.mark.parametrize("number", [6, 9, 10, 13])
def test_search_between_the_pages_of_a_batch_comes_to_the_same(number):
    race = "p0 munlock A 0 2 | p1 munlock A 0 2"
    coarse, fine = (search(default_race(race, pages=2), point(number), fine=fine)
                    for fine in (False, True))
    assert fine.states >= coarse.states
    assert bool(wrong(fine)) == (number >= 10)
    assert {one.pages for one in coarse.outcomes} <= {one.pages for one in fine.outcomes}


def test_schedule_that_the_search_gives_leads_there():
    for race in (TWO_MUNLOCKS, TWO_EXITS, "p0 munlock A 0 1 | p1 munlock A 0 1 | p2 mlock A 0 1"):
        for one in search(default_race(race), "5.17-rc2+10", cpus=3).outcomes:
            played, = play_all(default_race(f"{race} : {one.schedule}"), "5.17-rc2+10", cpus=3)
            assert played.outcome.pages == one.pages
            assert played.outcome.counters == one.counters
            assert played.outcome.switches == one.switches


def test_on_one_cpu_the_race_is_not_there():
    """The batch is worked through with preemption off."""
    text = "file f tmpfs 1\np0-1 mmap A f shared r 0 1\np0-1 mlock A 0 1\ndrain\nrace " + TWO_MUNLOCKS + "\n"
    apart = text.replace("file", "p1 cpu 1\nfile", 1)
    assert not wrong(search(language.parse(text), "5.17-rc2+10"))
    assert wrong(search(language.parse(apart), "5.17-rc2+10"))


def test_before_the_series_the_loss_goes_the_other_way():
    """A munlock that meets a page taken off its list by another clears the mark that a third process needs: the page
    becomes evictable too early, and none is left unevictable."""
    text = ("file f tmpfs 1\np1 cpu 1\np2 cpu 2\np0-2 mmap A f shared r 0 1\np0-2 mlock A 0 1\ndrain\n"
            f"race {TWO_MUNLOCKS}\n")
    found = search(language.parse(text), "5.17-rc2", cpus=3)
    assert any(one.audit.evictable for one in found.outcomes)
    assert not any(one.audit.left_unevictable for one in found.outcomes)


def test_mlock_in_flight_overcounts_before_the_batch_too():
    """06 to 09 raise mlock_count without a look at PG_mlocked: munlocks that find the page off its list clear the mark,
    and the mlock that had taken it off then counts on top of what they should have taken away."""
    race = "p0 munlock A 0 1 | p1 munlock A 0 1 | p2 mlock A 0 1"
    found = search(default_race(race), "5.17-rc2+09", cpus=3)
    assert any(one.audit.count_high and one.pages[0].endswith("LU mlock_count 3") for one in found.outcomes)


@pytest.mark.parametrize("how", "rw")
@pytest.mark.parametrize("number", [0, 7, 13])
def test_a_fault_waits_for_a_migration_to_end(number, how):
    """migration_entry_wait(): whatever the order, the page stays mapped, and is locked as before."""
    found = search(default_race(f"p0 touch A 0 1 {how} | compact"), point(number))
    assert found.states > 90 and not any(one.problem for one in found.outcomes)
    assert {one.pages for one in found.outcomes} == {
        ("f[0] mapcount 1 LUM" + " mlock_count 1" * (number >= 6),)}


def test_migration_beside_a_mlock_errs_low():
    """From 07 on the walk passes over a migration entry, and who restores it meets VM_IO: not counted by either. Never
    is a page counted twice."""
    found = search(default_race("p0 mlock A 0 1 | compact"), "5.17-rc2+07")
    assert any(one.audit.unmarked for one in found.outcomes)
    assert not any(one.audit.count_high or one.audit.left_unevictable for one in found.outcomes)


# ---- U1 and U5, pinned
U1 = """file f tmpfs 1
p1 cpu 1
p0-1 mmap A f shared r 0 1
p0-1 touch A 0 1 r
drain
race p0 mlock A 0 1 | p1 mlock A 0 1 : p0 until lru_lock, p1 to end, p0 on
drain
p0 munlock A 0 1
drain
"""
U5 = """file f tmpfs 1
p1 cpu 1
p2 cpu 2
p0-2 mmap A f shared r 0 1
p0-2 touch A 0 1 r
p1-2 mlock A 0 1
drain
race p0 mlock A 0 1 | p1 munlock A 0 1 : p0 until lru_lock, p1 to end, p0 on
drain
"""


@pytest.mark.parametrize("number", range(7, 14))
def test_u1_a_mlock_that_loses_the_ticket_is_not_counted(number):
    system = System(point(number), cpus=2)
    steps = list(run(language.parse(U1), system))
    race, munlock = (next(step for step in steps if step["cmd"].startswith(start)) for start in ("race", "p0 munlock"))
    drained = steps[steps.index(race) + 1]
    assert drained["f"]["f"][0][4:] == ["LUMRDs", 1], "two lockers, one count"
    assert munlock["dvs"]["nr_mlock"] == -1
    assert audit(system).evictable == 1, "the other locker's page is released early"


@pytest.mark.parametrize("number", range(10, 14))
def test_u5_a_munlock_that_loses_the_ticket_clears_the_mark(number):
    system = System(point(number), cpus=3)
    steps = list(run(language.parse(U5), system))
    assert steps[-2]["dvs"]["unevictable_pgs_stranded"] == 1
    assert audit(system).evictable == 1 and audit(system).unmarked == 1


# ---- locks and cpus
def started(calls, kernel="5.17-rc2+10", cpus=2, pages=1):
    system = System(kernel, cpus=cpus)
    file = system.create_file("tmpfs", pages)
    pids = [system.spawn(cpu=n % cpus) for n in range(len(calls))]
    for pid in pids:
        system.mmap(pid, 1 << 40, pages << 12, 3, 0x11, file, 0)
        system.mlock(pid, 1 << 40, pages << 12)
    system.drain_all()
    system.defer()
    for pid, call in zip(pids, calls):
        getattr(system, call)(pid, *([] if call == "exit" else [1 << 40, pages << 12]))
    return system, Interleaving(system, system.deferred_tasks())


def test_a_held_lock_is_granted_to_nobody_else():
    _, race = started(["exit", "exit"])
    while race.asks(0) is None or race.asks(0)[0] != "i_mmap_rwsem":
        race.step(0)
    while race.asks(1) is None or race.asks(1)[0] != "i_mmap_rwsem":
        race.step(1)
    race.grant(0)
    assert ("i_mmap_rwsem", race.asks(1)[1], "write") in race.held(0)
    assert not race.ready(1) and race.hindered_by(1) == 0
    with pytest.raises(RuntimeError):
        race.step(1)
    race.step(0)
    assert race.ready(1)


def test_nothing_runs_beside_a_spinlock_holder_on_its_cpu():
    _, race = started(["munlock", "munlock"], cpus=1)
    while race.asks(0) is None or race.asks(0)[0] != "ptl":
        race.step(0)
    assert race.ready(1)
    race.grant(0)
    assert not race.ready(1) and race.hindered_by(1) == 0
    race.step(0)
    assert race.ready(1)


def test_in_turn_comes_to_the_same_end_for_the_same_seed():
    ends = []
    for seed in (1, 1, 2, 3, 4):
        system, race = started(["exit"] * 4, cpus=4, pages=64)
        assert race.in_turn(4, seed) and race.over()
        race.settle()
        ends.append((system.pages.tobytes(), tuple(race.waits().items())))
    assert ends[0] == ends[1]
    assert len(set(ends)) > 1


def test_conservation_after_every_outcome():
    """Nobody maps the page at the end: the cache's reference is the only one, and the count of mappings is 0."""
    scenario = default_race(TWO_EXITS)
    for kernel in SERIES:
        for one in search(scenario, kernel).outcomes:
            assert one.pages[0].startswith("f[0] mapcount 0 ")
            assert one.audit.locked == 0 and not one.problem


def test_lockers_are_counted_from_the_page_tables():
    system, _ = started(["exit", "exit", "exit"], cpus=3, pages=5)
    count = lockers(system)
    assert sorted(count[count > 0]) == [3] * 5
    assert audit(system).right


# ---- the search itself
def test_too_large_a_race_is_refused_in_one_line():
    with pytest.raises(SearchLimit, match="more than 500 states") as error:
        search(default_race("p0 exit | p1 exit | p2 exit"), "5.17-rc2", cpus=3, max_states=500)
    assert "\n" not in str(error.value)


def test_search_leaves_the_race_where_it_stood_and_restores_outcomes():
    from fastmlock.explore.search import Search
    system, race = started(["munlock", "munlock"])
    pages = system.pages.tobytes()
    finder = Search(race)
    found = finder.run()
    assert system.pages.tobytes() == pages
    left = []
    for one in found:
        finder.restore(one)
        left.append(audit(system).left_unevictable)
    assert sorted(left) == [0, 1]
    with pytest.raises(RuntimeError):
        finder.run()


def test_search_sees_every_order_of_two_plain_calls():
    """Against a count by hand: two calls that share nothing, of a and b steps, have (a+1)(b+1) states."""
    text = ("p1 cpu 1\np0 mmap A anon private rw 0 1\np1 mmap A anon private rw 0 1\nrace p0 ldrain | p1 ldrain\n")
    found = search(language.parse(text), "5.17-rc2")
    assert len(found.outcomes) == 1
    assert found.states == 4, "one step each: 0 or 1 first, then both, by the one or the other"


# ---- the language
@pytest.mark.parametrize(("text", "problem"), [
    ("race p0 exit", "needs two commands"),
    ("race p0 exit |", "needs two commands"),
    ("race", "needs two commands"),
    ("race p0 exit | p0 munlockall", "in the race twice"),
    ("race p0-1 exit | p2 exit", "more than one party"),
    ("race p0 fork p5 | p1 exit", "cannot race"),
    ("race drain | compact", "two commands of the controller"),
    ("race p0 exit | p1 exit | p2 exit | p3 exit | p4 exit", "5 commands race"),
    ("race p0 exit | p1 frobnicate", "unknown verb"),
    ("race p0 exit | p1 exit :", "a turn is missing"),
    ("race p0 exit | p1 exit : p0", "not complete"),
    ("race p0 exit | p1 exit : p2 on", "no party 'p2'"),
    ("race p0 exit | p1 exit : p0 until lunch", "no lock 'lunch'"),
    ("race p0 exit | p1 exit : p0 for many", "not a number of times"),
    ("race p0 exit | p1 exit : p0 to bed", "is not understood"),
    ("race p0 exit | race p1 exit | p2 exit", "cannot race"),
])
def test_bad_races_have_one_line_errors(text, problem):
    with pytest.raises(ScenarioError, match=problem) as error:
        language.parse(f"procs 5\n{text}\n", "file.txt")
    assert str(error.value).startswith("file.txt:2: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(("schedule", "problem"), [
    ("p0 until i_mmap_rwsem 9, p1 on", "has come to its end before"),
    ("p0 holding mmap_lock, p0 holding i_mmap_rwsem, p1 on", "waits for i_mmap_rwsem, which p0 holds"),
])
def test_schedules_that_cannot_be_kept(schedule, problem):
    with pytest.raises(ScenarioError, match=problem):
        play_all(default_race(f"{TWO_EXITS} : {schedule}"), "5.17-rc2+13")


def test_turns():
    turns = parse_schedule("p0 until lru_lock, p1 to end,  p0 holding ptl 3 , p0 for 2, p0 on")
    assert list(map(str, turns)) == ["p0 until lru_lock", "p1 to end", "p0 holding ptl 3", "p0 for 2", "p0 to end"]
    with pytest.raises(ScheduleError):
        parse_schedule("")


def test_race_of_the_dead_and_of_bad_arguments():
    text = "procs 2\np0 mmap A anon private rw 0 1\np1 exit\nrace p0 munmap A 0 1 byteoff=1 | p1 munlockall\n"
    step = list(run(language.parse(text), System("6.1")))[-1]
    assert (step["ret"], step["err"]) == (-1, "ESRCH")


def test_a_system_that_cannot_race_says_so():
    from fake_system import FakeSystem
    with pytest.raises(NotSupported, match="race"):
        list(run(language.parse("race p0 exit | p1 exit\n"), FakeSystem()))


# ---- the barrier of patch 09
@pytest.mark.parametrize(("order", "barrier_there", "bad"), [
    ("clear_page_mlock", True, False), ("clear_page_mlock", False, True),
    ("munlock_under_lock", True, False), ("munlock_under_lock", False, False),
    ("lost_ticket", True, True), ("lost_ticket", False, True),
])
def test_barrier(order, barrier_there, bad):
    verdict = barrier.check(order, barrier_there)
    assert verdict.bad is bad
    assert bool(verdict.trace) is bad
    assert all(mlocked == "0" and where for mlocked, where in verdict.finals), "all executions run to their ends"


def test_x86_needs_no_barrier_since_its_bit_operations_are_locked():
    assert not barrier.check("clear_page_mlock", False, locked_bitops=True).bad


def test_the_trace_is_store_buffering():
    """Each CPU looks before it can see the other's write."""
    trace = barrier.check("clear_page_mlock", False).trace
    looks = [trace.index("cpu 0: load marked mlocked -> 1"), trace.index("cpu 1: load seen lru -> 0")]
    assert max(looks) < trace.index("cpu 0's lru = 1 becomes visible")
