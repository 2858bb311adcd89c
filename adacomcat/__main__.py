"""Entry point of `python -m adacomcat`, the same as `adacomcat`."""

import sys

from adacomcat.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
