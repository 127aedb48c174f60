"""Measures the user's machine and turns what it finds into costs and a machine that the model can run with."""
