"""Schedules: policies that decide at which epochs to search."""

from adacomcat.schedule.adaptive import Adaptive
from adacomcat.schedule.base import Schedule, build_schedule, schedule_kind
from adacomcat.schedule.explicit import Explicit
from adacomcat.schedule.fixed import Fixed, Never, Once
from adacomcat.schedule.oracle import best_epochs, regret, stale_distance

__all__ = [
    "Adaptive",
    "Explicit",
    "Fixed",
    "Never",
    "Once",
    "Schedule",
    "best_epochs",
    "build_schedule",
    "regret",
    "schedule_kind",
    "stale_distance",
]
