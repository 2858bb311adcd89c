"""One file an experiment: a function `experiment(workload, seeds)` that returns an `Experiment`."""
