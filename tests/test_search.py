"""fastmlock storm --until: the smallest storm that trips a watchdog."""
from __future__ import annotations

import pytest

from fastmlock.cli import main
from fastmlock.machine.costs import Costs
from fastmlock.studies.search import Found, Trial, smallest, trips
from fastmlock.studies.storm import Storm, StormError, run

# a detector with the patience of 30 us that looks every 10 us
IMPATIENT = Costs.default().replace(hung_task=30_000, watchdog_sample=10_000, soft_lockup=10**12, rcu_stall=10**12)


def storm(procs: int = 1) -> Storm:
    return Storm(procs=procs, pages=400, cpus=16, mappers=100, costs=IMPATIENT)


def test_the_smallest_is_smallest() -> None:
    found = smallest(storm(), "5.17-rc2", "hung-task", most=64)
    assert found.number and found.trials[found.number].tripped and not found.trials[found.number - 1].tripped
    assert "INFO: task locker:" in found.dmesg[0] and f"{found.number} processes" in found.sentence()
    assert trips(storm(found.number), "5.17-rc2", "hung-task").tripped
    assert not trips(storm(found.number - 1), "5.17-rc2", "hung-task").tripped
    if found.monotone:
        assert "never better" in found.sentence()


def test_none_is_said_to_be_none_and_how_near_it_came() -> None:
    found = smallest(Storm(procs=32, pages=400, cpus=4, mappers=100), "5.17-rc2", "hung-task", most=64)
    assert found.number is None and "no hung-task with up to 64 processes" in found.sentence()
    longest = max(trial.wait_ns for trial in found.trials.values())
    assert 10**5 < longest < 10**9 and f"{longest / 1e9:.3g} s, for i_mmap_rwsem (" in found.sentence()
    assert "it takes 120 s or more" in found.sentence()
    alone = smallest(Storm(procs=1, pages=50, cpus=2), "5.18", "soft-lockup", most=1)
    assert "nobody waited" in alone.sentence()


def test_more_may_be_better_and_is_then_said() -> None:
    def trial(tripped: bool) -> Trial:
        return Trial(tripped=tripped, dmesg=(), end_ns=0, wait_ns=0, wait_lock="")

    found = Found(kernel="k", event="hung-task", vary="procs", number=4, patience_ns=1,
                  trials={4: trial(True), 8: trial(False), 3: trial(False)})
    assert not found.monotone and "not always worse" in found.sentence()


@pytest.mark.parametrize("maps", [1, 40])
def test_mapped_more_than_once(maps: int) -> None:
    """Every mapping of the file is passed by each walk, whether it was ever touched or not."""
    result = run(Storm(procs=1, pages=30, cpus=2, mappers=5, maps=maps), "5.17-rc2")
    assert result.rmap_walks == 30 and result.rmap_vmas == 30 * (5 * maps + 1)
    assert run(Storm(procs=1, pages=30, cpus=2, mappers=5, maps=maps), "5.18").rmap_vmas == 0


@pytest.mark.parametrize("kernel", ["5.10", "5.17-rc2", "5.18", "6.12"])
def test_munlock_lets_everything_go(kernel: str) -> None:
    result = run(Storm(procs=4, pages=100, cpus=8, mappers=2, leave="munlock", order="in-turn"), kernel)
    assert result.munlocks == 400 and result.nr_mlock == result.nr_unevictable == 0
    assert result.vmstat["unevictable_pgs_munlocked"] > 0


def test_another_thread_waits_for_munlock() -> None:
    """Its first write to a page of its own waits for mmap_lock until the call is over, 40 ns a mapping and page."""
    costs = Costs.default().replace(hung_task=4 * 10**9)
    one = Storm(procs=1, pages=1024, cpus=2, mappers=1, leave="munlock", coarse=True, costs=costs)
    assert not trips(one, "5.17-rc2", "hung-task").tripped
    many = Storm(procs=1, pages=1024, cpus=2, mappers=5, maps=20_000, leave="munlock", coarse=True, costs=costs)
    patient = trips(many, "5.17-rc2", "hung-task")         # over after 1024 * 100,001 * 40 ns, seen once in its sleep
    assert not patient.tripped and patient.wait_lock == "mmap_lock (read)"
    assert patient.wait_ns == pytest.approx(1024 * 100_001 * 40, rel=0.02)
    assert not trips(many, "5.18", "hung-task").tripped


def test_command(capsys, tmp_path) -> None:
    costs = tmp_path / "costs.toml"
    costs.write_text("[watchdog]\n" + "".join(f'{name} = {{ ns = {IMPATIENT[name].ns}, origin = "given" }}\n'
                     for name in ("hung_task", "watchdog_sample", "soft_lockup", "rcu_stall")))
    assert main(["storm", "--until", "hung-task", "--procs", "2", "--pages", "400", "--cpus", "16", "--mappers", "100",
                 "--kernels", "5.17-rc2", "--costs", str(costs), "--most", "64"]) == 0
    out = capsys.readouterr().out
    assert "smallest number found" in out and "blocked for more than 0 seconds" in out


def test_command_finds_mappers(capsys) -> None:
    """The sysctl's time instead of 120 s; at 4096 pages of 10,000 mappings each mapper takes 1.64 s more."""
    assert main(["storm", "--until", "hung-task", "--vary", "mappers", "--leave", "munlock", "--procs", "1", "--pages",
                 "4096", "--maps", "10000", "--mappers", "4", "--most", "6", "--hung-task-timeout-secs", "4",
                 "--coarse", "--kernels", "5.17-rc2"]) == 0
    out = capsys.readouterr().out
    assert "5 mappers are the smallest number found that trips the hung-task detector; 4 do not" in out
    assert "blocked for more than 4 seconds" in out and "down_read(&mm->mmap_lock of" in out


@pytest.mark.parametrize("wrong", [
    ["--until", "boredom"], ["--until", "hung-task", "--procs", "8", "--most", "4"],
    ["--until", "hung-task", "--vary", "cpus"], ["--until", "hung-task", "--vary", "mappers", "--most", "0"],
    ["--hung-task-timeout-secs", "0"], ["--leave", "quietly"], ["--maps", "0"], ["--maps", "65531"],
    ["--maps", "65530", "--pages", "1000000"],
])
def test_what_is_refused(wrong: list[str], capsys) -> None:
    assert main(["storm", *wrong]) == 2
    assert "--" in capsys.readouterr().err


def test_a_search_varies_what_there_is() -> None:
    with pytest.raises(StormError, match="--vary"):
        smallest(storm(), "5.18", "hung-task", most=2, vary="pages")
