"""The segmentation network: backbone, decoder, head."""

import math
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from dlaseg.errors import UserError
from dlaseg.metadata import MAX_LABELS, ModelMetadata
from dlaseg.models.arguments import check_choice, check_integer
from dlaseg.models.attention import AttentiveNode, LevelFusion
from dlaseg.models.base import AuxiliaryOutput, SegmentationModel, TrainingOutputs
from dlaseg.models.dla import DLA, build_backbone, check_backbone, initialize
from dlaseg.models.ida import ConcatNode, DLAUp, NodeBuilder
from dlaseg.models.resizing import mirror, round_up

STRIDES = (2, 4, 8)

AUXILIARY_WEIGHT = 0.05
"""Of the loss of each output of an attentive decoder, sec. 4 of https://arxiv.org/abs/2111.00770."""

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
        return self.head(self.decoder(self.features(x)))

    def features(self, x: Tensor) -> list[Tensor]:
        """The feature maps that the decoder joins, the finest first; `x` as for `coarse_logits`."""
        self.backbone.check_input(x)
        x = mirror(x, *(round_up(size, MULTIPLE) for size in x.shape[-2:]))
        return self.backbone.features(x)[self.first_level :]


class AttentiveDLASeg(DLASeg):
    """DLA backbone, a decoder with `AttentiveNode`s, `LevelFusion` of its outputs but the coarsest, 1x1 head.

    The network of https://arxiv.org/abs/2111.00770 without its scale-space rendering and its head for objects. Each
    output of the decoder has a head of its own that is trained beside the main one.

    A node's channel attention looks at the whole image. So a tile of a large image gets the attention of the tile, and
    in training each process and micro-batch needs two images at least.

    Args:
        backbone: see `DLASeg`.
        num_classes: see `DLASeg`.
        stride: see `DLASeg`.
    """

    smallest_batch = 2  # the channel attention normalises what it pools

    def __init__(self, backbone: DLA, num_classes: int, stride: int = 2):
        super().__init__(backbone, num_classes, stride, AttentiveNode)
        widths = backbone.channels[self.first_level : -1][::-1]  # of the decoder's outputs, the coarsest first
        self.fusion = LevelFusion(widths[1:])
        self.auxiliary = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in widths)
        initialize(self.fusion)
        initialize(self.auxiliary)

    def coarse_logits(self, x: Tensor) -> Tensor:
        """See `DLASeg.coarse_logits`."""
        return self.head(self.fusion(self.decoder.steps(self.features(x))[1:]))

    def training_outputs(self, x: Tensor) -> TrainingOutputs:
        """The main logits, and those of each output of the decoder with `AUXILIARY_WEIGHT`."""
        steps = self.decoder.steps(self.features(x))
        strides = [self.stride * 2 ** (len(steps) - 1 - number) for number in range(len(steps))]
        auxiliary = (
            AuxiliaryOutput(head(step), stride, AUXILIARY_WEIGHT)
            for head, step, stride in zip(self.auxiliary, steps, strides, strict=True)
        )
        return TrainingOutputs(self.head(self.fusion(steps[1:])), tuple(auxiliary))


DECODERS: dict[str, type[DLASeg]] = {"plain": DLASeg, "afa": AttentiveDLASeg}
"""Networks by the name of their decoder: plain iterative deep aggregation, and attentive feature aggregation."""


def check_segmenter(
    name: Any, num_classes: Any, stride: Any, root_kernel_size: Any, in_channels: Any, decoder: Any = "plain"
) -> None:
    """Checks the arguments of `build_segmenter`, also their types.

    Raises:
        UserError: names the argument.
    """
    check_backbone(name, None, in_channels, root_kernel_size)
    _check_head(num_classes, stride)
    check_decoder(decoder)


def check_decoder(name: Any) -> None:
    """Raises a UserError for the name of a decoder that there is not."""
    if not isinstance(name, str) or name not in DECODERS:
        raise UserError(f"decoder {name!r:.80}: unknown; use one of {', '.join(DECODERS)}")


def _check_head(num_classes: Any, stride: Any) -> None:
    if num_classes == 1:
        raise UserError(
            "num_classes 1: every pixel would get the same class: use two classes, such as background and NAME"
        )
    check_integer("num_classes", num_classes, 2, MAX_LABELS)
    check_choice("stride", stride, STRIDES)


def build_segmenter(
    name: str,
    num_classes: int,
    stride: int = 2,
    root_kernel_size: int = 3,
    in_channels: int = 3,
    decoder: str = "plain",
) -> DLASeg:
    """A randomly initialised segmentation network; arguments and errors as for `dlaseg.create_model`."""
    check_segmenter(name, num_classes, stride, root_kernel_size, in_channels, decoder)
    model = DECODERS[decoder](build_backbone(name, None, in_channels, root_kernel_size), num_classes, stride)
    architecture = {
        "name": name,
        "num_classes": num_classes,
        "stride": stride,
        "root_kernel_size": root_kernel_size,
        "in_channels": in_channels,
    }
    if decoder != "plain":  # files of plain networks are what they were before there were others
        architecture["decoder"] = decoder
    model.metadata = replace(model.metadata, architecture=architecture)
    return model
