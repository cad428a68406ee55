"""The segmentation network: backbone, decoder, head."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dlaseg.errors import UserError
from dlaseg.metadata import MAX_LABELS, ModelMetadata
from dlaseg.models.arguments import check_choice, check_integer
from dlaseg.models.attention import AttentiveNode, ChannelAttention, LevelFusion, SpatialAttention, initialize_attention
from dlaseg.models.base import AuxiliaryOutput, SegmentationModel, TrainingOutputs
from dlaseg.models.dla import DLA
from dlaseg.models.heads import HeadOutputs, LinearHead
from dlaseg.models.ida import BilinearUpsample, ConcatNode, DLAUp, NodeBuilder
from dlaseg.models.layers import initialize
from dlaseg.models.ocr import ObjectContextHead
from dlaseg.models.resizing import mirror, round_up

STRIDES = (2, 4, 8)

AUXILIARY_WEIGHT = 0.05
"""Of the loss of each output of an attentive decoder, sec. 4 of https://arxiv.org/abs/2111.00770."""

UPSAMPLING_GAIN, HEAD_GAIN = 3, 4
"""What kernels of an attentive decoder and its head begin with, relative to a plain one's. With these, features and
logits begin as large as a plain network's; the original has 1."""

MULTIPLE = 32
"""The network pads heights and widths to multiples of its deepest stride."""

HEADS: dict[str, type[LinearHead | ObjectContextHead]] = {"linear": LinearHead, "ocr": ObjectContextHead}
"""Heads by name: a 1x1 convolution, and object-contextual representations."""


class DLASeg(SegmentationModel):
    """DLA backbone, IDA-up decoder, head.

    Args:
        backbone: gives the feature maps of the six levels.
        num_classes: channels of the logits.
        stride: output stride of the decoder: 2, 4 or 8. The finest level it uses is level log2(stride).
        head: a name in `HEADS`.
        node: builds the decoder's aggregation nodes.

    Attributes:
        decoder_stride: that of the decoder; `stride` unless the scores are computed at another one.
    """

    def __init__(
        self, backbone: DLA, num_classes: int, stride: int = 2, head: str = "linear", node: NodeBuilder = ConcatNode
    ):
        super().__init__()
        check_classes_and_stride(num_classes, stride)
        self.metadata = replace(
            ModelMetadata.for_segmentation(num_classes, backbone.in_channels),
            mean=backbone.metadata.mean,
            std=backbone.metadata.std,
        )
        self.stride = self.decoder_stride = stride
        self.num_classes = num_classes
        self.multiple = MULTIPLE
        self.first_level = int(math.log2(stride))
        channels = backbone.channels[self.first_level :]
        self.backbone = backbone
        self.decoder = DLAUp(channels, node)
        self.head = HEADS[head](channels[0], num_classes)
        initialize(self.decoder)
        self.head.initialize()

    def coarse_logits(self, x: Tensor) -> Tensor:
        """Logits at the decoder's resolution, before upsampling.

        Args:
            x: (N, in_channels, H, W) float, normalised; any H and W from 1 upwards. Padded at the right and the bottom
                by mirroring: a black edge would be an edge that the image does not have, and a repeated border becomes
                stripes, which a network took for a fence.

        Returns:
            (N, num_classes, ceil32(H) / stride, ceil32(W) / stride), ceil32 rounding up to a multiple of 32.
        """
        return self.head(self.join(self.decoder.steps(self.features(x))))

    def training_outputs(self, x: Tensor) -> TrainingOutputs:
        """The main logits, and auxiliary ones where decoder or head have them."""
        steps = self.decoder.steps(self.features(x))
        head = self.head.outputs(self.join(steps))
        return TrainingOutputs(head.logits, self.auxiliary_outputs(steps, head))

    def logit_layers(self) -> list[nn.Module]:
        """See `SegmentationModel.logit_layers`."""
        return list(self.head.logit_layers())

    def features(self, x: Tensor) -> list[Tensor]:
        """The feature maps that the decoder joins, the finest first; `x` as for `coarse_logits`."""
        self.backbone.check_input(x)
        x = mirror(x, *(round_up(size, MULTIPLE) for size in x.shape[-2:]))
        return self.backbone.features(x)[self.first_level :]

    def join(self, steps: Sequence[Tensor]) -> Tensor:
        """What the head sees of the decoder's `steps`: the last one."""
        return steps[-1]

    def auxiliary_outputs(self, _: Sequence[Tensor], head: HeadOutputs) -> tuple[AuxiliaryOutput, ...]:
        """What is trained beside the main logits, of the decoder's `steps` and of the head."""
        return tuple(AuxiliaryOutput(logits, self.decoder_stride, weight) for logits, weight in head.auxiliary)


