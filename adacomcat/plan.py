"""The plan: what a search decides, a number per site: a rank, or how many tokens are kept."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from adacomcat.checks import require, require_known


@dataclass(frozen=True, eq=False)
class Plan:
    """A decision per site, in the order of the model's sites.

    Two plans are equal when method and decisions are; the order of the sites plays no part.

    Raises:
        ValueError: no site, an empty name, or a decision that is neither None nor 1 or more.
    """

    version: ClassVar[int] = 1
    """Of the JSON form."""

    method: str
    """Name of the compression method that understands the decisions."""
    decisions: Mapping[str, int | None]
    """Site -> rank or tokens kept; None leaves it dense. Copied, and read-only afterwards."""

    def __post_init__(self) -> None:
        named = isinstance(self.method, str) and self.method != ""
        require(named, "plan.method", self.method, "the name of a method")
        is_mapping = isinstance(self.decisions, Mapping) and len(self.decisions) > 0
        require(is_mapping, "plan.decisions", self.decisions, "a mapping with at least one site")
        for site, decision in self.decisions.items():
            named = isinstance(site, str) and site != ""
            require(named, "plan.decisions", site, "names of sites as keys")
            # A bool is an int to isinstance, and true is no rank.
            sound = decision is None or (type(decision) is int and decision >= 1)
            require(sound, f"plan.decisions.{site}", decision, "an integer of 1 or more, or None")
        object.__setattr__(self, "decisions", MappingProxyType(dict(self.decisions)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        return self.method == other.method and self.decisions == other.decisions

    def __hash__(self) -> int:
        return hash((self.method, frozenset(self.decisions.items())))

    def __reduce__(self) -> tuple[type["Plan"], tuple[str, dict[str, int | None]]]:
        # A read-only view cannot be copied or sent to another process; its content can.
        return Plan, (self.method, dict(self.decisions))

    def distance(self, other: "Plan") -> float:
        """How far two plans are apart: the mean over sites of `|a - b| / max(a, b)`.

        A site that is dense in one plan alone counts 1.

        Returns:
            From 0 to 1; 0 only when the plans are equal.

        Raises:
            ValueError: the other plan is of another method or has other sites.
        """
        self._require_comparable(other)
        terms = (_apart(rank, other.decisions[site]) for site, rank in self.decisions.items())
        # fsum: the distance must not depend on the order of the sites.
        return math.fsum(terms) / len(self.decisions)

    def changed(self, other: "Plan") -> tuple[str, ...]:
        """The sites on which two plans differ, in this plan's order.

        Raises:
            ValueError: the other plan is of another method or has other sites.
        """
        self._require_comparable(other)
        return tuple(s for s, rank in self.decisions.items() if rank != other.decisions[s])

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON-able data; `from_json` reads it back."""
        return {
            "version": self.version,
            "method": self.method,
            "decisions": dict(self.decisions),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Plan":
        """Read what `to_json` gave.

        Raises:
            ValueError: a missing or unknown field, a newer version, or a refused decision.
        """
        fields = ("version", "method", "decisions")
        require(isinstance(data, Mapping), "plan", data, "a mapping")
        for name in fields:
            require(name in data, f"plan.{name}", "nothing", "a plan has this field")
        version = data["version"]
        known = type(version) is int and 1 <= version <= cls.version
        allowed = f"1 to {cls.version}; a newer version needs a newer adacomcat"
        require(known, "plan.version", version, allowed)
        for name in data:
            require_known(name, fields, f"plan.{name}")
        return cls(data["method"], data["decisions"])

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal: equal plans, equal digests."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def _require_comparable(self, other: "Plan") -> None:
        require(self.method == other.method, "plan.method", other.method, self.method)
        differing = sorted(self.decisions.keys() ^ other.decisions.keys())
        require(not differing, "plan.decisions", differing, "the same sites in both plans")


def _apart(a: int | None, b: int | None) -> float:
    if a == b:
        return 0.0
    if a is None or b is None:
        return 1.0
    return abs(a - b) / max(a, b)
