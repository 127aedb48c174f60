"""Scenarios: small programs for processes, run on a model or compared with recordings of real kernels."""
from .commands import Scenario
from .language import ScenarioError, load, parse
from .run import run

__all__ = ["Scenario", "ScenarioError", "load", "parse", "run"]
