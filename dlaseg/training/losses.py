"""The loss of a segmentation network: a weighted sum of terms, each taken at the size of the labels.

A term is the sum over images of what one image contributes, divided by a norm that the targets alone decide, so a batch
may be split, over processes or over parts that are computed one after the other: with the norms of the whole batch, the
parts' losses and gradients add up to the whole's.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dlaseg.config import LossConfig
from dlaseg.errors import UserError
from dlaseg.models.base import upsample_logits

NORMS = {"cross_entropy": "weights", "focal": "pixels", "ohem": "images", "dice": "images", "lovasz": "images"}
"""What a term's mean is over: the scored pixels, each as often as its class weighs; the scored pixels; or the images
that have any."""


def cross_entropy_sum(
    logits: Tensor, target: Tensor, weights: Tensor | None, ignore_index: int, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of an image's scored pixels, summed; as torch's, whose `mean` divides it by the pixels' weights.

    Args:
        logits: (1, C, H, W) float.
        target: (1, H, W) int64 train ids.
        weights: (C,) of the classes, or None for equal ones.
        ignore_index: the id of pixels that do not count.
        label_smoothing: share of the target that is spread over all classes, 0 to 1.

    Returns:
        A scalar.
    """
    # torch's sum over a map is not deterministic on GPUs, and raises where it has to be; its map of the pixels is
    reduction = "none" if torch.are_deterministic_algorithms_enabled() else "sum"
    return F.cross_entropy(
        logits, target, weights, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    ).sum()


def focal_sum(logits: Tensor, target: Tensor, weights: Tensor | None, ignore_index: int, gamma: float) -> Tensor:
    """Focal loss of an image's scored pixels, summed: -weight * (1 - p)^gamma * log p, p the true class's softmax.

    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, eq. 5, https://arxiv.org/abs/1708.02002, for classes
    that exclude each other: `torchvision.ops.sigmoid_focal_loss` is the form for independent ones, a sigmoid each.

    Args:
        logits: (1, C, H, W) float.
        target: (1, H, W) int64 train ids.
        weights: (C,) of the classes, or None for equal ones; the paper's alpha.
        ignore_index: the id of pixels that do not count.
        gamma: how much less well-classified pixels count, from 0 upwards.

    Returns:
        A scalar.
    """
    entropy = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")  # (1, H, W), 0 if ignored
    # above 0, where gamma < 1 has an infinite slope
    missed = (-torch.expm1(-entropy)).clamp(min=torch.finfo(entropy.dtype).tiny)
    return (missed**gamma * entropy * _pixel_weights(target, weights, ignore_index)).sum()


def ohem_mean(
    logits: Tensor, target: Tensor, weights: Tensor | None, ignore_index: int, threshold: float, min_kept: float
) -> Tensor:
    """Online hard example mining: the (weighted) mean cross-entropy of an image's hardest pixels.

    Those whose true class has a probability below the threshold or, if they are too few, as many as have to be kept,
    the least probable ones: Shrivastava et al., Training Region-based Object Detectors with Online Hard Example Mining,
    CVPR 2016, https://arxiv.org/abs/1604.03540; of pixels, with a threshold: Wu et al., High-performance Semantic
    Segmentation Using Very Deep Fully Convolutional Networks, 2016, https://arxiv.org/abs/1604.04339.

    Args:
        logits: (1, C, H, W) float.
        target: (1, H, W) int64 train ids.
        weights: (C,) of the classes, or None for equal ones; have no say in which pixels are hard.
        ignore_index: the id of pixels that do not count.
        threshold: probability, 0 to 1.
        min_kept: least share of the scored pixels that is kept, 0 to 1; rounded up to whole pixels.

    Returns:
        A scalar; 0 where no pixel is kept.
    """
    entropy = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")  # (1, H, W), 0 if ignored
    with torch.no_grad():
        scored = target != ignore_index
        kept = scored & (torch.exp(-entropy) < threshold)
        least = math.ceil(min_kept * int(scored.sum()))
        if int(kept.sum()) < least:
            # below 0, since an ignored pixel must not be taken for a scored one that is perfectly classified
            hardest = entropy.masked_fill(~scored, -1).flatten().topk(least, sorted=False).indices
            kept = torch.zeros_like(kept.flatten()).index_fill(0, hardest, True).view_as(kept)
        share = kept.to(entropy.dtype) * _pixel_weights(target, weights, ignore_index)
        share /= _or_one(share.sum())
    return (share * entropy).sum()


