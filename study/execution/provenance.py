"""Provenance of a result: code, commit, versions and machine."""

import os

from adacomcat.versions import PACKAGES, collect, git_state, repository

__all__ = ["PACKAGES", "collect", "git_state", "python_path", "repository"]


def python_path() -> str:
    """A `PYTHONPATH` on which the packages of `repository` come first, then the user's folders.

    Its empty entries, which stand for the current directory, are left out.
    """
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return os.pathsep.join(dict.fromkeys([str(repository()), *given]))
