"""Scores a predictor on a split: whole images at their native size, one confusion matrix."""

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
from dlaseg.labels import IGNORE_INDEX


@dataclass(frozen=True)
class ScoredImage:
    """One image of `evaluate`.

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


def evaluate(
    predictor: Predictor,
    dataset: SegmentationDataset,
    workers: int = 0,
    loader: Any = None,
    on_image: Callable[[ScoredImage], None] | None = None,
    confidence: bool = False,
) -> ConfusionMatrix:
    """Scores a predictor on every image of a split.

    Pixels are counted on the device that predicts; label maps leave it for `on_image` alone.

    Args:
        predictor: with the data set's classes.
        dataset: the split.
        workers: processes that read images.
        loader: from `whole_image_loader(dataset, ...)`, for a caller that scores again and again; made if None.
        on_image: called with each image.
        confidence: whether `on_image` gets it; takes the class probabilities of whole images at once.

    Returns:
        The confusion matrix of all pixels that are not ignored.

    Raises:
        UserError: classes that differ from the network's, or an unreadable pair.
    """
    label_map = predictor.label_map
    if dataset.label_map.names != label_map.names:
        raise UserError(
            f"the weights have {_few(label_map.names)}, the data set {dataset.name} has "
            f"{_few(dataset.label_map.names)}: score on a data set with the weights' classes"
        )
    dataset.require_labels()
    confusion = ConfusionMatrix(label_map.num_classes)
    loader = loader or whole_image_loader(dataset, workers)
    progress = tqdm(batches(loader), total=len(dataset), desc="score", unit="img", leave=False, disable=None)
    for index, (image, target) in enumerate(progress):
        probability = None
        if confidence:
            labels, probability = predictor.predict_with_confidence(image)
        else:
            labels = predictor.predict(image)
        if on_cpu(labels):  # where NumPy counts several times as fast as torch
            counts = confusion.update(target, labels)
        else:
            counts = count_on_device(target, labels, label_map.num_classes).cpu().numpy()
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


def on_cpu(tensor: Tensor) -> bool:
    """Whether a tensor is in the CPU's memory."""
    return tensor.device.type == "cpu"


def count_on_device(target: Tensor, prediction: Tensor, num_classes: int) -> Tensor:
    """The confusion matrix of a batch, counted where the prediction is; equals `ConfusionMatrix.update`.

    Args:
        target: (N, H, W) uint8 train ids, 255 ignored, on any device; a data set's, so 0 to C - 1 or 255.
        prediction: (N, H, W) uint8 train ids, 0 to C - 1.
        num_classes: C.

    Returns:
        (C, C) int64, rows = ground truth, on the prediction's device.
    """
    target = target.to(prediction.device, non_blocking=True)
    counted = target != IGNORE_INDEX
    cells = target[counted].long() * num_classes + prediction[counted]
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def _few(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
