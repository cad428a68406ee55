import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dlaseg import create_backbone
from dlaseg.models.ida import BilinearUpsample, ConcatNode, DLAUp, IDAUp
from dlaseg.models.segmenter import DLASeg


def pyramid(channels, height=32, width=48):
    """Feature maps, the finest first, each half as large as the one before."""
    return [torch.randn(2, c, height >> i, width >> i) for i, c in enumerate(channels)]


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_upsampling_starts_as_bilinear_interpolation_inside_the_border(factor):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6, 7)
    theirs = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    with torch.no_grad():
        ours = BilinearUpsample(5, factor)(x)
    inside = (..., slice(factor, -factor), slice(factor, -factor))
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours[inside], theirs[inside], rtol=0, atol=1e-6)


def test_upsampling_keeps_channels_apart():
    x = torch.zeros(1, 3, 4, 4)
    x[:, 1] = 1
    with torch.no_grad():
        sums = BilinearUpsample(3)(x).sum((0, 2, 3))
    assert sums[0] == sums[2] == 0 < sums[1]


class Dtypes(TorchDispatchMode):
    """Records the type that convolutions are computed in."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default):
            self.seen.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=["autocast", "bfloat16_weights"])
def test_bfloat16_is_upsampled_in_float32_on_cpus(factor, stored):
    torch.manual_seed(0)
    ours = BilinearUpsample(5, factor)
    with torch.no_grad():
        ours.weight.normal_()
        ours.to(stored)
    theirs = nn.ConvTranspose2d(5, 5, 2 * factor, stride=factor, padding=factor // 2, groups=5, bias=False).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 6, 7).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    exact = x.detach().double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=stored == torch.float32), Dtypes() as dtypes:
        y = ours(x)
        grad = torch.randn_like(y)
        y.backward(grad)
    expected = theirs(exact)
    expected.backward(grad.double())
    assert dtypes.seen == [torch.float32] * 2
    assert y.dtype == x.grad.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected.bfloat16(), rtol=2**-8, atol=0)
    torch.testing.assert_close(x.grad, exact.grad.bfloat16(), rtol=2**-8, atol=0)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad.to(stored), rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("factor", [-2, 0, 1, 3, 5])
def test_a_factor_without_a_symmetric_kernel_is_refused(factor):
    with pytest.raises(ValueError, match=f"factor {factor}.*even"):
        BilinearUpsample(4, factor)


def test_ida_joins_one_map_after_the_other():
    torch.manual_seed(0)
    ida = IDAUp([4, 6, 4], 4).eval()
    fine, *deeper = pyramid([4, 6])
    deeper.append(torch.randn(2, 4, 16, 24))
    with torch.no_grad():
        first = ida.node[0](fine, ida.up[0](ida.proj[0](deeper[0])))
        second = ida.node[1](first, ida.up[1](ida.proj[1](deeper[1])))
        torch.testing.assert_close(ida([fine, *deeper]), [first, second])


def test_ida_projects_only_what_has_another_width():
    ida = IDAUp([4, 6, 4], 4)
    assert [isinstance(proj, nn.Identity) for proj in ida.proj] == [False, True]


def iterate(ida, maps):
    """I(x1, ..., xn) = I(N(x1, x2), ..., xn) over an `IDAUp`'s own layers: every node's output, in order."""
    x, outputs = maps[0], []
    for i in range(len(maps) - 1):
        x = ida.node[i](x, ida.up[i](ida.proj[i](maps[i + 1])))
        outputs.append(x)
    return outputs


@pytest.mark.parametrize("channels", [[4, 8], [4, 8, 16], [4, 8, 8, 16], [4, 8, 16, 16, 32]])
def test_the_decoder_equals_the_recursion_written_out(channels):
    torch.manual_seed(0)
    decoder, features = DLAUp(channels).eval(), pyramid(channels)
    row = features[-1:]
    with torch.no_grad():
        for ida, feature in zip(decoder.ida, reversed(features[:-1]), strict=True):
            row = [feature, *iterate(ida, [feature, *row])]
        torch.testing.assert_close(decoder(features), row[-1])


def test_the_decoder_of_three_levels_is_three_nodes():
    torch.manual_seed(0)
    decoder = DLAUp([4, 8, 16]).eval()
    x1, x2, x3 = pyramid([4, 8, 16])
    inner, outer = decoder.ida

    def node(ida, i, fine, deep):
        return ida.node[i](fine, ida.up[i](ida.proj[i](deep)))

    with torch.no_grad():
        expected = node(outer, 1, node(outer, 0, x1, x2), node(inner, 0, x2, x3))
        torch.testing.assert_close(decoder([x1, x2, x3]), expected)


@pytest.mark.parametrize("channels", [[4, 8], [16, 8, 4], [4, 8, 16, 32, 64]])
def test_the_decoder_answers_in_the_finest_maps_shape(channels):
    features = pyramid(channels)
    assert DLAUp(channels)(features).shape == features[0].shape


def test_the_decoder_leaves_the_callers_list_as_it_was():
    channels = [4, 8, 16]
    features = pyramid(channels)
    before, copies = list(features), [f.clone() for f in features]
    decoder = DLAUp(channels)
    decoder(features)
    assert channels == [4, 8, 16]
    assert all(a is b for a, b in zip(features, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(features, copies, strict=True))


def test_a_node_is_a_convolution_of_both_inputs_batch_norm_and_relu():
    torch.manual_seed(0)
    node = ConcatNode(4).eval()
    node[1].running_mean.normal_()
    node[1].running_var.uniform_(0.5, 2)
    x, deeper = torch.randn(2, 4, 6, 5), torch.randn(2, 4, 6, 5)
    conv, norm, relu = node
    with torch.no_grad():
        torch.testing.assert_close(node(x, deeper), relu(norm(conv(torch.cat([x, deeper], dim=1)))))
    assert {name.split(".")[0] for name in node.state_dict()} == {"0", "1"}  # as in published weights


def test_the_decoder_takes_any_node():
    class Gate(nn.Module):
        """Another family's node: no concatenation."""

        def __init__(self, channels):
            super().__init__()
            self.channels = channels
            self.gate = nn.Conv2d(channels, 1, 1)

        def forward(self, x, deeper):
            share = self.gate(x).sigmoid()
            return share * x + (1 - share) * deeper

    channels = [4, 8, 16]
    decoder = DLAUp(channels, Gate)
    assert [node.channels for ida in decoder.ida for node in ida.node] == [8, 4, 4]
    assert decoder(pyramid(channels)).shape == pyramid(channels)[0].shape
    model = DLASeg(create_backbone("dla46_c"), num_classes=3, stride=4, node=Gate)
    assert model(torch.zeros(1, 3, 33, 40)).shape == (1, 3, 33, 40)
