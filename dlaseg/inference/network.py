"""What a predictor is made of: a weights file, an exported file, or a model; does not import torch."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from dlaseg.files import sha256
from dlaseg.inference.backends.exported import is_exported, read_graph
from dlaseg.inference.backends.graph import Graph
from dlaseg.metadata import ModelMetadata
from dlaseg.weights.download import resolve

if TYPE_CHECKING:
    from dlaseg.models.base import SegmentationModel

Network: TypeAlias = Union["SegmentationModel", "WeightsFile", Graph]


@dataclass(frozen=True)
class WeightsFile:
    """A weights file of ours; its network is made when torch runs or converts it."""

    path: Path

    @cached_property
    def sha256(self) -> str:
        """Of the file, hexadecimal."""
        return sha256(self.path)

    @cached_property
    def metadata(self) -> ModelMetadata:
        """Of the network, which is made to check it."""
        return self.load().metadata

    def load(self) -> "SegmentationModel":
        """The network, see `load_model`."""
        from dlaseg.factory import load_model

        return load_model(self.path)


def open_network(source: str | Path) -> "Network":
    """The network of a weights file of ours, or of a file from `dlaseg export`.

    Raises:
        UserError: no such file; as `read_graph`.
    """
    path = resolve(source)
    if is_exported(path):
        return read_graph(path)
    file = WeightsFile(path)
    return file if path.is_file() else file.load()  # which says what is wrong with it
