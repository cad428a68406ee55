import itertools
import math
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dlaseg.config.segmentation import LossConfig
from dlaseg.errors import UserError
from dlaseg.models.base import AuxiliaryOutput, TrainingOutputs, upsample_logits
from dlaseg.training import losses, pixel_loss
from dlaseg.training.losses import jaccard_increments, ohem_mean
from dlaseg.training.pixel_loss import PixelLoss

CLASSES = 4

CROSS_ENTROPY = [LossConfig("cross_entropy")]

SINGLE = [
    CROSS_ENTROPY,
    [LossConfig("cross_entropy", label_smoothing=0.1)],
    [LossConfig("focal", gamma=2.0)],
    [LossConfig("focal", gamma=0.5)],
    [LossConfig("ohem", threshold=0.7, min_kept=0.0625)],
    [LossConfig("ohem", threshold=0.05, min_kept=0.4)],
    [LossConfig("dice")],
    [LossConfig("lovasz")],
    [LossConfig("binary_cross_entropy")],
    [LossConfig("rmi")],
]

TAKES_WEIGHTS = ("cross_entropy", "focal", "ohem")

SUM = [
    LossConfig("cross_entropy", weight=0.5, label_smoothing=0.05),
    LossConfig("ohem", weight=0.3),
    LossConfig("focal", weight=2.0, gamma=1.5),
    LossConfig("dice", weight=0.7),
    LossConfig("lovasz", weight=1.3),
]

every_loss = pytest.mark.parametrize(
    "terms",
    [*SINGLE, SUM],
    ids=["ce", "smooth", "focal", "focal_0.5", "ohem", "ohem_few", "dice", "lovasz", "bce", "rmi", "sum"],
)

any_loss = st.sampled_from([*SINGLE, SUM])
any_weights = st.sampled_from([None, [0.5, 2.0, 1.0, 0.1]])


def example(images=2, size=8, height=14, width=11, ignored=0.3, seed=0, dtype=torch.float32):
    """Logits (images, 4, size, size) and a target (images, height, width), as for stride 2."""
    random = torch.Generator().manual_seed(seed)
    coarse = 2 * torch.randn(images, CLASSES, size, size, generator=random, dtype=dtype)
    target = torch.randint(0, CLASSES, (images, height, width), generator=random)
    target[torch.rand(target.shape, generator=random) < ignored] = 255
    return coarse, target


def full_size(height=5, width=6, **options):
    """As `example`, for stride 1: a logit a pixel."""
    coarse, target = example(size=max(height, width), height=height, width=width, **options)
    return coarse[:, :, :height, :width].contiguous(), target


def loss_and_gradient(loss, coarse):
    coarse = coarse.clone().requires_grad_()
    value = loss(coarse)
    value.backward()
    return value.detach(), coarse.grad


def batch_loss(terms, target, stride=2, weights=None, ignore_index=255):
    """The loss of a batch that is all there is."""
    loss = PixelLoss(terms, stride, weights, ignore_index)
    return lambda coarse: loss(TrainingOutputs(coarse), target, loss.normalizers(target))


# What the losses are by definition, in plain loops over pixels, double precision.


def plain_pixels(logits, target, ignored=255):
    """(true class, log-probabilities of all) of every scored pixel of one image (C, H, W)."""
    scored = []
    for y, x in np.ndindex(target.shape):
        if target[y, x] != ignored:
            here = logits[:, y, x]
            largest = here.max()
            scored.append((int(target[y, x]), here - largest - math.log(sum(math.exp(v - largest) for v in here))))
    return scored


def plain_cross_entropy(pixels, weights, term):
    total = 0.0
    for t, log_p in pixels:
        total += (1 - term.label_smoothing) * weights[t] * -log_p[t]
        total += term.label_smoothing / CLASSES * sum(weights[c] * -log_p[c] for c in range(CLASSES))
    return total


def plain_focal(pixels, weights, term):
    return sum(-weights[t] * (1 - math.exp(log_p[t])) ** term.gamma * log_p[t] for t, log_p in pixels)


def plain_ohem(pixels, weights, term):
    by_probability = sorted(pixels, key=lambda pixel: math.exp(pixel[1][pixel[0]]))
    below = sum(math.exp(log_p[t]) < term.threshold for t, log_p in pixels)
    kept = by_probability[: max(below, math.ceil(term.min_kept * len(pixels)))]
    return sum(-weights[t] * log_p[t] for t, log_p in kept) / sum(weights[t] for t, _ in kept) if kept else 0.0


def plain_dice(pixels, weights, term):
    missed = []
    for c in {t for t, _ in pixels}:
        overlap = sum(math.exp(log_p[c]) for t, log_p in pixels if t == c)
        missed.append(1 - 2 * overlap / sum(math.exp(log_p[c]) + (t == c) for t, log_p in pixels))
    return sum(missed) / len(missed) if missed else 0.0


