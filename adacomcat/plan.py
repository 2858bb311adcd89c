"""Plans: the decision of a search for every site, such as a rank or a count of tokens."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from adacomcat.checks import require, require_known

Decision = int | float | str | bool | None
"""Decision for one site; None leaves the site dense."""
Distance = Callable[[Decision, Decision], float]
"""Two decisions of a site -> from 0 (only if equal) to 1."""


def relative_distance(a: Decision, b: Decision) -> float:
    """Default distance of two decisions, where a site does not define its own.

    Numbers by `|a - b| / max(|a|, |b|)`, at most 1; anything else counts 0 if equal and 1 if not.
    """
    if _typed(a) == _typed(b):
        return 0.0
    if isinstance(a, bool | str | None) or isinstance(b, bool | str | None):
        return 1.0
    if a == b:  # 2 and 2.0
        return 0.0
    return min(abs(a - b) / max(abs(a), abs(b)), 1.0)


@dataclass(frozen=True, eq=False)
class Plan:
    """A decision per site, in the order of the model's sites.

    Two plans are equal when method and decisions are; the order of the sites plays no part. As in
    JSON, 1, 1.0 and true are different decisions.

    Raises:
        ValueError: no site, an empty name, or a decision that is no JSON scalar.
    """

    version: ClassVar[int] = 2
    """Version of the JSON format; version 1 allowed only null and integers of 1 or more."""

    method: str
    """Name of the compression method that understands the decisions."""
    decisions: Mapping[str, Decision]
    """Site -> decision; None leaves it dense. Copied, and read-only afterwards."""

    def __post_init__(self) -> None:
        named = isinstance(self.method, str) and self.method != ""
        require(named, "plan.method", self.method, "the name of a method")
        is_mapping = isinstance(self.decisions, Mapping) and len(self.decisions) > 0
        require(is_mapping, "plan.decisions", self.decisions, "a mapping with at least one site")
        for site, decision in self.decisions.items():
            named = isinstance(site, str) and site != ""
            require(named, "plan.decisions", site, "names of sites as keys")
            # By type: a subclass, such as numpy's float64, does not read back as what it was.
            scalar = type(decision) in (int, float, str, bool, type(None))
            sound = scalar and (type(decision) is not float or math.isfinite(decision))
            allowed = "a finite number, text, true, false, or None"
            require(sound, f"plan.decisions.{site}", decision, allowed)
        # Plus zero: -0.0 equals 0.0, and has another digest.
        plain = {s: d + 0.0 if type(d) is float else d for s, d in self.decisions.items()}
        object.__setattr__(self, "decisions", MappingProxyType(plain))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        return self.method == other.method and self._typed() == other._typed()

    def __hash__(self) -> int:
        return hash((self.method, frozenset(self._typed().items())))

    def __reduce__(self) -> tuple[type["Plan"], tuple[str, dict[str, Decision]]]:
        # A read-only view cannot be copied or sent to another process; its content can.
        return Plan, (self.method, dict(self.decisions))

    def distance(self, other: "Plan", sites: Mapping[str, Distance] | None = None) -> float:
        """Distance of two plans: the mean of the distances of their sites.

        A site that is dense in one plan alone counts 1.

        Args:
            other: of the same method and sites.
            sites: site -> distance of two of its decisions, neither of them None; by default, and
                for sites that are not in it, `relative_distance`.

        Returns:
            From 0 to 1; 0 only when no site says that its decisions differ.

        Raises:
            ValueError: the other plan is of another method or has other sites.
        """
        self._require_comparable(other)
        known = {} if sites is None else sites
        terms = [
            _apart(decision, other.decisions[site], known.get(site, relative_distance))
            for site, decision in self.decisions.items()
        ]
        # fsum: the distance must not depend on the order of the sites.
        return math.fsum(terms) / len(terms)

    def changed(self, other: "Plan") -> tuple[str, ...]:
        """The sites on which two plans differ, in this plan's order.

        Raises:
            ValueError: the other plan is of another method or has other sites.
        """
        self._require_comparable(other)
        mine, theirs = self._typed(), other._typed()
        return tuple(site for site in self.decisions if mine[site] != theirs[site])

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON-able data; `from_json` reads it back."""
        return {
            "version": self.version,
            "method": self.method,
            "decisions": dict(self.decisions),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Plan":
        """Read the output of `to_json`.

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

    def _typed(self) -> dict[str, tuple[type, Decision]]:
        return {site: _typed(decision) for site, decision in self.decisions.items()}

    def _require_comparable(self, other: "Plan") -> None:
        require(self.method == other.method, "plan.method", other.method, self.method)
        differing = sorted(self.decisions.keys() ^ other.decisions.keys())
        require(not differing, "plan.decisions", differing, "the same sites in both plans")


def _typed(decision: Decision) -> tuple[type, Decision]:
    # To Python 1, 1.0 and True are equal; to JSON they are not.
    return type(decision), decision


def _apart(a: Decision, b: Decision, distance: Distance) -> float:
    if a is None or b is None:
        return 0.0 if a is b else 1.0
    return distance(a, b)
