"""The one table of costs: every constant in ns, with its origin. See `costs.toml` for the values."""
from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

GROUPS = ("work", "lock", "sched", "watchdog")
ORIGINS = ("measured", "published", "derived", "assumed", "given")


class CostError(ValueError):
    """A cost that is unknown or impossible; the text is one line."""


@dataclass(frozen=True)
class Cost:
    """One constant: `ns` and how it is known."""

    ns: float
    origin: str


class Costs(Mapping[str, Cost]):
    """All constants by name; work kinds are named ``work.pte``, the others plainly: ``switch``, ``wake``."""

    def __init__(self, table: Mapping[str, Cost]) -> None:
        self._table = dict(table)

    @classmethod
    def default(cls) -> Costs:
        """The table that comes with the package."""
        return cls(cls._read(files(__package__).joinpath("costs.toml").read_text(), "costs.toml"))

    @classmethod
    def load(cls, path: str | Path) -> Costs:
        """The default table with what a file of the same form says otherwise."""
        path = Path(path)
        try:
            text = path.read_text()
        except OSError as error:
            raise CostError(f"{path}: {error.strerror}") from None
        return cls.default()._with(cls._read(text, str(path)), str(path))

    @classmethod
    def zero(cls) -> Costs:
        """Work, locks and switching take no time; slices and time limits stay. For closed forms."""
        keep = ("slice", "wake_granularity", "rwsem_timeout", "rwsem_spin_base", "rwsem_spin_reader")
        return cls({name: cost if name in keep or name in _watchdogs() else Cost(0, "definition")
                    for name, cost in cls.default().items()})

    @staticmethod
    def _read(text: str, where: str) -> dict[str, Cost]:
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise CostError(f"{where}: {error}") from None
        out = {}
        for group, entries in tables.items():
            if group not in GROUPS:
                raise CostError(f"{where}: unknown group [{group}]; there are {', '.join(GROUPS)}")
            for name, entry in entries.items():
                name = f"work.{name}" if group == "work" else name
                if not isinstance(entry, dict) or set(entry) != {"ns", "origin"}:
                    raise CostError(f"{where}: {name} needs ns and origin, nothing else")
                if not str(entry["origin"]).startswith(ORIGINS):
                    raise CostError(f"{where}: the origin of {name} must begin with one of {', '.join(ORIGINS)}")
                out[name] = _cost(name, entry["ns"], entry["origin"], where)
        return out

    def _with(self, changes: Mapping[str, Cost], where: str) -> Costs:
        unknown = sorted(set(changes) - set(self._table))
        if unknown:
            raise CostError(f"{where}: unknown: {', '.join(unknown)}")
        return Costs({**self._table, **changes})

    def replace(self, **ns: float) -> Costs:
        """The table with other values: ``replace(switch=1200, work_rmap_vma=80)``."""
        changes = {}
        for name, value in ns.items():
            name = name.replace("work_", "work.", 1) if name.startswith("work_") else name
            changes[name] = _cost(name, value, "given", "replace")
        return self._with(changes, "replace")

    def __getitem__(self, name: str) -> Cost:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


def _watchdogs() -> tuple[str, ...]:
    return ("watchdog_sample", "soft_lockup", "hung_task", "rcu_stall")


def _cost(name: str, ns: object, origin: object, where: str) -> Cost:
    if isinstance(ns, bool) or not isinstance(ns, int | float) or not 0 <= ns < 1e15:
        raise CostError(f"{where}: {name} = {ns!r}: nanoseconds from 0 to 1e15 are needed")
    if not name.startswith("work.") and ns != int(ns):
        raise CostError(f"{where}: {name} = {ns!r}: whole nanoseconds are needed")
    return Cost(ns if name.startswith("work.") else int(ns), str(origin))
