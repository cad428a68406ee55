"""The one way from an image to classes, for inference, scores, validation, submissions and the report."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dlaseg.data.tensors import normalize, to_tensor
from dlaseg.errors import UserError
from dlaseg.factory import load_model
from dlaseg.inference.backends.choice import make_backend
from dlaseg.inference.backends.exported import is_exported, read_graph
from dlaseg.inference.backends.graph import Graph
from dlaseg.inference.inputs import ImageInput, as_rgb
from dlaseg.inference.memory import MemoryBudget
from dlaseg.inference.tiling import Finish, Grid, Result, blend_tiles
from dlaseg.models.base import SegmentationModel, argmax_logits, upsample_logits
from dlaseg.weights.download import resolve

ImageT = TypeVar("ImageT", bound=ImageInput)


class Predictor:
    """A network ready for use.

    Images have any height and width from 1 upwards. Safe to call from several threads.

    Args:
        weights: a weights file, a folder with `model.safetensors`, a name of `dlaseg.list_weights()`, a repository on
            the Hugging Face hub (`USER/NAME`), a file from `dlaseg export` (.onnx, .xml), or a model, which is copied:
            training it further changes nothing here; or what `load_network` gives.
        backend: what runs the network: `torch`, `openvino`, `onnxruntime`, or `auto` for the fastest that is installed
            and exact for this network. By default `torch`, and for an exported file what reads it.
        device: `auto` (the first available of cuda, mps, cpu), or a device's name.
        precision: `float32`, `bfloat16`, `float16` (GPUs, torch), or `auto` for a reduced one where the device gains
            from it.
        scales: of the image, 0.1 to 10; class probabilities are averaged over them.
        flip: whether class probabilities are averaged over the mirrored image, too.
        batch_size: images of equal size that are computed at a time when a list is given.
        max_memory: bytes that the process may hold, those it holds already included (on a GPU: bytes of all tensors).
            Images that need more are computed in overlapping tiles. By default, what is held now and half of what is
            free now.

    Attributes:
        metadata: of the network.
        label_map: names, colours and ids of the classes.
        backend: what computes, see `Backend`.
        memory: decides which images are computed in tiles.

    Raises:
        UserError: no such weights, backend, device or precision, a scale out of range, a network that does not take
            three channels, a classifier, or too little memory.

    Example:
        >>> from dlaseg.factory import create_model
        >>> predictor = Predictor(create_model("dla46_c", num_classes=19), device="cpu")
        >>> predictor(np.zeros((33, 50, 3), np.uint8)).shape
        (33, 50)
        >>> predictor.probabilities(np.zeros((33, 50, 3), np.uint8)).shape
        (19, 33, 50)
    """

    def __init__(
        self,
        weights: str | Path | SegmentationModel | Graph,
        backend: str | None = None,
        device: str = "auto",
        precision: str = "float32",
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        batch_size: int = 1,
        max_memory: int | None = None,
    ):
        if not scales:
            raise UserError("scales []: give one at least, such as 1.0")
        for scale in scales:
            if not 0.1 <= scale <= 10:
                raise UserError(f"scale {scale}: use 0.1 to 10")
        if batch_size < 1:
            raise UserError(f"batch_size {batch_size}: use 1 or more")
        network = load_network(weights) if isinstance(weights, str | Path) else weights
        self.metadata = network.metadata
        self.label_map = self.metadata.labels
        if self.metadata.in_channels != 3:
            raise UserError(f"a network of {self.metadata.in_channels} input channels: RGB images need one of 3")
        self.backend = make_backend(backend, network, device, precision)
        self.scales, self.flip, self.batch_size = tuple(scales), flip, batch_size
        self.memory = MemoryBudget(self.backend, max_memory, self.scales, flip)
        if not self._single_pass:
            self.check_gives_logits("scales and flip average")
        if self.backend.input == "pixels" and self.scales != (1.0,):
            raise UserError(
                f"scales {' '.join(map(str, self.scales))}: this file normalises pixels itself, so that they cannot be "
                "scaled before: export the weights with --input normalized, or use the scale 1"
            )

    @overload
    def __call__(self, image: ImageInput) -> NDArray[np.uint8]: ...
    @overload
    def __call__(self, image: list[ImageT] | tuple[ImageT, ...]) -> list[NDArray[np.uint8]]: ...
    def __call__(self, image: Any) -> Any:
        """Predicts the class of every pixel.

        Args:
            image: an `ImageInput`, or a list of them, whose sizes may differ.

        Returns:
            (H, W) uint8 train ids, 0 to C - 1; of a list, a list of them in its order.

        Raises:
            UserError: an unreadable file, or an array of another shape or type.
        """
        return self._map(image, self.predict)

    @overload
    def probabilities(self, image: ImageInput) -> NDArray[np.float32]: ...
    @overload
    def probabilities(self, image: list[ImageT] | tuple[ImageT, ...]) -> list[NDArray[np.float32]]: ...
    def probabilities(self, image: Any) -> Any:
        """The class probabilities of every pixel, averaged over scales and mirror images.

        Args:
            image: as for `__call__`.

        Returns:
            (C, H, W) float32, the sum over C is 1; of a list, a list of them in its order.
        """
        return self._map(image, self._probabilities)

    def segment(
        self, image: ImageInput, probabilities: bool = False
    ) -> tuple[NDArray[np.uint8], NDArray[np.float16] | None]:
        """The classes of one image and, if wanted, their probabilities from the same pass of the network.

        Args:
            image: one, as for `__call__`.
            probabilities: whether they are computed, too.

        Returns:
            (H, W) uint8 train ids, as from `__call__`; and None, or (C, H, W) float16: rounded by at most 0.00025, so
            that two classes may become equal. The train ids do not depend on that.
        """
        if not probabilities:
            return self(image), None
        labels, exact = self.predict_with_probabilities(to_tensor(as_rgb(image))[None])
        return labels[0].cpu().numpy(), exact[0].half().cpu().numpy()

    @torch.inference_mode()
    def predict(self, images: Tensor) -> Tensor:
        """Predicts a batch of equal size.

        Args:
            images: (N, 3, H, W) uint8 RGB, on any device.

        Returns:
            (N, H, W) uint8 train ids, on the backend's device.
        """
        (labels,) = self._compute(images, self._labels)
        return labels

    @torch.inference_mode()
    def predict_with_confidence(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `predict`, with the probability of each predicted class, (N, H, W) float32."""
        self.check_gives_logits("confidence needs")
        labels, confidence = self._compute(images, self._labels_with_confidence, score_copies=3)
        return labels, confidence

    @torch.inference_mode()
    def predict_with_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `predict`, with the probabilities of all classes, (N, C, H, W) float32."""
        self.check_gives_logits("probabilities are computed from")
        labels, probabilities = self._compute(images, self._labels_with_probabilities, score_copies=3)
        return labels, probabilities

    @torch.inference_mode()
    def predict_strips(
        self, read: Callable[[int, int], NDArray[np.uint8]], grid: Grid
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Predicts an image of which only some rows are in memory at a time.

        Args:
            read: gives the rows from a first one up to another one, (h, W, 3) uint8 RGB; the next rows begin within
                these.
            grid: of the image, from `memory`.

        Yields:
            Number of the first row, and the train ids of the rows that are finished, (h, W) uint8, from top to bottom.
        """
        strips = self._strips(lambda top, bottom: to_tensor(read(top, bottom))[None], grid, self._labels)
        for top, (labels,) in strips:
            yield top, labels[0].cpu().numpy()

    def _compute(self, images: Tensor, finish: Finish, score_copies: int = 0) -> Result:
        """Computes a batch of equal size, as a whole or in tiles.

        Args:
            images: (N, 3, H, W) uint8 RGB.
            finish: makes the result from scores.
            score_copies: how many scores of every pixel it needs at a time.
        """
        count, _, height, width = images.shape
        score_bytes = 4 * self.metadata.labels.num_classes * score_copies
        grid = self.memory.grid(height, width * count, score_bytes=score_bytes)
        if grid is None:
            return finish(self._scores(images), height, width)
        if count > 1:
            parts = [self._compute(image[None], finish, score_copies) for image in images]
            return tuple(torch.cat(part) for part in zip(*parts, strict=True))
        results: Result = ()
        for top, strips in self._strips(lambda top, bottom: images[..., top:bottom, :], grid, finish):
            if not results:
                results = tuple(strip.new_empty(*strip.shape[:-2], height, width) for strip in strips)
            for result, strip in zip(results, strips, strict=True):
                result[..., top : top + strip.shape[-2], :] = strip
        return results

    def _strips(self, read: Callable[[int, int], Tensor], grid: Grid, finish: Finish) -> Iterator[tuple[int, Result]]:
        self.check_gives_logits("the tiles of a large image are blended by")
        return blend_tiles(grid, self._score_stride, read, self._scores, finish)

    def _scores(self, images: Tensor) -> Tensor:
        """What tiles are blended by: coarse logits, or the probabilities of every pixel if several are averaged."""
        return self.backend.run(images) if self._single_pass else self._averaged(images)

    @property
    def _score_stride(self) -> int:
        """Pixels per score."""
        return self.backend.stride if self._single_pass else 1

    def _labels(self, scores: Tensor, height: int, width: int) -> Result:
        if self.backend.output == "labels":
            return (scores,)
        if self._single_pass:
            return (argmax_logits(scores, self.backend.stride, height, width),)
        return (scores[..., :height, :width].argmax(1).to(torch.uint8),)

    def _labels_with_confidence(self, scores: Tensor, height: int, width: int) -> Result:
        labels, probabilities = self._labels_with_probabilities(scores, height, width)
        return labels, probabilities.gather(1, labels[:, None].long())[:, 0]

    def _labels_with_probabilities(self, scores: Tensor, height: int, width: int) -> Result:
        # Not the argmax of the probabilities, where rounding makes ties
        return *self._labels(scores, height, width), *self._class_probabilities(scores, height, width)

    def _class_probabilities(self, scores: Tensor, height: int, width: int) -> Result:
        if self._single_pass:
            return (upsample_logits(scores, self.backend.stride, height, width).softmax(1),)
        return (scores[..., :height, :width],)

    @property
    def _single_pass(self) -> bool:
        return self.scales == (1.0,) and not self.flip

    @torch.inference_mode()
    def _probabilities(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> (N, C, H, W) float32."""
        self.check_gives_logits("probabilities are computed from")
        (probabilities,) = self._compute(images, self._class_probabilities, score_copies=2)
        return probabilities

    def _averaged(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> (N, C, H, W) float32, the mean over scales and mirror images."""
        size = images.shape[-2:]
        images = images.to(self.backend.device)
        total, count = torch.zeros((), device=images.device), 0
        for scale in self.scales:
            scaled = images  # the backend normalises them
            if scale != 1:
                pixels = normalize(images, self.metadata.mean, self.metadata.std)
                scaled_size = [max(1, round(side * scale)) for side in size]
                scaled = F.interpolate(pixels, scaled_size, mode="bilinear", antialias=scale < 1)
            for mirrored in (False, True) if self.flip else (False,):
                coarse = self.backend.run(scaled.flip(3) if mirrored else scaled)
                logits = upsample_logits(coarse, self.backend.stride, *scaled.shape[-2:])
                logits = logits.flip(3) if mirrored else logits
                if logits.shape[-2:] != size:
                    logits = F.interpolate(logits, size, mode="bilinear")
                total, count = total + logits.softmax(1), count + 1
        return total / count

    def check_gives_logits(self, what: str) -> None:
        """Refuses an exported file that gives labels alone.

        Args:
            what: needs logits, for the message.

        Raises:
            UserError: it does.
        """
        if self.backend.output == "labels":
            raise UserError(
                f"{what} logits, and this file gives labels alone: export the weights with --output logits or "
                "coarse_logits"
            )

    def _map(self, image: Any, compute: Callable[[Tensor], Tensor]) -> Any:
        """Applies a function of batches to one image or to a list of images, in batches of equal size."""
        if not isinstance(image, list | tuple):
            return compute(to_tensor(as_rgb(image))[None])[0].cpu().numpy()
        results: dict[int, NDArray[Any]] = {}
        waiting: defaultdict[tuple[int, ...], list[tuple[int, Tensor]]] = defaultdict(list)

        def flush(batch: list[tuple[int, Tensor]]) -> None:
            indices, tensors = zip(*batch, strict=True)
            results.update(zip(indices, compute(torch.stack(tensors)).cpu().numpy(), strict=True))
            batch.clear()

        for index, entry in enumerate(image):
            tensor = to_tensor(as_rgb(entry))
            batch = waiting[tuple(tensor.shape)]
            batch.append((index, tensor))
            if len(batch) == self.batch_size:
                flush(batch)
        for batch in waiting.values():
            if batch:
                flush(batch)
        return [results[index] for index in range(len(image))]


def load_network(source: str | Path) -> SegmentationModel | Graph:
    """The network of a weights file of ours, see `load_model`, or of a file from `dlaseg export`.

    Raises:
        UserError: as `load_model` and `read_graph`.
    """
    path = resolve(source)
    return read_graph(path) if is_exported(path) else load_model(path)
