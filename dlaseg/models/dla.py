"""Deep Layer Aggregation: the backbone.

Yu, Wang, Shelhamer, Darrell, "Deep Layer Aggregation", CVPR 2018, https://arxiv.org/abs/1707.06484. Blocks are joined
by hierarchical deep aggregation inside a stage (sec. 3.2, fig. 3), stages by iterative deep aggregation (sec. 3.1).
Parameter names are those of timm's `dla.py`, so that its state dicts load as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlaseg.errors import UserError
from dlaseg.metadata import MAX_CHANNELS, MAX_CLASSES, ModelMetadata
from dlaseg.models.arguments import check_choice, check_integer
from dlaseg.models.base import TrainingOutputs
from dlaseg.models.layers import conv_level, initialize, project
from dlaseg.models.resizing import max_pool

Block = Callable[[int, int, int], nn.Module]
"""Makes a residual block from (in_channels, out_channels, stride)."""

RootBuilder = Callable[[int, int], nn.Module]
"""Builds an aggregation node of a tree from (in_channels, out_channels); the node is called as `Root` is."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """Transforms (N, in_channels, H, W) into (N, out_channels, ceil(H / stride), ceil(W / stride)).

        Args:
            x: the input, float.
            shortcut: what is added before the last ReLU, of the output's shape.
        """
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.bn2(self.conv2(x))
        return F.relu(x.add_(shortcut), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the middle has half the output's width (expansion 2).

    With `cardinality`, the ResNeXt form (Xie et al., 2017): as many groups, and a middle of
    `out_channels * cardinality / 32` channels.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the 3x3 convolution.
        cardinality: groups of the 3x3 convolution; None for a plain bottleneck.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, cardinality: int | None = None):
        super().__init__()
        width = out_channels // 2 if cardinality is None else out_channels * cardinality // 32
        groups = cardinality or 1
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """As `BasicBlock.forward`."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        x = self.bn3(self.conv3(x))
        return F.relu(x.add_(shortcut), inplace=True)


def bottleneck_x(cardinality: int) -> Block:
    """BottleneckX: `Bottleneck` in its ResNeXt form, of the given cardinality."""

    def make(in_channels: int, out_channels: int, stride: int) -> nn.Module:
        return Bottleneck(in_channels, out_channels, stride, cardinality)

    return make


class Root(nn.Module):
    """Aggregation node: N(x1, ..., xn) = relu(BN(sum_i W_i x_i) [+ xn]) (eq. 2 and 3).

    Args:
        in_channels: channels of all inputs together.
        out_channels: channels of the output.
        kernel_size: 1 as in the paper's classifiers, 3 to look at the neighbours too.
        residual: whether the last block's output is added.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, residual: bool):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.residual = residual

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Joins n tensors (N, C_i, H, W), the deepest block's first, into (N, out_channels, H, W)."""
        x = self.bn(self.conv(torch.cat(tuple(inputs), dim=1)))
        if self.residual:
            x.add_(inputs[0])
        return F.relu(x, inplace=True)


