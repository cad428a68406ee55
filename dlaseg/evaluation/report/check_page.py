"""The page of `dlaseg data check`: what is wrong with a data set, with the files that show it."""

from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from dlaseg.data.check.check import CheckResult
from dlaseg.data.check.facts import stored_values
from dlaseg.data.check.findings import OF_LABELS, Finding
from dlaseg.data.names import unescape_name
from dlaseg.errors import UserError
from dlaseg.evaluation.report.gallery import jpeg
from dlaseg.evaluation.report.templates import page_file, page_template
from dlaseg.files import write_text
from dlaseg.images import read_image
from dlaseg.label_images import read_label_file
from dlaseg.labels import IGNORE_INDEX, LabelMap

PICTURES = 4
"""Files of a finding that are shown."""

SIDE = 480
"""Longest side of a picture, in pixels."""

UNKNOWN = (255, 0, 255)
"""The colour of pixels that belong to no class."""


def write_check_page(path: Path, result: CheckResult, title: str) -> None:
    """Writes the page: one file without references to others.

    Args:
        path: of the HTML file; replaced as a whole.
        result: what the check found.
        title: such as the data set's folder.
    """
    names = () if result.label_map is None else result.label_map.names
    palette = () if result.label_map is None else result.label_map.palette
    content = page_template("check.html").render(
        title=title,
        result=result,
        images=sum(sum(split.groups.values()) for split in result.splits),
        findings=[(each, _pictures(each, result.label_map)) for each in result.findings],
        classes=list(zip(names, ["#{:02x}{:02x}{:02x}".format(*color) for color in palette], strict=True)),
        of_labels=OF_LABELS,
        style=Markup(page_file("page.css")),
    )
    write_text(path, content)


def _pictures(finding: Finding, label_map: LabelMap | None) -> list[dict[str, Any]]:
    """The first files of a finding: name, picture as a data URL or None, and whether it has unknown pixels."""
    shown = []
    for name in finding.files[:PICTURES]:
        path, has_unknown = Path(unescape_name(name)), False
        try:
            if finding.kind in OF_LABELS and label_map is not None:
                pixels, has_unknown = _colored(path, label_map)
            else:
                pixels = read_image(path)
            picture = jpeg(pixels, SIDE)
        except UserError:
            picture = None
        shown.append({"name": name, "picture": picture, "has_unknown": has_unknown})
    return shown


def _colored(path: Path, label_map: LabelMap) -> tuple[Any, bool]:
    """A label map in the colours of the classes, (H, W, 3) uint8, and whether it has unknown pixels."""
    _, train_ids, indices = stored_values(read_label_file(path), label_map)
    table = np.array([UNKNOWN if i is None else (0, 0, 0) if i == IGNORE_INDEX else label_map.palette[i]
                      for i in train_ids], np.uint8)  # fmt: skip
    return table[indices], None in train_ids
