import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BOTTOM = {"errors", "files", "version", "images", "labels", "config", "rules", "records", "memory"}

# What each part may import; the package's own surface, dlaseg/__init__.py, gathers names for users only.
ALLOWED = {
    "errors": set(),
    "version": set(),
    "memory": set(),
    "files": {"errors"},
    "labels": {"errors", "files"},
    "images": {"errors", "files", "labels"},
    "config": set(),
    "rules": {"errors", "config"},
    "records": {"errors"},
    "models": {"errors", "files", "labels"},
    "data": {"errors", "files", "labels", "images", "config", "version"},
    "evaluation": BOTTOM | {"models", "data"},
    "training": BOTTOM | {"models", "data", "evaluation"},
    "inference": BOTTOM | {"models", "data", "evaluation"},
    "benchmarking": BOTTOM | {"models", "data", "evaluation", "training", "inference"},
    "commands": BOTTOM | {"models", "data", "evaluation", "training", "inference", "benchmarking"},
    "cli": BOTTOM | {"commands"},
    "__init__": BOTTOM | {"models", "data", "evaluation", "training", "inference"},
}


def part_of(path: Path, package: Path) -> str:
    return path.relative_to(package).with_suffix("").parts[0]


def imported_parts(source: str) -> set[str]:
    """First-level parts of dlaseg that a source imports, anywhere in it; `*` for the package itself."""
    parts = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = ["dlaseg"]
        elif isinstance(node, ast.ImportFrom) and node.module == "dlaseg":
            names = [f"dlaseg.{alias.name}" for alias in node.names]
        else:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            words = name.split(".")
            if words[0] == "dlaseg":
                parts.add(words[1] if len(words) > 1 else "*")
    return parts


def violations(package: Path) -> list[str]:
    found = []
    for path in sorted(package.rglob("*.py")):
        part = part_of(path, package)
        for other in sorted(imported_parts(path.read_text(encoding="utf-8")) - {part}):
            if other not in ALLOWED.get(part, set()):
                found.append(f"{path.relative_to(package)} imports {other}")
    return found


def test_no_part_imports_what_stands_above_it():
    assert violations(ROOT / "dlaseg") == []


def test_every_part_of_the_package_has_a_rule():
    parts = {part_of(path, ROOT / "dlaseg") for path in (ROOT / "dlaseg").rglob("*.py")}
    assert parts <= ALLOWED.keys()


def test_the_rule_itself_has_no_circle():
    order: list[str] = []
    left = dict(ALLOWED)
    while left:
        ready = [part for part, below in left.items() if below <= set(order)]
        assert ready, f"a circle among {sorted(left)}"
        order += ready
        left = {part: below for part, below in left.items() if part not in ready}
    assert order.index("models") < order.index("evaluation") < order.index("training") < order.index("cli")


def test_tools_import_the_command_line_alone():
    for path in (ROOT / "tools").glob("*.py"):
        assert imported_parts(path.read_text(encoding="utf-8")) == {"cli"}, path.name


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("models/dla.py", "from dlaseg.data.datasets import folder"),
        ("data/loading.py", "import dlaseg.models.segmenter"),
        ("inference/run.py", "def f():\n    from dlaseg.training.trainer import fit"),
        ("evaluation/scoring.py", "from dlaseg import cli"),
        ("errors.py", "from dlaseg.files import write_text"),
        ("training/trainer.py", "if True:\n    import os, dlaseg.cli as c"),
        ("images.py", "import dlaseg"),
        ("models/ida.py", "from ..data import datasets"),
        ("unheard.py", "from dlaseg.errors import UserError"),
    ],
)
def test_a_planted_import_upwards_is_found(tmp_path, place, line):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{line}\n")
    assert len(violations(tmp_path)) == 1


def test_a_permitted_import_is_not_reported(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/dla.py").write_text("import torch\nfrom dlaseg.errors import UserError\n")
    assert violations(tmp_path) == []
