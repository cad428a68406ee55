"""Every part of the package imports only from the floors below it, and no files import each other in a circle."""

import ast
import importlib
import re
from configparser import ConfigParser
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the bottom up. Parts on one floor do not import each other.
FLOORS = (
    {"text", "version", "memory", "png", "processor", "image_suffixes", "bit_depth"},
    {"errors"},
    {"files", "device", "image_header", "yaml_file", "strict_json", "classes_file", "label_values"},
    {"labels", "images", "run_folder", "scores_file"},
    {"label_images", "image_strips"},
    {"metadata", "config"},
    {"visualize", "synthetic"},
    {"data"},
    {"models"},
    {"weights"},
    {"factory"},
    {"inference"},
    {"evaluation"},
    {"export"},
    {"training"},
    {"benchmarking", "demo"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
HEIGHT = {part: height for height, floor in enumerate(FLOORS) for part in floor}

# Narrower than the floors
ONLY = {
    "models": {"metadata", "errors"},
    "metadata": {"errors", "labels"},
    "config": {"errors", "yaml_file"},
    "cli": {"commands", "errors", "text", "version"},
}

# The package's own surface gathers names for users; nothing in the package imports it
SURFACE = "__init__"


def modules(package: Path) -> dict[str, Path]:
    """Dotted names below the package, such as `models.dla`, and their files."""
    named = {}
    for path in sorted(package.rglob("*.py")):
        words = path.relative_to(package).with_suffix("").parts
        named[".".join(words[:-1] if words[-1] == "__init__" and len(words) > 1 else words)] = path
    return named


@cache
def imports(path: Path, package: Path) -> set[str]:
    """Dotted names below dlaseg that a file imports, anywhere in it; `__init__` for the package itself."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.add(SURFACE)  # relative imports are not used here
            continue
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            words = name.split(".")
            if words[0] != "dlaseg":
                continue
            # The longest beginning that is a file: `from dlaseg.models.dla import DLA` means models/dla.py
            while len(words) > 1 and not is_module(package, words[1:]):
                words.pop()
            found.add(".".join(words[1:]) or SURFACE)
    return found


def is_module(package: Path, words: list[str]) -> bool:
    place = package.joinpath(*words)
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def violations(package: Path) -> list[str]:
    """Imports from the same floor or from above, and from outside what a part is limited to."""
    wrong = []
    for name, path in modules(package).items():
        part = name.split(".")[0]
        for imported in sorted(imports(path, package)):
            other = imported.split(".")[0]
            if part in (SURFACE, other):
                continue
            allowed = part in HEIGHT and HEIGHT.get(other, len(FLOORS)) < HEIGHT[part]
            if not allowed or other not in ONLY.get(part, HEIGHT):
                wrong.append(f"{name} imports {imported}")
    return wrong


def circle(package: Path) -> list[str]:
    """Files that import each other in a circle, or nothing."""
    graph = {name: imports(path, package) for name, path in modules(package).items() if name != SURFACE}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_part_imports_from_its_own_floor_or_from_above():
    assert violations(ROOT / "dlaseg") == []


def test_no_files_import_each_other_in_a_circle():
    assert circle(ROOT / "dlaseg") == []


def test_every_part_of_the_package_has_a_floor():
    parts = {name.split(".")[0] for name in modules(ROOT / "dlaseg")} - {SURFACE}
    assert parts == HEIGHT.keys()


def test_packages_are_empty_but_for_their_docstring():
    # Their names would otherwise be imported by everything in them, out of sight of the test of circles
    for path in (ROOT / "dlaseg").rglob("*/__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(body) == 1, path


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_exists(script):
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dlaseg"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or is_module(
                    ROOT / "dlaseg", [*node.module.split(".")[1:], alias.name]
                )


def test_every_extra_is_used():
    """The code names an extra in the message that says how to install it, and imports each of its packages."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "dlaseg").rglob("*.py"))
    for extra, requirements in setup["options.extras_require"].items():
        if extra == "docs":
            assert "[docs]" in (ROOT / "Makefile").read_text(encoding="utf-8")
        elif extra != "test":
            assert f"dlaseg[{extra}]" in code
            for package in re.findall(r"^[\w-]+", requirements, re.MULTILINE):
                assert re.search(rf"\b{package.replace('-', '_')}\b", code), package


def test_tools_import_the_command_line_alone():
    for path in (ROOT / "tools").glob("*.py"):
        assert imports(path, ROOT / "dlaseg") == {"cli"}, path.name


def package_with(folder: Path, **sources: str) -> Path:
    """A package of these files beside the ones that they import."""
    for place in ("data/datasets", "models/segmenter", "training/trainer", "errors", "files", "cli", "labels"):
        path = folder / f"{place}.py"
        path.parent.mkdir(exist_ok=True)
        path.touch()
        (path.parent / "__init__.py").touch()
    for place, source in sources.items():
        path = folder / f"{place.replace('__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(f"{source}\n")
    return folder


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("models__dla", "from dlaseg.data.datasets import folder"),
        ("models__dla", "from dlaseg.files import write_text"),  # below it, but more than it may know
        ("data__loading", "import dlaseg.models.segmenter"),
        ("inference__run", "def f():\n    from dlaseg.training.trainer import fit"),
        ("evaluation__scoring", "from dlaseg import cli"),
        ("errors", "from dlaseg.files import write_text"),
        ("labels", "from dlaseg.images import read_image"),  # the same floor
        ("training__trainer", "if True:\n    import os, dlaseg.cli as c"),
        ("images", "import dlaseg"),
        ("models__ida", "from ..data import datasets"),
        ("unheard", "from dlaseg.errors import UserError"),
    ],
)
def test_a_planted_import_upwards_is_found(tmp_path, place, line):
    package = package_with(tmp_path, **{"images": "", place: line})
    assert len(violations(package)) == 1


def test_a_planted_circle_is_found_also_inside_functions(tmp_path):
    package = package_with(
        tmp_path,
        data__a="from dlaseg.data.b import f",
        data__b="def f():\n    from dlaseg.data import c",
        data__c="from dlaseg.data.a import g",
    )
    assert violations(package) == []
    assert set(circle(package)) == {"data.a", "data.b", "data.c"}


def test_a_permitted_import_is_not_reported(tmp_path):
    package = package_with(tmp_path, models__dla="import torch\nfrom dlaseg.errors import UserError")
    assert violations(package) == []
    assert circle(package) == []