def dice_loss(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """1 - the soft Dice coefficient of an image's scored pixels, mean over the classes that its target shows.

    2 * sum(p * t) / (sum(p) + sum(t)), p a class's softmax, t 1 where the target is the class and 0 elsewhere:
    Milletari et al., V-Net, 3DV 2016, sec. 3, https://arxiv.org/abs/1606.04797, with sums for the sums of squares, as
    in Sudre et al., Generalised Dice overlap, 2017, https://arxiv.org/abs/1707.03237. A class that the target does not
    show is left out: its coefficient is 0 whatever the network says.

    Args:
        logits: (1, C, H, W) float.
        target: (1, H, W) int64 train ids.
        ignore_index: the id of pixels that do not count.

    Returns:
        A scalar from 0 to 1; 0 where every pixel is ignored.
    """
    probabilities = logits[0].softmax(0)  # (C, H, W)
    scored = target != ignore_index  # (1, H, W)
    ids = torch.arange(logits.shape[1], device=logits.device).view(-1, 1, 1)
    truth = (target == ids) & scored  # (C, H, W)
    size = truth.sum((1, 2))  # (C,)
    overlap, predicted = (probabilities * truth).sum((1, 2)), (probabilities * scored).sum((1, 2))
    shown = size > 0
    missed = 1 - 2 * overlap / _or_one(predicted + size)
    return (missed * shown).sum() / _or_one(shown.sum())


def lovasz_loss(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Lovász-softmax of an image's scored pixels, mean over the classes that its target shows.

    A class's Jaccard loss, 1 - IoU, is a function of the set of pixels that are wrong. Its Lovász extension is one of
    the pixels' errors |t - p|, linear for as long as their order stays: Berman et al., The Lovász-Softmax loss, CVPR
    2018, https://arxiv.org/abs/1705.08790.

    Args:
        logits: (1, C, H, W) float.
        target: (1, H, W) int64 train ids.
        ignore_index: the id of pixels that do not count.

    Returns:
        A scalar from 0 to 1; 0 where every pixel is ignored.
    """
    probabilities = logits[0].softmax(0).flatten(1)  # (C, H * W)
    ids = target.flatten()  # (H * W,)
    index = (ids != ignore_index).nonzero().flatten()  # (P,), where the scored pixels are
    sizes = ids[index].bincount(minlength=len(probabilities)).tolist()  # C
    total = 0 * probabilities.sum()  # part of the graph, whatever is shown
    for c, probability in enumerate(probabilities.unbind()):
        if sizes[c] == 0:
            continue
        truth = ids == c
        error = torch.where(truth, 1 - probability, probability)  # (H * W,)
        with torch.no_grad():
            # as integers, which order positive floats as they are ordered, and which torch sorts far faster on CPUs
            bits = error[index].view(torch.int64 if error.dtype == torch.float64 else torch.int32)
            order = index[(-bits).argsort()]
            slope = torch.zeros_like(error)
            slope[order] = jaccard_increments(truth[order], error.dtype)
        total = total + (error * slope).sum()
    return total / max(sum(size > 0 for size in sizes), 1)


def jaccard_increments(truth: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What each further wrong pixel adds to the Jaccard loss of a class, in the order of their errors.

    The intersection is what the pixels so far leave of the class, the union the class and those that are not of it. A
    further pixel of the class takes 1 from the intersection, which adds 1 / union; one that is not of it adds 1 to the
    union, which adds intersection / union - intersection / (union + 1). The paper's algorithm 1 takes the difference of
    neighbouring losses instead, which float32 does not resolve in an image of a million pixels.

    Args:
        truth: (P,) bool, whether the pixel is of the class, which at least one is; the largest error first.
        dtype: of the result.

    Returns:
        (P,) float; sums to 1.

    Example:
        >>> jaccard_increments(torch.tensor([False, True]))  # one wrong of two: 1 - 1/2, then 1 - 0/2
        tensor([0.5000, 0.5000])
    """
    size = truth.sum()
    left = (size - truth.cumsum(0)).to(dtype)
    union = (size + (~truth).cumsum(0)).to(dtype)
    # for a pixel of the class, union is what it was; for another one, 1 more, and left is what it was
    return torch.where(truth, 1 / union, left / (union * (union - 1)).clamp(min=1))


def _pixel_weights(target: Tensor, weights: Tensor | None, ignore_index: int) -> Tensor | float:
    """What each pixel weighs, (1, H, W); ignored ones have some weight, for a cross-entropy of 0."""
    return 1.0 if weights is None else weights[target.masked_fill(target == ignore_index, 0)]


def _or_one(divisor: Tensor) -> Tensor:
    """The divisor, or 1 for 0 where there is nothing to divide."""
    return torch.where(divisor > 0, divisor, 1)


class _ImageByImage(torch.autograd.Function):
    """Sums what images contribute, the gradient taken on the way.

    Only logits of the decoder's size outlive the call, a full-size tensor of one image at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, coarse: Tensor, targets: Tensor, stride: int, of_image: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        dtype = _loss_dtype(coarse)
        needs_grad = ctx.needs_input_grad[0]
        # float16 cannot hold a pixel's share of a batch: the gradient waits in float32 for what the loss is scaled by
        grad = torch.empty_like(coarse, dtype=dtype) if needs_grad else None
        total = torch.zeros((), dtype=dtype, device=coarse.device)
        for i in range(len(coarse)):
            with torch.set_grad_enabled(needs_grad):
                image = coarse[i : i + 1].detach().to(dtype).requires_grad_(needs_grad)
                # of no name here, so that one image's full-size logits are gone before the next one's are made
                loss = of_image(upsample_logits(image, stride, *targets.shape[1:]), targets[i : i + 1].long())
                if grad is not None:
                    grad[i : i + 1] = torch.autograd.grad(loss, image)[0]
            total += loss.detach()
        ctx.grad, ctx.dtype = grad, coarse.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        return (ctx.grad * grad_output).to(ctx.dtype), None, None, None


def _loss_dtype(logits: Tensor) -> torch.dtype:
    """Half precision is for convolutions."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


class PixelLoss:
    """The weighted sum of a segmentation network's losses.

    Args:
        terms: what is summed.
        stride: how much finer targets are than the decoder's logits.
        class_weights: of cross_entropy, ohem and focal, one number a class; None for equal weights.
        ignore_index: the id of pixels that do not count: they change neither the loss nor its gradient.

    Raises:
        UserError: there is no such loss.

    Example:
        >>> loss = PixelLoss([LossConfig("cross_entropy"), LossConfig("lovasz", weight=0.5)], stride=2)
        >>> logits, targets = torch.randn(4, 19, 16, 16), torch.randint(0, 19, (4, 32, 32))
        >>> norms = loss.norms(targets)
        >>> whole = loss(logits, targets, norms)
        >>> parts = [loss(logits[:3], targets[:3], norms), loss(logits[3:], targets[3:], norms)]
        >>> torch.testing.assert_close(parts[0] + parts[1], whole)
    """

    def __init__(
        self,
        terms: Sequence[LossConfig],
        stride: int,
        class_weights: Sequence[float] | None = None,
        ignore_index: int = 255,
    ):
        for term in terms:
            if term.name not in NORMS:
                raise UserError(f"loss {term.name}: use one of {', '.join(NORMS)}")
        self.terms = list(terms)
        self.stride = stride
        self.class_weights = None if class_weights is None else list(class_weights)
        self.ignore_index = ignore_index

    def norms(self, targets: Tensor) -> Tensor:
        """What targets weigh in each term's mean; those of parts of a batch add up to the batch's.

        Args:
            targets: (N, H, W) uint8 or int64 train ids.

        Returns:
            (K,) float64, one a term; float32 on devices without.
        """
        dtype = torch.float32 if targets.device.type == "mps" else torch.float64
        pixels = (targets != self.ignore_index).flatten(1).count_nonzero(1)  # (N,)
        norms = {"pixels": pixels.sum().to(dtype), "images": pixels.count_nonzero().to(dtype)}
        norms["weights"] = norms["pixels"]
        if self.class_weights is not None:
            norms["weights"] = torch.zeros_like(norms["pixels"])
            for c, weight in enumerate(self.class_weights):  # class by class, which is faster than a histogram
                if c != self.ignore_index:
                    norms["weights"] += weight * (targets == c).count_nonzero().to(dtype)
        return torch.stack([norms[NORMS[term.name]] for term in self.terms])

    def __call__(self, coarse: Tensor, targets: Tensor, norms: Tensor) -> Tensor:
        """The loss of a batch, or what a part of it contributes to the batch's.

        Args:
            coarse: (N, C, h, w) float, the decoder's logits; in half precision they are taken to float32 first.
            targets: (N, H, W) uint8 or int64 train ids; H <= h * stride, W <= w * stride.
            norms: (K,) of the whole batch, the sum of its parts' `norms`.

        Returns:
            A scalar, float32, or float64 for float64 logits; a term whose norm is 0 is 0.

        Raises:
            UserError: as many class weights as classes are needed.
        """
        dtype, weights = _loss_dtype(coarse), None
        if self.class_weights is not None:
            given, classes = len(self.class_weights), coarse.shape[1]
            if given != classes:
                raise UserError(f"{given} class weights for logits of {classes} classes: give one a class")
            weights = torch.tensor(self.class_weights, dtype=dtype, device=coarse.device)
        factors = torch.tensor([term.weight for term in self.terms], dtype=norms.dtype, device=norms.device)
        factors = torch.where(norms > 0, factors / norms, 0).to(dtype).to(coarse.device)

        def of_image(logits: Tensor, target: Tensor) -> Tensor:
            terms = [self._of_image(term, logits, target, weights) for term in self.terms]
            return (torch.stack(terms) * factors).sum()

        return _ImageByImage.apply(coarse, targets, self.stride, of_image)

    def _of_image(self, term: LossConfig, logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
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
