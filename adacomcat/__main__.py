"""The command line: `python -m adacomcat` is `adacomcat`."""

import sys

from adacomcat.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
