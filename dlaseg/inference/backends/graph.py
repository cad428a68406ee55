"""Networks as ONNX graphs: what OpenVINO and ONNX Runtime run, and what is exported."""

import contextlib
import copy
import hashlib
import importlib
import io
import logging
import os
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from dlaseg.errors import UserError
from dlaseg.files import write_bytes
from dlaseg.inference.backends.torch import fold_batch_norm
from dlaseg.metadata import ModelMetadata
from dlaseg.models.base import SegmentationModel
from dlaseg.version import __version__
from dlaseg.weights.files import model_sha256

INPUT = "image"
"""Name of the input of a graph."""

INPUTS = ("pixels", "normalized")
"""What a graph takes: `pixels` (N, H, W, 3) uint8 RGB, as image libraries give them, which it normalises itself; or
`normalized` (N, C, H, W) float32, normalised already. Any N, H and W from 1 upwards."""

OUTPUTS = ("labels", "logits", "coarse_logits")
"""What a graph gives: `labels` (N, H, W) uint8 train ids; `logits` (N, num_classes, H, W) float32; or `coarse_logits`
(N, num_classes, h, w) float32, see `SegmentationModel.coarse_logits`."""

KEPT_GRAPHS = 8
"""Most graphs in the cache; the ones that were used last."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Graph:
    """A network that an inference engine reads.

    Attributes:
        path: an ONNX file, or an OpenVINO IR (.xml).
        metadata: of the network.
        stride: input pixels per logit or label.
        precision: that the file is in: `float32`, or `int8` where convolutions are quantised.
        input: one of `INPUTS`; its name in the graph is `INPUT`.
        output: one of `OUTPUTS`.
        multiple: see `SegmentationModel`.
    """

    path: Path
    metadata: ModelMetadata
    stride: int
    precision: str = "float32"
    input: str = "normalized"
    output: str = "coarse_logits"
    multiple: int = 32


class CoarseLogits(nn.Module):
    """`SegmentationModel.coarse_logits` as a module's forward, for tracing."""

    def __init__(self, model: SegmentationModel):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, H, W) float to (N, num_classes, h, w)."""
        return self.model.coarse_logits(image)


def trace(network: nn.Module, example: Tensor, rows: int = 2) -> torch.export.ExportedProgram:
    """Traces a module once for all batches, heights and widths.

    Args:
        network: in eval mode on the CPU; takes a tensor.
        example: N from 2 upwards; H and W are no multiple of 32, so that a pad or crop is traced.
        rows: the axis of the height: 2 of (N, C, H, W), 1 of (N, H, W, C).

    Returns:
        The program; N, H and W are 1 or more.
    """
    # Without it, a trace takes sizes of 0 and 1 for special cases, and then refuses them
    from torch.fx.experimental import _config as sizes

    dim = torch.export.Dim
    dynamic = {0: dim("batch", min=1), rows: dim("height", min=1), rows + 1: dim("width", min=1)}
    with torch.no_grad(), sizes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(network, (example,), dynamic_shapes=(dynamic,), strict=False)


def to_onnx(program: torch.export.ExportedProgram, output: str = "coarse_logits") -> Any:
    """An exported program of one input and one output as an `onnx.ModelProto`.

    Args:
        program: see `trace`.
        output: one of `OUTPUTS`, its name.

    Raises:
        UserError: onnx or onnxscript is not installed.
    """
    require("onnxscript", "dlaseg[export]")
    # The exporter reports its progress, warns of what it does not use, and logs
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program, (), dynamo=True, verbose=False, input_names=[INPUT], output_names=[output], optimize=True
        )
    assert exported is not None
    content = exported.model_proto
    # What the exporter notes for its own developers, among it the paths of source files
    graph = content.graph
    del graph.value_info[:], graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
    return content


def model_graph(model: SegmentationModel) -> Graph:
    """The graph of a model, from the cache where it was made before.

    Tracing takes several seconds, so that the file is kept in `cache_folder()`, by the hash of the weights.

    Args:
        model: is not changed.

    Raises:
        UserError: a package is missing, or the cache cannot be written to.
    """
    path = graph_path(model)
    if path.is_file():
        with contextlib.suppress(OSError):
            os.utime(path)  # used last
        return Graph(path, model.metadata, model.stride, multiple=model.multiple)
    require("onnxscript", "dlaseg[export]")
    logger.info("converting the network to ONNX, once for these weights: %s", path)
    network = CoarseLogits(fold_batch_norm(copy.deepcopy(model).cpu().eval())).eval()
    program = trace(network, torch.zeros(2, model.metadata.in_channels, 97, 131))
    content = to_onnx(program).SerializeToString()
    try:
        write_bytes(path, content)
        for old in sorted(path.parent.glob("*.onnx"), key=lambda file: file.stat().st_mtime)[:-KEPT_GRAPHS]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{error.filename or path}: cannot be written ({error.strerror or error}): set DLASEG_CACHE to another "
            "folder, or use --backend torch"
        ) from error
    return Graph(path, model.metadata, model.stride, multiple=model.multiple)


def graph_path(model: SegmentationModel) -> Path:
    """The file that `model_graph` keeps the graph of a model in, whether it exists or not."""
    # Releases of the exporter differ, and so do graphs of before inputs were mirrored
    key = f"{model_sha256(model)} {model.stride} mirrored dlaseg {__version__} torch {torch.__version__}"
    return cache_folder() / "graphs" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.onnx"


def cache_folder() -> Path:
    """The folder for what is computed once: `DLASEG_CACHE`, or `dlaseg` in the user's cache."""
    if folder := os.environ.get("DLASEG_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlaseg"


@cache
def openvino_core() -> Any:
    """The one `openvino.Core` of this process.

    When a Core is destroyed, its libraries are unloaded, but what they registered for forks stays: the next fork, such
    as that of a loading process, would crash (2026.4).
    """
    return require("openvino", "dlaseg[openvino]").Core()


def require(package: str, requirement: str) -> ModuleType:
    """Imports an optional package.

    Args:
        package: its name.
        requirement: what pip installs it with, such as `dlaseg[openvino]`.

    Raises:
        UserError: it is not installed.
    """
    # OpenVINO and NNCF report their use over the network when they are imported, and keep an identity in the home
    # folder; without this package they do neither
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"{package} is not installed: pip install '{requirement}'") from error
