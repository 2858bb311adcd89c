"""Relations between arms by their names: series over budgets, references, draws.

Experiments name their arms by these rules, and nothing else of an experiment is needed here:

    fixed_1, never, uniform   references of all other arms
    NAME_50                   NAME at a reduction of 50 %, if a reference is there at 50 %, too
    END_but_CHOICE            END with one choice taken from another end
    random_1, random_2        draws of the same schedule
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

REFERENCES = ("fixed_1", "never", "uniform")
"""Arms that all others are compared with, at the same budget where a study has several."""

CONTROLS = ("once", "settled", "even", "front", "random", "oracle")
"""Arms that `adaptive` is compared with as well: it must beat them to be worth its name."""

POOLED = "random"
"""The mean of the draws of a random schedule, seed by seed, as an arm."""

_NUMBERED = re.compile(r"(.+)_(\d+)")
_BUT = re.compile(r"(.+)_but_(.+)")


def series(arm: str, names: Sequence[str]) -> tuple[str, int | None]:
    """The name of an arm without its budget, and its reduction in %; None without a budget.

    Args:
        arm: one of `names`.
        names: all arms of the study.
    """
    match = _NUMBERED.fullmatch(arm)
    if match and any(f"{reference}_{match[2]}" in names for reference in REFERENCES):
        return match[1], int(match[2])
    return arm, None


def without_budget(label: str) -> str:
    """The label of an arm's series: `adaptive` of `adaptive, -30%`."""
    return re.sub(r",? -\d+%$", "", label)


def references(
    arm: str, names: Sequence[str], methods: Mapping[str, str | None] = MappingProxyType({})
) -> dict[str, str]:
    """The arms that an arm is compared with: name of the reference -> family of comparisons.

    A family is what p-values are corrected over: all comparisons with the same reference (at any
    budget), and those of `adaptive` with its controls. In a study of several methods, an arm is
    also compared with the arms of other methods that are listed before it. Draws are only compared
    together.

    Args:
        arm: one of `names`.
        names: all arms of the study, and `POOLED` where there are draws.
        methods: arm -> name of its method.
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
    if name not in REFERENCES:
        for other in names[: names.index(arm)]:
            of_other, share = series(other, names)
            unlike = methods.get(arm, "") != methods.get(other, methods.get(arm, ""))
            if share == reduction and unlike:
                found.setdefault(other, of_other)
    return {other: family for other, family in found.items() if other in names and other != arm}


def ends(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The arms that differ from an end by one choice: arm -> (end, choice)."""
    matches = {name: _BUT.fullmatch(name) for name in names}
    return {name: (m[1], m[2]) for name, m in matches.items() if m and m[1] in names}


def ends_of(names: Sequence[str]) -> list[str]:
    """The ends of the arms of `ends`, in the order of the study."""
    some = {end for end, _ in ends(names).values()}
    return [name for name in names if name in some]


def draws(names: Sequence[str]) -> list[str]:
    """The draws of the random schedule; none where there is only one."""
    found = [name for name in names if re.fullmatch(rf"{POOLED}_\d+", name)]
    return found if len(found) > 1 else []
