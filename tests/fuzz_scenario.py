"""Feeds mutated scenarios to the parser and the runner: they must answer, or tell one line, and never hang.

    python tests/fuzz_scenario.py [BYTES [SEED]]        10 million bytes by default

With the compiled model built it runs on that, else on the tests' small system. Exit status 1 if
anything but a scenario's own error comes out, with the text that did it in fuzz-failure.txt.
"""
from __future__ import annotations

import random
import sys
import time

from fake_system import FakeSystem

from fastmlock.scenario import recordings
from fastmlock.scenario.commands import ADVICE
from fastmlock.scenario.language import CONTROLLER, PROCESS, ScenarioError, parse
from fastmlock.scenario.run import run
from fastmlock.scenario.system import NotSupported

SECONDS_EACH = 30
WORDS = [*CONTROLLER, *PROCESS, *ADVICE, "procs", "F", "G", "A", "B", "anon", "shared", "private", "rw", "r", "none",
         "locked", "populate", "onfault", "at=A+1", "bytes=-1", "byteoff=4095", "flags=2", "p0", "p1", "p0-3", "p71",
         "p72", "move", "maymove", "dontunmap", "tmpfs", "ext4", "sparse", "0", "1", "4096", "-1", "65536",
         "9223372036854775807", "-9223372036854775808", "1e9", "#", "\0", "\xff", "\t", "", "\r"]


def mutated(rng: random.Random, texts: list[bytes]) -> bytes:
    """One recorded scenario with a few lines, words or bytes changed."""
    lines = rng.choice(texts).decode().splitlines()
    for _ in range(rng.choice((0, 1, 1, 1, 2, 16))):
        at = rng.randrange(len(lines)) if lines else 0
        words = lines[at].split(" ") if lines else [""]
        match rng.randrange(8):
            case 0 if lines:
                del lines[at]
            case 1:
                lines.insert(at, rng.choice(rng.choice(texts).decode().splitlines()))
            case 2 if lines:
                lines.insert(rng.randrange(len(lines)), lines[at])
            case 3 | 4 if lines:
                words[rng.randrange(len(words))] = rng.choice(WORDS)
                lines[at] = " ".join(words)
            case 5 if lines:
                words.insert(rng.randrange(len(words) + 1), rng.choice(WORDS))
                lines[at] = " ".join(words)
            case 6 if lines:
                words[rng.randrange(len(words))] = str(rng.choice((rng.randrange(100), rng.randrange(-2**63, 2**63))))
                lines[at] = " ".join(words)
            case _:
                lines.insert(at, " ".join(rng.choice(WORDS) for _ in range(rng.randrange(8))))
    text = bytearray("\n".join(lines).encode("utf-8", "surrogateescape"))
    for _ in range(rng.choice((0, 0, 0, 0, 1, 3)) if text else 0):
        text[rng.randrange(len(text))] = rng.randrange(256)
    return bytes(text)


def attempt(text: bytes, system: type = FakeSystem, kernel: str = "6.1") -> str:
    """Parses and runs it; -> "ran", "refused" or "not supported". Anything else is raised."""
    try:
        scenario = parse(text)
        for record in run(scenario, system(kernel=kernel), kernel=kernel):
            assert list(record)[:2] == ["step", "cmd"]
    except ScenarioError as error:
        assert str(error).isprintable() and ";" in str(error)
        return "refused"
    except NotSupported as error:
        assert str(error).startswith("not supported: ")
        return "not supported"
    return "ran"


def campaign(*, seed: int, total_bytes: int, system: type = FakeSystem, kernels: tuple[str, ...] = ("6.1",)) -> int:
    """Tries mutations until `total_bytes` have been read; -> how many were. Raises on the first failure."""
    rng = random.Random(seed)
    texts = [recordings.text(name) for name in recordings.scenarios()]
    done, outcomes = 0, {"ran": 0, "refused": 0, "not supported": 0}
    while done < total_bytes:
        text = mutated(rng, texts)
        start = time.monotonic()
        try:
            outcomes[attempt(text, system, rng.choice(kernels))] += 1
            took = time.monotonic() - start
            if took > SECONDS_EACH:
                raise TimeoutError(f"{took:.0f} s for {len(text)} bytes")
        except BaseException:
            with open("fuzz-failure.txt", "wb") as stream:
                stream.write(text)
            raise
        done += max(len(text), 1)
    print(f"{done} bytes, {sum(outcomes.values())} scenarios: "
          + ", ".join(f"{count} {name}" for name, count in outcomes.items()))
    assert all(outcomes[name] for name in ("ran", "refused"))
    return done


def main(argv: list[str]) -> int:
    total_bytes = int(argv[0]) if argv else 10_000_000
    seed = int(argv[1]) if len(argv) > 1 else 0
    try:
        from fastmlock.system import System
    except ImportError:
        campaign(seed=seed, total_bytes=total_bytes)
    else:
        from fastmlock.kernels import RELEASES
        campaign(seed=seed, total_bytes=total_bytes, system=System, kernels=tuple(RELEASES))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
