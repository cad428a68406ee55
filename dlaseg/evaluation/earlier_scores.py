"""How scores that exist differ from others: two that are compared, or those that would replace them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.evaluation.metrics.bootstrap import ImageCounts
from dlaseg.labels import LabelMap
from dlaseg.run_folder import BEST_WEIGHTS
from dlaseg.scores_file import read_scores
from dlaseg.weights.download import FILE


def protocol_differences(first: Mapping[str, Any], second: Mapping[str, Any], between: str = " and ") -> list[str]:
    """Says how the protocols of two scores predict images differently.

    Args:
        first: `protocol` of a `scores.json`; what one of the two does not have is not compared.
        second: another one.
        between: what stands between the two values.

    Examples:
        >>> protocol_differences({"scales": [0.5, 1], "flip": True}, {"scales": [1.0], "flip": True})
        ['scales 0.5 1 and 1']
    """
    texts = []
    for key in ("precision", "scales", "flip", "padding", "max_short_side"):
        one, other = (_shown(protocol, key) for protocol in (first, second))
        if one != other and None not in (one, other):
            texts.append(f"{key} {one}{between}{other}")
    return texts


def _shown(protocol: Mapping[str, Any], key: str) -> str | None:
    value = protocol.get(key)
    if key == "scales" and value is not None:
        return " ".join(f"{scale:g}" for scale in sorted(value))
    if key == "padding" and value is None and "scales" in protocol:
        return "mirror"  # which is not written, see `score`
    if key == "max_short_side" and value is None and "scales" in protocol:
        return "none"  # likewise
    return None if value is None else f"{value!s:.80}".lower()


def check_earlier_scores(
    path: Path,
    protocol: Mapping[str, Any],
    names: Sequence[str],
    labels: LabelMap,
    first_target: Callable[[], NDArray[np.uint8]],
    weights: Path | None = None,
) -> None:
    """Refuses to replace scores of something else: another weights file, another protocol, or other images.

    Of the ground truth, only that of the first image is read.

    Args:
        path: a `scores.json`, which need not exist.
        protocol: of the scores that would replace it.
        names: of the images, escaped.
        labels: the classes.
        first_target: reads the ground truth of the first image, (H, W) train ids.
        weights: the file that is scored; None for label maps of any program.

    Raises:
        UserError: names what differs; as `first_target`.
    """
    try:
        earlier = read_scores(path, "images")
        images = ImageCounts.from_dict(earlier["images"])
    except (UserError, ValueError):
        return  # no scores, which anything may replace
    texts = []
    before, now = (each.get("weights_sha256") for each in (earlier["protocol"], protocol))
    # Those of a run may have been trained further since
    may_change = before is not None and weights is not None and weights.name in (BEST_WEIGHTS, FILE)
    if before != now and not may_change:
        texts.append("other weights")
    texts += protocol_differences(earlier["protocol"], protocol, ", now ")
    if list(images.names) != list(names):
        texts.append(f"other images ({len(images.names)}, now {len(names)})")
    elif list(earlier["classes"]) != list(labels.names):
        texts.append("other classes")
    elif not np.array_equal(images.support[0], _pixels(first_target(), labels.num_classes)):
        texts.append(f"another label map of {images.names[0]}")
    if texts:
        raise UserError(
            f"{path}: has scores of something else ({'; '.join(texts)}): choose another folder by --output, or "
            f"replace them by --output {path.parent}"
        )


def _pixels(target: NDArray[np.uint8], num_classes: int) -> NDArray[np.intp]:
    """Pixels of each class, (C,)."""
    return np.bincount(target.ravel(), minlength=256)[:num_classes]
