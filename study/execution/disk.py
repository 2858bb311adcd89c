"""What a full disk looks like behind other errors, and a log that lives with one."""

import errno
import logging
import re
import sys

FULL = (errno.ENOSPC, errno.EDQUOT)
_TEXT = re.compile(rf"\[errno ({'|'.join(map(str, FULL))})\]", re.IGNORECASE)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk or an exhausted quota is behind an error."""
    left, seen = [error], set()
    while left:
        found = left.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, OSError) and found.errno in FULL:
            return True
        if type(found).__module__.partition(".")[0] == "ray":
            # What came from another process has lost what was behind it, but for the traceback
            # in its text.
            if _TEXT.search(str(found)):
                return True
            # A task's, a Train controller's, and those of a Train run's workers.
            left += [getattr(found, "cause", None), getattr(found, "controller_failure", None)]
            left += getattr(found, "worker_failures", {}).values()
        left += [found.__cause__, found.__context__]
    return False


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
