"""Which backend runs a network."""

import importlib.util
import logging
import math
from collections.abc import Callable

import torch

from dlaseg.errors import UserError
from dlaseg.inference.backends.base import Backend
from dlaseg.inference.backends.graph import model_graph
from dlaseg.inference.backends.onnxruntime import OnnxRuntimeBackend
from dlaseg.inference.backends.openvino import OpenVINOBackend
from dlaseg.inference.backends.torch import TorchBackend
from dlaseg.models.base import SegmentationModel

BACKENDS: dict[str, Callable[[SegmentationModel, str, str], Backend]] = {
    "torch": TorchBackend,
    "openvino": lambda model, device, precision: OpenVINOBackend(model_graph(model), device, precision),
    "onnxruntime": lambda model, device, precision: OnnxRuntimeBackend(model_graph(model), device, precision),
}
"""Backends of a model, by name."""

LARGEST_ERROR = {"float32": 1e-3, "bfloat16": 5e-2}
"""Difference of logits from those of torch, relative to the largest logit, up to which a backend is exact: a hundred
times what the rounding of another order of summation was measured to make."""

_PACKAGES = {"openvino": ("openvino", "onnxscript"), "onnxruntime": ("onnxruntime", "onnxscript")}

logger = logging.getLogger(__name__)


def make_backend(name: str, model: SegmentationModel, device: str, precision: str) -> Backend:
    """Makes a backend.

    Args:
        name: one of `BACKENDS`, or `auto` for the fastest that is installed and exact, see `is_exact`.
        model: is not changed.
        device: see the backends.
        precision: see the backends.

    Raises:
        UserError: an unknown name, a package that is not installed, and as the backends.
    """
    if name == "auto":
        return _fastest(model, device, precision)
    if name not in BACKENDS:
        raise UserError(f"backend {name!r}: unknown; use one of auto, {', '.join(BACKENDS)}")
    return BACKENDS[name](model, device, precision)


def _fastest(model: SegmentationModel, device: str, precision: str) -> Backend:
    """OpenVINO on a CPU where it is installed and exact, otherwise torch."""
    backend = TorchBackend(model, device, precision)
    if backend.device.type != "cpu" or not all(map(importlib.util.find_spec, _PACKAGES["openvino"])):
        return backend
    faster = OpenVINOBackend(model_graph(model), "cpu", precision)
    if is_exact(faster, backend):
        return faster
    logger.warning("the backend openvino does not compute this network exactly, so torch runs it")
    return backend


def is_exact(backend: Backend, reference: Backend) -> bool:
    """Whether a backend computes the same logits of noise as another one, but for rounding."""
    size = (1, backend.metadata.in_channels, 65, 97)
    noise = torch.randint(256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected, logits = reference.run(noise).cpu(), backend.run(noise).cpu()
    error, largest = float((logits - expected).abs().max()), float(expected.abs().max())
    return math.isfinite(error) and error <= LARGEST_ERROR[backend.precision] * largest
