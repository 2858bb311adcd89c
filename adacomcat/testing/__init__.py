"""Test utilities for this package, and for methods and schedules in other packages."""
