"""The terms of the loss, each for one image at the resolution of its target."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dlaseg.errors import UserError

RMI_RADIUS, RMI_POOL = 3, 4
"""Side of a region, and of the squares that are pooled before: pixels of the target."""

RMI_SMALLEST, RMI_RIDGE = 1e-6, 5e-4
"""What is added to probabilities, and to variances, so that there is an inverse."""


def cross_entropy_sum(
    logits: Tensor, target: Tensor, weights: Tensor | None, ignore_index: int, label_smoothing: float = 0.0
) -> Tensor:
    """Sum of the cross-entropy over an image's scored pixels, as torch computes it.

    torch's `mean` divides this sum by the sum of the pixels' class weights.

    Args:
        logits: (1, C, H, W) float.
        target: (1, H, W) int64 train ids.
        weights: (C,) class weights, or None for equal weights.
        ignore_index: train id of ignored pixels.
        label_smoothing: share of the target probability that is spread over all classes, 0 to 1.

    Returns:
        A scalar.
    """
    # On GPUs, torch's reduction "sum" of a 2d map is not deterministic and raises in deterministic mode; "none" works
    reduction = "none" if torch.are_deterministic_algorithms_enabled() else "sum"
    return F.cross_entropy(
        logits, target, weights, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    ).sum()


def focal_sum(logits: Tensor, target: Tensor, weights: Tensor | None, ignore_index: int, gamma: float) -> Tensor:
    """Sum of the focal loss over an image's scored pixels: -weight * (1 - p)^gamma * log p, p the true class's softmax.

    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, eq. 5, https://arxiv.org/abs/1708.02002, for mutually
    exclusive classes. `torchvision.ops.sigmoid_focal_loss` is the form for independent classes.

    Args:
        logits: (1, C, H, W) float.
        target: (1, H, W) int64 train ids.
        weights: (C,) class weights, or None for equal weights; the paper's alpha.
        ignore_index: train id of ignored pixels.
        gamma: how strongly well-classified pixels are down-weighted, from 0 upwards.

    Returns:
        A scalar.
    """
    entropy = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")  # (1, H, W), 0 if ignored
    # clamped above 0, where gamma < 1 has an infinite derivative
    wrong_probability = (-torch.expm1(-entropy)).clamp(min=torch.finfo(entropy.dtype).tiny)
    return (wrong_probability**gamma * entropy * _pixel_weights(target, weights, ignore_index)).sum()


def ohem_mean(
    logits: Tensor, target: Tensor, weights: Tensor | None, ignore_index: int, threshold: float, min_kept: float
) -> Tensor:
    """Online hard example mining: the (weighted) mean cross-entropy of an image's hardest pixels.

    Hard pixels are those whose true class has a probability below the threshold. If they are fewer than `min_kept`
    demands, the pixels with the lowest probabilities are kept: Shrivastava et al., Training Region-based Object
    Detectors with Online Hard Example Mining, CVPR 2016, https://arxiv.org/abs/1604.03540; for pixels, with a
    threshold: Wu et al., High-performance Semantic Segmentation Using Very Deep Fully Convolutional Networks, 2016,
    https://arxiv.org/abs/1604.04339.

    Args:
        logits: (1, C, H, W) float.
        target: (1, H, W) int64 train ids.
        weights: (C,) class weights, or None for equal weights; do not affect which pixels are hard.
        ignore_index: train id of ignored pixels.
        threshold: probability, 0 to 1.
        min_kept: minimum share of the scored pixels to keep, 0 to 1; rounded up to whole pixels.

    Returns:
        A scalar; 0 if no pixel is kept.
    """
    entropy = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")  # (1, H, W), 0 if ignored
    with torch.no_grad():
        scored = target != ignore_index
        kept = scored & (torch.exp(-entropy) < threshold)
        minimum = math.ceil(min_kept * int(scored.sum()))
        if int(kept.sum()) < minimum:
            # -1 ranks ignored pixels below perfectly classified ones, whose entropy is 0
            hardest = entropy.masked_fill(~scored, -1).flatten().topk(minimum, sorted=False).indices
            kept = torch.zeros_like(kept.flatten()).index_fill(0, hardest, True).view_as(kept)
        pixel_weights = kept.to(entropy.dtype) * _pixel_weights(target, weights, ignore_index)
        pixel_weights /= _one_if_zero(pixel_weights.sum())
    return (pixel_weights * entropy).sum()


def dice_loss(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """1 - the soft Dice coefficient of an image's scored pixels, mean over the classes present in its target.

    The coefficient is 2 * sum(p * t) / (sum(p) + sum(t)), with p a class's softmax, and t 1 where the target is the
    class and 0 elsewhere: Milletari et al., V-Net, 3DV 2016, sec. 3, https://arxiv.org/abs/1606.04797, with sums in
    place of the sums of squares, as in Sudre et al., Generalised Dice overlap, 2017, https://arxiv.org/abs/1707.03237.
    Classes absent from the target are excluded: their coefficient is 0 for any prediction.

    Args:
        logits: (1, C, H, W) float.
        target: (1, H, W) int64 train ids.
        ignore_index: train id of ignored pixels.

    Returns:
        A scalar from 0 to 1; 0 if every pixel is ignored.
    """
    probabilities = _only_image(logits, target).softmax(0)  # (C, H, W)
    scored = target != ignore_index  # (1, H, W)
    ids = torch.arange(logits.shape[1], device=logits.device).view(-1, 1, 1)
    truth = (target == ids) & scored  # (C, H, W)
    size = truth.sum((1, 2))  # (C,)
    overlap, predicted = (probabilities * truth).sum((1, 2)), (probabilities * scored).sum((1, 2))
    present = size > 0
    losses = 1 - 2 * overlap / _one_if_zero(predicted + size)
    return (losses * present).sum() / _one_if_zero(present.sum())


def lovasz_loss(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Lovász-softmax of an image's scored pixels, mean over the classes present in its target.

    A class's Jaccard loss, 1 - IoU, is a function of the set of wrong pixels. Its Lovász extension is a function of the
    pixels' errors |t - p|, and is linear as long as the order of the errors does not change: Berman et al., The
    Lovász-Softmax loss, CVPR 2018, https://arxiv.org/abs/1705.08790.

    Args:
        logits: (1, C, H, W) float.
        target: (1, H, W) int64 train ids.
        ignore_index: train id of ignored pixels.

    Returns:
        A scalar from 0 to 1; 0 if every pixel is ignored.
    """
    probabilities = _only_image(logits, target).softmax(0).flatten(1)  # (C, H * W)
    ids = target.flatten()  # (H * W,)
    index = (ids != ignore_index).nonzero().flatten()  # (P,), positions of the scored pixels
    sizes = ids[index].bincount(minlength=len(probabilities)).tolist()  # C
    total = 0 * probabilities.sum()  # part of the graph even if no class is present
    for c, probability in enumerate(probabilities.unbind()):
        if sizes[c] == 0:
            continue
        truth = ids == c
        error = torch.where(truth, 1 - probability, probability)  # (H * W,)
        with torch.no_grad():
            # The bits of positive floats, read as integers, have the same order, and torch sorts integers far faster
            # on CPUs
            bits = error[index].view(torch.int64 if error.dtype == torch.float64 else torch.int32)
            order = index[(-bits).argsort()]
            gradient = torch.zeros_like(error)
            gradient[order] = jaccard_increments(truth[order], error.dtype)
        total = total + (error * gradient).sum()
    return total / max(sum(size > 0 for size in sizes), 1)


