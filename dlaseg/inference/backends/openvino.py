"""OpenVINO, the fastest on CPUs."""

import threading
from typing import Any

import torch
from torch import Tensor

from dlaseg.device import gains_from_bfloat16
from dlaseg.errors import UserError
from dlaseg.inference.backends.graph import Graph, require


class OpenVINOBackend:
    """Runs a graph on the CPU.

    Pixel values are normalised by the graph that is compiled, and logits stay in the order that convolutions write
    (channels last), so that nothing is copied on the way in or out.

    Args:
        graph: of a model, or an exported file.
        device: `auto` or `cpu`.
        precision: `float32`, `bfloat16`, or `auto` for bfloat16 where the CPU gains from it; of a quantised graph, what
            its other layers are computed in.

    Raises:
        UserError: OpenVINO is not installed, another device, or a precision that this CPU does not compute.
    """

    name = "openvino"

    def __init__(self, graph: Graph, device: str = "auto", precision: str = "float32"):
        ov = require("openvino", "dlaseg[openvino]")
        if device not in ("auto", "cpu"):
            raise UserError(f"device {device!r}: the backend openvino runs on the CPU: use cpu, or the backend torch")
        self.device = torch.device("cpu")
        self.metadata, self.stride = graph.metadata, graph.stride
        self.input, self.output = graph.input, graph.output
        reduced = _compute_bfloat16(precision)
        self.precision = "bfloat16" if reduced else "float32"
        if graph.precision == "int8":
            self.precision = "int8"
        self._core = ov.Core()
        self._model = self._core.read_model(graph.path)
        self._properties = {
            # OpenVINO's own choice is bfloat16 where there is such arithmetic
            "INFERENCE_PRECISION_HINT": "bf16" if reduced else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self._lock = threading.Lock()
        self._requests: dict[torch.dtype, Any] = {}

    def run(self, images: Tensor) -> Tensor:
        """See `Backend.run`."""
        images = images.cpu().permute(0, 2, 3, 1).contiguous()  # (N, H, W, 3); nothing to copy for an image as read
        with self._lock:
            if images.dtype not in self._requests:
                self._requests[images.dtype] = self._compile(images.dtype)
            request = self._requests[images.dtype]
            request.infer([images.numpy()], share_inputs=True)
            result = torch.from_numpy(request.get_output_tensor(0).data.copy())  # the next call overwrites it
        return result if self.output == "labels" else result.permute(0, 3, 1, 2)

    def _compile(self, dtype: torch.dtype) -> Any:
        """An infer request for pixels (uint8) or for normalised images (float32), (N, H, W, 3)."""
        ov = require("openvino", "dlaseg[openvino]")
        steps = ov.preprocess.PrePostProcessor(self._model.clone())
        if self.input == "normalized":
            image = steps.input()
            image.model().set_layout(ov.Layout("NCHW"))
            image.tensor().set_layout(ov.Layout("NHWC"))
            if dtype == torch.uint8:
                image.tensor().set_element_type(ov.Type.u8)
                image.preprocess().convert_element_type(ov.Type.f32)
                image.preprocess().mean([255 * value for value in self.metadata.mean])
                image.preprocess().scale([255 * value for value in self.metadata.std])
        if self.output != "labels":
            steps.output().model().set_layout(ov.Layout("NCHW"))
            steps.output().tensor().set_layout(ov.Layout("NHWC"))
        return self._core.compile_model(steps.build(), "CPU", self._properties).create_infer_request()


def _compute_bfloat16(precision: str) -> bool:
    if precision not in ("auto", "float32", "bfloat16"):
        raise UserError(f"precision {precision!r}: the backend openvino computes in float32, bfloat16 or auto")
    gains = gains_from_bfloat16(torch.device("cpu"))
    if precision == "bfloat16" and not gains:
        raise UserError("precision bfloat16: not on this CPU with the backend openvino: use float32")
    return precision != "float32" and gains
