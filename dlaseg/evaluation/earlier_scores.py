"""How scores that exist differ from others: two that are compared, or those that would replace them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.data.names import escape_name
from dlaseg.data.pairs import SegmentationDataset
from dlaseg.errors import UserError
from dlaseg.evaluation.metrics.bootstrap import ImageCounts
from dlaseg.inference.backends.exported import exported_sha256, is_exported, read_graph
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
    for key in ("precision", "scales", "flip", "padding"):
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
    return None if value is None else f"{value!s:.80}".lower()


def check_earlier_scores(
    path: Path,
    weights: Path,
    dataset: SegmentationDataset,
    scales: Sequence[float] | None,
    flip: bool,
    precision: str,
    padding: str,
) -> None:
    """Refuses to replace scores of something else: another weights file, another protocol, or other images.

    Of the ground truth, only that of the first image is read. What the precision `auto` becomes is not known here.

    Args:
        path: a `scores.json`, which need not exist.
        weights: the file that will be scored.
        dataset: the split.
        scales: see `Predictor`, as the following.
        flip: whether mirrored.
        precision: of the computation.
        padding: see `score`.

    Raises:
        UserError: names what differs; as `SegmentationDataset.read`.
    """
    try:
        earlier = read_scores(path, "images")
        images = ImageCounts.from_dict(earlier["images"])
    except (UserError, ValueError):
        return  # no scores, which anything may replace
    texts = []
    same_weights = earlier["protocol"].get("weights_sha256") == exported_sha256(weights)
    if not same_weights and weights.name not in (BEST_WEIGHTS, FILE):  # a run's may have been trained further since
        texts.append("other weights")
    now = {"scales": scales or _own_scales(weights), "flip": flip, "padding": padding}
    if precision != "auto":
        now["precision"] = precision
    # int8 is a property of the file, not of how it is scored
    asked = str(earlier["protocol"].get("precision", "float32")).removeprefix("int8").removeprefix("+") or "float32"
    texts += protocol_differences({**earlier["protocol"], "precision": asked}, now, ", now ")
    if list(images.names) != [escape_name(pair.name) for pair in dataset.pairs]:
        texts.append(f"other images ({len(images.names)}, now {len(dataset)})")
    elif list(earlier["classes"]) != list(dataset.label_map.names):
        texts.append("other classes")
    elif not np.array_equal(images.support[0], _pixels(dataset)):
        texts.append(f"another label map of {images.names[0]}")
    if texts:
        raise UserError(
            f"{path}: has scores of something else ({'; '.join(texts)}): choose another folder by --output, or "
            f"replace them by --output {path.parent}"
        )


def _own_scales(weights: Path) -> Sequence[float]:
    """Those that a network blends, or 1."""
    if is_exported(weights):
        return read_graph(weights).scales or (1.0,)
    from dlaseg.weights.files import read_model_file  # imports torch

    return read_model_file(weights)[0].architecture.get("scales") or (1.0,)


def _pixels(dataset: SegmentationDataset) -> NDArray[np.intp]:
    """Pixels of each class in the first image, (C,)."""
    _, target = dataset.read(0)
    return np.bincount(target.ravel(), minlength=256)[: dataset.label_map.num_classes]
