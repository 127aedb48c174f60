"""Virtual time: CPUs, cache lines, locks, scheduler and watchdogs (see `fastmlock.machine.machine`)."""
