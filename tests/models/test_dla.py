import math
from functools import cache, partial
from itertools import product

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from dlaseg import UserError, create_backbone, create_model, list_models
from dlaseg.models.dla import DLA, BasicBlock, Bottleneck, Root, Tree, bottleneck_x

LEVELS = [f"level{i}" for i in range(6)]

# Table 1 of the paper, in millions, as timm and the authors' checkpoints have them
PARAMETERS = {
    "dla34": 15.74,
    "dla46_c": 1.30,
    "dla46x_c": 1.07,
    "dla60x_c": 1.32,
    "dla60": 22.04,
    "dla60x": 17.35,
    "dla102": 33.27,
    "dla102x": 26.31,
    "dla102x2": 41.28,
    "dla169": 53.39,
}


def without_memory(make, *args, **options):
    """Makes a module whose tensors have shapes only."""
    with torch.device("meta"):
        return make(*args, **options)


def randomize_batch_norm(network, images):
    """Gives every batch norm statistics, scale and shift of its own, near those of real activations.

    So no activation grows with depth, and an absolute tolerance means something.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.2, 0.8)
        nn.init.normal_(norm.bias, std=0.1)
        norm.momentum = 1
    with torch.no_grad():
        network.train()(images)
    for norm in norms:
        norm.running_mean.mul_(1 + 0.2 * torch.randn_like(norm.running_mean))
        norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.5, 2))
    network.eval()


def outputs_of(network, images):
    """Logits, and what each level returns, (N, C_i, H_i, W_i)."""
    features = {}

    def keep(name):
        return lambda module, inputs, output: features.update({name: output.clone()})

    handles = [getattr(network, name).register_forward_hook(keep(name)) for name in LEVELS]
    with torch.no_grad():
        logits = network(images)
    for handle in handles:
        handle.remove()
    return {"logits": logits, **features}


def test_the_variants_are_the_ten_of_the_paper():
    assert list_models() == list(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_classifier_has_as_many_parameters_as_published(name):
    network = without_memory(create_backbone, name, num_classes=1000)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == PARAMETERS[name]
    residual = {module.residual for module in network.modules() if isinstance(module, Root)}
    assert residual == {name in ("dla102", "dla102x", "dla102x2", "dla169")}  # table 1, too


# One of each kind of block; trees with residual connections are compared below
COMPARED = [
    pytest.param(
        name, marks=[pytest.mark.slow] if name.startswith(("dla102", "dla169")) or name in ("dla60", "dla60x") else ()
    )
    for name in PARAMETERS
]


@pytest.mark.parametrize("name", COMPARED)
def test_logits_and_features_equal_timms(name):
    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False)
    randomize_batch_norm(theirs, torch.randn(2, 3, 64, 64))
    ours = without_memory(create_backbone, name, num_classes=1000).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    images = torch.randn(2, 3, 96, 96)
    expected, got = outputs_of(theirs, images), outputs_of(ours, images)
    for key, tensor in expected.items():
        assert 0.1 < tensor.std() < 10, key  # values of about 1, so that 1e-5 says something
        assert got[key].shape == tensor.shape
        assert (got[key] - tensor).abs().max() <= 1e-5, key


def test_a_backbone_is_the_classifier_without_its_last_layer():
    classifier = without_memory(create_backbone, "dla34", num_classes=2).state_dict()
    assert set(classifier) - set(without_memory(create_backbone, "dla34").state_dict()) == {"fc.weight", "fc.bias"}


def test_features_are_the_levels_outputs_untouched_by_later_levels():
    torch.manual_seed(0)
    backbone = create_backbone("dla46_c").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = backbone.features(images)
        x = backbone.base_layer(images)
        for level, feature in zip(LEVELS, features, strict=True):
            x = getattr(backbone, level)(x)
            assert torch.equal(feature, x)


@pytest.mark.slow
def test_making_dla102x2_changes_no_other_variant():
    without_memory(create_backbone, "dla102x2", num_classes=1000)
    for name in ("dla46_c", "dla46x_c", "dla60x_c", "dla60x"):  # of the same class
        ours = without_memory(create_backbone, name, num_classes=1000)
        theirs = without_memory(timm.create_model, name, pretrained=False)
        shapes = {key: tensor.shape for key, tensor in ours.state_dict().items()}
        assert shapes == {key: tensor.shape for key, tensor in theirs.state_dict().items()}
        assert groups(ours) == groups(theirs)


def groups(network):
    return {name: module.groups for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}


@pytest.mark.parametrize("name", ["dla34", "dla46_c", "dla46x_c", "dla60x_c"])
def test_every_parameter_of_a_classifier_learns(name):
    torch.manual_seed(0)
    assert idle_parameters(create_backbone(name, num_classes=7)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dla60", "dla60x", "dla102", "dla102x", "dla102x2", "dla169"])
def test_every_parameter_of_a_large_classifier_learns(name):
    test_every_parameter_of_a_classifier_learns(name)


SIZES = list(product((2, 4, 8), (1, 3)))
"""Strides and sizes of the roots."""
FEW = [("dla34", 8, 1), ("dla46_c", 2, 3), ("dla46x_c", 8, 1)]


@pytest.mark.parametrize(
    ("name", "stride", "root_kernel_size"),
    [
        *FEW,
        *(
            pytest.param(name, *sizes, marks=pytest.mark.slow)
            for name, sizes in product(["dla34", "dla46_c", "dla46x_c", "dla60x_c"], SIZES)
            if (name, *sizes) not in FEW
        ),
    ],
)
def test_every_parameter_of_a_segmenter_learns(name, stride, root_kernel_size):
    torch.manual_seed(0)
    assert idle_parameters(create_model(name, 3, stride, root_kernel_size)) == []


@pytest.mark.slow
@pytest.mark.parametrize("root_kernel_size", [1, 3])
@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("name", ["dla60", "dla60x", "dla102", "dla102x", "dla102x2", "dla169"])
def test_every_parameter_of_a_large_segmenter_learns(name, stride, root_kernel_size):
    test_every_parameter_of_a_segmenter_learns(name, stride, root_kernel_size)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dla102x2", "dla169"])
def test_every_parameter_of_a_large_segmenter_is_used(name):
    # Shapes are enough to see which parameters the graph reaches
    network = without_memory(create_model, name, 3, stride=8, root_kernel_size=3)
    network(torch.zeros(2, 3, 64, 64, device="meta")).sum().backward()
    assert [key for key, parameter in network.named_parameters() if parameter.grad is None] == []


def idle_parameters(network):
    """The names of parameters without a gradient, or with one of zeros."""
    output = network(torch.randn(2, 3, 64, 64))
    output.mul(torch.randn_like(output)).sum().backward()
    return [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]


@cache
def small_backbone():
    torch.manual_seed(0)
    return create_backbone("dla46_c").eval()


@given(height=st.integers(1, 70), width=st.integers(1, 70))
@settings(max_examples=15)
def test_level_i_has_the_size_divided_by_two_to_the_i_rounded_up(height, width):
    with torch.no_grad():
        features = small_backbone()(torch.zeros(1, 3, height, width))
    expected = [(1, c, -(-height // 2**i), -(-width // 2**i)) for i, c in enumerate(small_backbone().channels)]
    assert [f.shape for f in features] == expected


@pytest.mark.parametrize(
    "name", ["dla34", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dla60x", "dla102x2"))]
)
def test_larger_variants_take_an_image_of_odd_size_too(name):
    features = without_memory(create_backbone, name)(torch.zeros(1, 3, 37, 1, device="meta"))
    assert [tuple(f.shape[2:]) for f in features] == [(37, 1), (19, 1), (10, 1), (5, 1), (3, 1), (2, 1)]


@pytest.mark.parametrize(("in_channels", "num_classes"), [(1, 1), (4, 3), (13, 1500)])
def test_any_number_of_channels_goes_in_and_any_number_of_classes_comes_out(in_channels, num_classes):
    network = create_backbone("dla46_c", num_classes, in_channels).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, in_channels, 32, 32)).shape == (2, num_classes)
    assert network.metadata.architecture["in_channels"] == network.metadata.in_channels == in_channels


@pytest.mark.parametrize("root_kernel_size", [0, 2, 5, -1])
def test_a_root_is_of_size_1_or_3(root_kernel_size):
    with pytest.raises(UserError, match=f"root_kernel_size {root_kernel_size}.*use 1 or 3"):
        create_backbone("dla34", root_kernel_size=root_kernel_size)


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"in_channels": 0}])
def test_no_channels_and_no_classes_are_refused(options):
    with pytest.raises(UserError, match="0: use an integer from 1 to"):
        create_backbone("dla34", **options)


@pytest.mark.parametrize("shape", [(3, 32, 32), (32, 3, 32), (1, 4, 32, 32), (1, 3, 2, 32, 32)])
def test_an_input_of_another_shape_is_refused(shape):
    with pytest.raises(UserError) as refusal:
        small_backbone()(torch.zeros(shape))
    assert str(shape) in str(refusal.value)
    assert "(N, 3, H, W)" in str(refusal.value)


def test_root_kernel_size_widens_the_roots_alone():
    for size in (1, 3):
        network = without_memory(create_backbone, "dla60x_c", root_kernel_size=size)
        sizes = {module.conv.kernel_size for module in network.modules() if isinstance(module, Root)}
        assert sizes == {(size, size)}
        assert network.metadata.architecture["root_kernel_size"] == size
    plain = without_memory(create_backbone, "dla60x_c").state_dict()
    differing = {key for key, tensor in network.state_dict().items() if tensor.shape != plain[key].shape}
    assert differing == {key for key in plain if key.endswith("root.conv.weight")}


# Equation 4 of the paper, without numbers: blocks and roots that write down what they are applied to.


class WrittenBlock(nn.Module):
    def forward(self, x, shortcut):
        assert shortcut == x
        return f"B({x})"


class WrittenRoot(nn.Module):
    def forward(self, inputs):
        return f"N({', '.join(inputs)})"


def written_tree(depth, level_root=False):
    tree = Tree(depth, lambda *_: WrittenBlock(), 1, 1, 1, lambda *_: WrittenRoot(), level_root)
    for module in tree.modules():
        if isinstance(module, Tree) and module.depth == 1:
            module.root = WrittenRoot()
    return tree


def equation_4(depth, x):
    """T_n(x) = N(R_{n-1}(x), ..., R_1(x), L_1(x), L_2(x)), in the order of the checkpoints: L_2, L_1, R_{n-1}, ..."""
    subtrees = []
    for m in range(depth - 1, 0, -1):  # R_{n-1}(x) = T_{n-1}(x), R_m(x) = T_m(R_{m+1}(x))
        x = equation_4(m, x)
        subtrees.append(x)
    left = f"B({x})"
    right = f"B({left})"
    return f"N({', '.join([right, left, *subtrees])})"


def test_a_tree_of_depth_1_joins_two_blocks():
    assert written_tree(1)("x") == "N(B(B(x)), B(x))"


def test_a_tree_of_depth_2_joins_its_first_subtree_and_two_blocks():
    first = "N(B(B(x)), B(x))"
    assert written_tree(2)("x") == f"N(B(B({first})), B({first}), {first})"


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_a_tree_is_equation_4(depth):
    assert written_tree(depth)("x") == equation_4(depth, "x")


def test_a_level_root_hands_the_input_to_the_last_root_alone():
    r2 = equation_4(2, "x")
    r1 = equation_4(1, r2)
    assert written_tree(1, level_root=True)("x") == "N(B(B(x)), B(x), x)"
    assert written_tree(3, level_root=True)("x") == f"N(B(B({r1})), B({r1}), x, {r2}, {r1})"


def aggregate(tree, x, level_root):
    """Equation 4 over a tree's own blocks and roots, without its `forward`."""
    deepest = tree
    bottom = F.max_pool2d(x, tree.stride, ceil_mode=True)
    joined = [bottom] if level_root else []
    while deepest.depth > 1:
        x = aggregate(deepest.tree1, x, level_root=False)
        joined.append(x)
        deepest = deepest.tree2
    shortcut = deepest.project(F.max_pool2d(x, deepest.stride, ceil_mode=True))
    left = deepest.tree1(x, shortcut)
    right = deepest.tree2(left, left)
    root = deepest.root
    total = root.bn(root.conv(torch.cat([right, left, *joined], dim=1)))
    return torch.relu(total + right if root.residual else total)


