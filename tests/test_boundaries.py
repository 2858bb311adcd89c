"""The arrows between the packages: experiments -> study -> adacomcat; analysis -> study.store.

Each import happens in a process of its own, since this one has long imported everything.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ABOVE = {
    "adacomcat": {"study", "experiments", "analysis", "ray", "optuna", "matplotlib", "pandas"},
    "study": {"experiments", "analysis", "matplotlib", "pandas"},
    "analysis": {"experiments", "torch", "timm", "ray", "optuna"},
    "experiments": {"analysis", "ray", "torch"},
}
"""Package -> what no import statement of it may name."""


def modules(package):
    """The dotted names of all modules below a package."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def loaded(*names):
    """Top-level packages in `sys.modules` after an import of some modules in a fresh process."""
    code = (
        "import importlib, json, sys\n"
        f"for name in {list(names)!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_library_needs_nothing_above_it():
    names = list(modules("adacomcat"))
    assert len(names) > 20
    assert not loaded(*names) & ABOVE["adacomcat"]


def test_the_library_by_its_name_alone_is_light():
    found = loaded("adacomcat")
    assert "adacomcat" in found
    assert not found & (ABOVE["adacomcat"] | {"torch", "timm", "numpy"})


@pytest.mark.parametrize("name", ["adacomcat.plan", "adacomcat.schedule"])
def test_plans_and_schedules_are_plain_python(name):
    names = [module for module in modules("adacomcat") if f"{module}.".startswith(f"{name}.")]
    assert names
    assert not loaded(*names) & (ABOVE["adacomcat"] | {"torch", "timm"})


def test_analysis_needs_neither_torch_nor_ray():
    found = loaded(*modules("analysis"))
    assert {"pandas", "matplotlib"} <= found
    assert not found & ABOVE["analysis"]


@pytest.mark.parametrize("name", ["study.spec.schema", "study.spec.expand", "study.store"])
def test_descriptions_and_results_need_no_ray(name):
    assert not loaded(name) & {"ray", "optuna", "matplotlib", "pandas", "analysis", "experiments"}


def test_experiments_are_descriptions_only():
    assert not loaded(*modules("experiments")) & {"ray", "torch", "optuna", "analysis"}


def imported(path):
    """What the import statements of a file name, wherever they stand: (dotted name, line)."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            yield ".".join(filter(None, [base, node.module])), node.lineno


@pytest.mark.parametrize("package", ABOVE)
def test_no_import_statement_points_upward(package):
    paths = list((ROOT / package).rglob("*.py"))
    assert paths
    upward = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in paths
        for name, line in imported(path)
        if name.partition(".")[0] in ABOVE[package]
    ]
    assert not upward


def test_analysis_reads_results_and_nothing_else_of_a_study():
    names = {name for path in (ROOT / "analysis").rglob("*.py") for name, _ in imported(path)}
    found = {name for name in names if name.partition(".")[0] == "study"}
    assert found == {"study.pareto", "study.store"}
