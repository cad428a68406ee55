"""What is between the decoder's features and the logits: the linear head, and what every head gives."""

from typing import NamedTuple, Protocol

from torch import Tensor, nn

from dlaseg.models.layers import initialize


class HeadOutputs(NamedTuple):
    """What a head makes of the decoder's features.

    Attributes:
        logits: (N, num_classes, h, w) float.
        features: (N, feature_channels, h, w) float, what the logits are a linear function of.
        auxiliary: further logits of the same shape, trained beside the others, each with the factor of its loss.
    """

    logits: Tensor
    features: Tensor
    auxiliary: tuple[tuple[Tensor, float], ...] = ()


class Head(Protocol):
    """The contract of a head, an `nn.Module`.

    Attributes:
        feature_channels: width of `HeadOutputs.features`.
        blends_logits: whether scale-space rendering blends the logits themselves, rather than their log-softmax.
    """

    feature_channels: int
    blends_logits: bool

    def initialize(self) -> None:
        """Sets the weights at random."""
        ...

    def logit_layers(self) -> list[nn.Conv2d]:
        """The layers that write logits."""
        ...

    def outputs(self, x: Tensor) -> HeadOutputs:
        """Features of the decoder, (N, in_channels, h, w), to logits."""
        ...


class LinearHead(nn.Conv2d):
    """1x1 convolution.

    Args:
        in_channels: of the decoder's features.
        num_classes: channels of the logits.
    """

    blends_logits = False

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__(in_channels, num_classes, 1)
        self.feature_channels = in_channels

    def initialize(self) -> None:
        """See `Head.initialize`."""
        initialize(self)

    def logit_layers(self) -> list[nn.Conv2d]:
        """See `Head.logit_layers`."""
        return [self]

    def outputs(self, x: Tensor) -> HeadOutputs:
        """See `Head.outputs`."""
        return HeadOutputs(self(x), x)
