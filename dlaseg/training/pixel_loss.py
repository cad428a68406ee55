"""The loss of a segmentation network: a weighted sum of terms, each computed at the resolution of the targets.

A term is a sum over images, divided by a normalizer that depends on the targets alone. So a batch can be split into
micro-batches, over processes or over time: with the normalizers of the whole batch, the losses and gradients of the
micro-batches add up to those of the whole batch.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dlaseg.config.segmentation import LossConfig
from dlaseg.errors import UserError
from dlaseg.models.base import TrainingOutputs, upsample_logits
from dlaseg.training.losses import (
    binary_cross_entropy_sum,
    cross_entropy_sum,
    dice_loss,
    focal_sum,
    lovasz_loss,
    ohem_mean,
    region_mutual_information_loss,
)

NORMALIZERS = {
    **{"cross_entropy": "weights", "focal": "pixels", "binary_cross_entropy": "pixels"},
    **dict.fromkeys(("ohem", "dice", "lovasz", "rmi"), "images"),
}
"""What each term is divided by: the sum of the class weights of all scored pixels, the number of scored pixels, or the
number of images with a scored pixel. Scored pixels are those that are not ignored."""


SUMS_OVER_PIXELS = ("cross_entropy", "focal")
"""Terms that several images can share one call of; the others order or count the pixels of one image."""

_GPU_LOGITS = 1 << 26
"""Full-size logits at a time on a GPU, 256 MiB in float32: it takes as long for one small image as for several."""


class _SumOverImages(torch.autograd.Function):
    """Sums a loss over the images and computes its gradient in the forward pass.

    Only tensors at the decoder's resolution outlive the call. Full-size tensors exist for `count` images at a time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        coarse: Tensor,
        targets: Tensor,
        stride: int,
        image_loss: Callable[[Tensor, Tensor], Tensor],
        count: int,
    ) -> Tensor:
        dtype = _loss_dtype(coarse)
        needs_grad = ctx.needs_input_grad[0]
        # float16 cannot hold the gradient of one pixel in a large batch: it stays in float32 until `backward` has
        # multiplied it with the scale of the loss
        grad = torch.empty_like(coarse, dtype=dtype) if needs_grad else None
        total = torch.zeros((), dtype=dtype, device=coarse.device)
        for i in range(0, len(coarse), count):
            with torch.set_grad_enabled(needs_grad):
                images = coarse[i : i + count].detach().to(dtype).requires_grad_(needs_grad)
                # No variable holds the full-size logits: they are freed before those of the next images are computed
                loss = image_loss(upsample_logits(images, stride, *targets.shape[1:]), targets[i : i + count].long())
                if grad is not None:
                    grad[i : i + count] = torch.autograd.grad(loss, images)[0]
            total += loss.detach()
        ctx.grad, ctx.dtype = grad, coarse.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None, None]:
        return (ctx.grad * grad_output).to(ctx.dtype), None, None, None, None


def _check_type(targets: Any) -> None:
    if not isinstance(targets, Tensor) or targets.ndim != 3 or targets.is_floating_point():
        kind = targets.dtype if isinstance(targets, Tensor) else type(targets).__name__
        raise UserError(
            f"targets of type {kind} and shape {tuple(getattr(targets, 'shape', ()))}: use a tensor (N, H, W) of "
            "integers, the train ids"
        )


