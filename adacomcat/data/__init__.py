"""Data sets, their four disjoint splits, and loaders independent of the number of workers.

`build_splits` cuts a data set into train, search, val and test; `make_loader` reads one of them;
`cycle` goes round one for as many steps as a search needs.
"""

from adacomcat.data.loaders import Loader, cycle, make_loader
from adacomcat.data.splits import Split, Splits, build_splits

__all__ = ["Loader", "Split", "Splits", "build_splits", "cycle", "make_loader"]
