"""What the names of arms say of one another: series over budgets, references, draws.

Experiments name their arms by these rules, and nothing else of an experiment is needed here:

    fixed_1, never, uniform   what every other arm is compared with
    NAME_50                   NAME at a reduction of 50 %, where one of these is there at 50 %, too
    lowrank, diffrate, both   methods, compared with one another
    END_but_CHOICE            END with one choice taken from another end
    random_1, random_2        draws of the same schedule
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

REFERENCES = ("fixed_1", "never", "uniform")
"""What an arm is compared with, where the study has it; at its own budget where it has several."""

CONTROLS = ("once", "settled", "even", "front", "random", "oracle")
"""What `adaptive` is compared with besides: it must beat them to be worth its name."""

METHODS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"diffrate": ("lowrank",), "both": ("lowrank", "diffrate")}
)
"""What a method is compared with besides, at its own budget."""

POOLED = "random"
"""The draws of a random schedule taken together: their mean, seed by seed."""

_NUMBERED = re.compile(r"(.+)_(\d+)")
_BUT = re.compile(r"(.+)_but_(.+)")


def series(arm: str, names: Sequence[str]) -> tuple[str, int | None]:
    """The name of an arm without its budget, and the budget's reduction in %; None without one.

    Args:
        arm: one of `names`.
        names: all arms of the study.
    """
    match = _NUMBERED.fullmatch(arm)
    if match and any(f"{reference}_{match[2]}" in names for reference in REFERENCES):
        return match[1], int(match[2])
    return arm, None


def without_budget(label: str) -> str:
    """What a figure calls an arm in a panel or on a line of its own budget: `adaptive, -30%`."""
    return re.sub(r",? -\d+%$", "", label)


def references(arm: str, names: Sequence[str]) -> dict[str, str]:
    """What an arm is compared with: name of the reference -> family of comparisons.

    A family is what p-values are corrected over: all comparisons with the same reference (at
    whatever budget), and those of `adaptive` with its controls. Draws are compared together only.

    Args:
        arm: one of `names`.
        names: all arms of the study, and `POOLED` where there are draws.
    """
    changed, poles = ends(names), ends_of(names)
    if arm in changed:
        return {changed[arm][0]: changed[arm][0]}
    if arm in poles:
        return {pole: pole for pole in poles if pole != arm}
    if arm in draws(names) and POOLED in names:
        return {}
    name, reduction = series(arm, names)
    suffix = "" if reduction is None else f"_{reduction}"
    found = {f"{reference}{suffix}": reference for reference in REFERENCES}
    if name == "adaptive":
        found |= {f"{control}{suffix}": "adaptive" for control in CONTROLS}
    found |= {f"{other}{suffix}": other for other in METHODS.get(name, ())}
    return {other: family for other, family in found.items() if other in names and other != arm}


def ends(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The arms that are one end of a comparison but for a choice: arm -> (end, choice)."""
    matches = {name: _BUT.fullmatch(name) for name in names}
    return {name: (m[1], m[2]) for name, m in matches.items() if m and m[1] in names}


def ends_of(names: Sequence[str]) -> list[str]:
    """The ends that some arm of `ends` belongs to, in the order of the arms."""
    some = {end for end, _ in ends(names).values()}
    return [name for name in names if name in some]


def draws(names: Sequence[str]) -> list[str]:
    """The arms that are draws of the random schedule; none where there is but one."""
    found = [name for name in names if re.fullmatch(rf"{POOLED}_\d+", name)]
    return found if len(found) > 1 else []
