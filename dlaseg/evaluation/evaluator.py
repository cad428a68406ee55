"""Scores a model on a split: whole images at their native size, one confusion matrix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from dlaseg.data.datasets import SegmentationDataset
from dlaseg.data.loading import batches, whole_image_loader
from dlaseg.data.tensors import normalize
from dlaseg.errors import UserError
from dlaseg.evaluation.metrics.confusion import ConfusionMatrix
from dlaseg.models.base import SegmentationModel, argmax_logits
from dlaseg.models.eval_mode import eval_mode


@dataclass(frozen=True)
class ScoredImage:
    """What `evaluate` found on one image.

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
    model: SegmentationModel,
    dataset: SegmentationDataset,
    workers: int = 0,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    loader: Any = None,
    on_image: Callable[[ScoredImage], None] | None = None,
    confidence: bool = False,
) -> ConfusionMatrix:
    """Scores a model on every image of a split.

    Args:
        model: on the device to compute on; its mode is restored afterwards.
        dataset: the split.
        workers: processes that read images.
        scales: of the image; with more than one, class probabilities are averaged.
        flip: whether the mirrored image is averaged in too.
        loader: from `whole_image_loader(dataset, ...)`, for a caller that scores again and again; made if None.
        on_image: called with each image.
        confidence: whether `on_image` gets it; takes the class probabilities of whole images at once.

    Returns:
        The confusion matrix of all pixels that are not ignored.

    Raises:
        UserError: classes that differ from the model's, a bad scale, an unreadable pair.
    """
    label_map = model.metadata.labels
    if dataset.label_map.names != label_map.names:
        raise UserError(
            f"the weights know {_few(label_map.names)}, the data set {dataset.name} has "
            f"{_few(dataset.label_map.names)}: score on a data set with the weights' classes"
        )
    dataset.require_labels()
    check_scales(scales)
    device = next(model.parameters()).device
    confusion = ConfusionMatrix(model.num_classes)
    with eval_mode(model), torch.inference_mode():
        loader = loader or whole_image_loader(dataset, workers)
        progress = tqdm(batches(loader), total=len(dataset), desc="score", unit="img", leave=False, disable=None)
        for index, (image, target) in enumerate(progress):
            batch = normalize(image.to(device), model.metadata.mean, model.metadata.std)
            sure = None
            if confidence:
                labels, probability = predict_with_confidence(model, batch, scales, flip)
                sure = probability[0].cpu().numpy()
            else:
                labels = predict(model, batch, scales, flip)
            labels = labels.cpu()
            added = confusion.update(target, labels)
            if on_image is not None:
                pixels = image[0].permute(1, 2, 0).numpy()
                on_image(ScoredImage(index, pixels, target[0].numpy(), labels[0].numpy(), sure, added))
    return confusion


def check_scales(scales: Sequence[float]) -> None:
    """Raises a UserError for a scale that no image is scored at."""
    for scale in scales:
        if not 0.1 <= scale <= 10:
            raise UserError(f"scale {scale}: use 0.1 to 10")


def predict(model: SegmentationModel, image: Tensor, scales: Sequence[float] = (1.0,), flip: bool = False) -> Tensor:
    """The class of every pixel, from the mean of the class probabilities over scales and mirror images.

    Args:
        model: in eval mode.
        image: (1, 3, H, W) float, normalised.
        scales: see `evaluate`.
        flip: see `evaluate`.

    Returns:
        (1, H, W) uint8 train ids.
    """
    if tuple(scales) == (1.0,) and not flip:
        return argmax_logits(model.coarse_logits(image).float(), model.stride, *image.shape[-2:])
    return _probabilities(model, image, scales, flip).argmax(1).to(torch.uint8)


def predict_with_confidence(
    model: SegmentationModel, image: Tensor, scales: Sequence[float] = (1.0,), flip: bool = False
) -> tuple[Tensor, Tensor]:
    """As `predict`, with the probability of each predicted class, (1, H, W) float32."""
    if tuple(scales) == (1.0,) and not flip:
        logits = model(image).float()
        labels = logits.argmax(1)  # not of the probabilities, where rounding makes ties
        probabilities = logits.softmax(1)
    else:
        probabilities = _probabilities(model, image, scales, flip)
        labels = probabilities.argmax(1)
    return labels.to(torch.uint8), probabilities.gather(1, labels[:, None])[:, 0]


def _probabilities(model: SegmentationModel, image: Tensor, scales: Sequence[float], flip: bool) -> Tensor:
    """(1, C, H, W), the mean over scales and mirror images."""
    size = image.shape[-2:]
    total, count = torch.zeros((), device=image.device), 0
    for scale in scales:
        scaled = image
        if scale != 1:
            scaled_size = [max(1, round(side * scale)) for side in size]
            scaled = F.interpolate(image, scaled_size, mode="bilinear", antialias=scale < 1)
        for mirrored in (False, True) if flip else (False,):
            logits = model(scaled.flip(3) if mirrored else scaled).float()
            logits = logits.flip(3) if mirrored else logits
            if logits.shape[-2:] != size:
                logits = F.interpolate(logits, size, mode="bilinear")
            total, count = total + logits.softmax(1), count + 1
    return total / count


def _few(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
