"""Detection of full and read-only disks behind other errors."""

import errno
import re

from adacomcat.files import WriteError
from study.execution.causes import behind, is_of_ray

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Error numbers after which nothing more can be recorded."""
_TEXT = re.compile(
    rf"\[errno ({'|'.join(map(str, FULL))})\]|{WriteError.__module__}.{WriteError.__name__}: ",
    re.IGNORECASE,
)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full or read-only disk, or one of our files that could not be written, is behind.

    A permission that is lost in the middle counts where it hinders a writer of ours: of a file that
    cannot be read the trial alone fails.
    """
    return any(_is_full(found) for found in behind(error))


def _is_full(error: BaseException) -> bool:
    if isinstance(error, WriteError) or (isinstance(error, OSError) and error.errno in FULL):
        return True
    # What came from another process has lost what was behind it, but for the traceback in its text.
    return is_of_ray(error) and bool(_TEXT.search(str(error)))
