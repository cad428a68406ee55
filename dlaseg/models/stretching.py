"""The original's way to sizes that are no multiples of what the strides need: the image is stretched."""

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from dlaseg.models.base import SegmentationModel, upsample_logits
from dlaseg.models.rendering import RenderedDLASeg
from dlaseg.models.resizing import resize, round_up
from dlaseg.models.segmenter import DLASeg

STRETCH_MULTIPLE = 128
"""Heights and widths are stretched up to multiples of it (https://github.com/SysCV/dla-afa, `dla_resize`)."""


StretchedT = TypeVar("StretchedT", bound="StretchedDLASeg")


class StretchedDLASeg(SegmentationModel):
    """Computes a network's scores of the image stretched to multiples of `STRETCH_MULTIPLE`, and resizes them back.

    That is how published attentive networks were scored; a `DLASeg` mirrors the image at the right and the bottom. At
    sizes that are such multiples already, as in Cityscapes, both are the same.

    Args:
        network: shares its weights.
    """

    def __init__(self, network: DLASeg):
        super().__init__()
        self.network = network
        self.metadata, self.num_classes = network.metadata, network.num_classes
        self.multiple, self.stride, self.scales = STRETCH_MULTIPLE, 1, network.scales

    def with_scales(self: StretchedT, scales: Sequence[float]) -> StretchedT:
        """See `SegmentationModel.with_scales`."""
        return type(self)(self.network.with_scales(scales))

    def coarse_logits(self, x: Tensor) -> Tensor:
        """See `SegmentationModel.coarse_logits`; (N, num_classes, H, W), of a linear head their log-softmax."""
        size, network = x.shape[-2:], self.network
        x = resize(x, [round_up(side, STRETCH_MULTIPLE) for side in size])
        if isinstance(network, RenderedDLASeg):
            scores, _, _ = network.render(x, size)
            return scores
        coarse = network.coarse_logits(x)
        if network.head.blends_logits:
            return resize(coarse, size)
        return resize(upsample_logits(coarse, network.stride, *x.shape[-2:]).log_softmax(1), size)
