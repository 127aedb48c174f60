"""The systems that a scenario can be run on."""
from __future__ import annotations

from importlib import import_module

from fastmlock import kernels
from fastmlock.scenario.conformance import SystemFactory
from fastmlock.scenario.system import Maker, SystemUnderTest

from . import InputError


def factory(*, reference: bool) -> SystemFactory:
    """Makes systems of a release: the compiled model's, or the plain Python reference's.

    The factory raises `fastmlock.kernels.UnknownKernel`; this, `InputError` where nothing is compiled.
    """
    module, name = ("fastmlock.reference", "ReferenceSystem") if reference else ("fastmlock.system", "System")
    try:
        model = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{module}.{name} cannot be loaded ({error}); build it: pip install -e .") from None

    def make(release: str) -> SystemUnderTest:
        kernels.get(release)
        system: SystemUnderTest = model(kernel=release, cpus=2, worker_cpu=0, controller_cpu=1)
        return system
    return make


def bare(release: str, *, reference: bool) -> Maker:
    """Makes systems of one release. Raises as `factory`."""
    kernels.get(release)
    make = factory(reference=reference)
    return lambda: make(release)
