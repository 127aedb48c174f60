"""The series patch by patch: one workload at every point of it, and what each patch does."""
