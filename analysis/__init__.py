"""Figures and tables of stored results."""

import os
import sys

# Scripts draw to files. MPLBACKEND may name a backend that is not installed where a script runs
# (notebook kernels export theirs to all that they start), and then matplotlib cannot be imported.
if not hasattr(sys, "ps1"):
    os.environ["MPLBACKEND"] = "agg"
