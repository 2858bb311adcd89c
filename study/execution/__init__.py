"""Execution of a study's trials."""
