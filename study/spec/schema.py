"""Schema of a study: typed and validated descriptions, with stable trial ids."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, NonNegativeInt, model_validator

from adacomcat.checks import require, require_known
from adacomcat.config import TrialConfig
from adacomcat.config.base import Config
from adacomcat.config.trial import identity
from study.spec.exploration import Exploration, Name


class Workload(Config):
    """A data set, a dense model and a training recipe."""

    name: Name
    description: str
    """One line."""
    defaults: dict[str, Any] = {}
    """Settings of `TrialConfig`, as `adacomcat.overrides.build_config` takes them."""


class Need(Config):
    """A finished trial of the same seed that another one needs before it can start."""

    arm: Name
    """Arm of the needed trial."""
    role: Name
    """Role of the trial in the resolver."""


class Arm(Config):
    """One setting of the factor under study.

    Raises:
        ValueError: a resolver without needs, needs without a resolver, or a role given twice.
    """

    place: ClassVar[str] = "arms.{name}"

    name: Name
    label: str
    """Name in tables and figures."""
    overrides: dict[str, Any]
    """Settings of this arm, as `build_config` takes them; `--set` cannot change them."""
    needs: tuple[Need, ...] = ()
    resolver: Name | None = None
    """Function of `study.spec.resolve` that makes the remaining settings from the needed traces."""

    @model_validator(mode="after")
    def _check(self) -> "Arm":
        both = (self.resolver is None) == (not self.needs)
        require(both, "resolver", self.resolver, "together with needs")
        roles = [need.role for need in self.needs]
        require(len(set(roles)) == len(roles), "needs", roles, "each role once")
        return self


class Experiment(Config):
    """A question, and the trials that answer it: every arm with every seed on one workload.

    Raises:
        ValueError: an arm or a seed given twice, a negative seed, or an arm that needs an unknown
            arm, itself or another that waits for it.
    """

    name: Name
    question: str
    workload: Workload
    arms: tuple[Arm, ...] = Field(min_length=1)
    seeds: tuple[NonNegativeInt, ...] = Field(min_length=1)
    figures: tuple[Name, ...] = ()
    """Modules of `analysis` that are run on the results when the trials have ended."""
    exploration: Exploration | None = None
    """Hyperparameter search; the arms are then its references, and Optuna suggests more."""

    @model_validator(mode="after")
    def _check(self) -> "Experiment":
        names = [arm.name for arm in self.arms]
        require(len(set(names)) == len(names), "arms", names, "each arm once")
        require(len(set(self.seeds)) == len(self.seeds), "seeds", self.seeds, "each seed once")
        for arm in self.arms:
            for need in arm.needs:
                require_known(need.arm, names, f"arms.{arm.name}.needs")
        levels({arm.name: {need.arm for need in arm.needs} for arm in self.arms}, "arms")
        if self.exploration is not None:
            needy = [arm.name for arm in self.arms if arm.needs]
            require(not needy, "arms.needs", needy, "none, where the arms are references")
            for name in self.exploration.points:
                require_known(name, names, "exploration.points")
        return self


class TrialSpec(Config):
    """One arm x workload x seed, ready to run (or to be resolved, where it has needs)."""

    trial_id: str
    experiment: Name
    workload: Name
    arm: Name
    label: str
    seed: int
    config: dict[str, Any]
    """A `TrialConfig` as JSON."""
    needs: dict[str, str] = {}
    """role -> trial id."""
    resolver: Name | None = None

    def trial_config(self) -> TrialConfig:
        """The configuration as an object."""
        return TrialConfig.from_json(self.config)

    @property
    def leakage(self) -> tuple[str, ...]:
        """Uses of the reported images elsewhere; see `DataConfig.leakage`."""
        return self.trial_config().data.leakage


def make_trial_id(
    workload: str, arm: str, seed: int, config: Mapping[str, Any], needs: Mapping[str, str]
) -> str:
    """The stable, file-name safe name of a trial.

    It ends in 8 hexadecimal digits of the hash of the configuration; where a trial is resolved from
    others their ids are hashed too, since other traces make another trial.
    """
    determined = identity(config)
    content = {"config": determined, "needs": needs} if needs else determined
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{workload}-{arm}-s{seed}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def levels(needs: Mapping[str, set[str]], field: str) -> list[list[str]]:
    """Sort names into waves, each after everything that it needs; order is kept within a wave.

    Args:
        needs: name -> names that must come before it.
        field: dotted name for the message.

    Raises:
        ValueError: names that wait for each other, so that none can start.
    """
    waves: list[list[str]] = []
    done: set[str] = set()
    while len(done) < len(needs):
        wave = [name for name, wants in needs.items() if name not in done and wants <= done]
        waiting = [name for name in needs if name not in done]
        require(bool(wave), f"{field}.needs", waiting, "no circle of arms that wait for each other")
        waves.append(wave)
        done.update(wave)
    return waves
