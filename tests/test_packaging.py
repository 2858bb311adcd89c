import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from setuptools import find_packages

from adacomcat.config.yaml import read_yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("adacomcat", "study", "experiments", "analysis")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENVIRONMENT = read_yaml((ROOT / "environment.yml").read_text())


LIBRARY = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
OPTIONAL = {"adacomcat/data/builtin.py": "scikit-learn"}
"""Modules of the library that say in a line what to install for the one thing that needs it."""


def parsed(requirements):
    found = [Requirement(text) for text in requirements]
    assert len({r.name for r in found}) == len(found), "a requirement is listed twice"
    return {r.name: (r.extras, r.specifier) for r in found if r.name != "adacomcat"}


def test_conda_and_pip_install_the_same():
    *conda, pip = ENVIRONMENT["dependencies"]
    editable, *listed = pip["pip"]
    assert editable.split() == ["--editable", ".[study]"]
    assert parsed(listed) == parsed([*LIBRARY, *EXTRAS["study"]])
    assert parsed(conda)["python"][1] == SpecifierSet(PROJECT["project"]["requires-python"])
    assert "pip" in conda


def test_the_tests_need_all_that_can_be_run():
    assert "adacomcat[study,export]" in EXTRAS["test"]


def test_bounds_are_lower_bounds_only():
    for group in (LIBRARY, *EXTRAS.values()):
        for name, (_, specifiers) in parsed(group).items():
            assert [s.operator for s in specifiers] == [">="], name


def test_lower_bounds_let_in_what_runs_here():
    for name, (_, specifiers) in parsed([*LIBRARY, *EXTRAS["study"]]).items():
        assert specifiers.contains(version(name).split("+")[0], prereleases=True), name


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_of_the_packages_is_a_dependency(package):
    known = packages_distributions()
    needed = LIBRARY if package == "adacomcat" else [*LIBRARY, *EXTRAS["study"]]
    for path in (ROOT / package).rglob("*.py"):
        where = path.relative_to(ROOT).as_posix()
        listed = {name.lower() for name in parsed(needed)} | {OPTIONAL.get(where)}
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            for top in {name.partition(".")[0] for name in names}:
                if top in sys.stdlib_module_names or top in PACKAGES:
                    continue
                distributions = {name.lower() for name in known.get(top, [top])}
                assert distributions & listed, f"{where} imports {top}"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Builds of a copy of the repository: a wheel, and what an editable install installs."""
    copy = tmp_path_factory.mktemp("copy") / "repository"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "results", "build", "*.egg*"))
    build = (
        "from setuptools import build_meta\n"
        "print(build_meta.build_wheel('.'))\nprint(build_meta.build_editable('.'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return [zipfile.ZipFile(path) for path in sorted(copy.glob("*.whl"), key=lambda p: len(p.name))]


def test_a_wheel_installs_the_library_and_nothing_beside_it(wheels):
    wheel = wheels[0]
    names = wheel.namelist()
    info = f"adacomcat-{PROJECT['project']['version']}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"adacomcat", info}
    assert {"adacomcat/py.typed", "adacomcat/methods/tokens/rates.json"} <= set(names)
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "adacomcat").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    scripts = wheel.read(f"{info}/entry_points.txt").decode()
    assert "adacomcat = adacomcat.cli.main:main" in scripts
    metadata = wheel.read(f"{info}/METADATA").decode().splitlines()
    needed = [line.partition(": ")[2] for line in metadata if line.startswith("Requires-Dist: ")]
    assert parsed(text for text in needed if "extra ==" not in text) == parsed(LIBRARY)


def test_an_editable_install_finds_the_scripts_packages(wheels):
    finder = next(name for name in wheels[1].namelist() if name.endswith("_finder.py"))
    mapping = re.search(r"MAPPING[^=]*= (\{.*\})", wheels[1].read(finder).decode())
    assert set(ast.literal_eval(mapping[1])) == set(PACKAGES)


ONLY = """
import importlib, json, os, re, sys
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions

def plain(name):
    return re.sub("[-_.]+", "-", name).lower()

allowed = {*map(plain, json.loads(os.environ["ALLOWED"])), "adacomcat"}
known = packages_distributions()
refused = {top for top, owners in known.items() if not {*map(plain, owners)} & allowed}

