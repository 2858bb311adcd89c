"""Command line for single models, without Ray."""
