"""ONNX Runtime, for processors and systems that have nothing else."""

import torch
from torch import Tensor

from dlaseg.data.tensors import normalize
from dlaseg.errors import UserError
from dlaseg.inference.backends.graph import INPUT, Graph, require


class OnnxRuntimeBackend:
    """Runs an ONNX graph on the CPU, or on a GPU with the package onnxruntime-gpu.

    Args:
        graph: of a model, or an exported ONNX file.
        device: `auto` for a GPU if ONNX Runtime has one, `cpu` or `cuda`.
        precision: `float32`, or `auto`, which is the same.

    Raises:
        UserError: ONNX Runtime is not installed, a device that it does not have, or another precision.
    """

    name = "onnxruntime"

    def __init__(self, graph: Graph, device: str = "auto", precision: str = "float32"):
        ort = require("onnxruntime", "dlaseg[onnxruntime]")
        if precision not in ("auto", "float32"):
            raise UserError(f"precision {precision!r}: the backend onnxruntime computes in float32: use float32")
        has_cuda = "CUDAExecutionProvider" in ort.get_available_providers()
        if device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device {device!r}: the backend onnxruntime runs on cpu or cuda")
        if device == "cuda" and not has_cuda:
            raise UserError("device cuda: this ONNX Runtime is the one for CPUs: use cpu, or install onnxruntime-gpu")
        self.device = torch.device("cpu")  # of the results
        self.max_streams = self.streams = 1
        self.metadata, self.stride, self.multiple = graph.metadata, graph.stride, graph.multiple
        self.precision, self.input, self.output = graph.precision, graph.input, graph.output
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # errors are raised
        self._session = ort.InferenceSession(
            str(graph.path),
            options,
            ["CUDAExecutionProvider"] * (has_cuda and device != "cpu") + ["CPUExecutionProvider"],
        )

    def run(self, images: Tensor) -> Tensor:
        """See `Backend.run`."""
        images = images.cpu()
        if self.input == "pixels":
            images = images.permute(0, 2, 3, 1)  # (N, H, W, 3)
        elif images.dtype == torch.uint8:
            images = normalize(images, self.metadata.mean, self.metadata.std)
        (result,) = self._session.run(None, {INPUT: images.contiguous().numpy()})
        return torch.from_numpy(result)
