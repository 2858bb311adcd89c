"""The command line for one model: `python -m adacomcat --help`."""

import os
import sys
from collections.abc import Sequence

from adacomcat.cli.parser import check, parser

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Returns:
        0: done; 1: the training broke, or the disk is full; 2: the request was refused; 130:
        interrupted.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(given)
    try:
        check(arguments)
        # Not at the top: torch takes seconds, and `--help` should not.
        from adacomcat.cli.commands import run

        return run(arguments, given)
    except KeyboardInterrupt:
        return INTERRUPTED
    except ValueError as error:
        _say(error)
        return USAGE
    except OSError as error:
        _say(error)
        return FAILED


def _say(error: Exception) -> None:
    number = int(os.environ.get("RANK", "0"))
    who = f" (worker {number})" if number > 0 else ""
    print(f"error{who}: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
