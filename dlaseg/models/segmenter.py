"""The segmentation network: backbone, decoder, head."""

import math
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from dlaseg.errors import UserError
from dlaseg.metadata import MAX_LABELS, ModelMetadata
from dlaseg.models.arguments import check_choice, check_integer
from dlaseg.models.base import SegmentationModel
from dlaseg.models.dla import DLA, build_backbone, check_backbone, initialize
from dlaseg.models.ida import ConcatNode, DLAUp, NodeBuilder
from dlaseg.models.resizing import mirror, round_up

STRIDES = (2, 4, 8)

MULTIPLE = 32
"""The network pads heights and widths to multiples of its deepest stride."""


class DLASeg(SegmentationModel):
    """DLA backbone, IDA-up decoder, 1x1 head.

    Args:
        backbone: gives the feature maps of the six levels.
        num_classes: channels of the logits.
        stride: output stride of the decoder: 2, 4 or 8. The finest level it uses is level log2(stride).
        node: builds the decoder's aggregation nodes.
    """

    def __init__(self, backbone: DLA, num_classes: int, stride: int = 2, node: NodeBuilder = ConcatNode):
        super().__init__()
        _check_head(num_classes, stride)
        self.metadata = replace(
            ModelMetadata.for_segmentation(num_classes, backbone.in_channels),
            mean=backbone.metadata.mean,
            std=backbone.metadata.std,
        )
        self.stride = stride
        self.num_classes = num_classes
        self.multiple = MULTIPLE
        self.first_level = int(math.log2(stride))
        channels = backbone.channels[self.first_level :]
        self.backbone = backbone
        self.decoder = DLAUp(channels, node)
        self.head = nn.Conv2d(channels[0], num_classes, 1)
        initialize(self.decoder)
        initialize(self.head)

    def coarse_logits(self, x: Tensor) -> Tensor:
        """Logits at the decoder's resolution, before upsampling.

        Args:
            x: (N, in_channels, H, W) float, normalised; any H and W from 1 upwards. Padded at the right and the bottom
                by mirroring: a black edge would be an edge that the image does not have, and a repeated border becomes
                stripes, which a network took for a fence.

        Returns:
            (N, num_classes, ceil32(H) / stride, ceil32(W) / stride), ceil32 rounding up to a multiple of 32.
        """
        self.backbone.check_input(x)
        x = mirror(x, *(round_up(size, MULTIPLE) for size in x.shape[-2:]))
        features = self.backbone.features(x)
        return self.head(self.decoder(features[self.first_level :]))


def check_segmenter(name: Any, num_classes: Any, stride: Any, root_kernel_size: Any, in_channels: Any) -> None:
    """Checks the arguments of `build_segmenter`, also their types.

    Raises:
        UserError: names the argument.
    """
    check_backbone(name, None, in_channels, root_kernel_size)
    _check_head(num_classes, stride)


def _check_head(num_classes: Any, stride: Any) -> None:
    if num_classes == 1:
        raise UserError(
            "num_classes 1: every pixel would get the same class: use two classes, such as background and NAME"
        )
    check_integer("num_classes", num_classes, 2, MAX_LABELS)
    check_choice("stride", stride, STRIDES)


def build_segmenter(
    name: str, num_classes: int, stride: int = 2, root_kernel_size: int = 3, in_channels: int = 3
) -> DLASeg:
    """A randomly initialised segmentation network; arguments and errors as for `dlaseg.create_model`."""
    check_segmenter(name, num_classes, stride, root_kernel_size, in_channels)
    model = DLASeg(build_backbone(name, None, in_channels, root_kernel_size), num_classes, stride)
    architecture = {
        "name": name,
        "num_classes": num_classes,
        "stride": stride,
        "root_kernel_size": root_kernel_size,
        "in_channels": in_channels,
    }
    model.metadata = replace(model.metadata, architecture=architecture)
    return model
