"""The points of verification: closed forms hold, counts are exact, and misses are told."""
import json

import pytest

from fastmlock.cli import main
from fastmlock.verification import Comparison, Point, lines, points, verify


@pytest.mark.parametrize("name", ["two-locks", "ticket", "ltp-33-pages", "munlock-2013"])
def test_points_that_must_hit(name: str) -> None:
    (point,) = verify([name], quick=True)
    assert point.comparisons and point.misses == 0, "\n".join(lines(point))


def test_a_miss_is_printed_and_told(monkeypatch, tmp_path, capsys) -> None:
    def bad(quick: bool) -> Point:
        return Point(name="bad", title="Bad", source="nowhere", factor=1.1, comparisons=[
            Comparison(what="too high", model=2.0, known=1.0), Comparison(what="fine", model=1.05, known=1.0)])
    monkeypatch.setattr("fastmlock.verification.points", lambda: {"bad": bad})
    assert main(["verification", "bad", "-o", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "MISS  too high" in out and "hit   fine" in out and "1 of 2 hit, 1 missed" in out
    record = json.loads((tmp_path / "verification.json").read_text())
    assert [c["hit"] for c in record[0]["comparisons"]] == [False, True]
    assert (tmp_path / "bad.png").stat().st_size > 1000


@pytest.mark.parametrize("factor, least, most", [(1.25, 0.75, 1.25), (1.01, 0.99, 1.01), (2, 0.5, 2), (1, 1, 1)])
def test_what_within_means(factor: float, least: float, most: float) -> None:
    """Per cent are of what is known; a factor counts either way."""
    for ratio, hits in ((least, True), (most, True), (least - 1e-6, False), (most + 1e-6, False)):
        one = Comparison(what="it", model=100 * ratio, known=100)
        assert Point(name="p", title="P", source="here", factor=factor, comparisons=[one]).hit(one) is hits


def test_unknown_point_is_refused_in_one_line(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["verification", "nosuch"]) == 2
    told = capsys.readouterr()
    assert "nosuch" in told.err and told.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_every_point_has_a_source() -> None:
    assert {"machine-repairman", "hand-over", "ticket", "rwsem-curves", "mlockmany-2024", "live"} <= set(points())
