"""Scores a model on a split: whole images at their native size, one confusion matrix."""

from collections.abc import Callable, Sequence
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
from dlaseg.evaluation.metrics import ConfusionMatrix
from dlaseg.models.segmenter import DLASeg, argmax_logits

OnImage = Callable[[int, NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]], None]


def evaluate(
    model: DLASeg,
    dataset: SegmentationDataset,
    workers: int = 0,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    loader: Any = None,
    on_image: OnImage | None = None,
) -> ConfusionMatrix:
    """Scores a model on every image of a split.

    Args:
        model: on the device to compute on; its mode is restored afterwards.
        dataset: the split.
        workers: processes that read images.
        scales: of the image; with more than one, class probabilities are averaged.
        flip: whether the mirrored image is averaged in too.
        loader: from `whole_image_loader(dataset, ...)`, for a caller that scores again and again; made if None.
        on_image: called with (index, image (H, W, 3) uint8, target (H, W) uint8, prediction (H, W) uint8, confusion
            matrix of this image (C, C) int64), all arrays.

    Returns:
        The confusion matrix of all pixels that are not ignored.

    Raises:
        UserError: classes that differ from the model's, a bad scale, an unreadable pair.
    """
    if dataset.label_map.names != model.label_map.names:
        raise UserError(
            f"the weights know {_few(model.label_map.names)}, the data set {dataset.name} has "
            f"{_few(dataset.label_map.names)}: score on a data set with the weights' classes"
        )
    check_scales(scales)
    device = next(model.parameters()).device
    confusion = ConfusionMatrix(model.num_classes)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            loader = loader or whole_image_loader(dataset, workers)
            progress = tqdm(batches(loader), total=len(dataset), desc="score", unit="img", leave=False, disable=None)
            for index, (image, target) in enumerate(progress):
                batch = normalize(image.to(device), model.mean, model.std)
                labels = predict(model, batch, scales, flip).cpu()
                added = confusion.update(target, labels)
                if on_image is not None:
                    on_image(index, image[0].permute(1, 2, 0).numpy(), target[0].numpy(), labels[0].numpy(), added)
    finally:
        model.train(was_training)
    return confusion


def check_scales(scales: Sequence[float]) -> None:
    """Raises a UserError for a scale that no image is scored at."""
    for scale in scales:
        if not 0.1 <= scale <= 10:
            raise UserError(f"scale {scale}: use 0.1 to 10")


def predict(model: DLASeg, image: Tensor, scales: Sequence[float] = (1.0,), flip: bool = False) -> Tensor:
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
    return _predict_averaged(model, image, scales, flip)


def _predict_averaged(model: DLASeg, image: Tensor, scales: Sequence[float], flip: bool) -> Tensor:
    size = image.shape[-2:]
    total = torch.zeros((), device=image.device)
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
            total = total + logits.softmax(1)
    return total.argmax(1).to(torch.uint8)


def _few(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
