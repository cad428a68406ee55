"""Segmentation networks by the arguments that a config and a weights file name them by."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from dlaseg.errors import UserError
from dlaseg.models.dla import build_backbone, check_backbone
from dlaseg.models.rendering import RenderedAttentiveDLASeg, RenderedDLASeg, check_scales
from dlaseg.models.segmenter import HEADS, AttentiveDLASeg, DLASeg, check_classes_and_stride

DECODERS: dict[str, tuple[type[DLASeg], type[RenderedDLASeg]]] = {
    "plain": (DLASeg, RenderedDLASeg),
    "afa": (AttentiveDLASeg, RenderedAttentiveDLASeg),
}
"""By name, plain iterative deep aggregation and attentive feature aggregation: networks of one scale, of several."""

LEAKY_SLOPE = 0.01
"""Of negative inputs, where the activation is `leaky_relu`."""

ACTIVATIONS = ("relu", "leaky_relu")
"""Of decoder and head; the backbone's is always ReLU."""

OPTIONS: dict[str, Any] = {"decoder": "plain", "head": "linear", "scales": [], "activation": "relu"}
"""Arguments of a network that its metadata name only where they differ from these."""


@dataclass(frozen=True)
class Architecture:
    """The arguments of a segmentation network, as a weights file has them; see `dlaseg.create_model`.

    Raises:
        UserError: an argument of another type or out of range.
    """

    name: str
    num_classes: int
    stride: int = 2
    root_kernel_size: int = 3
    in_channels: int = 3
    decoder: str = "plain"
    head: str = "linear"
    scales: Sequence[float] = ()
    activation: str = "relu"

    def __post_init__(self) -> None:
        check_backbone(self.name, None, self.in_channels, self.root_kernel_size)
        check_classes_and_stride(self.num_classes, self.stride)
        for argument, known in (("decoder", DECODERS), ("head", HEADS), ("activation", ACTIVATIONS)):
            value = getattr(self, argument)
            if not isinstance(value, str) or value not in known:
                raise UserError(f"{argument} {value!r:.80}: unknown; use one of {', '.join(known)}")
        if not isinstance(self.scales, list | tuple):
            raise UserError(f"scales {self.scales!r:.80}: give a list of numbers, such as [0.5, 1]")
        if self.scales:
            check_scales(self.scales)

    def to_dict(self) -> dict[str, Any]:
        """For the metadata: `OPTIONS` are named only where they differ from those, as files had them before."""
        arguments = asdict(self) | {"scales": sorted(map(float, self.scales))}
        return {key: value for key, value in arguments.items() if key not in OPTIONS or value != OPTIONS[key]}


def build_segmenter(architecture: Architecture) -> DLASeg:
    """A randomly initialised segmentation network."""
    of_one_scale, rendered = DECODERS[architecture.decoder]
    backbone = build_backbone(architecture.name, None, architecture.in_channels, architecture.root_kernel_size)
    arguments = backbone, architecture.num_classes, architecture.stride, architecture.head
    model = rendered(*arguments, architecture.scales) if architecture.scales else of_one_scale(*arguments)
    if architecture.activation == "leaky_relu":
        for part in (child for child in model.children() if child is not backbone):
            _replace_relu(part)
    model.metadata = replace(model.metadata, architecture=architecture.to_dict())
    return model


def _replace_relu(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, nn.LeakyReLU(LEAKY_SLOPE, inplace=True))
        else:
            _replace_relu(child)
