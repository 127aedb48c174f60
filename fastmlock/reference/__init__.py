"""A slow, plain model of what Linux does with mlocked pages; the specification in executable form.

One function per kernel function, in modules named after the kernel's files. `ReferenceSystem` speaks the protocol of
`fastmlock.scenario.system.SystemUnderTest`.
"""
from .system import ReferenceSystem
from .traits import KERNELS, Traits, traits_of

__all__ = ["KERNELS", "ReferenceSystem", "Traits", "traits_of"]
