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
    assert {"benches.bench_mm", "benches.bench_storm", "benches.bench_locks"} <= set(found)
    for name in found:
        importlib.import_module(name)


@pytest.mark.parametrize("module, name", [
    *(("mm", name) for name in ("PagevecDrain", "PteRange", "RmapWalk", "Populate")),
    *(("locks", name) for name in ("SpinLock", "PageLock", "RwSem", "IMmapRwSem"))])
def test_a_benchmark_runs(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    bench = getattr(importlib.import_module(f"benches.bench_{module}"), name)
    params = getattr(bench, "params", ())
    params = params if isinstance(params, tuple) else (params,)
    arguments = [values[0] for values in params]
    one = bench()
    one.setup(*arguments)
    timed = [method for method in dir(one) if method.startswith("time_")]
    assert timed
    for method in timed:
        getattr(one, method)(*arguments)
