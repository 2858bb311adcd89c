import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from setuptools import find_packages

ROOT = Path(__file__).parents[1]
PACKAGES = ("adacomcat", "study", "experiments", "analysis")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())


def parsed(requirements):
    found = [Requirement(text) for text in requirements]
    assert len({r.name for r in found}) == len(found), "a requirement is listed twice"
    return {r.name: (r.extras, r.specifier) for r in found}


def test_conda_and_pip_install_the_same():
    *conda, pip = ENVIRONMENT["dependencies"]
    editable, *listed = pip["pip"]
    assert editable.split() == ["--editable", "."]
    assert parsed(listed) == parsed(PROJECT["project"]["dependencies"])
    assert parsed(conda)["python"][1] == SpecifierSet(PROJECT["project"]["requires-python"])
    assert "pip" in conda


def test_bounds_are_lower_bounds_only():
    for group in (
        PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"].values(),
    ):
        for name, (_, specifiers) in parsed(group).items():
            assert [s.operator for s in specifiers] == [">="], name


def test_lower_bounds_let_in_what_runs_here():
    for name, (_, specifiers) in parsed(PROJECT["project"]["dependencies"]).items():
        assert specifiers.contains(version(name).split("+")[0], prereleases=True), name


def test_every_import_of_the_packages_is_a_dependency():
    known = packages_distributions()
    listed = {name.lower() for name in parsed(PROJECT["project"]["dependencies"])}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
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
                assert distributions & listed, f"{path.relative_to(ROOT)} imports {top}"


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
    assert "pip install -e . && python study/run.py --experiment adaptive_vs_fixed" in text
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