class Tree(nn.Module):
    """Hierarchical deep aggregation of 2**depth blocks (eq. 4): T_n = N(R_{n-1}, ..., R_1, L_1, L_2).

    A subtree hands its output to the next one, and to the root of the last one it leads to.

    Args:
        depth: 1 for two blocks and a root; a deeper tree is made of two trees one level less deep.
        block: makes a block from (in_channels, out_channels, stride).
        in_channels: channels of the input.
        out_channels: channels of every block and of the output.
        stride: of the first block; the shortcut is max pooled by as much.
        root: builds the aggregation nodes.
        level_root: whether the downsampled input goes to the root as well.
        passed_channels: channels of what the trees above hand to the root, 0 at the top.
    """

    def __init__(
        self,
        depth: int,
        block: Block,
        in_channels: int,
        out_channels: int,
        stride: int,
        root: RootBuilder,
        level_root: bool = False,
        passed_channels: int = 0,
    ):
        super().__init__()
        if level_root:
            passed_channels += in_channels
        self.depth = depth
        self.stride = stride
        self.level_root = level_root
        if depth == 1:
            self.tree1 = block(in_channels, out_channels, stride)
            self.tree2 = block(out_channels, out_channels, 1)
            self.root = root(2 * out_channels + passed_channels, out_channels)
            # Only here: the original also makes one in deeper trees, where nothing ever uses it.
            self.project = project(in_channels, out_channels) if in_channels != out_channels else nn.Identity()
        else:
            self.tree1 = Tree(depth - 1, block, in_channels, out_channels, stride, root)
            self.tree2 = Tree(
                depth - 1, block, out_channels, out_channels, 1, root, passed_channels=passed_channels + out_channels
            )

    def forward(self, x: Tensor, passed: Sequence[Tensor] = ()) -> Tensor:
        """Transforms (N, in_channels, H, W) into (N, out_channels, ceil(H / stride), ceil(W / stride)).

        Args:
            x: the input, float.
            passed: outputs of the subtrees before this one, for the root; each of the output's height and width.
        """
        bottom = max_pool(x, self.stride) if self.stride > 1 else x
        if self.level_root:
            passed = (*passed, bottom)
        if self.depth == 1:
            x1 = self.tree1(x, self.project(bottom))
            x2 = self.tree2(x1, x1)
            return self.root((x2, x1, *passed))
        x1 = self.tree1(x)
        return self.tree2(x1, (*passed, x1))


class DLA(nn.Module):
    """The backbone; with `num_classes`, the classifier (table 1).

    Args:
        depths: of the trees at levels 2 to 5.
        channels: widths of levels 0 to 5.
        block: makes a block from (in_channels, out_channels, stride).
        residual_root: whether aggregation nodes add their last block's output.
        in_channels: of the input image.
        num_classes: outputs of the classifier; None for a backbone without one.
        root_kernel_size: 1 or 3, see `Root`.
        root: builds the trees' aggregation nodes; None for `Root`.

    Attributes:
        in_channels: of the input.
        channels: widths of the six feature maps.
        root_kernel_size: 1 or 3.
        metadata: architecture, class names, mean and std.
    """

    def __init__(
        self,
        depths: Sequence[int],
        channels: Sequence[int],
        block: Block,
        residual_root: bool = False,
        in_channels: int = 3,
        num_classes: int | None = None,
        root_kernel_size: int = 1,
        root: RootBuilder | None = None,
    ):
        super().__init__()
        _check_sizes(num_classes, in_channels, root_kernel_size)
        self.in_channels = in_channels
        self.channels = tuple(channels)
        self.root_kernel_size = root_kernel_size
        self.metadata = ModelMetadata.for_classification(num_classes or 0, in_channels)
        c0, c1, c2, c3, c4, c5 = self.channels
        d2, d3, d4, d5 = depths
        root = root or partial(Root, kernel_size=root_kernel_size, residual=residual_root)
        self.base_layer = conv_level(in_channels, c0, kernel_size=7)
        self.level0 = conv_level(c0, c0)
        self.level1 = conv_level(c0, c1, stride=2)
        self.level2 = Tree(d2, block, c1, c2, 2, root)
        self.level3 = Tree(d3, block, c2, c3, 2, root, level_root=True)
        self.level4 = Tree(d4, block, c3, c4, 2, root, level_root=True)
        self.level5 = Tree(d5, block, c4, c5, 2, root, level_root=True)
        self.fc: nn.Conv2d | None = None
        if num_classes is not None:
            self.fc = nn.Conv2d(c5, num_classes, 1)  # a linear layer; as a convolution in every published checkpoint
        initialize(self)

    def check_input(self, x: Tensor) -> None:
        """Raises a UserError unless `x` is (N, in_channels, H, W)."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise UserError(f"input of shape {tuple(x.shape)}: this network takes (N, {self.in_channels}, H, W)")

    def features(self, x: Tensor) -> list[Tensor]:
        """The feature maps of the six levels.

        Args:
            x: (N, in_channels, H, W) float, any height and width from 1 upwards.

        Returns:
            Level i: (N, channels[i], ceil(H / 2**i), ceil(W / 2**i)).
        """
        self.check_input(x)
        x = self.base_layer(x)
        features = []
        for level in (self.level0, self.level1, self.level2, self.level3, self.level4, self.level5):
            x = level(x)
            features.append(x)
        return features

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Class logits (N, num_classes) of a classifier, or the `features` of a backbone."""
        features = self.features(x)
        if self.fc is None:
            return features
        return self.fc(F.adaptive_avg_pool2d(features[-1], 1)).flatten(1)

    def training_outputs(self, x: Tensor) -> TrainingOutputs:
        """A classifier's logits, (N, num_classes); `x` as for `features`."""
        logits = self.forward(x)
        assert isinstance(logits, Tensor)
        return TrainingOutputs(logits)


