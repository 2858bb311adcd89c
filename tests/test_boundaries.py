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


LAYERS = (
    {"checks", "files", "seeds", "versions", "parallel", "precision", "timing", "timetable"}
    | {"plan", "cost", "budget"},
    {"config"},
    {"data"},
    {"models"},
    {"methods.config", "methods.base", "methods.summary"},
    {"methods.compose"},
    {"methods.registry", "schedule"},
    {"overrides"},
    {"methods.*"},
    {"methods.specs"},
    {"recipes"},
    {"search"},
    {"training"},
    {"io"},
    {"compression"},
    {"testing", "cli"},
    {"__main__"},
)
"""The layers of `adacomcat` from the bottom to the top. A package imports itself and what lies in
lower layers; modules of the lowest layer also import each other. Folders of methods form one layer,
and do not import each other.
"""


def layer_of(module):
    """The package or module that a module of `adacomcat` belongs to, and the index of its layer."""
    parts = module.split(".")[1:]
    name = ".".join(parts[:2] if parts[0] == "methods" else parts[:1])
    for row, layer in enumerate(LAYERS):
        if name in layer:
            return name, row
    assert parts[0] == "methods" and len(parts) > 1, f"{module} is in no layer of {__file__}"
    return name, next(row for row, layer in enumerate(LAYERS) if "methods.*" in layer)


def imports_within(package):
    """(module, line) -> module, for all import statements between modules of a package."""
    paths = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    for name, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text())):
            found = []
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                found = [f"{node.module}.{alias.name}" for alias in node.names]
                # `from package import name` is of the submodule, where there is one.
                found = [each if each in paths else node.module for each in found]
            for each in found:
                if each in paths and each not in (name, package):
                    yield name, node.lineno, each


def test_modules_import_only_layers_below_them():
    upward = []
    for module, line, imported_module in imports_within("adacomcat"):
        if module == "adacomcat" or imported_module == "adacomcat.methods":
            continue
        (source, row), (target, lower) = layer_of(module), layer_of(imported_module)
        if not (lower < row or source == target or row == lower == 0):
            upward.append(f"{module}:{line} imports {imported_module}")
    assert upward == []


def test_no_modules_import_each_other_in_a_circle():
    below = {}
    for module, _, imported_module in imports_within("adacomcat"):
        below.setdefault(module, set()).add(imported_module)
    done, path = set(), []

    def visit(module):
        if module in path:
            raise AssertionError(" -> ".join([*path[path.index(module) :], module]))
        if module not in done:
            path.append(module)
            for each in sorted(below.get(module, ())):
                visit(each)
            path.pop()
            done.add(module)

    for module in sorted(below):
        visit(module)