class AttentiveDLASeg(DLASeg):
    """DLA backbone, a decoder with `AttentiveNode`s, `LevelFusion` of its outputs but the coarsest, head.

    The network of https://arxiv.org/abs/2111.00770, sec. 3.1 and 3.2. Each output of the decoder has a head of its own
    that is trained beside the main one.

    A node's channel attention looks at the whole image. So a tile of a large image gets the attention of the tile, and
    a micro-batch of training, over all processes, needs two images at least.

    Args:
        backbone: see `DLASeg`.
        num_classes: see `DLASeg`.
        stride: see `DLASeg`.
        head: see `DLASeg`.
    """

    smallest_batch = 2  # the channel attention normalises what it pools

    def __init__(self, backbone: DLA, num_classes: int, stride: int = 2, head: str = "linear"):
        super().__init__(backbone, num_classes, stride, head, AttentiveNode)
        widths = backbone.channels[self.first_level : -1][::-1]  # of the decoder's outputs, the coarsest first
        self.fusion = LevelFusion(widths[1:])
        self.auxiliary = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in widths)
        initialize(self.fusion)
        initialize_attention(self.decoder)
        initialize_attention(self.fusion)
        # A node begins with a quarter of each input. With three times the deeper one, their sum is as large as they
        # are, at every node; otherwise, what comes out is a tenth of it, and the head learns as much more slowly.
        with torch.no_grad():
            for module in self.decoder.modules():
                if isinstance(module, BilinearUpsample):
                    module.weight.mul_(UPSAMPLING_GAIN)
            for layer in self.head.logit_layers():
                layer.weight.mul_(HEAD_GAIN)
        initialize(self.auxiliary)

    def logit_layers(self) -> list[nn.Module]:
        """See `SegmentationModel.logit_layers`."""
        return [*super().logit_layers(), *self.auxiliary]

    def gates(self) -> list[nn.Module]:
        """See `SegmentationModel.gates`."""
        return [module for module in self.modules() if isinstance(module, SpatialAttention | ChannelAttention)]

    def join(self, steps: Sequence[Tensor]) -> Tensor:
        """What the head sees of the decoder's `steps`: all but the coarsest one, by attention."""
        return self.fusion(steps[1:])

    def auxiliary_outputs(self, steps: Sequence[Tensor], head: HeadOutputs) -> tuple[AuxiliaryOutput, ...]:
        """What is trained beside the main logits: those of each step with `AUXILIARY_WEIGHT`, and the head's."""
        strides = [2 ** (self.first_level + len(steps) - 1 - number) for number in range(len(steps))]
        of_steps = (
            AuxiliaryOutput(linear(step), stride, AUXILIARY_WEIGHT)
            for linear, step, stride in zip(self.auxiliary, steps, strides, strict=True)
        )
        return *of_steps, *super().auxiliary_outputs(steps, head)


def check_classes_and_stride(num_classes: Any, stride: Any) -> None:
    """Checks two arguments of the networks, also their types.

    Raises:
        UserError: names the argument.
    """
    if num_classes == 1:
        raise UserError(
            "num_classes 1: every pixel would get the same class: use two classes, such as background and NAME"
        )
    check_integer("num_classes", num_classes, 2, MAX_LABELS)
    check_choice("stride", stride, STRIDES)
