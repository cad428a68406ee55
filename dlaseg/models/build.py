"""Segmentation networks by the arguments that a config and a weights file name them by."""

from collections.abc import Sequence
from dataclasses import replace
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


def check_segmenter(
    name: Any,
    num_classes: Any,
    stride: Any,
    root_kernel_size: Any,
    in_channels: Any,
    decoder: Any = "plain",
    head: Any = "linear",
    scales: Any = (),
    activation: Any = "relu",
) -> None:
    """Checks the arguments of `build_segmenter`, also their types.

    Raises:
        UserError: names the argument.
    """
    check_backbone(name, None, in_channels, root_kernel_size)
    check_classes_and_stride(num_classes, stride)
    for argument, value, known in (
        ("decoder", decoder, DECODERS),
        ("head", head, HEADS),
        ("activation", activation, ACTIVATIONS),
    ):
        if not isinstance(value, str) or value not in known:
            raise UserError(f"{argument} {value!r:.80}: unknown; use one of {', '.join(known)}")
    if not isinstance(scales, list | tuple):
        raise UserError(f"scales {scales!r:.80}: give a list of numbers, such as [0.5, 1]")
    if scales:
        check_scales(scales)


def build_segmenter(
    name: str,
    num_classes: int,
    stride: int = 2,
    root_kernel_size: int = 3,
    in_channels: int = 3,
    decoder: str = "plain",
    head: str = "linear",
    scales: Sequence[float] = (),
    activation: str = "relu",
) -> DLASeg:
    """A randomly initialised segmentation network; arguments and errors as for `dlaseg.create_model`."""
    check_segmenter(name, num_classes, stride, root_kernel_size, in_channels, decoder, head, scales, activation)
    of_one_scale, rendered = DECODERS[decoder]
    backbone = build_backbone(name, None, in_channels, root_kernel_size)
    if scales:
        model: DLASeg = rendered(backbone, num_classes, stride, head, scales)
    else:
        model = of_one_scale(backbone, num_classes, stride, head)
    if activation == "leaky_relu":
        for part in (child for child in model.children() if child is not backbone):
            _replace_relu(part)
    architecture = {
        "name": name,
        "num_classes": num_classes,
        "stride": stride,
        "root_kernel_size": root_kernel_size,
        "in_channels": in_channels,
    }
    options = {"decoder": decoder, "head": head, "scales": sorted(map(float, scales)), "activation": activation}
    architecture |= {key: value for key, value in options.items() if value != OPTIONS[key]}
    model.metadata = replace(model.metadata, architecture=architecture)
    return model


def _replace_relu(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, nn.LeakyReLU(LEAKY_SLOPE, inplace=True))
        else:
            _replace_relu(child)
