"""The segmentation network: backbone, decoder, head."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlaseg.errors import UserError
from dlaseg.labels import LabelMap
from dlaseg.models.dla import DLA, initialize
from dlaseg.models.ida import DLAUp
from dlaseg.weights.download import HubMixin

STRIDES = (2, 4, 8)

MULTIPLE = 32
"""Heights and widths that the network works on are multiples of its deepest stride."""


class DLASeg(nn.Module, HubMixin):
    """DLA backbone, IDA-up decoder, 1x1 head.

    Args:
        backbone: gives the six levels' feature maps.
        num_classes: channels of the logits.
        stride: output stride of the decoder: 2, 4 or 8. The finest level it uses is level log2(stride).

    Attributes:
        arguments: what `create_model` was called with; kept in weights files.
        label_map: what the classes are; `class 0`, `class 1`, ... until someone says.
        mean, std: of the image's channels, in units of 255; what the network expects its input normalised with.
        origin: what the weights started from; kept in weights files.
    """

    def __init__(self, backbone: DLA, num_classes: int, stride: int = 2):
        super().__init__()
        if num_classes < 1:
            raise UserError(f"num_classes {num_classes}: a segmentation network has at least 1 class")
        if stride not in STRIDES:
            raise UserError(f"stride {stride}: the output stride is 2, 4 or 8")
        self.arguments: dict[str, Any] = {}
        self.origin: list[dict[str, str]] = []
        self.label_map = LabelMap.numbered(num_classes)
        self.mean, self.std = backbone.mean, backbone.std
        self.stride = stride
        self.num_classes = num_classes
        self.first_level = int(math.log2(stride))
        channels = backbone.channels[self.first_level :]
        self.backbone = backbone
        self.decoder = DLAUp(channels)
        self.head = nn.Conv2d(channels[0], num_classes, 1)
        initialize(self.decoder)
        initialize(self.head)

    def coarse_logits(self, x: Tensor) -> Tensor:
        """Logits at the decoder's resolution, before the upsampling.

        Args:
            x: (N, C, H, W) float, normalised; any H and W from 1 upwards. Padded at the right and the bottom by
                repeating the border: a black edge would be an edge that the picture does not have.

        Returns:
            (N, num_classes, ceil32(H) / stride, ceil32(W) / stride), ceil32 rounding up to a multiple of 32.
        """
        self.backbone.check_input(x)
        height, width = x.shape[-2:]
        pad_bottom, pad_right = -height % MULTIPLE, -width % MULTIPLE
        if pad_bottom or pad_right:
            x = F.pad(x, (0, pad_right, 0, pad_bottom), mode="replicate")
        features = self.backbone.features(x)
        return self.head(self.decoder(features[self.first_level :]))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every pixel.

        Args:
            x: (N, C, H, W) float, normalised; any H and W from 1 upwards.

        Returns:
            (N, num_classes, H, W) float, unnormalised log-probabilities (no softmax).
        """
        return upsample_logits(self.coarse_logits(x), self.stride, x.shape[-2], x.shape[-1])


def upsample_logits(coarse: Tensor, stride: int, height: int, width: int) -> Tensor:
    """Bilinear upsampling (align_corners=False) by `stride`, then the top left `height` x `width`.

    Args:
        coarse: (N, C, h, w) float with h * stride >= height and w * stride >= width.
        stride: the factor.
        height: rows to keep, pixels.
        width: columns to keep, pixels.

    Returns:
        (N, C, height, width) float.
    """
    full = F.interpolate(coarse, scale_factor=float(stride), mode="bilinear", align_corners=False)
    return full[:, :, :height, :width]


def argmax_logits(coarse: Tensor, stride: int, height: int, width: int, rows: int = 64) -> Tensor:
    """The winning class of every pixel: `upsample_logits(...).argmax(1)`, a strip at a time, so in little memory.

    Args:
        coarse: (N, C, h, w) float, as for `upsample_logits`.
        stride: the factor, a power of 2 (then a strip's interpolation weights are exactly the whole's).
        height: of the result, pixels.
        width: of the result, pixels.
        rows: coarse rows in a strip.

    Returns:
        (N, height, width) uint8 train ids.
    """
    labels = torch.empty(len(coarse), height, width, dtype=torch.uint8, device=coarse.device)
    for top in range(0, math.ceil(height / stride), rows):
        above = min(top, 1)  # a neighbour row on either side, where there is one
        strip = coarse[:, :, top - above : top + rows + 1]
        bottom = min((top + rows) * stride, height)
        full = upsample_logits(strip, stride, bottom - (top - above) * stride, width)[:, :, above * stride :]
        labels[:, top * stride : bottom] = full.argmax(1)
    return labels