def plain_lovasz(pixels, weights, term):
    """The extension as the integral, over levels from 0 to 1, of the Jaccard loss of the pixels above the level."""
    extensions = []
    for c in {t for t, _ in pixels}:
        truth = {i for i, (t, _) in enumerate(pixels) if t == c}
        errors = [abs((t == c) - math.exp(log_p[c])) for t, log_p in pixels]
        integral, lower = 0.0, 0.0
        for level in sorted(set(errors)):
            wrong = {i for i, error in enumerate(errors) if error >= level}
            integral += (level - lower) * (1 - len(truth - wrong) / len(truth | wrong))
            lower = level
        extensions.append(integral)
    return sum(extensions) / len(extensions) if extensions else 0.0


PLAIN = {
    "cross_entropy": plain_cross_entropy,
    "focal": plain_focal,
    "ohem": plain_ohem,
    "dice": plain_dice,
    "lovasz": plain_lovasz,
}


def plain_binary_cross_entropy(logits, target):
    total = 0.0
    for y, x in np.ndindex(target.shape):
        if target[y, x] != 255:
            for c in range(CLASSES):
                p = 1 / (1 + math.exp(-logits[c, y, x]))
                total -= math.log(p if target[y, x] == c else 1 - p)
    return total


def plain_rmi(logits, target):
    """Region mutual information, radius 3, average pooling 4 / 4."""
    scored = target != 255
    height, width = (side // 4 + 1 for side in target.shape)
    if not scored.any() or min(height, width) < 3:
        return 0.0
    total = 0.0
    for c in range(CLASSES):
        truth, sure = (target == c) * 1.0, scored / (1 + np.exp(-logits[c])) + 1e-6
        regions = []
        for whole in (truth, sure):
            pooled = np.zeros((height, width))
            for i, j in np.ndindex(pooled.shape):
                rows, columns = (slice(max(0, 4 * k - 2), 4 * k + 2) for k in (i, j))
                pooled[i, j] = whole[rows, columns].sum() / 16
            each = [pooled[i : i + 3, j : j + 3].ravel() for i, j in np.ndindex(height - 2, width - 2)]
            regions.append(np.array(each) - np.mean(each, 0))
        t, p = regions
        small = 5e-4 * np.eye(9)
        rest = t.T @ t - t.T @ p @ np.linalg.inv(p.T @ p + small) @ p.T @ t
        total += 0.5 * np.linalg.slogdet(rest + small)[1] / 9
    return total


PLAIN_OF_IMAGES = {"binary_cross_entropy": plain_binary_cross_entropy, "rmi": plain_rmi}


def plain_loss(terms, logits, target, weights):
    weights = weights or [1.0] * CLASSES
    images = [plain_pixels(*image) for image in zip(logits.numpy(), target.numpy(), strict=True)]
    weight = sum(weights[t] for pixels in images for t, _ in pixels)
    shown = sum(bool(pixels) for pixels in images)
    count = sum(map(len, images))
    normalizers = {"cross_entropy": weight, "focal": count, "binary_cross_entropy": count}
    total = 0.0
    for term in terms:
        normalizer = normalizers.get(term.name, shown)
        if not normalizer:
            continue
        if term.name in PLAIN_OF_IMAGES:
            pairs = zip(logits.double().numpy(), target.numpy(), strict=True)
            summed = sum(PLAIN_OF_IMAGES[term.name](*pair) for pair in pairs)
        else:
            summed = sum(PLAIN[term.name](pixels, weights, term) for pixels in images)
        total += term.weight * summed / normalizer
    return total


@given(
    terms=any_loss,
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    ignored=st.sampled_from([0, 0.3, 0.9]),
    weights=any_weights,
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_every_loss_is_what_plain_loops_make_of_its_definition(terms, height, width, ignored, weights, seed):
    logits, target = full_size(height, width, images=3, ignored=ignored, seed=seed, dtype=torch.float64)
    expected = plain_loss(terms, logits, target, weights)
    assert batch_loss(terms, target, 1, weights)(logits).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(
    terms=any_loss,
    auxiliary_terms=st.none() | any_loss,
    weights=any_weights,
    cut=st.integers(0, 3),
    ignored=st.sampled_from([0.3, 0.9]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=15)
def test_auxiliary_outputs_have_terms_of_their_own(terms, auxiliary_terms, weights, cut, ignored, seed):
    """The sum of what plain loops make of each output, whole and in two micro-batches."""
    logits, target = full_size(images=3, ignored=ignored, seed=seed, dtype=torch.float64)
    others = [(full_size(images=3, seed=seed + k, dtype=torch.float64)[0], factor) for k, factor in ((1, 0.4), (2, 3))]
    expected = plain_loss(terms, logits, target, weights)
    for other, factor in others:
        own = terms if auxiliary_terms is None else auxiliary_terms
        expected += factor * plain_loss(own, other, target, weights)
    loss = PixelLoss(terms, 1, weights, auxiliary_terms=auxiliary_terms)

    def of(images):
        auxiliary = tuple(AuxiliaryOutput(other[images], 1, factor) for other, factor in others)
        return loss(TrainingOutputs(logits[images], auxiliary), target[images], normalizers).item()

    normalizers = loss.normalizers(target)
    assert of(slice(3)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    parts = slice(cut), slice(cut, 3)
    normalizers = sum(loss.normalizers(target[part]) for part in parts)
    assert sum(map(of, parts)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_terms_of_auxiliary_outputs_are_refused_for_a_network_without_any():
    coarse, target = example()
    loss = PixelLoss(CROSS_ENTROPY, 2, auxiliary_terms=CROSS_ENTROPY)
    with pytest.raises(UserError, match=r"^train\.auxiliary_losses: this network has no auxiliary outputs: use null$"):
        loss(TrainingOutputs(coarse), target, loss.normalizers(target))


@given(gamma=st.sampled_from([0.0, 0.3, 1.0, 5.0]), seed=st.integers(0, 2**31))
@settings(max_examples=10)
def test_every_focal_gamma_is_the_definitions(gamma, seed):
    terms = [LossConfig("focal", gamma=gamma)]
    logits, target = full_size(seed=seed, dtype=torch.float64)
    expected = plain_loss(terms, logits, target, None)
    assert batch_loss(terms, target, 1)(logits).item() == pytest.approx(expected, rel=1e-9)


@given(
    height=st.integers(8, 14),
    width=st.integers(8, 14),
    ignored=st.sampled_from([0, 0.3]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=8)
def test_region_mutual_information_of_an_image_with_regions_is_the_definitions(height, width, ignored, seed):
    terms = [LossConfig("rmi")]
    logits, target = full_size(height, width, ignored=ignored, seed=seed, dtype=torch.float64)
    expected = plain_loss(terms, logits, target, None)
    assert expected < 0
    assert batch_loss(terms, target, 1)(logits).item() == pytest.approx(expected, rel=1e-9)


@given(
    threshold=st.floats(0, 1), min_kept=st.floats(0, 1), ignored=st.sampled_from([0, 0.5]), seed=st.integers(0, 2**31)
)
@settings(max_examples=25)
def test_ohem_keeps_the_hardest_whatever_threshold_and_share(threshold, min_kept, ignored, seed):
    terms = [LossConfig("ohem", threshold=threshold, min_kept=min_kept)]
    logits, target = full_size(ignored=ignored, seed=seed, dtype=torch.float64)
    expected = plain_loss(terms, logits, target, None)
    assert batch_loss(terms, target, 1)(logits).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_ohem_never_keeps_an_ignored_pixel_for_a_perfectly_classified_one():
    logits, target = torch.zeros(1, 2, 1, 8), torch.zeros(1, 1, 8, dtype=torch.int64)
    logits[:, 0, :, 1:] = 500.0  # pixel 0 is even, the others are certain
    target[..., 4:] = 255
    terms = [LossConfig("ohem", threshold=0.1, min_kept=0.75)]
    assert batch_loss(terms, target, 1)(logits).item() == pytest.approx(math.log(2) / 3)
    weighted = batch_loss(terms, target, 1, [3.0, 1.0])(logits)  # an ignored pixel would not add to the weights
    assert weighted.item() == pytest.approx(math.log(2) / 3)


@given(ignored=st.sampled_from([0, 0.3]), seed=st.integers(0, 2**31))
@settings(max_examples=8)
def test_dice_and_lovasz_of_certain_networks_are_f1_and_jaccard_of_the_classes_that_are_shown(ignored, seed):
    from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index

    predicted, target = full_size(images=1, ignored=ignored, seed=seed)
    target[0, 0, 0] = 1
    predicted = predicted.argmax(1)
    logits = 1000 * F.one_hot(predicted, CLASSES).movedim(3, 1).double()
    shown = target[target != 255].unique()
    options = {"num_classes": CLASSES, "average": "none", "ignore_index": 255}
    f1 = multiclass_f1_score(predicted, target, **options)[shown].double().mean()
    jaccard = multiclass_jaccard_index(predicted, target, **options)[shown].double().mean()
    torch.testing.assert_close(batch_loss([LossConfig("dice")], target, 1)(logits), 1 - f1, rtol=0, atol=1e-6)
    torch.testing.assert_close(batch_loss([LossConfig("lovasz")], target, 1)(logits), 1 - jaccard, rtol=0, atol=1e-6)


@pytest.mark.parametrize("worse", [0, 1])
def test_lovasz_tells_errors_apart_as_far_as_double_precision_does(worse):
    error = torch.tensor([0.4, 0.4], dtype=torch.float64)
    error[worse] += 1e-10
    probability = torch.stack([1 - error[0], error[1]])  # of class 0, in a pixel of class 0 and one of class 1
    logits = torch.stack([probability.log(), (1 - probability).log()])[None, :, None]  # (1, 2, 1, 2)
    target = torch.tensor([[[0, 1]]])
    _, grad = loss_and_gradient(batch_loss([LossConfig("lovasz")], target, 1), logits)
    # the worse pixel first: 1/2 and 1 of the two classes' losses; the other one gets 1/2 and 0
    expected = torch.full_like(grad, 0.25 * 0.6 * 0.4)
    expected[..., worse] *= 3
    expected[0, 0, 0, 0] *= -1
    expected[0, 1, 0, 1] *= -1
    torch.testing.assert_close(grad, expected)


def test_jaccard_increments_are_exact_in_single_precision_over_a_million_pixels():
    truth = torch.rand(1_000_000, generator=torch.Generator().manual_seed(0)) < 0.3
    size = int(truth.sum())
    intersection, union = size - truth.cumsum(0), size + (~truth).cumsum(0)
    jaccard = 1 - intersection.double() / union.double()
    expected = jaccard.diff(prepend=torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(jaccard_increments(truth).double(), expected, rtol=1e-5, atol=1e-14)


@given(
    height=st.integers(1, 16),
    width=st.integers(1, 16),
    ignored=st.sampled_from([0, 0.3, 0.9]),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    weights=any_weights,
    seed=st.integers(0, 2**31),
)
@settings(max_examples=25)
def test_cross_entropy_and_its_gradient_equal_torchs_on_upsampled_logits(
    height, width, ignored, smoothing, weights, seed
):
    coarse, target = example(height=height, width=width, ignored=ignored, seed=seed)
    target[0, 0, 0] = 1  # torch's mean of nothing is not a number
    factors = None if weights is None else torch.tensor(weights)
    theirs = loss_and_gradient(
        lambda x: F.cross_entropy(
            upsample_logits(x, 2, height, width), target, factors, ignore_index=255, label_smoothing=smoothing
        ),
        coarse,
    )
    terms = [LossConfig("cross_entropy", label_smoothing=smoothing)]
    ours = loss_and_gradient(batch_loss(terms, target, 2, weights), coarse)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("terms", "weights"),
    [
        *((terms, [0.5, 2.0, 1.0, 0.1]) for terms in SINGLE if terms[0].name in TAKES_WEIGHTS),
        *((terms, None) for terms in SINGLE if terms[0].name not in TAKES_WEIGHTS),
        *(pytest.param(terms, None, marks=pytest.mark.slow) for terms in SINGLE if terms[0].name in TAKES_WEIGHTS),
        *(pytest.param(SUM, weights, marks=pytest.mark.slow) for weights in (None, [0.5, 2.0, 1.0, 0.1])),
    ],
)
def test_gradients_are_those_of_the_loss(terms, weights):
    coarse, target = example(size=2, height=3, width=4, dtype=torch.float64)
    assert torch.autograd.gradcheck(batch_loss(terms, target, 2, weights), coarse.requires_grad_())


@every_loss
@pytest.mark.parametrize("stride", [2, 4, 8])
def test_every_stride_is_an_upsampling_before_the_loss(terms, stride):
    coarse, target = example(size=3, height=3 * stride - 1, width=3 * stride, dtype=torch.float64)
    ours = loss_and_gradient(batch_loss(terms, target, stride), coarse)
    at_full_size = batch_loss(terms, target, 1)
    theirs = loss_and_gradient(lambda x: at_full_size(upsample_logits(x, stride, *target.shape[1:])), coarse)
    torch.testing.assert_close(ours, theirs)


@given(terms=any_loss, ignored=st.sampled_from([0.1, 0.5, 0.95]), weights=any_weights, seed=st.integers(0, 2**31))
@settings(max_examples=40)
def test_what_the_network_says_of_ignored_pixels_changes_neither_loss_nor_gradient(terms, ignored, weights, seed):
    logits, target = full_size(ignored=ignored, seed=seed)
    unseen = (target == 255)[:, None].expand_as(logits)
    others = torch.where(unseen, 30 * torch.randn(logits.shape), logits)
    loss, grad = loss_and_gradient(batch_loss(terms, target, 1, weights), logits)
    other_loss, other_grad = loss_and_gradient(batch_loss(terms, target, 1, weights), others)
    assert torch.equal(loss, other_loss)
    assert torch.equal(grad, other_grad)
    assert not grad[unseen].any()


@every_loss
def test_logits_that_reach_ignored_pixels_alone_change_neither_loss_nor_gradient(terms):
    coarse, target = example(ignored=0.2, width=16)
    target[:, :, 8:] = 255
    others = coarse.clone()
    others[..., 5:] *= -7  # column 4 still weighs in pixel column 7
    loss, grad = loss_and_gradient(batch_loss(terms, target), coarse)
    other_loss, other_grad = loss_and_gradient(batch_loss(terms, target), others)
    assert torch.equal(loss, other_loss)
    assert torch.equal(grad, other_grad)
    assert grad[..., 4].any()
    assert not grad[..., 5:].any()


@every_loss
def test_more_ignored_pixels_change_nothing(terms):
    logits, target = full_size(height=8, width=6, dtype=torch.float64)
    target[:, 5:] = 255
    more = loss_and_gradient(batch_loss(terms, target, 1), logits)
    fewer = loss_and_gradient(batch_loss(terms, target[:, :5], 1), logits[:, :, :5])
    torch.testing.assert_close(more[0], fewer[0])
    torch.testing.assert_close(more[1][:, :, :5], fewer[1])


@every_loss
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 0.1]])
def test_a_batch_that_is_all_ignored_costs_nothing_and_teaches_nothing(terms, weights):
    coarse, target = example(ignored=2)
    loss, grad = loss_and_gradient(batch_loss(terms, target, 2, weights), coarse)
    assert loss == 0
    assert torch.equal(grad, torch.zeros_like(coarse))


@every_loss
def test_an_image_without_a_scored_pixel_might_as_well_be_missing(terms):
    coarse, target = example(images=3)
    target[1] = 255
    loss, grad = loss_and_gradient(batch_loss(terms, target), coarse)
    expected = loss_and_gradient(batch_loss(terms, target[[0, 2]]), coarse[[0, 2]])
    torch.testing.assert_close(loss, expected[0])
    torch.testing.assert_close(grad[[0, 2]], expected[1])
    assert not grad[1].any()


@every_loss
@pytest.mark.parametrize("weights", [[0.0] * 4, [0.0, 1.0, 1.0, 1.0]])
def test_classes_that_weigh_nothing_leave_numbers(terms, weights):
    coarse, target = example()
    target[0] = 0
    loss, grad = loss_and_gradient(batch_loss(terms, target, 2, weights), coarse)
    assert loss.isfinite()
    assert grad.isfinite().all()
    if terms[0].name in ("cross_entropy", "focal", "ohem") and len(terms) == 1 and not any(weights):
        assert loss == 0
        assert not grad.any()


@every_loss
@pytest.mark.parametrize("scale", [0.0, 1e2, 1e4])
def test_networks_that_are_even_or_certain_leave_numbers(terms, scale):
    coarse, target = example()
    loss, grad = loss_and_gradient(batch_loss(terms, target), (scale * coarse).round())
    assert loss.isfinite()
    assert grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.01, 0.5, 1.0, 2.0])
def test_focal_has_a_slope_where_a_pixel_is_certain(gamma):
    logits, target = torch.zeros(1, 2, 1, 2), torch.zeros(1, 1, 2, dtype=torch.int64)
    logits[:, 0] = 500.0
    loss, grad = loss_and_gradient(batch_loss([LossConfig("focal", gamma=gamma)], target, 1), logits)
    assert loss == 0
    assert torch.equal(grad, torch.zeros_like(logits))


@given(
    terms=any_loss,
    cuts=st.lists(st.integers(0, 5), max_size=3).map(sorted),
    weights=any_weights,
    ignored=st.sampled_from([0.1, 0.97]),
    dtype=st.sampled_from([torch.uint8, torch.int64]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=25)
def test_the_parts_of_a_batch_add_up_to_the_whole(terms, cuts, weights, ignored, dtype, seed):
    coarse, target = example(images=5, ignored=ignored, seed=seed)
    target = target.to(dtype)
    loss = PixelLoss(terms, 2, weights)
    parts = [slice(*ends) for ends in itertools.pairwise([0, *cuts, 5])]  # some are empty
    normalizers = sum(loss.normalizers(target[part]) for part in parts)
    torch.testing.assert_close(normalizers, loss.normalizers(target), rtol=1e-14, atol=0)
    value, grad = loss_and_gradient(lambda x: loss(TrainingOutputs(x), target, normalizers), coarse)
    results = [
        loss_and_gradient(lambda x, part=part: loss(TrainingOutputs(x), target[part], normalizers), coarse[part])
        for part in parts
    ]
    torch.testing.assert_close(sum(one for one, _ in results), value)
    assert torch.equal(torch.cat([one for _, one in results]), grad)  # an image's gradient knows of no other image


@pytest.mark.parametrize("name", pixel_loss.SUMS_OVER_PIXELS)
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 0.1]])
def test_several_images_at_a_time_give_the_same_loss(monkeypatch, name, weights):
    coarse, target = example(images=5)
    loss = batch_loss([LossConfig(name)], target, weights=weights)
    expected = loss_and_gradient(loss, coarse)
    monkeypatch.setattr(PixelLoss, "_images_at_a_time", lambda *_: 3)
    torch.testing.assert_close(loss_and_gradient(loss, coarse), expected)


