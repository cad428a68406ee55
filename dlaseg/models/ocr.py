"""Object-contextual representations: each pixel sees what the objects in the image look like.

Yuan, Chen, Wang, "Object-Contextual Representations for Semantic Segmentation", ECCV 2020,
https://arxiv.org/abs/1909.11065, sec. 3, with the widths of https://arxiv.org/abs/2111.00770.
"""

import torch
from torch import Tensor, nn

from dlaseg.models.dropout import ImageDropout
from dlaseg.models.heads import HeadOutputs
from dlaseg.models.layers import conv_level, initialize_fan_in

CHANNELS, KEY_CHANNELS = 256, 128
"""Widths of the pixels' features, and of the keys by which pixels and objects are compared."""

DROPOUT = 0.05
"""Share of the channels that training drops before the last convolution."""

AUXILIARY_WEIGHT = 0.4
"""Of the loss of the soft regions."""


class SoftRegions(nn.Module):
    """How much each pixel belongs to each class, as logits: the first guess, by which objects are gathered.

    Args:
        in_channels: of the input.
        num_classes: channels of the logits.
    """

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.hidden = conv_level(in_channels, in_channels, 1, bias=True)
        self.classifier = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, h, w) to (N, num_classes, h, w)."""
        return self.classifier(self.hidden(x))


class ObjectAttention(nn.Module):
    """Describes each pixel by the objects that it resembles.

    Args:
        channels: of pixels and objects.
        key_channels: of what they are compared by.
    """

    def __init__(self, channels: int, key_channels: int):
        super().__init__()
        self.pixel = nn.Sequential(conv_level(channels, key_channels, 1), conv_level(key_channels, key_channels, 1))
        self.object = nn.Sequential(conv_level(channels, key_channels, 1), conv_level(key_channels, key_channels, 1))
        self.down = conv_level(channels, key_channels, 1)
        self.up = conv_level(key_channels, channels, 1)

    def forward(self, pixels: Tensor, objects: Tensor) -> Tensor:
        """Attention from pixels to objects.

        Args:
            pixels: (N, channels, h, w).
            objects: (N, channels, K, 1), one for each class.

        Returns:
            (N, channels, h, w).
        """
        queries, keys, values = self.pixel(pixels), self.object(objects), self.down(objects)  # (N, key_channels, ...)
        scores = queries.flatten(2).mT @ keys.flatten(2)  # (N, h * w, K)
        attention = (scores * keys.shape[1] ** -0.5).softmax(-1)
        context = values.flatten(2) @ attention.mT  # (N, key_channels, h * w)
        return self.up(context.view_as(queries))


class ObjectContextHead(nn.Module):
    """Soft regions, the mean pixel of each, attention from pixels to these objects, 1x1 convolution.

    The regions cover the image. So a tile of a large image gets the objects of the tile.

    Args:
        in_channels: of the decoder's features.
        num_classes: channels of the logits.
    """

    feature_channels, blends_logits = CHANNELS, True

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.pixels = conv_level(in_channels, CHANNELS, 3, bias=True)
        self.regions = SoftRegions(in_channels, num_classes)
        self.attention = ObjectAttention(CHANNELS, KEY_CHANNELS)
        self.join = conv_level(2 * CHANNELS, CHANNELS, 1)
        self.dropout = ImageDropout(CHANNELS, DROPOUT)
        self.classifier = nn.Conv2d(CHANNELS, num_classes, 1)

    def initialize(self) -> None:
        """See `Head.initialize`."""
        initialize_fan_in(self)

    def logit_layers(self) -> list[nn.Conv2d]:
        """See `Head.logit_layers`."""
        return [self.classifier, self.regions.classifier]

    def product_macs(self, height: int, width: int) -> int:
        """Multiply-adds of an image's products of pixels and objects, which no convolution computes."""
        return height * width * self.classifier.out_channels * (CHANNELS + 2 * KEY_CHANNELS)

    def outputs(self, x: Tensor) -> HeadOutputs:
        """See `Head.outputs`; the auxiliary logits are those of the soft regions."""
        pixels, regions = self.pixels(x), self.regions(x)
        shares = regions.flatten(2).softmax(-1)  # (N, num_classes, h * w), of the pixels in an object
        objects = pixels.flatten(2) @ shares.mT  # (N, CHANNELS, num_classes)
        context = self.attention(pixels, objects[..., None])
        features = self.dropout(self.join(torch.cat((context, pixels), 1)))
        return HeadOutputs(self.classifier(features), features, ((regions, AUXILIARY_WEIGHT),))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, h, w) to logits (N, num_classes, h, w)."""
        return self.outputs(x).logits
