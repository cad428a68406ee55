"""Muon: against torch's own on matrices, and what it means for convolutions."""

import pytest
import torch
from dlaseg_testing import CPU
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import AdamW

from dlaseg.config.segmentation import TrainConfig
from dlaseg.factory import create_model
from dlaseg.training.muon import Muon, orthogonalize
from dlaseg.training.optimizers import make_optimizer

LR, DECAY = 0.02, 0.1


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def muon(weight: nn.Parameter, matrices: int = 1) -> Muon:
    return Muon([{"params": [weight], "matrices": matrices, "weight_decay": DECAY}], LR)


def take_steps(optimizer, weights, gradients) -> None:
    for step in gradients:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()


@pytest.mark.parametrize("shape", [(24, 90), (90, 24), (32, 32), (1, 50)])
def test_a_matrix_moves_as_by_torchs_muon(shape):
    torch.manual_seed(0)
    ours = parameter(*shape)
    theirs = nn.Parameter(ours.detach().clone())
    start = ours.detach().clone()
    gradients = [[torch.randn(shape)] for _ in range(6)]
    take_steps(muon(ours), [ours], gradients)
    take_steps(torch.optim.Muon([theirs], LR, DECAY, adjust_lr_fn="match_rms_adamw"), [theirs], gradients)
    moved, expected = ours.detach() - start, theirs.detach() - start
    # torch iterates in bfloat16, with 8 bits
    assert float((moved - expected).norm() / expected.norm()) < 0.02
    assert float((moved - 1.1 * expected).norm() / expected.norm()) > 0.05


def test_torchs_momentum_is_the_same_bit_for_bit():
    torch.manual_seed(0)
    ours, theirs = parameter(8, 20), parameter(8, 20)
    gradients = [[torch.randn(8, 20)] for _ in range(4)]
    one, other = muon(ours), torch.optim.Muon([theirs], LR)
    take_steps(one, [ours], gradients)
    take_steps(other, [theirs], gradients)
    assert torch.equal(one.state[ours]["momentum"], other.state[theirs]["momentum_buffer"])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_is_a_matrix_with_a_row_per_output_channel(memory_format):
    torch.manual_seed(0)
    matrix = parameter(12, 5 * 9)
    kernel = nn.Parameter(matrix.detach().view(12, 5, 3, 3).clone().contiguous(memory_format=memory_format))
    gradients = [torch.randn(12, 45) for _ in range(3)]
    take_steps(muon(matrix), [matrix], [[g] for g in gradients])
    take_steps(muon(kernel), [kernel], [[g.view(12, 5, 3, 3)] for g in gradients])
    torch.testing.assert_close(kernel.reshape(12, 45), matrix, rtol=0, atol=1e-5)


def test_each_group_of_a_convolution_is_a_matrix_of_its_own():
    torch.manual_seed(0)
    grouped = nn.Conv2d(12, 8, 3, groups=4, bias=False).weight  # (8, 3, 3, 3)
    parts = [nn.Parameter(part.detach().clone()) for part in grouped.chunk(4)]
    gradient = torch.randn_like(grouped) * torch.tensor([1.0, 10.0, 100.0, 1000.0]).repeat_interleave(2).view(
        8, 1, 1, 1
    )
    take_steps(muon(grouped, matrices=4), [grouped], [[gradient]])
    for part, part_gradient in zip(parts, gradient.chunk(4), strict=True):
        take_steps(muon(part), [part], [[part_gradient]])
    torch.testing.assert_close(grouped, torch.cat(parts), rtol=0, atol=1e-6)