def binary_cross_entropy_sum(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Sum of the cross-entropies of all classes, each for itself by its sigmoid, over an image's scored pixels.

    Args:
        logits: (1, C, H, W) float.
        target: (1, H, W) int64 train ids.
        ignore_index: train id of ignored pixels.

    Returns:
        A scalar.
    """
    image = _only_image(logits, target)
    truth, scored = _masks(logits, target, ignore_index)
    return (F.binary_cross_entropy_with_logits(image, truth, reduction="none") * scored).sum()


def region_mutual_information_loss(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """How little an image's sigmoids say of the pattern of each class around a pixel, summed over the classes.

    Zhao et al., Region Mutual Information Loss for Semantic Segmentation, NeurIPS 2019,
    https://arxiv.org/abs/1910.12037. Both maps of a class are pooled by `RMI_POOL`, a pixel stands for its region of
    `RMI_RADIUS` x `RMI_RADIUS`. If regions are normally distributed, those of the truth have, given those of the
    prediction, the covariance S = cov(t) - cov(t, p) cov(p)^-1 cov(t, p)^T. The loss is half of log det S for each
    dimension of a region, with sums over the regions as covariances. It is negative where the prediction says much.

    Args:
        logits: (1, C, H, W) float.
        target: (1, H, W) int64 train ids.
        ignore_index: train id of ignored pixels, which count as no class in either map.

    Returns:
        A scalar; 0 if every pixel is ignored, or if the image has no region.
    """
    image = _only_image(logits, target)
    truth, scored = _masks(logits, target, ignore_index)
    predicted = image.sigmoid() * scored + RMI_SMALLEST
    maps = F.avg_pool2d(torch.stack((truth, predicted)), RMI_POOL, RMI_POOL, RMI_POOL // 2)  # (2, C, h, w)
    if min(maps.shape[2:]) < RMI_RADIUS or not scored.any():
        return 0 * logits.sum()
    regions = F.unfold(maps.flatten(0, 1)[:, None], RMI_RADIUS).unflatten(0, (2, -1))  # (2, C, 9, P)
    regions = regions.to(torch.float32 if logits.device.type == "mps" else torch.float64)
    t, p = regions - regions.mean(-1, keepdim=True)
    ridge = RMI_RIDGE * torch.eye(RMI_RADIUS**2, dtype=t.dtype, device=t.device)
    between = t @ p.mT  # (C, 9, 9)
    unexplained = t @ t.mT - between @ torch.linalg.solve(p @ p.mT + ridge, between.mT)
    # Half of the logarithm of the determinant, whose root is the product of this diagonal
    factor, failed = torch.linalg.cholesky_ex(unexplained + ridge)  # `cholesky` raises where other losses are NaN
    halves = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # (C,)
    halves = torch.where(failed > 0, torch.nan, halves)
    return (halves.sum() / RMI_RADIUS**2).to(logits.dtype)


def jaccard_increments(truth: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The increase of a class's Jaccard loss for each further wrong pixel, in the order of the errors.

    The intersection is the class minus its wrong pixels so far; the union is the class plus the wrong pixels so far
    that do not belong to it. A further wrong pixel of the class reduces the intersection by 1, which adds 1 / union. A
    further wrong pixel outside the class increases the union by 1, which adds
    intersection / union - intersection / (union + 1). The paper's algorithm 1 takes the difference of neighbouring
    losses instead, which float32 does not resolve in an image of a million pixels.

    Args:
        truth: (P,) bool, whether the pixel belongs to the class; at least one does. The largest error comes first.
        dtype: of the result.

    Returns:
        (P,) float; sums to 1.

    Examples:
        >>> jaccard_increments(torch.tensor([False, True]))  # one wrong of two: 1 - 1/2, then 1 - 0/2
        tensor([0.5000, 0.5000])
    """
    size = truth.sum()
    intersection = (size - truth.cumsum(0)).to(dtype)
    union = (size + (~truth).cumsum(0)).to(dtype)
    # Both count the current pixel: for a pixel outside the class, the union before it was 1 smaller
    return torch.where(truth, 1 / union, intersection / (union * (union - 1)).clamp(min=1))


def _only_image(logits: Tensor, target: Tensor) -> Tensor:
    """The logits of the only image, (C, H, W); of a batch, targets would be compared with the wrong classes."""
    if not len(logits) == len(target) == 1:
        raise UserError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)}: this loss takes one image, (1, C, H, W) "
            "and (1, H, W): use dlaseg.PixelLoss for a batch"
        )
    return logits[0]


def _pixel_weights(target: Tensor, weights: Tensor | None, ignore_index: int) -> Tensor | float:
    """Class weight of each pixel, (1, H, W); of ignored pixels any weight, since their cross-entropy is 0."""
    return 1.0 if weights is None else weights[target.masked_fill(target == ignore_index, 0)]


def _masks(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Which pixels are of each class, (C, H, W), and which are scored, (1, H, W); of the logits' dtype."""
    ids = torch.arange(logits.shape[1], device=logits.device).view(-1, 1, 1)
    return (target == ids).to(logits.dtype) * (target != ignore_index), (target != ignore_index).to(logits.dtype)


def _one_if_zero(divisor: Tensor) -> Tensor:
    """The divisor with 0 replaced by 1, for sums that are 0 themselves."""
    return torch.where(divisor > 0, divisor, 1)
