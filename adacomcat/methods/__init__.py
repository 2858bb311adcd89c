"""Compression methods, a folder each."""
