"""Networks as graphs, which OpenVINO and ONNX Runtime run and which are exported; does not import torch."""

import importlib
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from dlaseg.errors import UserError
from dlaseg.metadata import ModelMetadata

INPUT = "image"
"""Name of the input of a graph."""

INPUTS = ("pixels", "normalized")
"""What a graph takes: `pixels` (N, H, W, 3) uint8 RGB, as image libraries give them, which it normalises itself; or
`normalized` (N, C, H, W) float32, normalised already. Any N, H and W from 1 upwards."""

OUTPUTS = ("labels", "logits", "coarse_logits")
"""What a graph gives: `labels` (N, H, W) uint8 train ids; `logits` (N, num_classes, H, W) float32; or `coarse_logits`
(N, num_classes, h, w) float32, see `SegmentationModel.coarse_logits`."""


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
        scales: that it blends, see `SegmentationModel`.
        reference: file of the coarse logits that torch computes of `noise`; None for an exported file.
    """

    path: Path
    metadata: ModelMetadata
    stride: int
    precision: str = "float32"
    input: str = "normalized"
    output: str = "coarse_logits"
    multiple: int = 32
    scales: tuple[float, ...] | None = None
    reference: Path | None = None


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
        UserError: it is not installed, or broken.
    """
    # OpenVINO, NNCF and ONNX Runtime report their use over the network when they are imported, and keep an identity in
    # the home folder; without this package and with this variable they do neither
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module(package)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise UserError(f"{package} is not installed: pip install '{requirement}'") from error
        raise UserError(f"{package}: cannot be imported ({error}): pip install --force-reinstall {package}") from error
