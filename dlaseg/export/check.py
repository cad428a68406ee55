"""Compares an exported file with PyTorch on images, before it is called done."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlaseg.data.tensors import normalize, to_tensor
from dlaseg.errors import UserError
from dlaseg.export.inside import logits_inside
from dlaseg.inference.argmax import argmax_logits
from dlaseg.inference.backends.choice import LARGEST_ERROR, make_backend
from dlaseg.inference.backends.exported import ONNX, PROGRAM, read_graph
from dlaseg.inference.backends.torch import TorchBackend
from dlaseg.models.base import SegmentationModel, upsample_logits

SMALLEST_AGREEMENT = 0.999
"""Share of pixels of the same label from which on a float32 file is exact. Labels differ where two logits are equal but
for rounding."""

Run = Callable[[Tensor], Tensor]
"""(N, 3, H, W) uint8 to the output of a file."""


@dataclass(frozen=True)
class Comparison:
    """An exported file beside PyTorch, both on the CPU.

    Attributes:
        engine: that ran the file: `openvino`, `onnxruntime` or `torch`.
        images: sizes of the batches, (N, H, W).
        max_difference: largest difference of a logit; of a file that gives labels, before upsampling and argmax.
        largest_logit: largest absolute logit of PyTorch.
        equal_labels: share of pixels of the same label.
    """

    engine: str
    images: tuple[tuple[int, int, int], ...]
    max_difference: float
    largest_logit: float
    equal_labels: float

    @property
    def is_exact(self) -> bool:
        """Whether the file computes what PyTorch computes, but for rounding."""
        close = self.max_difference <= LARGEST_ERROR["float32"] * self.largest_logit
        return close and self.equal_labels >= SMALLEST_AGREEMENT

    def __str__(self) -> str:
        difference = f"logits differ by at most {self.max_difference:.2g} (largest logit {self.largest_logit:.3g})"
        return f"{self.engine}: {difference}, {100 * self.equal_labels:.4f} % equal labels"


def batches_of(images: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
    """Batches of several sizes and counts from images.

    Args:
        images: (H, W, 3) uint8 each, one at least.

    Returns:
        (N, 3, H, W) uint8 each: every image as it is, parts of the first one at odd sizes and of one pixel, and a batch
        of two parts.
    """
    wholes = [to_tensor(image)[None] for image in images]
    first = wholes[0]
    height, width = first.shape[2:]
    parts = [first[:, :, : max(1, height * 2 // 3 - 1), : max(1, width // 2 - 3)], first[:, :, :1, :1]]
    rows, columns = -(-height // 2), -(-width // 2)
    pair = torch.cat([first[:, :, :rows, :columns], first[:, :, -rows:, -columns:]])
    return [*wholes, *parts, pair]


@torch.inference_mode()
def compare(
    path: Path, model: SegmentationModel, input: str, output: str, batches: Sequence[Tensor]
) -> list[Comparison]:
    """Runs a file that was just written by every engine for it, and compares the results with PyTorch's.

    Args:
        path: the file.
        model: that it was made of.
        input: of the file, one of `INPUTS`.
        output: of the file, one of `OUTPUTS`.
        batches: see `batches_of`.
    """
    reference = TorchBackend(model, "cpu", "float32")
    expected = [reference.run(batch) for batch in batches]
    return [
        _compare(engine, run, logits_of, batches, expected, model.stride, output)
        for engine, run, logits_of in _engines(path, model, input, output)
    ]


def _engines(path: Path, model: SegmentationModel, input: str, output: str) -> Iterator[tuple[str, Run, Run | None]]:
    """Name, function to the output of the file and, if that is labels, to the logits inside, of each engine."""

    def logits_of(engine: str) -> Run | None:
        if output != "labels":
            return None
        inside = logits_inside(path, engine)
        return lambda images: inside(_input(images, model, input))

    if path.suffix == PROGRAM:
        # Written by this process: others' could run code when loaded
        program = torch.export.load(path).module()
        yield "torch", lambda images: program(_input(images, model, input)), logits_of("torch")
        return
    graph = read_graph(path)
    for engine in ("openvino", "onnxruntime") if path.suffix == ONNX else ("openvino",):
        yield engine, make_backend(engine, graph, "cpu", "float32").run, logits_of(engine)


def _input(images: Tensor, model: SegmentationModel, input: str) -> Tensor:
    """(N, 3, H, W) uint8 as the input of a file."""
    if input == "pixels":
        return images.permute(0, 2, 3, 1).contiguous()
    return normalize(images, model.metadata.mean, model.metadata.std).contiguous()


def _compare(
    engine: str,
    run: Run,
    logits_of: Run | None,
    batches: Sequence[Tensor],
    expected: Sequence[Tensor],
    stride: int,
    output: str,
) -> Comparison:
    """Compares the results; the logits with those of `logits_of`, if the file gives labels."""
    difference, largest, equal, pixels = 0.0, 0.0, 0, 0
    for batch, coarse in zip(batches, expected, strict=True):
        size = batch.shape[-2:]
        result = run(batch)
        logits = upsample_logits(coarse, stride, *size) if output == "logits" else coarse
        given = result if logits_of is None else logits_of(batch)
        if given.shape != logits.shape:
            raise UserError(f"{engine}: gives logits {tuple(given.shape)}, PyTorch {tuple(logits.shape)}")
        error = float((given - logits).abs().max())
        difference = max(difference, error) if math.isfinite(error) else math.inf
        largest = max(largest, float(coarse.abs().max()))
        labels = result
        if output != "labels":
            labels = argmax_logits(result, stride if output == "coarse_logits" else 1, *size)
        equal += int((labels == argmax_logits(coarse, stride, *size)).sum())
        pixels += labels.numel()
    sizes = tuple((batch.shape[0], batch.shape[2], batch.shape[3]) for batch in batches)
    return Comparison(engine, sizes, difference, largest, equal / pixels)
