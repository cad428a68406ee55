"""Models to ONNX graphs."""

import contextlib
import io
import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from dlaseg.inference.backends.exported import encode_entries
from dlaseg.inference.backends.graph import INPUT, Graph, require
from dlaseg.inference.backends.graph_cache import keep_graph, noise
from dlaseg.inference.backends.torch import TorchBackend, fold_batch_norm
from dlaseg.models.base import SegmentationModel
from dlaseg.weights.files import model_sha256

logger = logging.getLogger(__name__)


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


def convert(model: SegmentationModel, key: str) -> Graph:
    """Converts a model, and keeps its graph in the cache.

    Args:
        model: is not changed.
        key: names the model in the cache.

    Raises:
        UserError: a package is missing, or the cache cannot be written to.
    """
    require("onnxscript", "dlaseg[export]")
    logger.info("converting the network to ONNX, once for these weights, which takes seconds")
    network = CoarseLogits(fold_batch_norm(model)).eval()
    content = to_onnx(trace(network, torch.zeros(2, model.metadata.in_channels, 97, 131))).SerializeToString()
    expected = TorchBackend(model, "cpu").run(noise(model.metadata.in_channels))
    return keep_graph(key, content, encode_entries(model, "normalized", "coarse_logits"), expected)


def model_key(model: SegmentationModel) -> str:
    """The name of a model in memory in the cache of graphs."""
    return f"{model_sha256(model)} stride {model.stride} scales {model.scales}"