@pytest.mark.parametrize(
    ("terms", "device", "size", "count"),
    [
        (["cross_entropy", "focal"], "cuda", 1024, 16),
        (["cross_entropy"], "cuda", 1 << 14, 1),
        (["cross_entropy", "dice"], "cuda", 1024, 1),
        (["cross_entropy"], "cpu", 1024, 1),
    ],
)
def test_on_a_gpu_images_share_a_call_as_far_as_memory_allows(terms, device, size, count):
    loss = PixelLoss([LossConfig(name) for name in terms], 2)
    coarse = SimpleNamespace(device=torch.device(device), shape=(32, 4, size // 2, size // 2))
    target = torch.empty(32, size, size, dtype=torch.uint8, device="meta")
    assert loss._images_at_a_time(loss.terms, coarse, target) == count


@every_loss
def test_the_weights_of_terms_scale_them(terms):
    coarse, target = example()
    value, grad = loss_and_gradient(batch_loss(terms, target), coarse)
    singles = [loss_and_gradient(batch_loss([LossConfig(**{**vars(t), "weight": 1.0})], target), coarse) for t in terms]
    torch.testing.assert_close(sum(t.weight * one for t, (one, _) in zip(terms, singles, strict=True)), value)
    torch.testing.assert_close(sum(t.weight * one for t, (_, one) in zip(terms, singles, strict=True)), grad)
    assert value != 0


def test_norms_are_weights_or_pixels_or_images():
    target = torch.tensor([[[0, 1, 1], [255, 2, 255]], [[3, 3, 255], [255, 255, 255]], [[255] * 3, [255] * 3]])
    loss = PixelLoss(SUM, 2, [0.5, 2.0, 1.0, 0.25])
    expected = torch.tensor([0.5 + 2 * 2.0 + 1.0 + 2 * 0.25, 2, 6, 2, 2], dtype=torch.float64)
    assert torch.equal(loss.normalizers(target), expected)
    assert torch.equal(loss.normalizers(target.to(torch.uint8)), expected)
    expected[0] = 6
    assert torch.equal(PixelLoss(SUM, 2).normalizers(target), expected)


@pytest.mark.parametrize("weights", [None, [5.0, 2.0, 1.0, 0.1]])
@pytest.mark.parametrize("ignored", [0, -100])
@every_loss
def test_another_ignore_index_is_left_out_even_if_it_is_a_class(terms, ignored, weights):
    logits, target = full_size(ignored=0, dtype=torch.float64)
    expected = loss_and_gradient(batch_loss(terms, target.masked_fill(target == 0, 255), 1, weights), logits)
    target = target.masked_fill(target == 0, ignored)
    got = loss_and_gradient(batch_loss(terms, target, 1, weights, ignore_index=ignored), logits)
    torch.testing.assert_close(got, expected)


def test_the_mean_is_over_pixels_not_over_images():
    coarse, target = example(ignored=0)
    target[1, 1:] = 255
    expected = F.cross_entropy(upsample_logits(coarse, 2, 14, 11), target, ignore_index=255)
    torch.testing.assert_close(batch_loss(CROSS_ENTROPY, target)(coarse), expected)


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_lose_nothing_in_the_loss(terms, dtype):
    coarse, target = example()
    coarse = coarse.to(dtype)
    theirs = loss_and_gradient(batch_loss(terms, target), coarse.float())
    loss, grad = loss_and_gradient(batch_loss(terms, target), coarse)
    assert loss.dtype == torch.float32
    assert grad.dtype == dtype
    torch.testing.assert_close(loss, theirs[0])
    torch.testing.assert_close(grad, theirs[1].to(dtype))


def test_half_precision_gradients_of_a_large_batch_do_not_vanish_before_the_loss_is_scaled():
    coarse, target = example()
    loss = PixelLoss(CROSS_ENTROPY, 2)
    normalizers = 1e5 * loss.normalizers(target)  # of very many images
    _, expected = loss_and_gradient(
        lambda x: 65536 * loss(TrainingOutputs(x), target, normalizers), coarse.half().float()
    )
    _, grad = loss_and_gradient(lambda x: 65536 * loss(TrainingOutputs(x), target, normalizers), coarse.half())
    torch.testing.assert_close(grad, expected.half())


@every_loss
def test_autocast_has_no_say_in_the_loss(terms):
    coarse, target = example()
    expected = loss_and_gradient(batch_loss(terms, target), coarse)
    with torch.autocast("cpu", torch.bfloat16):
        got = loss_and_gradient(batch_loss(terms, target), coarse)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@every_loss
def test_double_precision_stays(terms):
    coarse, target = example(dtype=torch.float64)
    loss, grad = loss_and_gradient(batch_loss(terms, target, 2, [0.5, 2.0, 1.0, 0.1]), coarse)
    assert (loss.dtype, grad.dtype) == (torch.float64, torch.float64)


@every_loss
def test_uint8_targets_give_the_same(terms):
    coarse, target = example()
    expected = loss_and_gradient(batch_loss(terms, target, 2, [0.5, 2.0, 1.0, 0.1]), coarse)
    got = loss_and_gradient(batch_loss(terms, target.to(torch.uint8), 2, [0.5, 2.0, 1.0, 0.1]), coarse)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@every_loss
def test_channels_last_logits_give_the_same(terms):
    coarse, target = example()
    expected = loss_and_gradient(batch_loss(terms, target), coarse)
    got = loss_and_gradient(
        lambda x: batch_loss(terms, target)(x.contiguous(memory_format=torch.channels_last)), coarse
    )
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", ["cross_entropy", "ohem", "focal", "dice", "lovasz", "binary_cross_entropy", "rmi"])
def test_a_logit_that_is_not_a_number_makes_the_loss_so(name):
    logits = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    logits[0, 1, 2, 3] = torch.nan
    loss, target = PixelLoss([LossConfig(name)], 4), torch.arange(32 * 32).view(1, 32, 32) % 3
    assert torch.isnan(loss(TrainingOutputs(logits), target.to(torch.uint8), loss.normalizers(target.to(torch.uint8))))


@pytest.fixture
def deterministic():
    """Switches to deterministic algorithms when called."""
    yield lambda: torch.use_deterministic_algorithms(True)
    torch.use_deterministic_algorithms(False)


@every_loss
def test_deterministic_runs_have_the_same_losses_without_torchs_sum_over_a_map(terms, deterministic, monkeypatch):
    """On GPUs that sum is an error then, in every version so far."""
    coarse, target = example()
    expected = loss_and_gradient(batch_loss(terms, target, 2, [0.5, 2.0, 1.0, 0.1]), coarse)
    deterministic()
    reductions, cross_entropy = set(), F.cross_entropy

    def spy(*args, reduction="mean", **options):
        reductions.add(reduction)
        return cross_entropy(*args, reduction=reduction, **options)

    monkeypatch.setattr(F, "cross_entropy", spy)
    got = loss_and_gradient(batch_loss(terms, target, 2, [0.5, 2.0, 1.0, 0.1]), coarse)
    torch.testing.assert_close(got, expected)
    assert reductions <= {"none"}


@pytest.mark.parametrize("factor", [-2.0, 0.5, 1024.0])
def test_the_gradient_follows_what_is_done_with_the_loss(factor):
    coarse, target = example()
    _, plain = loss_and_gradient(batch_loss(SUM, target), coarse)
    _, scaled = loss_and_gradient(lambda x: factor * batch_loss(SUM, target)(x), coarse)
    torch.testing.assert_close(scaled, factor * plain)


@pytest.fixture
def taken_gradients(monkeypatch):
    calls, grad = [], torch.autograd.grad

    def spy(*args, **options):
        calls.append(args)
        return grad(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", spy)
    return calls


@every_loss
def test_one_gradient_an_image_is_taken_in_training(terms, taken_gradients):
    coarse, target = example()
    batch_loss(terms, target)(coarse.requires_grad_())
    assert len(taken_gradients) == 2


@every_loss
def test_no_gradient_is_taken_under_no_grad(terms, taken_gradients):
    coarse, target = example()
    head = torch.nn.Conv2d(CLASSES, CLASSES, 1)
    with torch.no_grad():
        logits = head(coarse)
        loss = batch_loss(terms, target)(logits)
    assert taken_gradients == []
    assert not loss.requires_grad
    torch.testing.assert_close(loss, batch_loss(terms, target)(head(coarse)).detach())


@every_loss
def test_full_size_logits_live_for_one_image_at_a_time(terms, monkeypatch):
    coarse, target = example(images=3)
    full = []

    def spy(*args):
        assert all(reference() is None for reference in full)
        logits = upsample_logits(*args)
        full.append(weakref.ref(logits))
        return logits

    monkeypatch.setattr(pixel_loss, "upsample_logits", spy)
    loss = batch_loss(terms, target)(coarse.requires_grad_())
    assert len(full) == 3
    assert all(reference() is None for reference in full)
    assert loss.requires_grad


@every_loss
def test_logits_targets_and_norms_stay_as_they_were(terms):
    coarse, target = example()
    loss = PixelLoss(terms, 2)
    normalizers = loss.normalizers(target)
    copies = coarse.clone(), target.clone(), normalizers.clone()
    loss_and_gradient(lambda x: loss(TrainingOutputs(x), target, normalizers), coarse)
    assert torch.equal(coarse, copies[0])
    assert torch.equal(target, copies[1])
    assert torch.equal(normalizers, copies[2])


def test_a_loss_that_does_not_exist_is_refused_by_name():
    with pytest.raises(
        UserError, match=r"loss hinge: use one of cross_entropy, focal, binary_cross_entropy, ohem, dice, lovasz, rmi"
    ):
        PixelLoss([LossConfig("hinge")], 2)


@pytest.mark.parametrize("kind", [tuple, np.array, torch.tensor])
def test_class_weights_come_as_any_sequence_array_or_tensor(kind):
    loss = PixelLoss([LossConfig("cross_entropy")], 2, kind([0.5, 2.0]))
    assert loss.class_weights == [0.5, 2.0]


def test_another_number_of_class_weights_than_classes_is_refused():
    coarse, target = example()
    with pytest.raises(UserError, match=r"3 class weights for logits of 4 classes: give one for each class"):
        batch_loss(CROSS_ENTROPY, target, 2, [1.0, 2.0, 3.0])(coarse)


@pytest.mark.parametrize(
    "name", ["dice_loss", "lovasz_loss", "binary_cross_entropy_sum", "region_mutual_information_loss"]
)
def test_a_loss_of_one_image_refuses_a_batch(name):
    loss = getattr(losses, name)
    for images in (CLASSES, 2):  # as many images as classes would broadcast
        logits, target = torch.zeros(images, CLASSES, 16, 16), torch.zeros(images, 16, 16, dtype=torch.long)
        with pytest.raises(UserError, match=r"this loss takes one image, .*: use dlaseg\.PixelLoss for a batch$"):
            loss(logits, target, 255)
        with pytest.raises(UserError, match=r"logits \(1, 4, 16, 16\) and target"):
            loss(logits[:1], target, 255)


def test_the_sum_of_the_cross_entropy_is_not_smoothed_by_default():
    logits, target = torch.randn(1, CLASSES, 3, 4), torch.randint(CLASSES, (1, 3, 4))
    expected = F.cross_entropy(logits, target, reduction="sum")
    torch.testing.assert_close(losses.cross_entropy_sum(logits, target, None, 255), expected)


@pytest.mark.parametrize("value", [CLASSES, -100])
@every_loss
def test_targets_of_no_class_are_refused(terms, value):
    logits, target = torch.randn(1, CLASSES, 8, 8), torch.zeros(1, 16, 16, dtype=torch.long)
    loss = PixelLoss(terms, 2)
    normalizers = loss.normalizers(target)
    target[0, 3, 4] = value
    with pytest.raises(UserError, match=r"^targets from -?[0-9]+ to [0-9]+: use train ids from 0 to 3, or 255 where"):
        loss(TrainingOutputs(logits), target, normalizers)
    with pytest.raises(UserError, match=r"^outputs \(1, 4, 8, 8\): logits alone: use model\.training_outputs\(x\)"):
        loss(logits, target, normalizers)


def test_a_pixel_of_the_thresholds_probability_is_not_hard():
    logits, target = torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 4, dtype=torch.int64)
    assert ohem_mean(logits, target, None, 255, 0.5, 0.0) == 0
    assert ohem_mean(logits, target, None, 255, 0.5 + 1e-6, 0.0) > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda target: target[:, None],  # (N, 1, H, W), as other packages have masks
        lambda target: F.one_hot(target, CLASSES).movedim(-1, 1),
        lambda target: target.float(),
        lambda target: target.numpy(),
    ],
)
def test_targets_of_another_shape_or_type_are_refused(make):
    logits, target = torch.randn(2, CLASSES, 8, 8), torch.zeros(2, 16, 16, dtype=torch.long)
    loss = PixelLoss(CROSS_ENTROPY, 2)
    normalizers, wrong = loss.normalizers(target), make(target)
    with pytest.raises(UserError, match=r"^targets of type .*: use a tensor \(N, H, W\) of integers"):
        loss.normalizers(wrong)
    with pytest.raises(UserError, match=r"^targets of type .*: use a tensor \(N, H, W\) of integers"):
        loss(TrainingOutputs(logits), wrong, normalizers)


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 16), (2, 17, 16), (2, 16, 17)])
def test_targets_that_are_not_of_the_logits_are_refused(shape):
    logits, target = torch.randn(2, CLASSES, 8, 8), torch.zeros(shape, dtype=torch.long)
    loss = PixelLoss(CROSS_ENTROPY, 2)
    with pytest.raises(UserError, match=r"not of logits \(2, 4, 8, 8\) with stride 2: use one for each image"):
        loss(TrainingOutputs(logits), target, loss.normalizers(target))
