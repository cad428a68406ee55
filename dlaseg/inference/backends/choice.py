"""Which backend runs a network; imports torch only where torch runs or converts it."""

import importlib.util
import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.inference.backends.base import Backend
from dlaseg.inference.backends.exported import ONNX
from dlaseg.inference.backends.graph import Graph, require
from dlaseg.inference.backends.graph_cache import find_graph, noise
from dlaseg.inference.backends.onnxruntime import OnnxRuntimeBackend
from dlaseg.inference.backends.openvino import OpenVINOBackend
from dlaseg.inference.network import WeightsFile

if TYPE_CHECKING:
    from dlaseg.inference.network import Network
    from dlaseg.models.base import SegmentationModel

ENGINES: dict[str, Callable[[Graph, str, str], Backend]] = {
    "openvino": OpenVINOBackend,
    "onnxruntime": OnnxRuntimeBackend,
}
"""Backends of a graph, by name: the package's."""

BACKENDS = ("torch", "torch-compile", *ENGINES)
"""Names of the backends of a model."""

LARGEST_ERROR = {"float32": 1e-3, "bfloat16": 5e-2}
"""Difference of logits from those that torch computes in float32, relative to the largest logit, up to which a backend
is exact: a hundred times what the rounding of another order of summation was measured to make."""

GPUS = ("nvidiactl", "dxg", "kfd")
"""Files in `/dev` of the drivers of GPUs: NVIDIA's, Windows' for Linux, and AMD's."""

logger = logging.getLogger(__name__)


def check_backend(name: str | None) -> None:
    """Checks that there is a backend, without a network.

    Raises:
        UserError: an unknown name, or a package that is not installed.
    """
    if name not in (None, "auto", *BACKENDS):
        raise UserError(f"backend {name!r}: unknown; use one of auto, {', '.join(BACKENDS)}")
    if name in ENGINES:
        require(name, f"dlaseg[{name}]")


def make_backend(name: str | None, network: "Network", device: str, precision: str) -> Backend:
    """Makes a backend.

    Args:
        name: one of `BACKENDS`, or `auto` for the fastest that is installed and exact, see `is_exact`. By default
            `torch` for a model, and for an exported file what reads it.
        network: a model, which is not changed, a weights file, or an exported file.
        device: see the backends.
        precision: see the backends.

    Raises:
        UserError: an unknown name, a package that is not installed, and as the backends; an exported file that the
            backend does not read, or that gives something else than its metadata say; logits that differ from torch's
            by more than rounding to bfloat16 makes.
    """
    check_backend(name)
    if isinstance(network, Graph):
        return _exported(name, network, device, precision)
    if name == "auto":
        return _fastest(network, device, precision)
    if name in ENGINES:
        return _engine(name, graph_of(network), device, precision)
    return _torch(network, device, precision, compile=name == "torch-compile")


def _engine(name: str, graph: Graph, device: str, precision: str) -> Backend:
    """The backend of a graph, which some releases of an engine compute wrongly."""
    backend = ENGINES[name](graph, device, precision)
    assert graph.reference is not None
    error = relative_error(backend, np.load(graph.reference))
    if error > max(LARGEST_ERROR.values()):
        raise UserError(
            f"backend {name}: its logits differ from torch's by {error:.0%} of the largest one: use the backend torch, "
            f"or install another release of {name}"
        )
    return backend


def _torch(network: "SegmentationModel | WeightsFile", device: str, precision: str, compile: bool = False) -> Backend:
    from dlaseg.inference.backends.torch import TorchBackend

    return TorchBackend(_model(network), device, precision, compile, in_place=isinstance(network, WeightsFile))


def _model(network: "SegmentationModel | WeightsFile") -> "SegmentationModel":
    return network.load() if isinstance(network, WeightsFile) else network


