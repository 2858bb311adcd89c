"""Adaptive schedule of Adaptive-ComCAT: longer intervals while the plan stays the same."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, PrivateAttr

from adacomcat.schedule.base import Schedule

# Beyond this a float no longer tells one epoch from the next; without a bound, growth would reach
# infinity, which JSON cannot hold.
LONGEST = 2.0**53


class Adaptive(Schedule):
    """The interval F grows while searches confirm the plan, and shrinks when they change it.

    F(0) = 1. After a search at epoch t whose plan is `distance` away from the plan in force:

        F(t) = min(growth * F(t-1), max_interval)   if distance <= tolerance
        F(t) = 1                                    otherwise, with shrink="reset"
        F(t) = max(1, F(t-1) / shrink)              otherwise, with a number

    and F(t) = F(t-1) where nothing was searched, or nothing could be compared (the first search).
    A search is due at epoch t >= warmup

        due="modulo"    when t mod floor(F) = 0
        due="elapsed"   when t - (epoch of the last search) >= floor(F); at once before the first

    Source: the reference implementation of Adaptive-ComCAT, whose rule is the default here:
    growth 2, reset, no tolerance, no cap, modulo. Generalized: all six coefficients. Differs: the
    reference doubles after a search at t > 1, here after any search that had a plan to compare
    with; with a first search at epoch 1 that is the same.

    The published DeiT-S run, 30 epochs: the search of epoch 1 is the first (F stays 1), that of
    epoch 2 changes one site (F = 1), those of 3, 4, 8 and 16 change none (F = 2, 4, 8, 16). So it
    searches at 1, 2, 3, 4, 8, 16; the next would be epoch 32. The modulo rule is what makes
    epoch 4 follow 3: 4 mod 2 = 0. Under `elapsed` the same plans would be searched at
    1, 2, 3, 5, 9, 17.
    """

    kind: ClassVar[str] = "adaptive"

    growth: float = Field(default=2.0, ge=1)
    """Factor of F when the plan stood still."""
    shrink: Annotated[float, Field(gt=1)] | Literal["reset"] = "reset"
    """Divisor of F when the plan changed; `reset` goes back to 1."""
    tolerance: float = Field(default=0.0, ge=0)
    """Plans at most this far apart (`Plan.distance`, 0 to 1) count as the same."""
    max_interval: Annotated[float, Field(ge=1)] | None = None
    """Upper bound of F, in epochs; None: no bound."""
    warmup: PositiveInt = 1
    """The first epochs, which never search; epoch 0 always is one of them."""
    rule: Literal["modulo", "elapsed"] = Field(default="modulo", alias="due")
    """The coefficient `due`, named otherwise here because the method has that name."""

    _interval: float = PrivateAttr(default=1.0)

    @property
    def interval(self) -> float:
        """F(t), real: only the due rule takes its floor."""
        return self._interval

    def due(self, epoch: int) -> bool:
        if epoch < self.warmup:
            return False
        whole = math.floor(self._interval)
        if self.rule == "modulo":
            return epoch % whole == 0
        return self.last_search is None or epoch - self.last_search >= whole

    def observe(self, epoch: int, distance: float | None) -> None:
        super().observe(epoch, distance)
        if distance is None:
            return
        if distance <= self.tolerance:
            cap = LONGEST if self.max_interval is None else self.max_interval
            self._interval = min(self.growth * self._interval, cap)
        elif self.shrink == "reset":
            self._interval = 1.0
        else:
            self._interval = max(1.0, self._interval / self.shrink)
