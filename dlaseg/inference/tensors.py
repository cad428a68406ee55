"""What a backend computes of batches that are tensors: labels, confidence, probabilities; as a whole or in tiles."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dlaseg.data.tensors import normalize
from dlaseg.inference.argmax import argmax_logits
from dlaseg.inference.backends.base import Backend, check_gives_logits
from dlaseg.inference.grid import Grid
from dlaseg.inference.memory import MemoryBudget
from dlaseg.inference.tiling import Finish, Result, blend_tiles
from dlaseg.models.base import upsample_logits


@dataclass(frozen=True)
class TensorPredictor:
    """Predicts batches of equal size, (N, 3, H, W) uint8 RGB on any device; results are on the backend's.

    Attributes:
        backend: see `Predictor`.
        memory: see `Predictor`.
        scales: over which probabilities are averaged.
        flip: see `Predictor`.
    """

    backend: Backend
    memory: MemoryBudget
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    @torch.inference_mode()
    def labels(self, images: Tensor) -> Tensor:
        """Train ids, (N, H, W) uint8."""
        (labels,) = self._compute(images, self._argmax)
        return labels

    @torch.inference_mode()
    def labels_with_confidence(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Train ids, and the probability of each, (N, H, W) float32."""
        check_gives_logits(self.backend, "confidence needs")
        labels, confidence = self._compute(images, self._argmax_with_confidence, score_copies=3)
        return labels, confidence

    @torch.inference_mode()
    def labels_with_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Train ids, and the probabilities of all classes, (N, C, H, W) float32."""
        check_gives_logits(self.backend, "probabilities are computed from")
        labels, probabilities = self._compute(images, self._argmax_with_probabilities, score_copies=3)
        return labels, probabilities

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """The probabilities of all classes, (N, C, H, W) float32."""
        check_gives_logits(self.backend, "probabilities are computed from")
        (probabilities,) = self._compute(images, self._class_probabilities, score_copies=2)
        return probabilities

    @torch.inference_mode()
    def strips(self, read: Callable[[int, int], Tensor], grid: Grid) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Train ids of an image of which only some rows are in memory, see `Predictor.predict_strips`.

        Args:
            read: gives the rows from a first one up to another one, (1, 3, h, W) uint8.
            grid: of the image.
        """
        for top, (labels,) in self._strips(read, grid, self._argmax):
            yield top, labels[0].cpu().numpy()

    def _compute(self, images: Tensor, finish: Finish, score_copies: int = 0) -> Result:
        """Computes a batch of equal size, as a whole or in tiles.

        Args:
            images: (N, 3, H, W) uint8 RGB.
            finish: makes the result from scores.
            score_copies: how many scores of every pixel it needs at a time.
        """
        count, _, height, width = images.shape
        score_bytes = 4 * self.backend.metadata.labels.num_classes * score_copies
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
        check_gives_logits(self.backend, "the tiles of a large image are blended by")
        return blend_tiles(grid, self._score_stride, read, self._scores, finish)

    def _scores(self, images: Tensor) -> Tensor:
        """What tiles are blended by: coarse logits, or the probabilities of every pixel if several are averaged."""
        return self.backend.run(images) if self._single_pass else self._averaged(images)

    @property
    def _score_stride(self) -> int:
        """Pixels per score."""
        return self.backend.stride if self._single_pass else 1

    def _argmax(self, scores: Tensor, height: int, width: int) -> Result:
        if self.backend.output == "labels":
            return (scores,)
        if self._single_pass:
            return (argmax_logits(scores, self.backend.stride, height, width),)
        return (scores[..., :height, :width].argmax(1).to(torch.uint8),)

    def _argmax_with_confidence(self, scores: Tensor, height: int, width: int) -> Result:
        labels, probabilities = self._argmax_with_probabilities(scores, height, width)
        return labels, probabilities.gather(1, labels[:, None].long())[:, 0]

    def _argmax_with_probabilities(self, scores: Tensor, height: int, width: int) -> Result:
        # Not the argmax of the probabilities, where rounding makes ties
        return *self._argmax(scores, height, width), *self._class_probabilities(scores, height, width)

    def _class_probabilities(self, scores: Tensor, height: int, width: int) -> Result:
        if self._single_pass:
            return (upsample_logits(scores, self.backend.stride, height, width).softmax(1),)
        return (scores[..., :height, :width],)

    def _averaged(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> (N, C, H, W) float32, the mean over scales and mirror images."""
        size = images.shape[-2:]
        images = images.to(self.backend.device)
        total, count = torch.zeros((), device=images.device), 0
        for scale in self.scales:
            scaled = images  # the backend normalises them
            if scale != 1:
                pixels = normalize(images, self.backend.metadata.mean, self.backend.metadata.std)
                scaled_size = [max(1, round(side * scale)) for side in size]
                scaled = F.interpolate(pixels, scaled_size, mode="bilinear", antialias=scale < 1)
            for mirrored in (False, True) if self.flip else (False,):
                coarse = self.backend.run(scaled.flip(3) if mirrored else scaled)
                logits = upsample_logits(coarse, self.backend.stride, *scaled.shape[-2:])
                logits = logits.flip(3) if mirrored else logits
                if logits.shape[-2:] != size:
                    logits = F.interpolate(logits, size, mode="bilinear")
                total, count = total + (logits if self._blends else logits.softmax(1)), count + 1
        return (total / count).softmax(1) if self._blends else total / count

    @property
    def _blends(self) -> bool:
        """Whether the network blends scales itself; then scores are averaged over mirror images, as its paper does."""
        return self.backend.scales is not None

    @property
    def _single_pass(self) -> bool:
        return self.scales == (1.0,) and not self.flip
