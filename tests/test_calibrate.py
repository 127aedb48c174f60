"""fastmlock calibrate: what it writes can be read again, and its model side answers to the constants it sets."""
from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fastmlock.calibrate.fit import SET_BY, fitted, probe, write
from fastmlock.calibrate.kernel import Measured
from fastmlock.calibrate.model import costs_of
from fastmlock.cli import main
from fastmlock.machine.costs import Costs
from fastmlock.machine.topology import Topology

TWO = Topology(cpus=2, nodes=1, cores_per_node=2, node_transfer_ns=60)


def exactly(**ns: float) -> dict[str, Measured]:
    return {name: Measured(value, value, value, 5) for name, value in ns.items()}


def test_constants_are_found_that_give_what_was_measured() -> None:
    measured = exactly(syscall=120, uncontended=7, fault_shared=700, fault_anon=1100, unmap_anon=90, populate=40,
                       deactivate=90)
    costs = fitted(measured, TWO)
    model = costs_of("6.18", costs, TWO)
    for operation in SET_BY.values():
        assert model[operation] == pytest.approx(measured[operation].ns, rel=0.02)
    assert costs["atomic"].ns == 7 and costs["work.syscall"].ns == 120


def test_what_is_written_is_read_again(tmp_path) -> None:
    measured = exactly(syscall=120, uncontended=7, fault_shared=700, fault_anon=1100, unmap_anon=90, populate=40,
                       deactivate=90)
    costs = fitted(measured, TWO)
    write(str(tmp_path), measured, costs, TWO)
    again = Costs.load(tmp_path / "costs.toml")
    assert again["work.fault"].ns == pytest.approx(costs["work.fault"].ns, abs=0.1)
    assert again["work.fault"].origin.startswith("measured: fault_shared 700.0 ns, 10 to 90 %")
    assert Topology.load(tmp_path / "machine.toml") == TWO
    assert json.loads((tmp_path / "measured.json").read_text())["operations"]["syscall"]["ns"] == 120


def test_two_cpus_in_the_model_pay_for_their_lines() -> None:
    model = costs_of("6.18", Costs.default(), TWO)
    assert model["mlock_shared_2"] > model["mlock_shared"]
    rows = costs_of("6.18", Costs.default(), replace(TWO, row_ns=5))
    assert rows["mlock_shared"] == model["mlock_shared"] and rows["mlock_shared_2"] < 0.7 * model["mlock_shared_2"]


def test_the_probe_answers() -> None:
    found = probe(5)
    assert 0 < found["uncontended"].ns < 10_000
    assert 0 < found["own_row"].ns < 10_000
    assert found["uncontended"].low_ns <= found["uncontended"].ns <= found["uncontended"].high_ns


def test_too_few_repetitions(capsys) -> None:
    assert main(["calibrate", "--repeat", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
