"""`adacomcat study ...`: the command line of the study, where the repository is."""

import importlib
import sys
import tomllib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import adacomcat

NEEDED = ("ray", "optuna")


def run(argv: Sequence[str]) -> int:
    """Run `study/run.py` of this repository.

    Args:
        argv: what comes after `study`.

    Raises:
        ValueError: this package was installed without the repository, or without the extra.
    """
    root = Path(adacomcat.__file__).resolve().parents[1]
    if not _is_repository(root):
        raise ValueError(
            "adacomcat study: runs from a clone of the repository, which this installation is not "
            "of: in the clone, pip install -e '.[study]'"
        )
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"adacomcat study: {', '.join(missing)} not installed: pip install -e '{root}[study]'"
        )
    # In front of everything else, so that no other package `study` is taken for this one.
    sys.path.insert(0, str(root))
    status: int = importlib.import_module("study.run").main(argv)
    return status


def _is_repository(root: Path) -> bool:
    """Whether a folder is that of this project, not one where others have a package `study`."""
    project = root / "pyproject.toml"
    if not (project.is_file() and (root / "study" / "run.py").is_file()):
        return False
    name: object = tomllib.loads(project.read_text()).get("project", {}).get("name")
    return name == "adacomcat"
