"""The 3x3 convolution and its weight gradient with half the multiplications, in channels_last.

Along a row, the minimal filtering algorithm F(4, 3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", CVPR 2016, https://arxiv.org/abs/1509.09308, sec. 4) computes four outputs from six products instead of
twelve: y = A (G w * B x), for six inputs x, three taps w and four outputs y of a row. Along a column, the three taps
are summed as usual. So a convolution becomes six 3x1 convolutions of maps a quarter as wide, which torch computes.

All functions have stride 1 and padding 1. Errors are about three times those of a direct convolution.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

TILE = 4

# G: maps the three taps of a row to the weights of six products.
_TAPS_TO_PRODUCTS = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """The convolution.

    Args:
        x: (N, C, H, W) float, channels_last.
        weight: (K, C, 3, 3).

    Returns:
        (N, K, H, W), channels_last.
    """
    inputs = input_products(x)  # (6, N, H, T, C)
    taps = torch.tensordot(_products(weight), weight.permute(0, 2, 3, 1), ([1], [2]))  # (6, K, 3, C)
    products = [
        F.conv2d(tile.permute(0, 3, 1, 2), column.transpose(1, 2).unsqueeze(3), padding=(1, 0)).permute(0, 2, 3, 1)
        for tile, column in zip(inputs, taps, strict=True)
    ]
    return outputs(products)[:, :, :, : x.shape[3]].contiguous(memory_format=torch.channels_last)


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the convolution's weight.

    Args:
        x: the convolution's input, (N, C, H, W) float, channels_last.
        grad: the gradient of its output, (N, K, H, W) float, channels_last.

    Returns:
        (K, C, 3, 3).
    """
    batch, channels, height, _ = x.shape
    inputs = input_products(x).flatten(0, 1)  # (6 N, H, T, C)
    gradients = output_gradients(grad).flatten(0, 1)  # (6 N, H, T, K)
    rows = []
    for offset in (-1, 0, 1):  # row of the tap: input row minus output row
        tap_inputs = inputs[:, max(offset, 0) : height + min(offset, 0)].flatten(1, 2)  # (6 N, pixels, C)
        tap_gradients = gradients[:, max(-offset, 0) : height + min(-offset, 0)].flatten(1, 2)  # (6 N, pixels, K)
        products = torch.bmm(tap_inputs.transpose(1, 2), tap_gradients)  # (6 N, C, K)
        rows.append(products.view(6, batch, channels, -1).sum(1))  # (6, C, K)
    gradient = torch.tensordot(torch.stack(rows), _products(x), ([1], [0]))  # (3, C, K, 3)
    return gradient.permute(2, 1, 0, 3).contiguous(memory_format=torch.channels_last)


def input_products(x: Tensor) -> Tensor:
    """B x: the inputs of the six products of each row, (N, C, H, W) -> (6, N, H, ceil(W / 4), C).

    Tile t of a row uses x0 .. x5 at columns 4 t - 1 .. 4 t + 4, zero outside the map.
    """
    tiles = _tiles(x)  # (N, H, T, 4, C)
    x1, x2, x3, x4 = tiles.unbind(3)  # x0 is x4 of the previous tile, x5 is x1 of the next tile
    products = x.new_empty(6, *x1.shape)
    pair = torch.sub(tiles[:, :, :, 2:], tiles[:, :, :, :2], alpha=4)  # x3 - 4 x1, x4 - 4 x2
    odd, even = pair.unbind(3)
    torch.add(even, odd, out=products[1])
    torch.sub(even, odd, out=products[2])
    torch.sub(tiles[:, :, :, 2:], tiles[:, :, :, :2], out=pair)  # x3 - x1, x4 - x2
    torch.add(even, odd, alpha=2, out=products[3])
    torch.sub(even, odd, alpha=2, out=products[4])
    first, last = products[0], products[5]
    torch.sub(x4[:, :, :-1], x2[:, :, 1:], out=first[:, :, 1:])
    torch.neg(x2[:, :, 0], out=first[:, :, 0])
    torch.add(even, first, alpha=4, out=first)  # x4 - x2 + 4 (x0 - x2)
    torch.sub(x1[:, :, 1:], x3[:, :, :-1], out=last[:, :, :-1])
    torch.neg(x3[:, :, -1], out=last[:, :, -1])
    last.sub_(odd, alpha=4)  # x5 - x3 - 4 (x3 - x1)
    return products


def outputs(products: list[Tensor]) -> Tensor:
    """A m: the rows of the output from the six products, each (N, H, T, K) -> (N, K, H, 4 T), channels_last."""
    first, plus1, minus1, plus2, minus2, last = products
    batch, height, tiles, channels = first.shape
    y = first.new_empty(batch, height, tiles, TILE, channels)
    even1, odd1, even2, odd2 = plus1 + minus1, plus1 - minus1, plus2 + minus2, plus2 - minus2
    torch.add(odd1, odd2, alpha=2, out=y[:, :, :, 1])
    torch.add(even1, even2, alpha=4, out=y[:, :, :, 2])
    torch.add(even1.add_(even2), first, out=y[:, :, :, 0])
    torch.add(odd1.add_(odd2, alpha=8), last, out=y[:, :, :, 3])
    return y.flatten(2, 3).permute(0, 3, 1, 2)


def output_gradients(grad: Tensor) -> Tensor:
    """The transpose of `outputs`: the products' gradients, (N, K, H, W) -> (6, N, H, ceil(W / 4), K)."""
    y0, y1, y2, y3 = _tiles(grad).unbind(3)
    gradients = grad.new_empty(6, *y0.shape)
    gradients[0], gradients[5] = y0, y3
    even, odd = y0 + y2, y1 + y3
    torch.add(even, odd, out=gradients[1])
    torch.sub(even, odd, out=gradients[2])
    torch.add(y0, y2, alpha=4, out=even)
    torch.add(y1, y3, alpha=4, out=odd)
    torch.add(even, odd, alpha=2, out=gradients[3])  # y0 + 4 y2 + 2 y1 + 8 y3
    torch.sub(even, odd, alpha=2, out=gradients[4])
    return gradients


def _tiles(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, ceil(W / 4), 4, C), padded with zeros."""
    missing = -x.shape[3] % TILE
    if missing:
        x = F.pad(x, (0, missing))
    x = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)  # (N, H, W, C)
    return x.unflatten(2, (-1, TILE))


def _products(like: Tensor) -> Tensor:
    return torch.tensor(_TAPS_TO_PRODUCTS, dtype=like.dtype, device=like.device)
