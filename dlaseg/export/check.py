"""Compares an exported file with PyTorch on images, before it is called done."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlaseg.data.tensors import normalize, to_tensor
from dlaseg.errors import UserError
from dlaseg.inference.backends.choice import make_backend
from dlaseg.inference.backends.exported import ONNX, PROGRAM, read_graph
from dlaseg.inference.backends.torch import TorchBackend
from dlaseg.models.base import SegmentationModel, argmax_logits, upsample_logits

LARGEST_ERROR = 1e-3
"""Difference of logits, relative to the largest one, up to which a float32 file is exact: a hundred times what another
order of summation was measured to make."""

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
        max_difference: largest difference of a logit; None for a file that gives labels.
        largest_logit: largest absolute logit of PyTorch.
        equal_labels: share of pixels of the same label.
    """

    engine: str
    images: tuple[tuple[int, int, int], ...]
    max_difference: float | None
    largest_logit: float
    equal_labels: float

    @property
    def is_exact(self) -> bool:
        """Whether the file computes what PyTorch computes, but for rounding."""
        close = self.max_difference is None or self.max_difference <= LARGEST_ERROR * self.largest_logit
        return close and self.equal_labels >= SMALLEST_AGREEMENT

    def __str__(self) -> str:
        logits = "" if self.max_difference is None else (
            f"logits differ by at most {self.max_difference:.2g} (largest logit {self.largest_logit:.3g}), "
        )  # fmt: skip
        return f"{self.engine}: {logits}{100 * self.equal_labels:.4f} % equal labels"


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
        _compare(engine, run, batches, expected, model.stride, output) for engine, run in _engines(path, model, input)
    ]


def _engines(path: Path, model: SegmentationModel, input: str) -> Iterator[tuple[str, Run]]:
    if path.suffix == PROGRAM:
        yield "torch", _program(path, model, input)
        return
    graph = read_graph(path)
    for engine in ("openvino", "onnxruntime") if path.suffix == ONNX else ("openvino",):
        yield engine, make_backend(engine, graph, "cpu", "float32").run


def _program(path: Path, model: SegmentationModel, input: str) -> Run:
    """Runs a program of torch.export that was just written by this process: others' could run code when loaded."""
    program = torch.export.load(path).module()

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            if input == "pixels":
                return program(images.permute(0, 2, 3, 1))
            return program(normalize(images, model.metadata.mean, model.metadata.std))

    return run


def _compare(
    engine: str, run: Run, batches: Sequence[Tensor], expected: Sequence[Tensor], stride: int, output: str
) -> Comparison:
    difference, largest, equal, pixels = 0.0, 0.0, 0, 0
    for batch, coarse in zip(batches, expected, strict=True):
        size = batch.shape[-2:]
        result = run(batch)
        labels = result
        if output != "labels":
            logits = coarse if output == "coarse_logits" else upsample_logits(coarse, stride, *size)
            if result.shape != logits.shape:
                raise UserError(f"{engine}: gives {tuple(result.shape)}, PyTorch {tuple(logits.shape)}")
            error = float((result - logits).abs().max())
            difference = error if error != error else max(difference, error)
            labels = argmax_logits(result, stride if output == "coarse_logits" else 1, *size)
        largest = max(largest, float(coarse.abs().max()))
        equal += int((labels == argmax_logits(coarse, stride, *size)).sum())
        pixels += labels.numel()
    sizes = tuple((batch.shape[0], batch.shape[2], batch.shape[3]) for batch in batches)
    return Comparison(engine, sizes, None if output == "labels" else difference, largest, equal / pixels)
