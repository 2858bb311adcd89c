"""What a full disk looks like behind other errors, and a log that lives with one."""

import errno
import re

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
