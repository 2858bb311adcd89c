"""Run many trials and keep what happened."""