def _loss_dtype(logits: Tensor) -> torch.dtype:
    """The loss is never computed in half precision."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


class PixelLoss:
    """The weighted sum of a segmentation network's losses.

    Args:
        terms: the losses to sum.
        stride: of the main logits, pixels of the target per logit.
        class_weights: of cross_entropy, ohem and focal, one number for each class; None for equal weights.
        ignore_index: train id of ignored pixels; they change neither the loss nor its gradient.
        auxiliary_terms: the losses to sum for auxiliary outputs; None for those of the main output.

    Raises:
        UserError: unknown loss.

    Examples:
        >>> loss = PixelLoss([LossConfig("cross_entropy"), LossConfig("lovasz", weight=0.5)], stride=2)
        >>> logits, targets = torch.randn(4, 19, 16, 16), torch.randint(0, 19, (4, 32, 32))
        >>> normalizers = loss.normalizers(targets)
        >>> whole = loss(TrainingOutputs(logits), targets, normalizers)
        >>> first = loss(TrainingOutputs(logits[:3]), targets[:3], normalizers)
        >>> second = loss(TrainingOutputs(logits[3:]), targets[3:], normalizers)
        >>> torch.testing.assert_close(first + second, whole)
    """

    def __init__(
        self,
        terms: Sequence[LossConfig],
        stride: int,
        class_weights: Sequence[float] | None = None,
        ignore_index: int = 255,
        auxiliary_terms: Sequence[LossConfig] | None = None,
    ):
        for given in (terms, auxiliary_terms or ()):
            if not isinstance(given, Sequence) or not all(isinstance(term, LossConfig) for term in given):
                raise UserError(f'losses {given!r}: use a list of LossConfig, such as [LossConfig("cross_entropy")]')
        for term in (*terms, *(auxiliary_terms or ())):
            if term.name not in NORMALIZERS:
                raise UserError(f"loss {term.name}: use one of {', '.join(NORMALIZERS)}")
        self.terms = list(terms)
        self.auxiliary_terms = None if auxiliary_terms is None else list(auxiliary_terms)
        self.stride = stride
        try:
            self.class_weights = None if class_weights is None else [float(weight) for weight in class_weights]
        except (TypeError, ValueError) as error:
            raise UserError(f"class_weights {class_weights}: use a list with a number for each class") from error
        self.ignore_index = ignore_index

    def normalizers(self, targets: Tensor) -> Tensor:
        """The divisor of each term, counted on these targets; those of micro-batches add up to the batch's.

        Args:
            targets: (N, H, W) uint8 or int64 train ids.

        Returns:
            (K,) float64, one for each term of the main output, then one for each of `auxiliary_terms`; float32 on MPS,
            which has no float64.

        Raises:
            UserError: targets of another type or shape.
        """
        _check_type(targets)
        dtype = torch.float32 if targets.device.type == "mps" else torch.float64
        pixels = (targets != self.ignore_index).flatten(1).count_nonzero(1)  # (N,)
        normalizers = {"pixels": pixels.sum().to(dtype), "images": pixels.count_nonzero().to(dtype)}
        normalizers["weights"] = normalizers["pixels"]
        if self.class_weights is not None:
            normalizers["weights"] = torch.zeros_like(normalizers["pixels"])
            counts = targets[targets != self.ignore_index].bincount(minlength=len(self.class_weights))
            for c, weight in enumerate(self.class_weights):
                normalizers["weights"] += weight * counts[c].to(dtype)
        terms = (*self.terms, *(self.auxiliary_terms or ()))
        return torch.stack([normalizers[NORMALIZERS[term.name]] for term in terms])

    def __call__(self, outputs: TrainingOutputs, targets: Tensor, normalizers: Tensor) -> Tensor:
        """The loss of a micro-batch: loss of the main logits plus weight * loss of each auxiliary output.

        Args:
            outputs: logits of the micro-batch.
            targets: (N, H, W) uint8 or int64 train ids; H <= h * stride, W <= w * stride for all logits.
            normalizers: (K,) of the whole batch, the sum over its micro-batches.

        Returns:
            A scalar, float32, or float64 for float64 logits; a term whose normalizer is 0 is 0.

        Raises:
            UserError: logits alone; targets of another type or shape; the number of class weights differs from the
                number of classes; or terms for auxiliary outputs, which the network does not have; or, on a CPU, a
                target of no class.
        """
        if isinstance(outputs, Tensor):
            raise UserError(
                f"outputs {tuple(outputs.shape)}: logits alone: use model.training_outputs(x) in place of model(x)"
            )
        self._check_targets(targets, outputs.logits)
        main, auxiliary = normalizers[: len(self.terms)], normalizers[len(self.terms) :]
        loss = self._of_logits(self.terms, outputs.logits, self.stride, targets, main)
        terms = self.auxiliary_terms
        if terms is None:
            terms, auxiliary = self.terms, main
        elif not outputs.auxiliary:
            raise UserError("train.auxiliary_losses: this network has no auxiliary outputs: use null")
        for logits, stride, weight in outputs.auxiliary:
            loss = loss + weight * self._of_logits(terms, logits, stride, targets, auxiliary)
        return loss

    def _check_targets(self, targets: Tensor, logits: Tensor) -> None:
        _check_type(targets)
        count, classes, height, width = logits.shape
        size = (count, height * self.stride, width * self.stride)
        if len(targets) != count or any(map(operator.gt, targets.shape, size)):
            raise UserError(
                f"targets {tuple(targets.shape)}: not of logits {tuple(logits.shape)} with stride {self.stride}: "
                "use one for each image, of its height and width"
            )
        if targets.device.type != "cpu" or not targets.numel():  # a GPU would have to wait
            return
        scored = targets.masked_fill(targets == self.ignore_index, 0)
        lowest, highest = int(scored.min()), int(scored.max())
        if lowest < 0 or highest >= classes:
            raise UserError(
                f"targets from {lowest} to {highest}: use train ids from 0 to {classes - 1}, or {self.ignore_index} "
                "where a pixel is ignored"
            )

    def _of_logits(
        self, terms: Sequence[LossConfig], coarse: Tensor, stride: int, targets: Tensor, normalizers: Tensor
    ) -> Tensor:
        """The loss of logits (N, C, h, w) of any float type; half precision is converted to float32 first."""
        dtype, weights = _loss_dtype(coarse), None
        if self.class_weights is not None:
            count, classes = len(self.class_weights), coarse.shape[1]
            if count != classes:
                raise UserError(f"{count} class weights for logits of {classes} classes: give one for each class")
            weights = torch.tensor(self.class_weights, dtype=dtype, device=coarse.device)
        factors = torch.tensor([term.weight for term in terms], dtype=normalizers.dtype, device=normalizers.device)
        factors = torch.where(normalizers > 0, factors / normalizers, 0).to(dtype).to(coarse.device)

        def image_loss(logits: Tensor, target: Tensor) -> Tensor:
            losses = [self._term_of_image(term, logits, target, weights) for term in terms]
            return (torch.stack(losses) * factors).sum()

        return _SumOverImages.apply(coarse, targets, stride, image_loss, self._images_at_a_time(terms, coarse, targets))

    def _images_at_a_time(self, terms: Sequence[LossConfig], coarse: Tensor, targets: Tensor) -> int:
        if coarse.device.type != "cuda" or any(term.name not in SUMS_OVER_PIXELS for term in terms):
            return 1
        return max(1, _GPU_LOGITS // (coarse.shape[1] * targets[0].numel()))

    def _term_of_image(self, term: LossConfig, logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        match term.name:
            case "cross_entropy":
                return cross_entropy_sum(logits, target, weights, self.ignore_index, term.label_smoothing)
            case "focal":
                return focal_sum(logits, target, weights, self.ignore_index, term.gamma)
            case "ohem":
                return ohem_mean(logits, target, weights, self.ignore_index, term.threshold, term.min_kept)
            case "dice":
                return dice_loss(logits, target, self.ignore_index)
            case "lovasz":
                return lovasz_loss(logits, target, self.ignore_index)
            case "binary_cross_entropy":
                return binary_cross_entropy_sum(logits, target, self.ignore_index)
            case "rmi":
                return region_mutual_information_loss(logits, target, self.ignore_index)