def _check_sizes(num_classes: Any, in_channels: Any, root_kernel_size: Any) -> None:
    if num_classes is not None:
        check_integer("num_classes", num_classes, 1, MAX_CLASSES)
    check_integer("in_channels", in_channels, 1, MAX_CHANNELS)
    check_choice("root_kernel_size", root_kernel_size, (1, 3))


_WIDE = (16, 32, 128, 256, 512, 1024)
_COMPACT = (16, 32, 64, 64, 128, 256)

# Table 1 of the paper: depths of levels 2 to 5, widths of levels 0 to 5, block, residual roots.
VARIANTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Block, bool]] = {
    "dla34": ((1, 2, 2, 1), (16, 32, 64, 128, 256, 512), BasicBlock, False),
    "dla46_c": ((1, 2, 2, 1), _COMPACT, Bottleneck, False),
    "dla46x_c": ((1, 2, 2, 1), _COMPACT, bottleneck_x(32), False),
    "dla60x_c": ((1, 2, 3, 1), _COMPACT, bottleneck_x(32), False),
    "dla60": ((1, 2, 3, 1), _WIDE, Bottleneck, False),
    "dla60x": ((1, 2, 3, 1), _WIDE, bottleneck_x(32), False),
    "dla102": ((1, 3, 4, 1), _WIDE, Bottleneck, True),
    "dla102x": ((1, 3, 4, 1), _WIDE, bottleneck_x(32), True),
    "dla102x2": ((1, 3, 4, 1), _WIDE, bottleneck_x(64), True),
    "dla169": ((2, 3, 5, 1), _WIDE, Bottleneck, True),
}


def check_backbone(name: Any, num_classes: Any, in_channels: Any, root_kernel_size: Any) -> None:
    """Checks the arguments of `build_backbone`, also their types.

    Raises:
        UserError: names the argument.
    """
    if not isinstance(name, str) or name not in VARIANTS:
        raise UserError(f"model {name!r:.80}: unknown; the variants are {', '.join(VARIANTS)}")
    _check_sizes(num_classes, in_channels, root_kernel_size)


def build_backbone(name: str, num_classes: int | None = None, in_channels: int = 3, root_kernel_size: int = 1) -> DLA:
    """A randomly initialised variant; arguments and errors as for `dlaseg.create_backbone`."""
    check_backbone(name, num_classes, in_channels, root_kernel_size)
    depths, channels, block, residual_root = VARIANTS[name]
    backbone = DLA(depths, channels, block, residual_root, in_channels, num_classes, root_kernel_size)
    architecture = {
        "name": name,
        "num_classes": num_classes,
        "in_channels": in_channels,
        "root_kernel_size": root_kernel_size,
    }
    backbone.metadata = replace(backbone.metadata, architecture=architecture)
    return backbone
