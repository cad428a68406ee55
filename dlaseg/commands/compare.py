"""`dlaseg compare`."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlaseg.commands.parsing import command_parser
from dlaseg.errors import UserError
from dlaseg.scores_file import WHAT, read_scores

if TYPE_CHECKING:
    from dlaseg.evaluation.metrics.bootstrap import ImageCounts

logger = logging.getLogger(__name__)


def compare(arguments: Sequence[str]) -> int:
    """Compare two scores.json of the same images class by class, and test statistical significance."""
    parser = command_parser("compare", compare)
    parser.add_argument("first", type=Path, help="a scores.json written by dlaseg eval, or its folder")
    parser.add_argument("second", type=Path, help="another one, of the same split")
    args = parser.parse_args(arguments)

    from dlaseg.evaluation.earlier_scores import protocol_differences
    from dlaseg.evaluation.metrics.bootstrap import compare as differences
    from dlaseg.evaluation.report.tables import difference_table

    (a, first), (b, second) = _read(args.first), _read(args.second)
    for field in ("dataset", "split"):
        one, other = a["protocol"][field], b["protocol"][field]
        if one != other:
            raise UserError(
                f"{args.first} has {field} {one}, {args.second} has {other}: score both on the same {field}"
            )
    if list(a["classes"]) != list(b["classes"]):
        raise UserError(f"{args.first} and {args.second} have different classes: score both on the same classes")
    for file, scores in ((args.first, a), (args.second, b)):
        _warn_of_scores(file, scores["protocol"])
    if unequal := protocol_differences(a["protocol"], b["protocol"]):
        logger.warning(
            "%s and %s: predicted in different ways (%s), so the networks alone do not explain a difference: score "
            "both with the same options", args.first, args.second, "; ".join(unequal),
        )  # fmt: skip
    print(difference_table(differences(list(a["classes"]), first, second)))
    return 0


def _warn_of_scores(file: Path, protocol: dict[str, Any]) -> None:
    """Says why scores are not those of the network on new images, computed as a whole."""
    if protocol.get("trained_on"):
        logger.warning(
            "%s: the network was trained on images of this split, so its scores are too high: score both on a split "
            "that was held out", file,
        )  # fmt: skip
    if protocol.get("tiled"):
        logger.warning(
            "%s: images were computed in tiles, which changes the scores of some networks: score again with a larger "
            "--max-memory", file,
        )  # fmt: skip


def _read(path: Path) -> "tuple[dict[str, Any], ImageCounts]":
    """The content of a scores.json, and the counts of its images."""
    from dlaseg.evaluation.metrics.bootstrap import ImageCounts

    path = path / "scores.json" if path.is_dir() else path
    content = read_scores(path, "images")
    try:
        images = ImageCounts.from_dict(content["images"])
        if images.support.shape[1] != len(content["classes"]):
            raise ValueError(f"{len(content['classes'])} classes, but counts of {images.support.shape[1]}")
    except ValueError as error:
        raise UserError(f"{path}: not {WHAT} ({error}): score again") from error
    return content, images
