"""Scores a predictor on a split: whole images at their native size, one confusion matrix."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dlaseg.data.datasets import SegmentationDataset
from dlaseg.data.loading import batches, whole_image_loader
from dlaseg.errors import UserError
from dlaseg.evaluation.metrics.confusion import ConfusionMatrix
from dlaseg.inference.predictor import Predictor
from dlaseg.memory import is_out_of_memory

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredImage:
    """An image with its prediction and its counts.

    Attributes:
        index: in the data set.
        image: (H, W, 3) uint8 RGB.
        target: (H, W) uint8 train ids, 255 ignored.
        prediction: (H, W) uint8 train ids.
        confidence: (H, W) float32, probability of the predicted class; None unless asked for.
        confusion: (C, C) int64, of this image alone.
    """

    index: int
    image: NDArray[np.uint8]
    target: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    confidence: NDArray[np.float32] | None
    confusion: NDArray[np.int64]


def evaluate_predictor(
    predictor: Predictor,
    dataset: SegmentationDataset,
    workers: int = 0,
    loader: Any = None,
    on_image: Callable[[ScoredImage], None] | None = None,
    confidence: bool = False,
) -> ConfusionMatrix:
    """Scores a predictor on every image of a split.

    Pixels are counted on the device of the predictions; label maps are copied to the CPU for `on_image` only.

    Args:
        predictor: with the data set's classes.
        dataset: the split.
        workers: processes that read images.
        loader: from `whole_image_loader(dataset, ...)`, for callers that score repeatedly; created if None.
        on_image: called with each image.
        confidence: whether `ScoredImage` has it; needs memory for the class probabilities of a whole image.

    Returns:
        The confusion matrix of all pixels that are not ignored.

    Raises:
        UserError: classes that differ from the network's, an unreadable pair, or too little memory.
    """
    label_map = predictor.label_map
    if dataset.label_map.names != label_map.names:
        same = len(dataset.label_map.names) == len(label_map.names)
        rename = ", or name them by dlaseg weights convert FILE OUT --classes CLASSES.yaml" if same else ""
        raise UserError(
            f"the weights have {_few(label_map.names)}, the data set {dataset.name} has "
            f"{_few(dataset.label_map.names)}: score on a data set with the weights' classes{rename}"
        )
    dataset.require_labels()
    confusion, tiled = ConfusionMatrix(label_map.num_classes), predictor.tiled
    loader = loader or whole_image_loader(dataset, workers)
    progress = tqdm(batches(loader), total=len(dataset), desc="score", unit="img", leave=False, disable=None)
    for index, (image, target) in enumerate(progress):
        probability = None
        try:
            if confidence:
                labels, probability = predictor.predict_with_confidence(image)
            else:
                labels = predictor.predict(image)
        except UserError as error:  # too little memory even for tiles
            raise UserError(f"{dataset.pairs[index].image}: {error}") from error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"{dataset.pairs[index].image}: {image.shape[2]} x {image.shape[3]} pixels: not enough memory on "
                f"{predictor.backend.device}: use another device, or leave the image out with a list of names"
            ) from error
        if predictor.tiled and not tiled:
            tiled = True
            logger.warning(
                "%s: computed in tiles, for lack of memory: scores may differ from those of whole images, and with "
                "attention or rendered scales they do", dataset.pairs[index].image,
            )  # fmt: skip
        counts = count_pixels(target, labels, label_map.num_classes)
        confusion.matrix += counts
        if on_image is not None:
            on_image(
                ScoredImage(
                    index,
                    image[0].permute(1, 2, 0).numpy(),
                    target[0].numpy(),
                    labels[0].cpu().numpy(),
                    None if probability is None else probability[0].cpu().numpy(),
                    counts,
                )
            )
    return confusion


def count_pixels(target: Tensor, prediction: Tensor, num_classes: int) -> NDArray[np.int64]:
    """The confusion matrix of a batch, counted on the device of the prediction; equals `ConfusionMatrix.update`.

    Args:
        target: ground truth, (N, H, W) uint8 train ids 0 to C - 1, or 255 for ignored pixels; on any device.
        prediction: (N, H, W) uint8 train ids 0 to C - 1.
        num_classes: C.

    Returns:
        (C, C), rows = ground truth.

    Raises:
        UserError: an id out of range.
    """
    rows = target.to(prediction.device, non_blocking=True) + 1  # uint8: 255 becomes 0, so row 0 holds ignored pixels
    cells = rows.int().mul_(256).add_(prediction)
    counts = torch.bincount(cells.flatten(), minlength=(num_classes + 1) * 256).cpu().numpy()
    if len(counts) > (num_classes + 1) * 256:
        raise UserError(f"target id {(len(counts) - 1) // 256 - 1}: ids are 0 to {num_classes - 1}, or 255")
    table = counts.reshape(num_classes + 1, 256)[1:]
    if table[:, num_classes:].any():
        wrong = num_classes + int(table[:, num_classes:].any(0).argmax())
        raise UserError(f"prediction id {wrong}: ids are 0 to {num_classes - 1}")
    return np.ascontiguousarray(table[:, :num_classes])


def _few(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
