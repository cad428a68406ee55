"""The page of all messages, made of the sources when the site is built."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[2] / "dlaseg"

AREAS = {
    "Images, files and classes": (
        *(
            "images",
            "image_header",
            "image_strips",
            "label_images",
            "label_values",
            "labels",
            "classes_file",
            "png",
            "files",
            "metadata",
        ),
        *("strict_json", "yaml_file", "scores_file", "visualize"),
    ),
    "Data sets": ("data", "synthetic"),
    "Configs": ("config",),
    "Networks and weights": ("models", "weights", "factory"),
    "Training": ("training", "run_folder"),
    "Scores and reports": ("evaluation",),
    "Segmenting": ("inference", "demo"),
    "Export": ("export",),
    "Benchmarks and this machine": ("benchmarking", "device", "processor"),
    "Commands": ("commands", "cli", "errors", "text"),
}
"""Which parts of the package are meant by a heading."""

ERRORS = {"UserError", "UnreadableFileError"}

INTRODUCTION = """# Messages

What is wrong, and what to do about it, for every message of the package; … stands for a value, such as a path. Search
for words of yours. The messages are those of the sources that this site was built from.
"""


def messages(source: str) -> list[str]:
    """The messages of the errors that a source file makes, in its order, with … for values."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.args)
    made = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id in ERRORS]
    texts = [(argument.lineno, "".join(_parts(argument))) for argument in made]
    return [text for _, text in sorted(texts) if any(letter.isalpha() for letter in text)]


def _parts(node: ast.expr) -> Iterator[str]:
    """The text of an expression, with … for values."""
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.JoinedStr):
        for value in node.values:
            yield from _parts(value)
    elif isinstance(node, ast.BinOp):
        yield from _parts(node.left)
        yield from _parts(node.right)
    else:
        yield "…"


def page(package: Path = PACKAGE) -> str:
    """The page, in Markdown."""
    lines = [INTRODUCTION]
    for area, parts in AREAS.items():
        found = []
        for part in parts:
            files = sorted((package / part).rglob("*.py")) if (package / part).is_dir() else [package / f"{part}.py"]
            found += [text for file in files for text in messages(file.read_text(encoding="utf-8"))]
        lines += [f"## {area}", "", "| message | what to do |", "| --- | --- |"]
        lines += [_row(text) for text in dict.fromkeys(found)]
        lines.append("")
    return "\n".join(lines)


def _row(text: str) -> str:
    message, _, remedy = " ".join(text.split()).rpartition(": ")
    message, remedy = (message, remedy) if message else (remedy, "")
    for sign in "\\`*_{}[]<>|#":
        message, remedy = (part.replace(sign, f"\\{sign}") for part in (message, remedy))
    return f"| {message} | {remedy} |"


def on_files(files: Any, config: Any) -> Any:
    """Adds the page to the site, see https://www.mkdocs.org/dev-guide/plugins/#on_files."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "messages.md", content=page()))
    return files