def test_weights_of_one_shape_are_computed_together_and_do_not_mix():
    torch.manual_seed(0)
    together = [parameter(6, 4, 3, 3) for _ in range(3)]
    alone = [nn.Parameter(weight.detach().clone()) for weight in together]
    gradients = [torch.randn(6, 4, 3, 3) * 10**i for i in range(3)]
    take_steps(Muon([{"params": together, "matrices": 1, "weight_decay": DECAY}], LR), together, [gradients])
    for weight, gradient in zip(alone, gradients, strict=True):
        take_steps(muon(weight), [weight], [[gradient]])
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 1000), st.floats(-6, 6))
def test_singular_values_become_about_one_and_their_vectors_stay(rows, columns, seed, magnitude):
    generator = torch.Generator().manual_seed(seed)
    rank = min(rows, columns)
    left, _ = torch.linalg.qr(torch.randn(rows, rank, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(columns, rank, generator=generator, dtype=torch.float64))
    values = 10**magnitude * (0.2 + torch.rand(rank, generator=generator, dtype=torch.float64))
    found = orthogonalize([(left * values @ right.T)[None]])[0][0]
    between = left.T @ found @ right  # diagonal if the vectors stay
    torch.testing.assert_close(between, torch.diag(between.diag()), rtol=0, atol=1e-9)
    assert 0.65 < float(between.diag().min()) <= float(between.diag().max()) < 1.25


def test_no_gradient_and_a_gradient_of_zeros_do_no_harm():
    weight, other = parameter(4, 6), parameter(4, 6)
    before, other_before = weight.detach().clone(), other.detach().clone()
    optimizer = Muon([{"params": [weight, other], "matrices": 1, "weight_decay": DECAY}], LR)
    optimizer.step()
    assert torch.equal(weight, before)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before * (1 - LR * DECAY))
    assert torch.equal(other, other_before)


def test_groups_without_matrices_are_adamws():
    torch.manual_seed(0)
    ours, bias, kernel = parameter(5, 3), parameter(5), parameter(4, 6)
    theirs, their_bias = nn.Parameter(ours.detach().clone()), nn.Parameter(bias.detach().clone())
    gradients = [[torch.randn(5, 3), torch.randn(5)] for _ in range(4)]
    mixed = Muon([{"params": [ours, bias], "weight_decay": 0.3}, {"params": [kernel], "matrices": 1}], LR)
    take_steps(mixed, [ours, bias, kernel], [[*step, torch.randn(4, 6)] for step in gradients])
    take_steps(AdamW([theirs, their_bias], LR, weight_decay=0.3), [theirs, their_bias], gradients)
    assert torch.equal(ours, theirs)
    assert torch.equal(bias, their_bias)
    assert len(mixed.param_groups) == 2


@pytest.mark.parametrize(("name", "cardinality"), [("dla46_c", 1), ("dla46x_c", 32)])
def test_all_convolutions_but_the_first_the_last_and_depthwise_ones_are_matrices(name, cardinality):
    model = create_model(name, num_classes=5, stride=4)
    optimizer = make_optimizer(model, TrainConfig(optimizer="muon"), CPU)
    names = {id(weight): each for each, weight in model.named_parameters()}
    matrices = {names[id(p)]: group["matrices"] for group in optimizer.param_groups for p in group["params"]}
    assert matrices.keys() == dict(model.named_parameters()).keys()
    for module_name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            apart = module_name in ("backbone.base_layer.0", "head")
            assert matrices.pop(f"{module_name}.weight") == (0 if apart else module.groups)
    assert set(matrices.values()) == {0}  # norms, biases, upsampling
    assert any("up" in each for each in matrices)
    groups = {group["matrices"] for group in optimizer.param_groups}
    assert groups == {0, 1, cardinality}


def test_the_backbone_learns_at_its_own_rate():
    model = create_model("dla46_c", num_classes=5, stride=4)
    optimizer = make_optimizer(model, TrainConfig(optimizer="muon", backbone_lr_factor=0.1), CPU)
    assert sorted((g["matrices"], g["factor"]) for g in optimizer.param_groups) == [
        (0, 0.1),
        (0, 1.0),
        (1, 0.1),
        (1, 1.0),
    ]
