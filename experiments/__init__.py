"""Experiments, one file each: `experiment(workload, seeds)` returns an `Experiment`."""
