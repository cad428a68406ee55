"""Which backend runs a network."""

import importlib.util
import logging
import math
from collections.abc import Callable
from functools import partial

import torch

from dlaseg.errors import UserError
from dlaseg.inference.backends.base import Backend
from dlaseg.inference.backends.exported import ONNX
from dlaseg.inference.backends.graph import Graph, model_graph
from dlaseg.inference.backends.onnxruntime import OnnxRuntimeBackend
from dlaseg.inference.backends.openvino import OpenVINOBackend
from dlaseg.inference.backends.torch import TorchBackend
from dlaseg.models.base import SegmentationModel

BACKENDS: dict[str, Callable[[SegmentationModel, str, str], Backend]] = {
    "torch": TorchBackend,
    "torch-compile": partial(TorchBackend, compile=True),
    "openvino": lambda model, device, precision: OpenVINOBackend(model_graph(model), device, precision),
    "onnxruntime": lambda model, device, precision: OnnxRuntimeBackend(model_graph(model), device, precision),
}
"""Backends of a model, by name."""

LARGEST_ERROR = {"float32": 1e-3, "bfloat16": 5e-2}
"""Difference of logits from those of torch, relative to the largest logit, up to which a backend is exact: a hundred
times what the rounding of another order of summation was measured to make."""

logger = logging.getLogger(__name__)


def make_backend(name: str | None, network: SegmentationModel | Graph, device: str, precision: str) -> Backend:
    """Makes a backend.

    Args:
        name: one of `BACKENDS`, or `auto` for the fastest that is installed and exact, see `is_exact`. By default
            `torch` for a model, and for an exported file what reads it.
        network: a model, which is not changed, or an exported file.
        device: see the backends.
        precision: see the backends.

    Raises:
        UserError: an unknown name, a package that is not installed, and as the backends; an exported file that the
            backend does not read, or that gives something else than its metadata say.
    """
    if name not in (None, "auto", *BACKENDS):
        raise UserError(f"backend {name!r}: unknown; use one of auto, {', '.join(BACKENDS)}")
    if isinstance(network, Graph):
        return _exported(name, network, device, precision)
    if name == "auto":
        return _fastest(network, device, precision)
    return BACKENDS[name or "torch"](network, device, precision)


def _exported(name: str | None, graph: Graph, device: str, precision: str) -> Backend:
    """The backend of an exported file."""
    readers: dict[str | None, Callable[[Graph, str, str], Backend]] = {"openvino": OpenVINOBackend}
    if graph.path.suffix.lower() == ONNX:
        readers["onnxruntime"] = OnnxRuntimeBackend
    if name in (None, "auto"):
        installed = [reader for reader in readers if importlib.util.find_spec(str(reader))]
        name = installed[0] if installed else "openvino"
    if name not in readers:
        raise UserError(f"backend {name}: {graph.path} is run by {' or '.join(map(str, readers))}")
    try:
        backend = readers[name](graph, device, precision)
        _check_result(backend, graph)
    except UserError:
        raise
    except Exception as error:  # of the engine, on the content of the file
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise UserError(f"{graph.path}: {name} cannot run it ({reason[0]:.200}): export it again") from error
    return backend


def _check_result(backend: Backend, graph: Graph) -> None:
    """Checks that a small image gives what the metadata of an exported file say."""
    height, width, metadata = 37, 70, graph.metadata
    result = backend.run(torch.zeros(1, metadata.in_channels, height, width, dtype=torch.uint8))
    if graph.output == "labels":
        fits = result.shape == (1, height, width) and result.dtype == torch.uint8
        fits = fits and int(result.max()) < metadata.num_classes
    else:
        fits = result.ndim == 4 and result.shape[:2] == (1, metadata.num_classes) and result.dtype == torch.float32
        least = [math.ceil(side / graph.stride) for side in (height, width)]
        fits = fits and all(low <= side for low, side in zip(least, result.shape[2:], strict=True))
        fits = fits and (graph.output == "coarse_logits" or result.shape[2:] == (height, width))
    if not fits:
        raise UserError(
            f"{graph.path}: gives {str(result.dtype).removeprefix('torch.')} {tuple(result.shape)} for an image of "
            f"{height} x {width}, which its metadata do not say: export it again"
        )


def _fastest(model: SegmentationModel, device: str, precision: str) -> Backend:
    """OpenVINO on a CPU where it is installed and exact, otherwise torch."""
    backend = TorchBackend(model, device, precision)
    if backend.device.type != "cpu" or not all(map(importlib.util.find_spec, ("openvino", "onnxscript"))):
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
