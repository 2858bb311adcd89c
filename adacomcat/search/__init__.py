"""Search strategies: how a plan within a budget is found."""
