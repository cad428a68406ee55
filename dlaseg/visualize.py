"""The contact sheet: image, truth, prediction and error, side by side."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from dlaseg.files import replacing
from dlaseg.labels import IGNORE_INDEX, LabelMap

Row = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
"""Image (H, W, 3) RGB, target (H, W) and prediction (H, W) train ids."""


def contact_sheet(path: Path, rows: Sequence[Row], label_map: LabelMap, title: str) -> None:
    """Draws one line per image and a legend of the classes that occur.

    Args:
        path: a PNG; replaced as a whole.
        rows: the images with truth and prediction.
        label_map: names and colours.
        title: a line above it all.
    """
    width = 16.0
    aspect = float(np.mean([image.shape[0] / image.shape[1] for image, _, _ in rows]))
    figure = Figure(figsize=(width, width / 4 * aspect * len(rows) * 1.02 + 1.7), layout="constrained")
    figure.suptitle(title, fontsize=15)
    axes = figure.subplots(len(rows), 4, squeeze=False)
    for line, (image, target, prediction) in zip(axes, rows, strict=True):
        pictures = (
            image,
            label_map.colorize(target),
            label_map.colorize(prediction),
            error_map(image, target, prediction),
        )
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.axis("off")
    for axis, name in zip(axes[0], ("image", "truth (black: not scored)", "prediction", "errors in red"), strict=True):
        axis.set_title(name)
    seen = sorted({int(i) for _, target, prediction in rows for i in (*np.unique(target), *np.unique(prediction))})
    patches = [
        Patch(color="#{:02x}{:02x}{:02x}".format(*label_map.palette[i]), label=label_map.names[i])
        for i in seen
        if i != IGNORE_INDEX
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 8), frameon=False)
    with replacing(path) as temporary, matplotlib.rc_context({"savefig.bbox": None}):
        figure.savefig(temporary, dpi=100)


def picture_grid(rows: Sequence[Row], label_map: LabelMap, width: int = 384) -> NDArray[np.uint8]:
    """The same columns without any text, for whoever shows pictures by the step.

    Args:
        rows: the images with truth and prediction.
        label_map: colours.
        width: of each picture, pixels.

    Returns:
        (H, 4 * width, 3) RGB.
    """
    lines = []
    for image, target, prediction in rows:
        size = (width, max(1, round(width * image.shape[0] / image.shape[1])))
        small, truth, guess = (
            np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)
            for picture, how in (
                (image, cv2.INTER_AREA),
                (target, cv2.INTER_NEAREST_EXACT),
                (prediction, cv2.INTER_NEAREST_EXACT),
            )
        )
        colours = label_map.colorize(truth), label_map.colorize(guess)
        lines.append(np.hstack([small, *colours, error_map(small, truth, guess)]))
    return np.vstack(lines)


def error_map(image: NDArray[np.uint8], target: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image in faint grey, wrong pixels red, pixels that are not scored black.

    Args:
        image: (H, W, 3) RGB.
        target: (H, W) train ids, 255 not scored.
        prediction: (H, W) train ids.

    Returns:
        (H, W, 3) RGB.
    """
    grey = image.mean(axis=2, keepdims=True) * 0.45 + 120
    picture = np.repeat(grey, 3, axis=2).astype(np.uint8)
    picture[(target != prediction) & (target != IGNORE_INDEX)] = (214, 39, 40)
    picture[target == IGNORE_INDEX] = 0
    return picture