class Only(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in refused
        return None if hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Only
"""
"""Python in which no module is found of a distribution that is not allowed."""


def closure(requirements):
    """The distributions that are installed with some requirements."""
    found, left = set(), [Requirement(text) for text in requirements]
    while left:
        requirement = left.pop()
        if (requirement.name.lower(), *requirement.extras) in found:
            continue
        found.add((requirement.name.lower(), *requirement.extras))
        try:
            needs = map(Requirement, requires(requirement.name) or ())
        except PackageNotFoundError:  # A marker does not hold here.
            continue
        extras = [{"extra": extra} for extra in (*requirement.extras, "")]
        left += [n for n in needs if not n.marker or any(map(n.marker.evaluate, extras))]
    return sorted({name for name, *_ in found})


def alone(code):
    """Run code where nothing is installed but the library and what it needs."""
    return subprocess.run(
        [sys.executable, "-c", ONLY + code],
        cwd=ROOT,
        env=os.environ | {"ALLOWED": json.dumps(closure(LIBRARY))},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
def test_the_library_runs_with_its_dependencies_alone(tmp_path):
    code = f"""
for name in ("ray", "optuna", "matplotlib", "pandas", "sklearn", "scipy"):
    try:
        importlib.import_module(name)
        raise SystemExit(f"{{name}} is there")
    except ModuleNotFoundError:
        pass
import adacomcat
for name in adacomcat.__all__:
    getattr(adacomcat, name)
from adacomcat.cli.main import main
assert main(["study", "--list"]) == 2
assert main(["search", "--workload", "digits", "--output", {str(tmp_path / "digits")!r}]) == 2
run = {str(tmp_path / "run")!r}
words = ["--epochs", "1", "--device", "cpu", "--set", "dense.recipe.epochs=1"]
assert main(["search", "--workload", "synthetic", *words, "--output", run]) == 0
assert main(["eval", "--from", run, "--device", "cpu"]) == 0
"""
    done = alone(code)
    assert done.returncode == 0, done.stdout + done.stderr
    study, digits = done.stderr.splitlines()
    assert study.startswith("error: adacomcat study: ray, optuna not installed: pip install -e ")
    assert (
        digits.startswith("error: data.name: got 'digits'") and "pip install scikit-learn" in digits
    )


def test_every_package_is_in_the_distribution():
    found = set(find_packages(ROOT, **PROJECT["tool"]["setuptools"]["packages"]["find"]))
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    # A folder without __init__.py would work from here and be missing once installed.
    assert folders == found


def test_license_is_whole():
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert text.lstrip().startswith("Apache License\n")
    assert all(f"\n   {n}. " in text for n in range(1, 10))
    assert "END OF TERMS AND CONDITIONS" in text and "[yyyy]" in text


def test_readme_has_the_two_commands_of_a_fresh_machine():
    text = (ROOT / "README.md").read_text()
    assert "pip install -e '.[study]' && python study/run.py --experiment adaptive_vs_fixed" in text
    assert "pip install -e '.[test]' && pytest" in text


def test_every_link_of_the_documents_leads_somewhere():
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        shown = re.sub("<!--.*?-->", "", (ROOT / document).read_text(), flags=re.DOTALL)
        links = re.findall(r"\]\(([^)#]+)[^)]*\)", shown)
        for link in links:
            assert link.startswith("https://") or (ROOT / link).exists(), (document, link)


UNTYPED = "def untyped(value):\n    return value\n"


def test_mypy_is_strict_where_it_must_be(tmp_path):
    strict = {
        "adacomcat/schedule/probe.py": True,
        "adacomcat/plan.py": True,
        "study/spec/schema.py": True,
        "adacomcat/probe.py": False,
    }
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache")]
    for module in strict:
        target = tmp_path / module
        target.parent.mkdir(parents=True, exist_ok=True)
        for folder in (target.parent, tmp_path / target.relative_to(tmp_path).parts[0]):
            (folder / "__init__.py").touch()
        target.write_text(UNTYPED)
        command += ["-m", module.removesuffix(".py").replace("/", ".")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    refused = [line for line in done.stdout.splitlines() if "no-untyped-def" in line]
    found = {module: any(line.startswith(f"{module}:") for line in refused) for module in strict}
    assert found == strict, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("import os\n", "F401"),
        ("import sys\nimport os\n\nprint(os, sys)\n", "I001"),
        ("from typing import List\n\nx: List[int] = []\n", "UP"),
        ("def f(x=[]):\n    return x\n", "B006"),
        (f"x = '{'y' * 100}'\n", "E501"),
    ],
)
def test_ruff_holds_the_style(code, rule):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--no-cache",
            "--config",
            "pyproject.toml",
            "--output-format",
            "concise",
            "--stdin-filename",
            "adacomcat/probe.py",
            "-",
        ],
        cwd=ROOT,
        input=code,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and rule in done.stdout, done.stdout + done.stderr
