"""Scale-space rendering: scores of an image at several scales, blended by weights that the network learns.

Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, https://arxiv.org/abs/2111.00770,
sec. 3.3. As in the rendering of volumes, a scale hides what is behind it: the scales after it.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from dlaseg.errors import UserError
from dlaseg.models.attention import SpatialScore
from dlaseg.models.base import AuxiliaryOutput, TrainingOutputs
from dlaseg.models.dla import DLA
from dlaseg.models.layers import initialize_fan_in
from dlaseg.models.resizing import mirror, resize, round_up
from dlaseg.models.segmenter import MULTIPLE, AttentiveDLASeg, DLASeg

SCALES = (0.5, 1.0)
"""Of the images in training, sec. 4 of the paper; others may be set for inference."""

SMALLEST_SCALE, LARGEST_SCALE, MOST_SCALES = 0.25, 4.0, 8

LARGEST_MULTIPLE = 128
"""The image is padded to multiples of no more than this, at which all scales that are quarters are exact."""

SCALE_WEIGHT = 0.05
"""Of the loss of each scale's own logits."""


RenderedT = TypeVar("RenderedT", bound="RenderedDLASeg")


class RenderedDLASeg(DLASeg):
    """A `DLASeg` that blends what it computes of the image at several scales.

    With s running upwards, phi_s >= 0 from the features of a scale, brought to the grid of scale 1:
    weight_s = (1 - exp(-phi_s)) prod_{t < s} exp(-phi_t). Weights are not divided by their sum. What is blended are the
    logits of the head, or their log-softmax, as the head says.

    Args:
        backbone: see `DLASeg`.
        num_classes: see `DLASeg`.
        stride: of the decoder, see `DLASeg`.
        head: see `DLASeg`.
        scales: see `check_scales`.

    Attributes:
        stride: 1, since scores are blended at the image's size.
        scales: ascending.
    """

    def __init__(
        self,
        backbone: DLA,
        num_classes: int,
        stride: int = 2,
        head: str = "linear",
        scales: Sequence[float] = SCALES,
    ):
        super().__init__(backbone, num_classes, stride, head)
        self.rendering = SpatialScore(self.head.feature_channels)
        initialize_fan_in(self.rendering)
        self.stride = 1
        self._set_scales(scales)

    def gates(self) -> list[nn.Module]:
        """See `SegmentationModel.gates`."""
        return [*super().gates(), self.rendering]

    def with_scales(self: RenderedT, scales: Sequence[float]) -> RenderedT:
        """See `SegmentationModel.with_scales`, `check_scales`."""
        other = copy.copy(self)
        other._set_scales(scales)
        if self.metadata.architecture:
            architecture = {**self.metadata.architecture, "scales": list(other.scales)}
            other.metadata = replace(self.metadata, architecture=architecture)
        return other

    def _set_scales(self, scales: Sequence[float]) -> None:
        check_scales(scales)
        self.scales: tuple[float, ...] = tuple(sorted(map(float, scales)))
        exact = MULTIPLE * math.lcm(*(_fraction(scale).denominator for scale in self.scales))
        self.multiple = exact if exact <= LARGEST_MULTIPLE else LARGEST_MULTIPLE

    def coarse_logits(self, x: Tensor) -> Tensor:
        """Blended scores of every pixel, see `SegmentationModel.coarse_logits`.

        Args:
            x: as for `DLASeg.coarse_logits`; mirrored up to `multiple`s. A scale's height and width are rounded to
                multiples of 32, which changes them where a scale is no quarter.

        Returns:
            (N, num_classes, at least H, at least W).
        """
        x = self._mirrored(x)
        scores, _, _ = self.render(x, x.shape[-2:])
        return scores

    def training_outputs(self, x: Tensor) -> TrainingOutputs:
        """The blended scores, those of each scale with `SCALE_WEIGHT`, and auxiliary ones, blended in the same way."""
        x = self._mirrored(x)
        scores, of_scales, auxiliary = self.render(x, x.shape[-2:], training=True)
        return TrainingOutputs(scores, (*(AuxiliaryOutput(one, 1, SCALE_WEIGHT) for one in of_scales), *auxiliary))

    def _mirrored(self, x: Tensor) -> Tensor:
        return mirror(x, *(round_up(size, self.multiple) for size in x.shape[-2:]))

    def render(
        self, x: Tensor, size: Sequence[int], training: bool = False
    ) -> tuple[Tensor, list[Tensor], list[AuxiliaryOutput]]:
        """Blends scores.

        Args:
            x: (N, in_channels, H, W) float, H and W multiples of `multiple`.
            size: height and width of the result, pixels.
            training: whether the scores of each scale, and auxiliary ones, are wanted, too.

        Returns:
            The blended scores, those of each scale, and blended auxiliary ones, (N, num_classes, *size) each.
        """
        grid = [side // self.decoder_stride for side in x.shape[-2:]]
        visible: Tensor | None = None  # the product of exp(-phi) over smaller scales
        blended: list[Tensor] = []
        of_scales = []
        auxiliary: tuple[AuxiliaryOutput, ...] = ()
        for scale in self.scales:
            scaled = resize(x, [_scaled(side, scale) for side in x.shape[-2:]])
            steps = self.decoder.steps(self.features(scaled))
            head = self.head.outputs(self.join(steps))
            hidden = (-self.rendering(resize(head.features, grid)).abs()).exp()
            weight = 1 - hidden if visible is None else (1 - hidden) * visible
            visible = hidden if visible is None else hidden * visible
            weight = resize(weight, size)

            parts = [self._scores(head.logits, self.decoder_stride, size, self.head.blends_logits)]
            if training:
                of_scales += parts
                auxiliary = self.auxiliary_outputs(steps, head)
                of_head = len(auxiliary) - len(head.auxiliary)  # the last ones, which are blended as the logits are
                parts += [
                    self._scores(one.logits, one.stride, size, number >= of_head and self.head.blends_logits)
                    for number, one in enumerate(auxiliary)
                ]
            weighed = [part * weight for part in parts]
            blended = [sum_ + part for sum_, part in zip(blended, weighed, strict=True)] if blended else weighed
        main, *others = blended
        return (
            main,
            of_scales,
            [AuxiliaryOutput(part, 1, one.weight) for part, one in zip(others, auxiliary, strict=True)],
        )

    @staticmethod
    def _scores(logits: Tensor, stride: int, size: Sequence[int], blends_logits: bool) -> Tensor:
        """What is blended: (N, C, h, w) logits of a scale to (N, C, H, W)."""
        if blends_logits:
            return resize(logits, size)
        full = F.interpolate(logits, scale_factor=float(stride), mode="bilinear")  # at the scale's size
        return resize(full.log_softmax(1), size)


class RenderedAttentiveDLASeg(RenderedDLASeg, AttentiveDLASeg):
    """An `AttentiveDLASeg` that blends what it computes of the image at several scales, see `RenderedDLASeg`."""


def check_scales(scales: Sequence[float]) -> None:
    """Checks the scales of a `RenderedDLASeg`.

    Raises:
        UserError: none, too many, one twice, or one out of range.
    """
    for scale in scales:
        if (
            isinstance(scale, bool)
            or not isinstance(scale, int | float)
            or not SMALLEST_SCALE <= scale <= LARGEST_SCALE
        ):
            raise UserError(
                f"scales {list(scales)!r:.80}: {scale!r:.20}: the network blends numbers from {SMALLEST_SCALE} to "
                f"{LARGEST_SCALE}: use such ones"
            )
    if not 1 <= len(scales) <= MOST_SCALES or len(set(scales)) < len(scales):
        raise UserError(f"scales {list(scales)!r:.80}: give 1 to {MOST_SCALES} different ones, such as 0.5 1")


def _fraction(scale: float) -> Fraction:
    return Fraction(scale).limit_denominator(100)


def _scaled(side: int, scale: float) -> int:
    """A side, pixels, at a scale, to the nearest multiple of `MULTIPLE`; in integers, for traces."""
    fraction = _fraction(scale)
    step = fraction.denominator * MULTIPLE
    return (side * fraction.numerator + step // 2) // step * MULTIPLE
