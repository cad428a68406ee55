import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dlaseg.models.segmenter import upsample_logits
from dlaseg.training.losses import pixel_cross_entropy

CLASSES = 4


def example(height=14, width=11, ignored=0.3):
    """Logits (2, 4, 8, 8), a target (2, height, width) for stride 2, weights (4,)."""
    coarse = torch.randn(2, CLASSES, 8, 8)
    target = torch.randint(0, CLASSES, (2, height, width))
    target[torch.rand(target.shape) < ignored] = 255
    return coarse, target, torch.rand(CLASSES) + 0.1


def loss_and_gradient(loss, coarse):
    coarse = coarse.clone().requires_grad_()
    value = loss(coarse)
    value.backward()
    return value.detach(), coarse.grad


@given(
    height=st.integers(1, 16),
    width=st.integers(1, 16),
    ignored=st.sampled_from([0, 0.3, 0.9]),
    weighted=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=60)
def test_loss_and_gradient_equal_torchs_on_upsampled_logits(height, width, ignored, weighted, seed):
    torch.manual_seed(seed)
    coarse, target, weights = example(height, width, ignored)
    target[0, 0, 0] = 1  # torch's mean of nothing is not a number
    weights = weights if weighted else None
    theirs = loss_and_gradient(
        lambda x: F.cross_entropy(upsample_logits(x, 2, height, width), target, weights, ignore_index=255), coarse
    )
    ours = loss_and_gradient(lambda x: pixel_cross_entropy(x, target, 2, weights), coarse)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_every_stride_equals_torchs(stride):
    torch.manual_seed(0)
    coarse, target = torch.randn(2, CLASSES, 3, 4), torch.randint(0, CLASSES, (2, 3 * stride - 1, 4 * stride))
    theirs = loss_and_gradient(lambda x: F.cross_entropy(upsample_logits(x, stride, *target.shape[1:]), target), coarse)
    ours = loss_and_gradient(lambda x: pixel_cross_entropy(x, target, stride), coarse)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_mean_is_over_pixels_not_over_images():
    torch.manual_seed(0)
    coarse, target, _ = example(ignored=0)
    target[1, 1:] = 255
    expected = F.cross_entropy(upsample_logits(coarse, 2, 14, 11), target, ignore_index=255)
    torch.testing.assert_close(pixel_cross_entropy(coarse, target, 2), expected)


def test_an_image_without_a_scored_pixel_gets_no_gradient():
    torch.manual_seed(0)
    coarse, target, _ = example()
    target[1] = 255
    _, grad = loss_and_gradient(lambda x: pixel_cross_entropy(x, target, 2), coarse)
    assert grad[0].any()
    assert not grad[1].any()


@pytest.mark.parametrize("weighted", [False, True])
def test_a_target_that_is_all_ignored_costs_nothing_and_teaches_nothing(weighted):
    coarse, target, weights = example(ignored=2)
    loss, grad = loss_and_gradient(lambda x: pixel_cross_entropy(x, target, 2, weights if weighted else None), coarse)
    assert loss == 0
    assert torch.equal(grad, torch.zeros_like(coarse))


def test_another_ignore_index_is_left_out():
    torch.manual_seed(0)
    coarse, target, _ = example(ignored=0)
    expected = F.cross_entropy(upsample_logits(coarse, 2, 14, 11), target, ignore_index=0)
    torch.testing.assert_close(pixel_cross_entropy(coarse, target, 2, ignore_index=0), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_lose_nothing_in_the_loss(dtype):
    torch.manual_seed(0)
    coarse, target, weights = example()
    coarse = coarse.to(dtype)
    theirs = loss_and_gradient(lambda x: pixel_cross_entropy(x, target, 2, weights), coarse.float())
    loss, grad = loss_and_gradient(lambda x: pixel_cross_entropy(x, target, 2, weights), coarse)
    assert loss.dtype == torch.float32
    assert grad.dtype == dtype
    torch.testing.assert_close(loss, theirs[0])
    torch.testing.assert_close(grad, theirs[1].to(dtype))


def test_channels_last_logits_give_the_same():
    torch.manual_seed(0)
    coarse, target, _ = example()
    expected = loss_and_gradient(lambda x: pixel_cross_entropy(x, target, 2), coarse)
    got = loss_and_gradient(
        lambda x: pixel_cross_entropy(x.contiguous(memory_format=torch.channels_last), target, 2), coarse
    )
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("factor", [-2.0, 0.5, 1024.0])
def test_the_gradient_follows_what_is_done_with_the_loss(factor):
    torch.manual_seed(0)
    coarse, target, _ = example()
    _, plain = loss_and_gradient(lambda x: pixel_cross_entropy(x, target, 2), coarse)
    _, scaled = loss_and_gradient(lambda x: factor * pixel_cross_entropy(x, target, 2), coarse)
    torch.testing.assert_close(scaled, factor * plain)


@pytest.fixture
def taken_gradients(monkeypatch):
    calls, grad = [], torch.autograd.grad

    def spy(*args, **options):
        calls.append(args)
        return grad(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", spy)
    return calls


def test_one_gradient_an_image_is_taken_in_training(taken_gradients):
    coarse, target, _ = example()
    pixel_cross_entropy(coarse.requires_grad_(), target, 2)
    assert len(taken_gradients) == 2


def test_no_gradient_is_taken_under_no_grad(taken_gradients):
    torch.manual_seed(0)
    coarse, target, _ = example()
    head = torch.nn.Conv2d(CLASSES, CLASSES, 1)
    with torch.no_grad():
        logits = head(coarse)
        loss = pixel_cross_entropy(logits, target, 2)
    assert taken_gradients == []
    assert not loss.requires_grad
    torch.testing.assert_close(loss, F.cross_entropy(upsample_logits(logits, 2, 14, 11), target, ignore_index=255))


def test_logits_and_target_stay_as_they_were():
    coarse, target, _ = example()
    copies = coarse.clone(), target.clone()
    loss_and_gradient(lambda x: pixel_cross_entropy(x, target, 2), coarse)
    assert torch.equal(coarse, copies[0])
    assert torch.equal(target, copies[1])
