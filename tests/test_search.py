"""fastmlock storm --until: the smallest storm that trips a watchdog."""
from __future__ import annotations

from fastmlock.cli import main
from fastmlock.machine.costs import Costs
from fastmlock.studies.search import Found, smallest, trips
from fastmlock.studies.storm import Storm

# a detector with the patience of 30 us that looks every 10 us
IMPATIENT = Costs.default().replace(hung_task=30_000, watchdog_sample=10_000, soft_lockup=10**12, rcu_stall=10**12)


def storm(procs: int = 1) -> Storm:
    return Storm(procs=procs, pages=400, cpus=16, mappers=100, costs=IMPATIENT)


def test_the_smallest_is_smallest() -> None:
    found = smallest(storm(), "5.17-rc2", "hung-task", most=64)
    assert found.procs and found.tried[found.procs] and not found.tried[found.procs - 1]
    assert "INFO: task locker:" in found.dmesg[0] and f"{found.procs} processes" in found.sentence()
    assert trips(storm(found.procs), "5.17-rc2", "hung-task")[0]
    assert not trips(storm(found.procs - 1), "5.17-rc2", "hung-task")[0]
    if found.monotone:
        assert "never better" in found.sentence()


def test_none_is_said_to_be_none() -> None:
    found = smallest(Storm(procs=2, pages=50, cpus=4), "5.18", "hung-task", most=4)
    assert found.procs is None and "no hung-task with up to 4 processes" in found.sentence()


def test_more_may_be_better_and_is_then_said() -> None:
    found = Found(kernel="k", event="hung-task", procs=4, tried={4: True, 8: False, 3: False}, dmesg=(), end_ns=0)
    assert not found.monotone and "not always worse" in found.sentence()


def test_command(capsys, tmp_path) -> None:
    costs = tmp_path / "costs.toml"
    costs.write_text("[watchdog]\n" + "".join(f'{name} = {{ ns = {IMPATIENT[name].ns}, origin = "given" }}\n'
                     for name in ("hung_task", "watchdog_sample", "soft_lockup", "rcu_stall")))
    assert main(["storm", "--until", "hung-task", "--procs", "2", "--pages", "400", "--cpus", "16", "--mappers", "100",
                 "--kernels", "5.17-rc2", "--costs", str(costs), "--most", "64"]) == 0
    out = capsys.readouterr().out
    assert "smallest number found" in out and "blocked for more than 0 seconds" in out
    assert main(["storm", "--until", "boredom"]) == 2
    assert main(["storm", "--until", "hung-task", "--procs", "8", "--most", "4"]) == 2
