"""--sure: intervals over uncertain constants."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fastmlock.cli import main
from fastmlock.machine.costs import Costs
from fastmlock.studies.storm import Storm
from fastmlock.studies.sure import EXACT, sentences, sure, uncertain

STORM = Storm(procs=4, pages=100, cpus=4, survivor="after", stagger_ns=5000)


def test_same_answers_in_any_number_of_threads() -> None:
    one = sure(STORM, ("5.17-rc2", "5.18"), samples=8, threads=1)
    two = sure(STORM, ("5.17-rc2", "5.18"), samples=8, threads=3)
    assert all(np.array_equal(one.values[name], two.values[name]) for name in one.values)
    assert np.array_equal(one.samples, two.samples)


def test_a_latin_hypercube_inside_its_ranges() -> None:
    answers = sure(STORM, ("5.17-rc2", "5.18"), samples=10)
    low, high = 1 / answers.spreads, answers.spreads
    assert np.all((answers.samples >= low) & (answers.samples <= high))
    # one sample in each tenth of each constant's range
    tenth = np.floor(10 * (np.log(answers.samples) / np.log(high) + 1) / 2).astype(int)
    assert all(sorted(column) == list(range(10)) for column in tenth.T)
    middle, low_end, high_end = answers.interval("ratio")
    assert low_end <= middle <= high_end
    assert np.ptp(answers.values["5.17-rc2"]) > 0


def test_what_is_exact_does_not_vary() -> None:
    constants = uncertain(Costs.default())
    assert not set(EXACT) & set(constants) and "work.rmap_vma" in constants and constants["switch"] == 3


def test_the_tornado_finds_what_matters() -> None:
    table = Costs({name: replace(cost, origin="assumed" if name in ("work.free", "switch") else "given")
                   for name, cost in Costs.default().items()})
    answers = sure(replace(STORM, procs=1, survivor="none", costs=table), ("5.17-rc2", "5.18"), samples=20)
    rows = {row[0]: row[1:] for row in answers.tornado("5.18")}
    assert rows["memory_ns"][0] > 0.6 and rows["memory_ns"][1] < rows["memory_ns"][2]      # a lone process: cold lines
    assert abs(rows["switch"][0]) < 0.5             # nobody else is there to switch to
    assert "90 % intervals" in sentences(answers)[0]


def test_command(tmp_path, capsys) -> None:
    assert main(["storm", "--procs", "3", "--pages", "40", "--sure", "6", "-o", str(tmp_path)]) == 0
    assert "times as long as 5.18" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sure.json", "sure.png"]
    assert main(["storm", "--sure", "2"]) == 2


def test_too_few_samples() -> None:
    with pytest.raises(ValueError, match="at least 5"):
        sure(STORM, ("5.17-rc2", "5.18"), samples=3)
