"""Compiles every .pyx under fastmlock/; all else is in pyproject.toml.

Builds of other kinds, by environment variable:
  FASTMLOCK_DEBUG=1     checks bounds and defines FASTMLOCK_DEBUG, which turns on the model's own checks
  FASTMLOCK_PROFILE=1   line tracing, no inlining: for profilers that see Cython lines
  FASTMLOCK_ANNOTATE=1  writes an .html beside each generated .c, under build/c-annotate
"""
import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

JOBS = 2
SOURCE = Path("fastmlock")


def wanted(name: str) -> bool:
    return os.environ.get(f"FASTMLOCK_{name}", "0") not in ("", "0")


DEBUG, PROFILE, ANNOTATE = wanted("DEBUG"), wanted("PROFILE"), wanted("ANNOTATE")
KIND = "-".join(["c"] + ["debug"] * DEBUG + ["profile"] * PROFILE + ["annotate"] * ANNOTATE)
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "linetrace": PROFILE,
    "profile": PROFILE,
}


class Build(build_ext):
    """Generates C under build/KIND, and compiles anew whatever a build of another kind has left."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or JOBS

    def build_extensions(self) -> None:
        mark = Path("build/kind")
        self.force = self.force or not mark.exists() or mark.read_text() != KIND
        generated = cythonize(self.extensions, build_dir=f"build/{KIND}", nthreads=JOBS, annotate=ANNOTATE,
                              compiler_directives=DIRECTIVES)
        sources = {extension.name: extension.sources for extension in generated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]
        mark.unlink(missing_ok=True)
        super().build_extensions()
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(KIND)


headers = sorted(str(path) for path in SOURCE.rglob("*.h"))
setup(
    cmdclass={"build_ext": Build},
    ext_modules=[
        Extension(
            ".".join(pyx.with_suffix("").parts),
            [str(pyx)],
            include_dirs=sorted({".", *(os.path.dirname(header) for header in headers)}),
            depends=headers,
            define_macros=[("FASTMLOCK_DEBUG", "1")] * DEBUG + [("CYTHON_TRACE_NOGIL", "1")] * PROFILE,
            extra_compile_args=["-O1" if DEBUG else "-O2", "-g"] + ["-fno-inline-functions"] * PROFILE,
        )
        for pyx in sorted(SOURCE.rglob("*.pyx"))
    ],
)
