"""Weights that come with the package: a file each, with its model card and its facts as JSON, in `FOLDER`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlaseg.strict_json import read_json

FOLDER = Path(__file__).parent / "pretrained"
"""Holds NAME.safetensors, or NAME.xml with NAME.bin; and NAME.json and NAME.md. `benchmarks/builtin_weights.py` writes
them."""

SUFFIXES = (".safetensors", ".xml")


@dataclass(frozen=True)
class BuiltinWeights:
    """Weights that come with the package.

    Attributes:
        name: what to write wherever a weights file is asked for.
        file: the weights file.
        architecture: arguments of `create_model`.
        classes: names, in the order of the train ids.
        data: what they were trained on.
        license: of the weights.
        bytes: size on disk, of all parts.
        precision: of the numbers in the file: float16, float32 or int8.
        miou: the score, 0 to 1; None if there is none.
        scored_on: what the score is of.
    """

    name: str
    file: Path
    architecture: Mapping[str, Any]
    classes: tuple[str, ...]
    data: str
    license: str
    bytes: int
    precision: str
    miou: float | None
    scored_on: str


def builtin_files() -> dict[str, Path]:
    """The weights files that come with the package, by name."""
    paths = [path for path in FOLDER.glob("*") if path.suffix in SUFFIXES]
    return {path.stem: path for path in sorted(paths, key=lambda path: path.stem)}


def default_weights() -> str:
    """The name of the weights that are tried where none are given: the first that PyTorch reads."""
    return next(name for name, file in builtin_files().items() if file.suffix == SUFFIXES[0])


def parts(file: Path) -> list[Path]:
    """A weights file, and the numbers that belong to an OpenVINO IR."""
    return [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]


def list_weights() -> list[BuiltinWeights]:
    """The weights that come with the package: `dlaseg.Predictor(NAME)` loads them, without a download.

    Returns:
        One entry per name. What it says is from the file's JSON, which was written together with it.

    Examples:
        >>> [weights.name for weights in list_weights() if weights.precision == "float16"]
        ['camvid']
    """
    return [_describe(name, file) for name, file in builtin_files().items()]


def _describe(name: str, file: Path) -> BuiltinWeights:
    facts = read_json(file.with_suffix(".json"), "the facts of weights that come with dlaseg: install it again")
    return BuiltinWeights(
        name=name,
        file=file,
        architecture=facts["architecture"],
        classes=tuple(facts["classes"]),
        data=facts["data"],
        license=facts["license"],
        bytes=sum(part.stat().st_size for part in parts(file)),
        precision=facts["precision"],
        miou=facts["miou"],
        scored_on=facts["scored_on"],
    )


def weights_table(weights: list[BuiltinWeights]) -> str:
    """Aligned columns, a line for each."""
    lines = [["name", "architecture", "classes", "precision", "MB", "mIoU, %", "scored on", "trained on"]]
    for each in weights:
        network = f"{each.architecture['name']}, stride {each.architecture['stride']}"
        miou = "-" if each.miou is None else f"{100 * each.miou:.1f}"
        size = f"{each.bytes / 1e6:.1f}"
        lines.append(
            [each.name, network, str(len(each.classes)), each.precision, size, miou, each.scored_on, each.data]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
