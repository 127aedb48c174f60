"""Runs a command of this project on a machine that has only Python 3.11+, gcc and a package index.

    python3 .ci/bootstrap.py test [PYTEST ARGUMENTS]
    python3 .ci/bootstrap.py storm [OPTIONS OF fastmlock storm]

Makes a virtual environment in .venv (FASTMLOCK_VENV names another place), installs this folder there
with what it needs, and runs the command. A later run installs again only if what is compiled or
declared has changed. Without venv it uses virtualenv; without both, pip alone, into the same folder.
"""
from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = Path(os.environ.get("FASTMLOCK_VENV", ROOT / ".venv")).absolute()
COMMANDS = {"test": ["-m", "pytest"], "storm": ["-m", "fastmlock", "storm"]}
PIP = ["-m", "pip", "--disable-pip-version-check", "--no-input"]


class SetupError(Exception):
    """Why this machine cannot run it; str() says what to install."""


@dataclass(frozen=True)
class Environment:
    """A Python that has, or will have, the project installed."""

    python: str
    pip: list[str]
    """The command that installs for `python`, up to "install"."""
    options: list[str] = field(default_factory=list)
    """What "install" needs besides."""
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, arguments: list[str]) -> int:
        try:
            return subprocess.call([self.python, *arguments], env={**os.environ, **self.variables}, cwd=ROOT)
        except KeyboardInterrupt:
            return 130


def say(text: str) -> None:
    print(f"[setup] {text}", file=sys.stderr, flush=True)


def works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def environment() -> Environment:
    """The environment in PLACE, made if it is not there. Raises `SetupError`."""
    python = str(PLACE / "bin" / "python")
    recent = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    inside = Environment(python, [python, *PIP])
    if works(recent) and works([python, *PIP, "--version"]):
        return inside
    if not (PLACE / "packages").exists():
        say(f"making a virtual environment in {PLACE}")
        shutil.rmtree(PLACE, ignore_errors=True)
        for maker in ("venv", "virtualenv"):
            if works([sys.executable, "-m", maker, str(PLACE)]) and works([python, *PIP, "--version"]):
                return inside
            shutil.rmtree(PLACE, ignore_errors=True)
    if importlib.util.find_spec("pip") is None:
        raise SetupError("this Python has neither venv nor pip; install them "
                         "(Debian, Ubuntu: apt-get install python3-venv python3-dev)")
    say(f"no virtual environments on this Python: using pip with the folder {PLACE}/packages")
    packages = PLACE / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    return Environment(sys.executable, [sys.executable, *PIP], ["--target", str(packages), "--upgrade"],
                       {"PYTHONPATH": os.pathsep.join([str(ROOT), str(packages)])})


def sources() -> Iterator[Path]:
    """What an installation depends on: the rest is read from this folder as it stands."""
    yield ROOT / "pyproject.toml"
    yield ROOT / "setup.py"
    for ending in ("*.pyx", "*.pxd", "*.h"):
        yield from (ROOT / "fastmlock").rglob(ending)


def state(env: Environment, about: str) -> str:
    """Changes whenever the project must be installed again; `about` is what `identity` says of the Python."""
    digest = hashlib.sha256(f"{about} {env.python} {ROOT}".encode())
    for name in ("FASTMLOCK_DEBUG", "FASTMLOCK_PROFILE", "CC", "CFLAGS"):
        digest.update(f"{name}={os.environ.get(name, '')}".encode())
    for path in sorted(sources()):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def identity(env: Environment) -> list[str]:
    """Version, ending of compiled modules and folder of headers of the environment's Python, which may be
    another than the one that runs this."""
    code = ("import sys, sysconfig; "
            "print(sys.version.split()[0], sysconfig.get_config_var('EXT_SUFFIX'), sysconfig.get_path('include'))")
    return subprocess.run([env.python, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def compiled(ending: str) -> bool:
    return all(pyx.with_suffix(ending).exists() for pyx in (ROOT / "fastmlock").rglob("*.pyx"))


def check_compiler(headers: str) -> None:
    compiler = os.environ.get("CC", "gcc").split()[0]
    if shutil.which(compiler) is None and shutil.which("cc") is None:
        raise SetupError(f"no C compiler ({compiler}); install one (Debian, Ubuntu: apt-get install gcc libc6-dev)")
    header = Path(headers) / "Python.h"
    if not header.exists():
        raise SetupError(f"{header} is missing; install Python's headers (Debian, Ubuntu: apt-get install python3-dev)")


def install(env: Environment) -> None:
    """Brings the project and all it needs into `env`, if that is not done already. Raises `SetupError`."""
    version, ending, headers = identity(env)
    mark, now = PLACE / "installed", state(env, version)
    if mark.exists() and mark.read_text() == now and compiled(ending):
        return
    check_compiler(headers)
    say("installing fastmlock and what it needs; this takes a few minutes the first time")
    mark.unlink(missing_ok=True)
    project = [".[test]"] if env.options else ["-e", ".[test]"]
    commands = [[*env.pip, "install", "-q", *env.options, *project]]
    if env.options:  # --target knows no editable installation: compile in this folder, with the packages there
        commands.append([*env.pip, "install", "-q", *env.options, "setuptools>=77", "Cython>=3.1"])
        commands.append([env.python, "setup.py", "-q", "build_ext", "--inplace"])
    for command in commands:
        if subprocess.call(command, cwd=ROOT, env={**os.environ, **env.variables}, stdout=sys.stderr):
            raise SetupError(f"this failed, its reasons stand above: {' '.join(command)}")
    mark.write_text(now)


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 2
    if sys.version_info < (3, 11):  # noqa: UP036
        say(f"Python 3.11 or later is needed, this is {sys.version.split()[0]}: {sys.executable}")
        return 2
    try:
        with open(f"{PLACE}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            env = environment()
            install(env)
    except (SetupError, OSError) as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    return env.run(COMMANDS[argv[0]] + argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
