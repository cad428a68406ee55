"""What the page computes and shows, without the page."""

import base64
import html
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.data.tensors import to_tensor
from dlaseg.errors import UserError
from dlaseg.images import read_image
from dlaseg.inference.predictor import Predictor
from dlaseg.labels import LabelMap
from dlaseg.metadata import reduction
from dlaseg.png import encode_png
from dlaseg.visualize import overlay
from dlaseg.weights.download import resolve

LARGEST_SIDE = 1280
"""Pixels of the larger side of what the browser knows of each pixel: about what a screen shows."""

MOST_PREDICTORS = 4
"""Networks that are kept ready, the ones that were used last."""


@dataclass(frozen=True)
class Segmented:
    """An image and what a network makes of it.

    Attributes:
        name: of the image, without suffix.
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 train ids.
        confidence: (H, W) float16, the probability of the predicted class; None if the weights give labels alone.
        label_map: the classes.
        seconds: that reading and the network took.
        backend: what computed it, such as `openvino, float32`.
    """

    name: str
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    confidence: NDArray[np.float16] | None
    label_map: LabelMap
    seconds: tuple[float, float]
    backend: str

    def shares(self) -> dict[int, float]:
        """The share of the pixels of each class that occurs, the largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=self.label_map.num_classes)
        present = sorted(np.flatnonzero(counts[: self.label_map.num_classes]).tolist(), key=lambda i: -counts[i])
        return {train_id: float(counts[train_id] / self.labels.size) for train_id in present}


class Networks:
    """Predictors that are ready. Safe to call from several threads."""

    def __init__(self) -> None:
        self._predictors: dict[tuple[Any, ...], Predictor] = {}
        self._lock = Lock()

    def segment(self, file: str | Path, weights: str, backend: str, scales: Sequence[float], flip: bool) -> Segmented:
        """Reads an image and predicts its classes.

        Args:
            file: of the image.
            weights: as for `Predictor`.
            backend: as for `Predictor`.
            scales: as for `Predictor`; none or 1 alone for its default.
            flip: as for `Predictor`.

        Raises:
            UserError: a file that is no image, or as `Predictor`.
        """
        start = perf_counter()
        image = read_image(file)
        read = perf_counter()
        given = None if list(scales) in ([], [1]) else tuple(sorted(scales))
        predictor = self._predictor(weights, backend, given, flip)
        begin = perf_counter()
        confidence = None
        if predictor.backend.output == "labels":
            labels = predictor(image)
        else:
            found, probability = predictor.predict_with_confidence(to_tensor(image)[None])
            labels, confidence = found[0].cpu().numpy(), probability[0].half().cpu().numpy()
        seconds = read - start, perf_counter() - begin
        size = _size(image.shape[0], image.shape[1], predictor)
        used = f"{predictor.backend.name}, {predictor.backend.precision}{size}"
        return Segmented(Path(file).stem, image, labels, confidence, predictor.label_map, seconds, used)

    def _predictor(self, weights: str, backend: str, scales: tuple[float, ...] | None, flip: bool) -> Predictor:
        # What is replaced is read again; a repository is not asked for news with every image
        state = resolve(weights).stat() if Path(weights).exists() else None
        key = weights, backend, scales, flip, state and (state.st_mtime_ns, state.st_size, state.st_ino)
        with self._lock:
            predictor = self._predictors.pop(key, None) or Predictor(weights, backend, scales=scales, flip=flip)
            self._predictors[key] = predictor  # used last
            while len(self._predictors) > MOST_PREDICTORS:
                del self._predictors[next(iter(self._predictors))]
        return predictor


def _size(height: int, width: int, predictor: Predictor) -> str:
    """At what size an image is computed, if it is not its own, or if the network was trained on others by far."""
    factor, training = reduction(height, width, predictor.max_short_side), predictor.metadata.training_short_side
    if factor > 1:
        return f", at 1/{factor} of the size"
    ratio = 1.0 if training is None else min(height, width) / training
    return "" if 0.5 < ratio < 2 else f", {ratio:.2g} times the size of the images of the training"


def picture(segmented: Segmented, hidden: Collection[str], opacity: float) -> NDArray[np.uint8]:
    """The image under the colours of its classes, (H, W, 3) uint8; under those of `hidden` classes, it stays as it is.

    Args:
        segmented: the image.
        hidden: names of classes.
        opacity: of the colours, 0 to 1.
    """
    colored = overlay(segmented.image, segmented.label_map.colorize(segmented.labels), opacity)
    shown = np.array([name not in hidden for name in segmented.label_map.names] + [False] * 256)[segmented.labels]
    return np.where(shown[..., None], colored, segmented.image)


def legend(segmented: Segmented) -> list[tuple[str, str]]:
    """A line and the name of each class that occurs, the largest first."""
    names = segmented.label_map.names
    return [(f"{names[train_id]}  {share:.1%}", names[train_id]) for train_id, share in segmented.shares().items()]


def swatches(segmented: Segmented, element: str) -> str:
    """CSS that gives the n-th label in an element the colour of the n-th class of the legend."""
    palette = segmented.label_map.palette
    return "".join(
        f"{element} label:nth-of-type({number}) {{ --swatch: rgb{tuple(palette[train_id])}; }}"
        for number, train_id in enumerate(segmented.shares(), 1)
    )


def pixels(segmented: Segmented) -> str:
    """An image, as HTML, of what is under the pointer: red is the train id, green the probability.

    A large one is made smaller, to `LARGEST_SIDE`, by leaving out pixels.
    """
    step = -(-max(segmented.labels.shape) // LARGEST_SIDE)
    labels = segmented.labels[::step, ::step]
    sure = np.zeros_like(labels)
    if segmented.confidence is not None:
        sure = (segmented.confidence[::step, ::step].astype(np.float32) * 255).round().astype(np.uint8)
    content = base64.b64encode(encode_png(np.stack([labels, sure, np.zeros_like(labels)], 2))).decode()
    names = html.escape(json.dumps(segmented.label_map.names))
    known = "" if segmented.confidence is None else ' data-sure="yes"'
    return f'<img alt="" data-names="{names}"{known} src="data:image/png;base64,{content}">'


def times(segmented: Segmented) -> str:
    """How long it took, in words."""
    height, width = segmented.labels.shape
    read, network = (f"{1000 * seconds:.0f} ms" for seconds in segmented.seconds)
    return f"{height} x {width} pixels; read in {read}, segmented in {network} ({segmented.backend})"


def pixel(segmented: Segmented, row: int, column: int) -> str:
    """The class of a pixel and its probability, in words."""
    height, width = segmented.labels.shape
    if not (0 <= row < height and 0 <= column < width):
        raise UserError(f"row {row}, column {column}: outside the image of {height} x {width}: point at the image")
    label = int(segmented.labels[row, column])
    names = segmented.label_map.names
    name = names[label] if label < len(names) else "no class"
    sure = "" if segmented.confidence is None else f", probability {float(segmented.confidence[row, column]):.1%}"
    return f"row {row}, column {column}: {name}{sure}"


def save(segmented: Segmented, folder: Path) -> list[Path]:
    """Writes the label map (ids as the data set stores them), its colours and the overlay, as PNG."""
    colors = segmented.label_map.colorize(segmented.labels)
    pictures = {
        "ids": segmented.label_map.decode(segmented.labels),
        "color": colors,
        "overlay": overlay(segmented.image, colors),
    }
    files = []
    for kind, pixels in pictures.items():
        files.append(folder / f"{segmented.name}_{kind}.png")
        files[-1].write_bytes(encode_png(pixels))
    return files
