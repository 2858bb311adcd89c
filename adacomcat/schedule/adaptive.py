"""Adaptive schedule of Adaptive-ComCAT: longer intervals while the plan stays the same."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from adacomcat.checks import require
from adacomcat.schedule.base import Schedule, is_number, require_whole

# Beyond this a float no longer tells one epoch from the next; without a bound, growth would reach
# infinity, which JSON cannot hold.
LONGEST = 2.0**53


@dataclass(init=False)
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

    Raises:
        ValueError: a coefficient out of range; the field is named as `schedule.growth`.
    """

    kind: ClassVar[str] = "adaptive"

    growth: float
    shrink: float | Literal["reset"]
    tolerance: float
    max_interval: float | None
    warmup: int
    rule: Literal["modulo", "elapsed"]
    """The coefficient `due`, whose name the method has."""

    interval: float = field(init=False, default=1.0)
    """F(t), real: only the due rule takes its floor."""

    def __init__(
        self,
        growth: float = 2.0,
        shrink: float | Literal["reset"] = "reset",
        tolerance: float = 0.0,
        max_interval: float | None = None,
        warmup: int = 1,
        due: Literal["modulo", "elapsed"] = "modulo",
    ) -> None:
        """Take the coefficients of the recurrence.

        Args:
            growth: factor of F when the plan stood still; 1 or more.
            shrink: divisor of F when the plan changed, above 1; `reset` goes back to 1.
            tolerance: plans at most this far apart (`Plan.distance`, 0 to 1) count as the same.
            max_interval: F never exceeds it, in epochs; None: no cap.
            warmup: the first epochs, which never search; epoch 0 always is one of them.
            due: the rule by which F says when.
        """
        sound = is_number(growth) and growth >= 1
        require(sound, "schedule.growth", growth, "a number of 1 or more")
        sound = shrink == "reset" or (is_number(shrink) and shrink > 1)
        require(sound, "schedule.shrink", shrink, "'reset' or a number above 1")
        sound = is_number(tolerance) and tolerance >= 0
        require(sound, "schedule.tolerance", tolerance, "a number of 0 or more")
        sound = max_interval is None or (is_number(max_interval) and max_interval >= 1)
        require(sound, "schedule.max_interval", max_interval, "a number of 1 or more, or None")
        require_whole(warmup, 1, "warmup")
        require(due in ("modulo", "elapsed"), "schedule.due", due, "modulo, elapsed")
        self.growth, self.shrink, self.tolerance = growth, shrink, tolerance
        self.max_interval, self.warmup, self.rule = max_interval, warmup, due

    def config(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "growth": self.growth,
            "shrink": self.shrink,
            "tolerance": self.tolerance,
            "max_interval": self.max_interval,
            "warmup": self.warmup,
            "due": self.rule,
        }

    def due(self, epoch: int) -> bool:
        if epoch < self.warmup:
            return False
        whole = math.floor(self.interval)
        if self.rule == "modulo":
            return epoch % whole == 0
        return self.last_search is None or epoch - self.last_search >= whole

    def observe(self, epoch: int, distance: float | None) -> None:
        super().observe(epoch, distance)
        if distance is None:
            return
        if distance <= self.tolerance:
            cap = LONGEST if self.max_interval is None else self.max_interval
            self.interval = min(self.growth * self.interval, cap)
        elif self.shrink == "reset":
            self.interval = 1.0
        else:
            self.interval = max(1.0, self.interval / self.shrink)
