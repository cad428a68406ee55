"""Dropout of channels whose choice does not depend on how a batch is split over processes, or on a resume."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ImageDropout(nn.Module):
    """`nn.Dropout2d` that draws the channels of each image by a seed of its own.

    Args:
        channels: of the input.
        share: of the channels that are dropped, 0 to 1.
    """

    def __init__(self, channels: int, share: float):
        super().__init__()
        self.channels, self.share = channels, share
        self._factors: Tensor | None = None  # (N, channels, 1, 1)

    def draw(self, seeds: Sequence[int]) -> None:
        """Draws the channels of the next batches, until it is called again.

        Args:
            seeds: one for each image of the batch, 0 to 2^64 - 1; none for torch's global generator.
        """
        self._factors = None
        if not seeds:
            return
        kept = torch.empty(len(seeds), self.channels, 1, 1)
        for factors, seed in zip(kept, seeds, strict=True):
            factors.bernoulli_(1 - self.share, generator=torch.Generator().manual_seed(seed))
        self._factors = kept / (1 - self.share)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) to the same; in training, some channels are 0, the others larger."""
        if self.training and self._factors is not None:
            return x * self._factors.to(x)
        return F.dropout2d(x, self.share, self.training)


def image_dropouts(network: nn.Module) -> list[ImageDropout]:
    """Every `ImageDropout` of a network."""
    return [module for module in network.modules() if isinstance(module, ImageDropout)]
