"""Small exports of annotation tools for tests, and their conversion."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dlaseg.cli import main
from dlaseg.data.convert.annotations import Patch
from dlaseg.data.datasets import open_dataset
from dlaseg.errors import UserError


def save_image(path: Path, height: int, width: int, value: int = 90, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path, **options)
    return path


def save_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def save_text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def as_ids(drawing: str) -> list[list[int]]:
    """A label map that is drawn with one character for each pixel: digits are ids, `.` is 0, `#` is 255."""
    values = {".": 0, "#": 255}
    return [[int(values.get(pixel, pixel)) for pixel in row] for row in drawing.split()]


def whole(patch: Patch, height: int, width: int) -> Any:
    """The mask of an object in the whole image, (H, W) bool."""
    labels = np.zeros((height, width), np.uint8)
    patch.paint(labels, 1)
    assert labels.sum() == patch.area
    return labels == 1


def converted(format: str, inputs: list[Path], output: Path, *options: str, split: str = "train") -> dict[str, Any]:
    """Runs `dlaseg data convert`; the label map of each image, by name."""
    words = ["data", "convert", "--from", format, *map(str, inputs), str(output), *options]
    assert main(words) == 0
    return label_maps(output, split)


def label_maps(output: Path, split: str = "train") -> dict[str, Any]:
    """Label maps of a data set as they are read for training, by name of the image."""
    dataset = open_dataset("folder", output, split)
    return {pair.name: dataset.read(index)[1].tolist() for index, pair in enumerate(dataset.pairs)}


def class_names(output: Path, split: str = "train") -> list[str]:
    return list(open_dataset("folder", output, split).label_map.names)


def refused(capsys: pytest.CaptureFixture[str], format: str, inputs: list[Path], output: Path, *options: str) -> str:
    """The one line that a conversion is refused with; checks that it leaves nothing behind."""
    capsys.readouterr()
    before = sorted(output.parent.iterdir()) if output.parent.is_dir() else None
    assert main(["data", "convert", "--from", format, *map(str, inputs), str(output), *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert len(printed.err.splitlines()) == 1, printed.err
    assert len(printed.err) < 600
    if before is not None:
        assert sorted(output.parent.iterdir()) == before
    return printed.err


def message(call: Any, *arguments: Any, **options: Any) -> str:
    """The message of the `UserError` that a call raises."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_value(content: Any, *path_and_value: Any) -> Any:
    """A copy of JSON content with another value at a place; `...` removes what is there."""
    content = copy.deepcopy(content)
    *path, key, value = path_and_value
    place = content
    for step in path:
        place = place[step]
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return content
