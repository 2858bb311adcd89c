"""Runtime settings: use of the machine, without effect on the numbers."""

from typing import ClassVar

from pydantic import Field

from adacomcat.config.base import Config


class RuntimeConfig(Config):
    """Settings that cannot change a number of a trial that ends.

    They are in no trial id and no key of a cache, and a trial may be resumed with others. Every
    image has random numbers of its own, so that the number of loader processes plays no part; and
    a damaged image either ends a trial or is left out of it, in both cases whatever else is set.
    Whatever rounds otherwise stays with the recipe (`bf16`, `accumulate`, `compile`).
    """

    place: ClassVar[str] = "runtime"

    num_workers: int = Field(default=0, ge=0, le=1024)
    """Loader processes of data read from disk; data held in memory needs none."""
    skip_unreadable: bool = False
    """Leave out images that cannot be decoded, and count them; otherwise the first one is an
    error."""
