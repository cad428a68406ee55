"""`dlaseg compare`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlaseg.commands.parsing import parser_of
from dlaseg.errors import UserError

if TYPE_CHECKING:
    from dlaseg.evaluation.metrics.bootstrap import ImageCounts


def compare(arguments: Sequence[str]) -> int:
    """Compares two scores.json of the same images, class by class, and tells chance from more."""
    parser = parser_of("compare", compare)
    parser.add_argument("first", type=Path, help="a scores.json that dlaseg eval wrote")
    parser.add_argument("second", type=Path, help="another, of the same split")
    given = parser.parse_args(arguments)

    from dlaseg.evaluation.metrics.bootstrap import compare as differences
    from dlaseg.evaluation.report.tables import difference_table

    (a, first), (b, second) = _read(given.first), _read(given.second)
    for field in ("dataset", "split"):
        one, other = a["protocol"][field], b["protocol"][field]
        if one != other:
            raise UserError(f"{given.first} is of {field} {one}, {given.second} of {other}: score both on the same")
    if list(a["classes"]) != list(b["classes"]):
        raise UserError(f"{given.first} and {given.second} are of different classes: score both on the same")
    print(difference_table(differences(list(a["classes"]), first, second)))
    return 0


def _read(path: Path) -> "tuple[dict[str, Any], ImageCounts]":
    """A scores.json and the counts of its images."""
    from dlaseg.evaluation.metrics.bootstrap import ImageCounts

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["classes"], content["protocol"]["dataset"], content["protocol"]["split"]
        images = ImageCounts.from_dict(content["images"])
        if images.support.shape[1] != len(content["classes"]):
            raise ValueError(f"{len(content['classes'])} classes, counts of {images.support.shape[1]}")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: name a scores.json") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: no scores.json of this release ({type(error).__name__}: {error}): score again"
        ) from error
    return content, images
