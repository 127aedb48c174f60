"""The benchmarks load as asv loads them: every module of the package, with nothing but the package's own needs."""
from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_every_module_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    for name in ("simpy", "cimba", "pytest"):   # asv's environments have none of them
        monkeypatch.setitem(sys.modules, name, None)
    found = [module.name for module in pkgutil.walk_packages([str(ROOT / "benches")], "benches.")]
    assert {"benches.bench_mm", "benches.bench_storm"} <= set(found)
    for name in found:
        importlib.import_module(name)


@pytest.mark.parametrize("name", ["PagevecDrain", "PteRange", "RmapWalk", "Populate"])
def test_a_benchmark_runs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    bench = getattr(importlib.import_module("benches.bench_mm"), name)
    params = bench.params if isinstance(bench.params, tuple) else (bench.params,)
    arguments = [values[0] for values in params]
    one = bench()
    one.setup(*arguments)
    timed = [method for method in dir(one) if method.startswith("time_")]
    assert timed
    for method in timed:
        getattr(one, method)(*arguments)