@pytest.mark.parametrize("level_root", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck, bottleneck_x(32)])
def test_a_tree_of_real_blocks_equals_the_recursion_written_out(block, depth, residual, level_root):
    torch.manual_seed(0)
    tree = Tree(depth, block, 32, 64, 2, partial(Root, kernel_size=1, residual=residual), level_root)
    randomize_batch_norm(tree, torch.randn(2, 32, 9, 14))
    x = torch.randn(2, 32, 9, 14)
    with torch.no_grad():
        torch.testing.assert_close(tree(x), aggregate(tree, x, level_root), rtol=0, atol=1e-5)


def test_a_residual_root_adds_the_last_blocks_output():
    torch.manual_seed(0)
    root = Root(12, 4, 1, residual=True).eval()
    last, first, passed = torch.randn(3, 2, 4, 5, 5)
    with torch.no_grad():
        expected = torch.relu(root.bn(root.conv(torch.cat([last, first, passed], dim=1))) + last)
        torch.testing.assert_close(root([last, first, passed]), expected)


@pytest.mark.parametrize("name", [pytest.param("dla34", marks=pytest.mark.slow), "dla60x_c"])
def test_convolutions_start_with_the_originals_spread(name):
    torch.manual_seed(0)
    for module in create_backbone(name, num_classes=1000).modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (math.prod(module.kernel_size) * module.out_channels))
            # The spread of n normal values has a relative error of 1 / sqrt(2 n): five of those
            tolerance = 5 / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(expected, rel=tolerance)
            assert abs(module.weight.mean().item()) < 5 * expected / math.sqrt(module.weight.numel())


def test_batch_norm_starts_as_the_identity_and_the_classifier_without_bias():
    network = create_backbone("dla46_c", num_classes=10)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    assert (network.fc.bias == 0).all()


def test_the_trees_take_any_node():
    """A node of the caller's own, in every tree, called with the tensors that it joins, the deepest block's first."""

    class Mean(nn.Module):
        def __init__(self, in_channels, out_channels):
            super().__init__()
            self.widths = (in_channels, out_channels)
            self.mix = nn.Conv2d(in_channels, out_channels, 1)

        def forward(self, inputs):
            return self.mix(torch.cat(tuple(inputs), dim=1))

    backbone = DLA((1, 2, 1, 1), (4, 4, 8, 8, 8, 16), BasicBlock, root=Mean).eval()
    nodes = [module for name, module in backbone.named_modules() if name.endswith(".root")]
    assert [type(node) for node in nodes] == [Mean] * 5  # one a tree of two blocks
    assert nodes[0].widths == (16, 8)
    assert [f.shape[1] for f in backbone(torch.zeros(1, 3, 32, 32))] == [4, 4, 8, 8, 8, 16]
