"""OpenVINO, the fastest on CPUs; does not import torch."""

import threading
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.inference.backends.base import SMALL, takes_tensors, unknown_per_pixel
from dlaseg.inference.backends.graph import Graph, openvino_core, require
from dlaseg.processor import computes_bfloat16, num_threads

TRANSPOSED = "GroupConvolutionBackpropData"
"""OpenVINO's depthwise transposed convolution: the decoder's upsampling."""

LARGE = 1 << 18
"""Pixels of a batch from which the network is compiled for its shape alone. Where the shape is fixed, OpenVINO plans
which tensors share memory: dla34 at stride 2 takes 40 % less for 2 million pixels (2026.4). Small ones need little."""

MOST_COMPILED = 4
"""Times that a network is compiled, at 0.2 to 0.6 seconds each: enough for two sizes of images beside the small ones
that a backend is checked with. Where more sizes come, the network is compiled for any."""


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

    name, device, arrays = "openvino", "cpu", True

    def __init__(self, graph: Graph, device: str = "auto", precision: str = "float32"):
        require("openvino", "dlaseg[openvino]")
        if device not in ("auto", "cpu"):
            raise UserError(f"device {device!r}: the backend openvino runs on the CPU: use cpu, or the backend torch")
        self.metadata, self.stride, self.multiple = graph.metadata, graph.stride, graph.multiple
        self.scales = graph.scales
        self.input, self.output = graph.input, graph.output
        reduced = _compute_bfloat16(precision)
        self.precision = "bfloat16" if reduced else "float32"
        if graph.precision == "int8":
            self.precision = "int8+bfloat16" if reduced else "int8"
        self.max_streams, self.streams = num_threads(), 1
        self._core = openvino_core()
        self._model = self._core.read_model(graph.path)
        if reduced:
            self._model = mark_float32(self._model, TRANSPOSED)
        self._properties = {
            # OpenVINO's own choice is bfloat16 where there is such arithmetic
            "INFERENCE_PRECISION_HINT": "bf16" if reduced else "f32",
            "INFERENCE_NUM_THREADS": num_threads(),
        }
        self._lock = threading.Lock()
        self._compiled: dict[_Key, _Compiled] = {}
        self._count = 0  # of networks compiled so far

    @takes_tensors
    def run(self, images: NDArray[Any]) -> NDArray[Any]:
        """See `Backend.run`."""
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))  # nothing to copy for an image as read
        with self._lock:
            compiled = self._prepare(images)
        result = compiled.infer(images)
        return result if self.output == "labels" else result.transpose(0, 3, 1, 2)

    def memory_needed(self) -> tuple[float, int]:
        """See `Backend.memory_needed`."""
        return unknown_per_pixel(self), 0

    def _prepare(self, images: NDArray[Any]) -> "_Compiled":
        """The network for a batch, (N, H, W, 3), compiled now unless it was before."""
        pixels = images[..., 0].size
        any_shape = _Key(images.dtype, None, self.streams if pixels <= SMALL else 1)
        key = any_shape._replace(shape=images.shape) if pixels >= LARGE else any_shape
        if key not in self._compiled and self._count >= MOST_COMPILED:
            key = any_shape
        if key not in self._compiled:
            self._count += 1
            # Those for any shape go together; one for a fixed shape is alone, since each holds its memory
            fixed = key.shape is not None
            self._compiled = {k: kept for k, kept in self._compiled.items() if not fixed and k.shape is None}
            self._compiled[key] = self._compile(key)
        return self._compiled[key]

    def _compile(self, key: "_Key") -> "_Compiled":
        """Compiles the network."""
        ov = require("openvino", "dlaseg[openvino]")
        steps = ov.preprocess.PrePostProcessor(self._model.clone())
        if self.input == "normalized":
            image = steps.input()
            image.model().set_layout(ov.Layout("NCHW"))
            image.tensor().set_layout(ov.Layout("NHWC"))
            if key.dtype == np.uint8:
                image.tensor().set_element_type(ov.Type.u8)
                image.preprocess().convert_element_type(ov.Type.f32)
                image.preprocess().mean([255 * value for value in self.metadata.mean])
                image.preprocess().scale([255 * value for value in self.metadata.std])
        if self.output != "labels":
            steps.output().model().set_layout(ov.Layout("NCHW"))
            steps.output().tensor().set_layout(ov.Layout("NHWC"))
        model = steps.build()
        if key.shape is not None:
            model.reshape(list(key.shape))
        compiled = self._core.compile_model(model, "CPU", {**self._properties, "NUM_STREAMS": key.streams})
        return _Compiled(compiled, key.streams)


class _Key(NamedTuple):
    """What a network is compiled for.

    Attributes:
        dtype: uint8 for pixels, float32 for normalised images.
        shape: of the batch, (N, H, W, 3); None for any.
        streams: batches that are computed at a time.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...] | None
    streams: int


class _Compiled:
    """A compiled network.

    Args:
        model: an `openvino.CompiledModel`.
        streams: batches that it computes at a time; further threads wait.
    """

    def __init__(self, model: Any, streams: int):
        self.model = model
        output = model.output(0)
        self._dtype = output.element_type.to_dtype()
        self.shape = tuple(output.shape) if output.partial_shape.is_static else None
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams):
            self._requests.put(model.create_infer_request())

    def infer(self, images: NDArray[Any]) -> NDArray[Any]:
        """(N, H, W, 3) to the output."""
        ov = require("openvino", "dlaseg[openvino]")
        request = self._requests.get()
        try:
            if self.shape is None:
                request.infer([images], share_inputs=True)
                return np.array(request.get_output_tensor(0).data)  # the next call overwrites it
            result = np.empty(self.shape, self._dtype)
            request.set_output_tensor(0, ov.Tensor(result, shared_memory=True))
            request.infer([images], share_inputs=True)
            return result
        finally:
            self._requests.put(request)


def mark_float32(model: Any, kind: str) -> Any:
    """Marks all operations of a kind to be computed in float32, whatever the others are computed in.

    OpenVINO computes depthwise transposed convolutions in bfloat16 ten times as slowly as in float32 (2026.4). The mark
    is an attribute of its files, https://docs.openvino.ai (IR, `rt_info`), which Python cannot set in memory.

    Args:
        model: an `openvino.Model`.
        kind: type of the operations.

    Returns:
        The model with the marks, which a file of it keeps.

    Raises:
        UserError: the folder of temporary files is full.
    """
    ov = require("openvino", "dlaseg[openvino]")
    with TemporaryDirectory(prefix="dlaseg-") as folder:
        path = Path(folder) / "network.xml"
        try:
            ov.save_model(model, path, compress_to_fp16=False)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{folder}: cannot be written ({reason}): make room, or set TMPDIR to another folder"
            ) from error
        tree = ElementTree.parse(path)  # of our own making
        for layer in tree.iterfind(f"./layers/layer[@type='{kind}']"):
            attributes = layer.find("rt_info")
            if attributes is None:
                attributes = ElementTree.Element("rt_info")
                layer.insert(0, attributes)
            ElementTree.SubElement(attributes, "attribute", name="precise", version="0")
        tree.write(path)
        return openvino_core().read_model(path, config={"ENABLE_MMAP": False})


def _compute_bfloat16(precision: str) -> bool:
    if precision not in ("auto", "float32", "bfloat16"):
        raise UserError(f"precision {precision!r}: the backend openvino computes in float32, bfloat16 or auto")
    gains = computes_bfloat16()
    if precision == "bfloat16" and not gains:
        raise UserError("precision bfloat16: not on this CPU with the backend openvino: use float32")
    return precision != "float32" and gains
