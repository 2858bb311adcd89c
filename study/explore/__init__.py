"""Explorations led by Optuna."""
