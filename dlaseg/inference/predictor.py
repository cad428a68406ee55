"""The one way from an image to classes, for inference, scores, validation, submissions and the report.

torch is imported where it computes: a class per pixel by another engine does without, which saves most of the start and
half a gigabyte.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.inference.argmax import argmax_logits
from dlaseg.inference.backends.base import Backend, check_gives_logits
from dlaseg.inference.backends.choice import make_backend
from dlaseg.inference.backends.reduced import ReducedBackend, check_limit, tell_of_size
from dlaseg.inference.grid import Grid
from dlaseg.inference.inputs import ImageInput, as_rgb
from dlaseg.inference.memory import MemoryBudget
from dlaseg.inference.network import blend_scales, open_network
from dlaseg.inference.tiling import blend_tiles
from dlaseg.metadata import reduction

if TYPE_CHECKING:
    from torch import Tensor

    from dlaseg.inference.network import Network
    from dlaseg.inference.tensors import TensorPredictor

logger = logging.getLogger(__name__)

ImageT = TypeVar("ImageT", bound=ImageInput)


class Predictor:
    """A network ready for use.

    Images have any height and width from 1 upwards. Safe to call from several threads.

    Args:
        weights: a weights file, the folder of a run or one with `model.safetensors`, a name of `dlaseg.list_weights()`,
            a repository on the Hugging Face hub (`USER/NAME`), a file from `dlaseg export` (.onnx, .xml), or a model,
            which is copied: training it further changes nothing here; or what `open_network` gives.
        backend: what runs the network: `torch`, `torch-compile`, `openvino`, `onnxruntime`, or `auto` for the fastest
            that is installed and exact for this network. By default `torch`, and for an exported file what reads it.
        device: `auto` (the first available of cuda, mps, cpu), or a device's name.
        precision: `float32`, `bfloat16`, `float16` (GPUs, torch), or `auto` for a reduced one where the device gains
            from it.
        scales: of the image, 0.1 to 10, over which class probabilities are averaged; by default 1 alone. A network with
            scale-space rendering blends them by its own weights, 0.25 to 4, by default those in its file.
        flip: whether class probabilities are averaged over the mirrored image, too; by scale-space rendering, scores.
        batch_size: images of equal size that are computed at a time when a list is given.
        max_memory: bytes that the process may hold, those it holds already included (on a GPU: bytes of all tensors).
            Images that need more are computed in overlapping tiles. By default, what is held now and half of what is
            free now.
        max_short_side: an image whose shorter side is longer, in pixels, is computed at 1/2, 1/3, ... of its size, the
            largest that fits; results have the size of the image. 0 for no limit; by default that of the weights
            (`ModelMetadata.max_short_side`).

    Attributes:
        metadata: of the network.
        label_map: names, colours and ids of the classes.
        backend: what computes, see `Backend`.
        memory: decides which images are computed in tiles; of those that are reduced, see `memory_for`.
        max_short_side: see above; None for no limit.
        scales: over which probabilities are averaged, or which the network blends.

    Raises:
        UserError: no such weights, backend, device or precision, a scale out of range, a network that does not take
            three channels, a classifier, or too little memory.

    Examples:
        >>> from dlaseg.factory import create_model
        >>> predictor = Predictor(create_model("dla46_c", num_classes=19), device="cpu")
        >>> predictor(np.zeros((33, 50, 3), np.uint8)).shape
        (33, 50)
        >>> predictor.probabilities(np.zeros((33, 50, 3), np.uint8)).shape
        (19, 33, 50)
    """

    def __init__(
        self,
        weights: "str | Path | Network",
        backend: str | None = None,
        device: str = "auto",
        precision: str = "float32",
        scales: Sequence[float] | None = None,
        flip: bool = False,
        batch_size: int = 1,
        max_memory: int | None = None,
        max_short_side: int | None = None,
    ):
        if scales is not None and (not isinstance(scales, Sequence) or not len(scales)):
            raise UserError(f"scales {scales}: use a list of one at least, such as [1.0]")
        for scale in scales or ():
            if not isinstance(scale, Real) or not 0.1 <= scale <= 10:
                raise UserError(f"scale {scale}: use 0.1 to 10")
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise UserError(f"batch_size {batch_size!r}: use an integer from 1")
        check_limit(max_short_side)
        network = open_network(weights)
        blended = None if scales is None else blend_scales(network, scales)
        self.backend = make_backend(backend, blended or network, device, precision)
        self.metadata = self.backend.metadata
        self.label_map = self.metadata.labels
        if self.metadata.in_channels != 3:
            raise UserError(f"a network of {self.metadata.in_channels} input channels: RGB images need one of 3")
        averaged = tuple(map(float, scales or (1.0,)))
        self.scales = self.backend.scales or averaged
        self._averaged_scales = averaged if self.backend.scales is None else (1.0,)
        self.flip, self.batch_size = flip, batch_size
        self.memory = MemoryBudget(self.backend, max_memory, self._averaged_scales, flip)
        self.max_short_side = (self.metadata.max_short_side if max_short_side is None else max_short_side) or None
        self._reduced: dict[int, tuple[Backend, MemoryBudget]] = {}  # by factor
        undecided = max_short_side is None and scales is None
        self._training_side = self.metadata.training_short_side if undecided else None  # until it is told of
        if flip and (sides := self.metadata.mirrored_classes):
            logger.warning("flip averages over the mirrored image, in which %r looks like %r: leave it out", *sides)
        if self._averages:
            self.check_gives_logits("scales and flip average")
        if self.backend.input == "pixels" and self._averaged_scales != (1.0,):
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
        return self._map(image, self._labels)

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
        labels, exact = self.predict_with_probabilities(_to_tensors(as_rgb(image)[None]))
        return labels[0].cpu().numpy(), exact[0].half().cpu().numpy()

    def predict(self, images: "Tensor") -> "Tensor":
        """Predicts a batch of equal size.

        Args:
            images: (N, 3, H, W) uint8 RGB, on any device.

        Returns:
            (N, H, W) uint8 train ids, on the backend's device.

        Raises:
            UserError: a tensor of another type or shape.
        """
        return self._tensors(*_checked(images).shape[-2:]).labels(images)

    def predict_with_confidence(self, images: "Tensor") -> "tuple[Tensor, Tensor]":
        """As `predict`, with the probability of each predicted class, (N, H, W) float32."""
        return self._tensors(*_checked(images).shape[-2:]).labels_with_confidence(images)

    def predict_with_probabilities(self, images: "Tensor") -> "tuple[Tensor, Tensor]":
        """As `predict`, with the probabilities of all classes, (N, C, H, W) float32."""
        return self._tensors(*_checked(images).shape[-2:]).labels_with_probabilities(images)

    def predict_strips(
        self, read: Callable[[int, int], NDArray[np.uint8]], grid: Grid
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Predicts an image of which only some rows are in memory at a time.

        Args:
            read: gives the rows from a first one up to another one, (h, W, 3) uint8 RGB; the next rows begin within
                these.
            grid: of the image, from `memory_for`.

        Yields:
            Number of the first row, and the train ids of the rows that are finished, (h, W) uint8, from top to bottom.
        """
        height, width = grid.rows.length, grid.columns.length
        if self.needs_torch:
            tensors = self._tensors(height, width)
            yield from tensors.strips(lambda top, bottom: _to_tensors(read(top, bottom)[None]), grid)
            return
        backend, _ = self._at(height, width)
        self.check_gives_logits("the tiles of a large image are blended by")

        def read_batch(top: int, bottom: int) -> NDArray[np.uint8]:
            return read(top, bottom)[None].transpose(0, 3, 1, 2)

        def finish(scores: NDArray[np.float32], height: int, width: int) -> tuple[NDArray[np.uint8]]:
            return (argmax_logits(scores, backend.stride, height, width),)

        for top, (labels,) in blend_tiles(grid, backend.stride, read_batch, backend.run, finish):
            yield top, labels[0]

    def _labels(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(N, H, W, 3) uint8 -> (N, H, W) uint8."""
        if self.needs_torch:
            return self.predict(_to_tensors(images)).cpu().numpy()
        count, height, width, _ = images.shape
        backend, memory = self._at(height, width)
        grid = memory.grid(height, width * count)
        if grid is None:
            scores = backend.run(images.transpose(0, 3, 1, 2))
            return scores if backend.output == "labels" else argmax_logits(scores, backend.stride, height, width)
        if count > 1:
            return np.concatenate([self._labels(image[None]) for image in images])
        strips = self.predict_strips(lambda top, bottom: images[0, top:bottom], grid)
        return np.concatenate([labels for _, labels in strips])[None]

    def _probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, 3) uint8 -> (N, C, H, W) float32."""
        return self._tensors(*images.shape[1:3]).probabilities(_to_tensors(images)).cpu().numpy()

    @property
    def needs_torch(self) -> bool:
        """Whether torch computes labels."""
        return not self.backend.arrays or self._averages

    @property
    def _averages(self) -> bool:
        return self._averaged_scales != (1.0,) or self.flip

    def memory_for(self, height: int, width: int) -> MemoryBudget:
        """Decides how an image of a size is computed, see `memory`."""
        return self._at(height, width)[1]

    @property
    def tiled(self) -> bool:
        """Whether there was an image that is computed in tiles."""
        return self.memory.tiled or any(memory.tiled for _, memory in tuple(self._reduced.values()))

    def _at(self, height: int, width: int) -> tuple[Backend, MemoryBudget]:
        """What computes an image of a size, reduced if it is larger than `max_short_side`."""
        factor, side = reduction(height, width, self.max_short_side), self._training_side
        if side and tell_of_size(height // factor, width // factor, side, self.max_short_side is None):
            self._training_side = None
        if factor == 1:
            return self.backend, self.memory
        if factor not in self._reduced:
            if not self._reduced:
                logger.info(
                    "%d x %d pixels: computed at 1/%d of this size; images whose shorter side is above %d pixels "
                    "(max_short_side) are reduced first, and results have the size of the image", height, width,
                    factor, self.max_short_side,
                )  # fmt: skip
            self._reduced.setdefault(factor, (ReducedBackend(self.backend, factor), self.memory.reduced(factor)))
        return self._reduced[factor]

    def _tensors(self, height: int, width: int) -> "TensorPredictor":
        from dlaseg.inference.tensors import TensorPredictor

        return TensorPredictor(*self._at(height, width), self._averaged_scales, self.flip)

    def check_gives_logits(self, what: str) -> None:
        """Refuses an exported file that gives labels alone.

        Args:
            what: needs logits, for the message.

        Raises:
            UserError: it does.
        """
        check_gives_logits(self.backend, what)

    def _map(self, image: Any, compute: Callable[[NDArray[np.uint8]], NDArray[Any]]) -> Any:
        """Applies a function of batches to one image or to a list of images, in batches of equal size."""
        if not isinstance(image, list | tuple):
            return compute(as_rgb(image)[None])[0]
        results: dict[int, NDArray[Any]] = {}
        waiting: defaultdict[tuple[int, ...], list[tuple[int, NDArray[np.uint8]]]] = defaultdict(list)

        def flush(batch: list[tuple[int, NDArray[np.uint8]]]) -> None:
            indices, images = zip(*batch, strict=True)
            results.update(zip(indices, compute(np.stack(images)), strict=True))
            batch.clear()

        for index, entry in enumerate(image):
            array = as_rgb(entry)
            batch = waiting[array.shape]
            batch.append((index, array))
            if len(batch) == self.batch_size:
                flush(batch)
        for batch in waiting.values():
            if batch:
                flush(batch)
        return [results[index] for index in range(len(image))]


def _to_tensors(images: NDArray[np.uint8]) -> "Tensor":
    """(N, H, W, 3) uint8 -> (N, 3, H, W) uint8."""
    from dlaseg.data.tensors import to_tensor

    return to_tensor(images)


def _checked(images: "Tensor") -> "Tensor":
    """The images, if they are such as `Predictor.predict` takes: floats could mean several things."""
    from torch import Tensor

    if not isinstance(images, Tensor):
        raise UserError(
            f"images of type {type(images).__name__}: predict takes a tensor (N, 3, H, W) uint8; call the predictor "
            "itself with arrays and files"
        )
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel() or str(images.dtype) != "torch.uint8":
        raise UserError(
            f"images of type {images.dtype} and shape {tuple(images.shape)}: use (N, 3, H, W) uint8, RGB, 0 to 255"
        )
    return images
