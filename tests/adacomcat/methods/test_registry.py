"""A method that is registered from outside is a method like any other."""

import subprocess
import sys

import pytest

from adacomcat.methods import registry
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.registry import build_method, register, registrations, registrations_of
from adacomcat.testing.methods import MethodConformance
from adacomcat.testing.models import tiny_vit


@register("untrained", method=f"{__name__}:Untrained")
class UntrainedConfig(LowRankConfig):
    pass


class Untrained(LowRank):
    """Ranks from candidates that no search tells apart: there is nothing to train."""

    name = "untrained"

    def architecture_parameters(self):
        return []


class TestWithoutArchitectureParameters(MethodConformance):
    configs = ({"name": "untrained"},)


def test_the_built_in_methods_are_found_by_their_folders():
    known = registrations()
    assert {"lowrank", "diffrate"} <= set(known)
    assert known["lowrank"].config is LowRankConfig
    assert known["untrained"].config is UntrainedConfig
    assert [each.name for each in registrations_of("lowrank+diffrate")] == ["lowrank", "diffrate"]


def test_a_method_from_outside_is_built_by_its_name():
    method = build_method(tiny_vit(), {"name": "untrained", "fractions": [0.5]})
    assert type(method) is Untrained and method.config == UntrainedConfig(fractions=(0.5,))


def test_an_installed_package_registers_by_an_entry_point(monkeypatch):
    loaded = []

    class Point:
        def load(self):
            loaded.append(self)

    monkeypatch.setattr(
        registry, "entry_points", lambda group: [Point()] if "adacom" in group else []
    )
    registry._load_known.cache_clear()
    registrations()
    registrations()
    assert len(loaded) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "untraned"}, r"method\.name: got 'untraned' \(did you mean 'untrained'\?\)"),
        ({"name": "lowrank+"}, r"method\.name: got ''"),
        (
            {"name": "lowrank+lowrank"},
            r"method\.name: got .*allowed: lowrank once",
        ),
        ({"name": "untrained", "fraction": 1}, r"method\.fraction: .* 'fractions'"),
        ({"name": "lowrank+diffrate", "lowrank": 3}, r"method\.lowrank: got 3, allowed: a mapping"),
        (
            {"name": "diffrate+lowrank"},
            r"method\.name: got .*allowed: diffrate last",
        ),
        ({"name": "lowrank+untrained"}, r"method\.name: .*parts without common sites"),
    ],
)
def test_what_cannot_be_built_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_method(tiny_vit(), settings)


@pytest.mark.parametrize("name", ["lowrank", "a+b", ""])
def test_a_name_is_taken_once(name):
    with pytest.raises(ValueError, match="register: got"):
        register(name, method="nowhere:Nothing")(type("Other", (), {}))


def test_names_are_known_without_torch():
    program = (
        "import sys; from adacomcat.methods.registry import registrations; registrations();"
        "print('torch' in sys.modules, 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().split() == ["False", "False"]
