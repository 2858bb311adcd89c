"""What a full disk looks like behind other errors, and a log that lives with one."""

import errno
import logging
import re
import sys

from study.execution.causes import behind, is_of_ray

FULL = (errno.ENOSPC, errno.EDQUOT)
_TEXT = re.compile(rf"\[errno ({'|'.join(map(str, FULL))})\]", re.IGNORECASE)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk or an exhausted quota is behind an error."""
    return any(_is_full(found) for found in behind(error))


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    # What came from another process has lost what was behind it, but for the traceback in its text.
    return is_of_ray(error) and bool(_TEXT.search(str(error)))


class LogFile(logging.FileHandler):
    """A log that loses what a full disk does not take.

    Others would print a traceback over the display for every record, and raise at the end, over the
    error that says what has happened.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        if not is_disk_full(sys.exc_info()[1]):
            super().handleError(record)

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:
            if not is_disk_full(error):
                raise