def kept_graph(network: "SegmentationModel | WeightsFile") -> Graph | None:
    """The graph of a network that was converted before, else None.

    The code of a model in memory may be the user's own, and may have changed since: its logits are compared, too.
    """
    if isinstance(network, WeightsFile):
        return find_graph(network.key)
    from dlaseg.inference.backends.conversion import model_key
    from dlaseg.inference.backends.torch import TorchBackend

    graph = find_graph(model_key(network))
    if graph is None or graph.reference is None:
        return None
    return graph if is_exact(TorchBackend(network, "cpu"), np.load(graph.reference)) else None


def graph_of(network: "SegmentationModel | WeightsFile") -> Graph:
    """The graph of a network, which is converted unless it was before."""
    kept = kept_graph(network)
    if kept is not None:
        return kept
    from dlaseg.inference.backends.conversion import convert, model_key

    model = _model(network)
    return convert(model, network.key if isinstance(network, WeightsFile) else model_key(model))


def _exported(name: str | None, graph: Graph, device: str, precision: str) -> Backend:
    """The backend of an exported file."""
    readers = ENGINES if graph.path.suffix.lower() == ONNX else {"openvino": OpenVINOBackend}
    if name in (None, "auto"):
        installed = [reader for reader in readers if importlib.util.find_spec(reader)]
        name = installed[0] if installed else "openvino"
    if name not in readers:
        raise UserError(f"backend {name}: {graph.path} is run by {' or '.join(readers)}")
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
    result: NDArray[Any] = backend.run(np.zeros((1, metadata.in_channels, height, width), np.uint8))
    if graph.output == "labels":
        fits = result.shape == (1, height, width) and result.dtype == np.uint8
        fits = fits and int(result.max()) < metadata.num_classes
    else:
        fits = result.ndim == 4 and result.shape[:2] == (1, metadata.num_classes) and result.dtype == np.float32
        least = [math.ceil(side / graph.stride) for side in (height, width)]
        fits = fits and all(low <= side for low, side in zip(least, result.shape[2:], strict=True))
        fits = fits and (graph.output == "coarse_logits" or result.shape[2:] == (height, width))
    if not fits:
        raise UserError(
            f"{graph.path}: gives {result.dtype} {result.shape} for an image of {height} x {width}, which its metadata "
            "do not say: export it again"
        )


def _fastest(network: "SegmentationModel | WeightsFile", device: str, precision: str) -> Backend:
    """OpenVINO on a CPU where it is installed and exact, otherwise torch."""
    if device != "cpu" and not (device == "auto" and _has_no_gpu()):
        backend = _torch(network, device, precision)
        if backend.device != "cpu":
            return backend
    graph = kept_graph(network)
    needed = ["openvino"] if graph else ["openvino", "onnxscript"]
    if not all(map(importlib.util.find_spec, needed)):
        return _torch(network, device, precision)
    if graph is None and isinstance(network, WeightsFile):
        _ = network.metadata  # what is wrong with the file is no matter of the conversion
    try:
        graph = graph or graph_of(network)
    except UserError as error:  # it cannot be kept, say
        logger.warning("torch runs the network, since it cannot be converted for openvino: %s", error)
        return _torch(network, device, precision)
    assert graph.reference is not None
    faster = OpenVINOBackend(graph, "cpu", precision)
    if is_exact(faster, np.load(graph.reference)):
        return faster
    logger.warning("the backend openvino does not compute this network exactly, so torch runs it")
    return _torch(network, device, precision)


def _has_no_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether it is certain, without importing torch, that it finds no GPU."""
    return sys.platform == "linux" and not any((devices / name).exists() for name in GPUS)


def is_exact(backend: Backend, expected: NDArray[np.float32]) -> bool:
    """Whether a backend computes the logits of `noise` that torch computes, but for rounding."""
    return relative_error(backend, expected) <= LARGEST_ERROR[backend.precision]


def relative_error(backend: Backend, expected: NDArray[np.float32]) -> float:
    """Largest difference of a backend's logits of `noise` from torch's, divided by the largest of these.

    Infinity for logits of another shape, or that are not finite.
    """
    logits = backend.run(noise(backend.metadata.in_channels))
    if logits.shape != expected.shape or not np.isfinite(logits).all():
        return math.inf
    return float(np.abs(logits - expected).max() / np.abs(expected).max())
