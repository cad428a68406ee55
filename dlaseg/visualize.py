"""Pictures of label maps, one function per kind; `LabelMap.colorize` gives the colours of the classes."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.labels import IGNORE_INDEX, LabelMap

Row = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
"""Image (H, W, 3) RGB, target (H, W) and prediction (H, W), both train ids."""

_ERROR_COLOR = (214, 39, 40)


def overlay(image: NDArray[np.uint8], color: NDArray[np.uint8], alpha: float = 0.5) -> NDArray[np.uint8]:
    """Blends colours over an image.

    Args:
        image: (H, W, 3) uint8, RGB.
        color: (H, W, 3) uint8, RGB.
        alpha: weight of the colours, 0 to 1.

    Returns:
        (H, W, 3) uint8, RGB: (1 - alpha) * image + alpha * color, rounded.

    Raises:
        UserError: shapes that differ, or alpha out of range.
    """
    if image.shape != color.shape:
        raise UserError(f"image of shape {image.shape}, colours of shape {color.shape}: an overlay needs equal shapes")
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha {alpha}: the weight of the colours must be 0 to 1")
    return np.asarray(cv2.addWeighted(image, 1 - alpha, color, alpha, 0), np.uint8)


def error_map(image: NDArray[np.uint8], target: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Marks wrong pixels red and ignored pixels black; the rest is the image in light grey.

    Args:
        image: (H, W, 3) uint8, RGB.
        target: (H, W) uint8 train ids, 255 ignored.
        prediction: (H, W) uint8 train ids.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    grey = image.mean(axis=2, keepdims=True) * 0.45 + 120
    picture = np.repeat(grey, 3, axis=2).astype(np.uint8)
    picture[(target != prediction) & (target != IGNORE_INDEX)] = _ERROR_COLOR
    picture[target == IGNORE_INDEX] = 0
    return picture


def comparison_grid(rows: Sequence[Row], label_map: LabelMap, width: int = 384) -> NDArray[np.uint8]:
    """Compares predictions with the ground truth: one row per image.

    Args:
        rows: at least one.
        label_map: gives the colours.
        width: of each column in pixels. Pictures keep the image's aspect ratio; one that would be higher than its
            share of the grid's height is narrower, with white beside it.

    Returns:
        (H, 4 * width, 3) uint8, RGB, where H is at most 4 * width, or a pixel for each row; the columns are image,
        ground truth, prediction and errors.
    """
    lines, highest = [], max(1, 4 * width // len(rows))
    for image, target, prediction in rows:
        size = (width, max(1, round(width * image.shape[0] / image.shape[1])))
        if size[1] > highest:
            size = (max(1, round(highest * image.shape[1] / image.shape[0])), highest)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        target, prediction = (
            np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
            for labels in (target, prediction)
        )
        colors = label_map.colorize(target), label_map.colorize(prediction)
        pictures = (image, *colors, error_map(image, target, prediction))
        beside = ((0, 0), (0, width - size[0]), (0, 0))
        lines.append(np.hstack([np.pad(picture, beside, constant_values=255) for picture in pictures]))
    return np.vstack(lines)
