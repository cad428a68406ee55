"""The segmentation network: backbone, decoder, head; and the functions that make one by name."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlaseg.errors import UserError
from dlaseg.labels import LabelMap
from dlaseg.models.dla import DLA, VARIANTS, initialize
from dlaseg.models.ida import DLAUp

STRIDES = (2, 4, 8)

MULTIPLE = 32
"""Heights and widths that the network works on are multiples of its deepest stride."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of the channels red, green, blue on ImageNet, in units of 255."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of the same."""


class DLASeg(nn.Module):
    """DLA backbone, IDA-up decoder, 1x1 head.

    Args:
        backbone: gives the six levels' feature maps.
        num_classes: channels of the logits.
        stride: output stride of the decoder: 2, 4 or 8. The finest level it uses is level log2(stride).

    Attributes:
        arguments: what `create_model` was called with; kept in weights files.
        label_map: what the classes are; `class 0`, `class 1`, ... until someone says.
        mean, std: of the image's channels, in units of 255; what the network expects its input normalised with.
    """

    def __init__(self, backbone: DLA, num_classes: int, stride: int = 2):
        super().__init__()
        if num_classes < 1:
            raise UserError(f"num_classes {num_classes}: a segmentation network has at least 1 class")
        if stride not in STRIDES:
            raise UserError(f"stride {stride}: the output stride is 2, 4 or 8")
        self.arguments: dict[str, Any] = {}
        self.label_map = LabelMap.numbered(num_classes)
        self.mean = _repeat(IMAGENET_MEAN, backbone.in_channels)
        self.std = _repeat(IMAGENET_STD, backbone.in_channels)
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


def list_models() -> list[str]:
    """The names of the ten variants."""
    return list(VARIANTS)


def create_backbone(name: str, num_classes: int | None = None, in_channels: int = 3, root_kernel_size: int = 1) -> DLA:
    """Makes a DLA with fresh weights.

    Args:
        name: one of `list_models()`.
        num_classes: for a classifier; None for a backbone that returns six feature maps.
        in_channels: of the input.
        root_kernel_size: 1, the layout of published weights, or 3.

    Raises:
        UserError: an unknown name or a value out of range.

    Example:
        >>> import torch
        >>> backbone = create_backbone("dla46_c")
        >>> [tuple(f.shape[1:]) for f in backbone(torch.zeros(1, 3, 64, 64))][-2:]
        [(128, 4, 4), (256, 2, 2)]
    """
    if name not in VARIANTS:
        raise UserError(f"model {name!r}: unknown; the variants are {', '.join(VARIANTS)}")
    depths, channels, block, residual_root = VARIANTS[name]
    return DLA(depths, channels, block, residual_root, in_channels, num_classes, root_kernel_size)


def create_model(
    name: str, num_classes: int, stride: int = 2, root_kernel_size: int = 3, in_channels: int = 3
) -> DLASeg:
    """Makes a segmentation network with fresh weights.

    Args:
        name: one of `list_models()`.
        num_classes: channels of the logits.
        stride: output stride 2, 4 or 8.
        root_kernel_size: of the backbone's aggregation nodes, 3 or 1 (the layout of published weights).
        in_channels: of the input.

    Raises:
        UserError: an unknown name or a value out of range.

    Example:
        >>> import torch
        >>> model = create_model("dla46_c", num_classes=19)
        >>> tuple(model(torch.zeros(2, 3, 33, 50)).shape)
        (2, 19, 33, 50)
    """
    model = DLASeg(create_backbone(name, None, in_channels, root_kernel_size), num_classes, stride)
    model.arguments = {
        "name": name,
        "num_classes": num_classes,
        "stride": stride,
        "root_kernel_size": root_kernel_size,
        "in_channels": in_channels,
    }
    return model


def _repeat(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if channels == len(values) else (sum(values) / len(values),) * channels
