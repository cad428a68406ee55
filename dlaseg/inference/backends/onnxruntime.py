"""ONNX Runtime, for processors and systems that have nothing else; does not import torch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.inference.backends.base import takes_tensors, unknown_per_pixel
from dlaseg.inference.backends.graph import INPUT, Graph, require
from dlaseg.processor import num_threads


class OnnxRuntimeBackend:
    """Runs an ONNX graph on the CPU, or on a GPU with the package onnxruntime-gpu.

    Args:
        graph: of a model, or an exported ONNX file.
        device: `auto` for a GPU if ONNX Runtime has one, `cpu` or `cuda`.
        precision: `float32`, or `auto`, which is the same.

    Raises:
        UserError: ONNX Runtime is not installed, a device that it does not have, or another precision.
    """

    name, device, arrays = "onnxruntime", "cpu", True  # the device of results

    def __init__(self, graph: Graph, device: str = "auto", precision: str = "float32"):
        ort = require("onnxruntime", "dlaseg[onnxruntime]")
        if precision not in ("auto", "float32"):
            raise UserError(f"precision {precision!r}: the backend onnxruntime computes in float32: use float32")
        has_cuda = "CUDAExecutionProvider" in ort.get_available_providers()
        if device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device {device!r}: the backend onnxruntime runs on cpu or cuda")
        if device == "cuda" and not has_cuda:
            raise UserError("device cuda: this ONNX Runtime is the one for CPUs: use cpu, or install onnxruntime-gpu")
        self.max_streams = self.streams = 1
        self.metadata, self.stride, self.multiple = graph.metadata, graph.stride, graph.multiple
        self.scales = graph.scales
        self.precision, self.input, self.output = graph.precision, graph.input, graph.output
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads()
        options.log_severity_level = 4  # errors are raised
        self._session = ort.InferenceSession(
            str(graph.path),
            options,
            ["CUDAExecutionProvider"] * (has_cuda and device != "cpu") + ["CPUExecutionProvider"],
        )

    @takes_tensors
    def run(self, images: NDArray[Any]) -> NDArray[Any]:
        """See `Backend.run`."""
        if self.input == "pixels":
            images = images.transpose(0, 2, 3, 1)  # (N, H, W, 3)
        elif images.dtype == np.uint8:
            images = self._normalize(images)
        (result,) = self._session.run(None, {INPUT: np.ascontiguousarray(images)})
        return np.asarray(result)

    def memory_needed(self) -> tuple[float, int]:
        """See `Backend.memory_needed`."""
        return unknown_per_pixel(self), 0

    def _normalize(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As `dlaseg.data.tensors.normalize`, to the same bits."""
        mean, std = (np.array(values)[:, None, None] * 255 for values in (self.metadata.mean, self.metadata.std))
        normalized = images.astype(np.float32, order="C")
        normalized -= mean.astype(np.float32)
        normalized *= (1 / std).astype(np.float32)
        return normalized
