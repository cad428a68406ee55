"""What a predictor is made of: a weights file, an exported file, or a model; does not import torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from dlaseg.errors import UserError
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
    """A weights file of ours; its network is made when torch runs or converts it.

    Attributes:
        path: of the file.
        scales: that the network blends, instead of those in the file, see `SegmentationModel`.
    """

    path: Path
    scales: tuple[float, ...] | None = None

    @property
    def key(self) -> str:
        """Names the network in the cache of graphs."""
        return self.sha256 if self.scales is None else f"{self.sha256} scales {self.scales}"

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

        model = load_model(self.path)
        return model if self.scales is None else model.with_scales(self.scales)


def open_network(source: "str | Path | Network") -> "Network":
    """The network of a weights file of ours, or of a file from `dlaseg export`; a network as it is.

    Raises:
        UserError: no such file; an object that is no segmentation network; as `read_graph`.
    """
    if isinstance(source, WeightsFile | Graph):
        return source
    if not isinstance(source, str | Path):
        from dlaseg.weights.files import check_network  # imports torch, as the network did

        check_network(source)
        _ = source.metadata.labels  # a classifier has none
        return source
    path = resolve(source)
    if is_exported(path):
        return read_graph(path)
    file = WeightsFile(path)
    return file if path.is_file() else file.load()  # which says what is wrong with it


def stretch(network: "Network") -> "SegmentationModel":
    """The network that stretches an image to multiples of 128 instead of mirroring its border, see `StretchedDLASeg`.

    Raises:
        UserError: an exported file.
    """
    if isinstance(network, Graph):
        raise UserError(f"{network.path}: pads as it was exported: to stretch images, use the weights")
    from dlaseg.models.segmenter import DLASeg
    from dlaseg.models.stretching import StretchedDLASeg

    model = network.load() if isinstance(network, WeightsFile) else network
    assert isinstance(model, DLASeg)
    return StretchedDLASeg(model)


def blend_scales(network: "Network", scales: Sequence[float]) -> "Network | None":
    """The network with other scales that it blends itself; None for a network of one scale.

    Raises:
        UserError: scales that the network does not take, or an exported file with others, which are fixed in it.
    """
    model = network.load() if isinstance(network, WeightsFile) else network
    own = model.scales
    if own is None:
        return None
    if isinstance(network, Graph):
        if tuple(sorted(scales)) != own:
            raise UserError(
                f"scales {' '.join(map(str, scales))}: {network.path} blends {' '.join(map(str, own))}, fixed when it "
                "was exported: use these, or the weights that it was exported from"
            )
        return network
    if isinstance(network, WeightsFile):
        return replace(network, scales=tuple(sorted(scales)))  # whose graph may be in the cache
    return network.with_scales(scales)
