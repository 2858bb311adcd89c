"""One search pass: the searcher, the budget, the annealing of the temperature."""
