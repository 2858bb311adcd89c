"""Search strategies: how to find a plan within a budget."""
