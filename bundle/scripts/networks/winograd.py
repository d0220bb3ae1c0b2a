"""The same convolutions with fewer multiplications, for processors: Winograd's algorithm."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Output rows of a tile, and for kernels of 3 columns too: m of Winograd's F(m, r) and F(m x m, r x r).
TILE = 4
#: Where the polynomials are evaluated besides infinity, by width of the kernels. Those for 3 leave the least rounding
#: error of the pairs tried (docs/performance.md); those for 5 are powers of two, so that rounding stays small.
_POINTS = {3: (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2), 5: (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)}
#: The point 1, whose product goes into all rows with the factor 1: so the bias is added there.
_EVEN_POINT = 1
#: Tiles down the rows at a time: what is made of them stays in the caches, and the products are large enough.
_TILES_AT_A_TIME = {3: 4, 5: 16}
#: By width of the kernels; with fewer feature maps the transforms cost more than they save.
_LEAST_CHANNELS = {3: 64, 5: 32}


def use_winograd(network: nn.Module) -> nn.Module:
    """Put `WinogradConv2d` and `WinogradConvTranspose2d` in the places of layers that they compute faster, in place.

    Names and values of parameters stay as they are, and so does the output but for rounding.

    Returns:
        The network itself.
    """
    for name, child in network.named_children():
        for kind in (WinogradConv2d, WinogradConvTranspose2d):
            if type(child) is kind.__base__ and kind.suits(child):
                setattr(network, name, kind(child))
        use_winograd(child)
    return network


def winograd_conv2d(image: Tensor, weight: Tensor, bias: Tensor | None, padding: int = 0) -> Tensor:
    """``conv2d(image, weight, bias, padding=padding)`` by F(4 x 4, 3 x 3), or F(4, 5) down the rows; stride 1.

    ::

        n x n pixels --BT d B--> n x n pixels --products with kernels of their own--> --AT m A--> 4 x 4 pixels
        n rows --BT--> n rows --1 x 5 convolution, each with kernels of its own--> --AT--> 4 rows

    With n = 4 + r - 1 that is 4 times fewer multiplications for kernels of 3, and 2.5 times fewer for kernels of 5. In
    both dimensions the latter would be 6 times fewer, but leave four times the rounding error.

    Args:
        image: (B, C, H, W), float32, on the CPU; fastest in channels_last.
        weight: (D, C, r, r), r 3 or 5.
        bias: (D,) or None.
        padding: zeros on all four sides, at most r - 1. At least 4 rows must come out.

    Returns:
        (B, D, H', W') in channels_last.

    Source: Winograd, Arithmetic Complexity of Computations, SIAM 1980; Lavin and Gray, CVPR 2016, section 4.
    """
    convolve = _in_both_dimensions if weight.shape[-1] == 3 else _down_the_rows
    return convolve(image, weight, bias, padding)


def _in_both_dimensions(image: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Tiles of n x n pixels of `image`, a band of them at a time: one product of matrices for each of their n x n."""
    maps, channels, size = weight.shape[:3]
    to_output, from_kernel, from_image = _transforms_of_tiles(size)
    points, side = len(from_image), TILE + size - 1
    kernels = torch.mm(from_kernel, weight.permute(2, 3, 1, 0).reshape(size**2, -1)).view(points, channels, maps)
    height, width = (length + 2 * padding - size + 1 for length in image.shape[-2:])
    down, across = -(-height // TILE), -(-width // TILE)
    band = min(down, _TILES_AT_A_TIME[size])
    rows = torch.zeros(band * TILE + size - 1, across * TILE + size - 1, channels)
    row, column, _ = rows.stride()
    tiles = rows.as_strided((side, side, band, across, channels), (row, column, TILE * row, TILE * column, 1))
    pixels, spectra = torch.empty(tiles.shape), torch.empty(points, band * across, channels)
    products = torch.empty(points, band * across, maps)
    found = torch.empty(TILE, TILE, band, across, maps)
    shift = torch.zeros(()) if bias is None else bias
    result = torch.empty(len(image), down * TILE, across * TILE, maps)
    for item, out in zip(image.permute(0, 2, 3, 1), result, strict=True):
        for first in range(0, down, band):
            first = min(first, down - band)  # the last band may overlap the one before
            top = first * TILE - padding
            begin, end = max(top, 0), min(top + len(rows), len(item))  # rows beyond the image are zero
            rows[: begin - top].zero_()
            rows[end - top :].zero_()
            rows[begin - top : end - top, padding : padding + item.shape[1]] = item[begin:end]
            pixels.copy_(tiles)
            torch.mm(from_image, pixels.view(points, -1), out=spectra.view(points, -1))
            torch.bmm(spectra, kernels, out=products)
            torch.mm(to_output, products.view(points, -1), out=found.view(TILE**2, -1))
            band_of_out = out[first * TILE : (first + band) * TILE].view(band, TILE, across, TILE, maps)
            torch.add(found.permute(2, 0, 3, 1, 4), shift, out=band_of_out)
    return result[:, :height, :width].permute(0, 3, 1, 2)


def _down_the_rows(image: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Tiles of n rows of `image`, some at a time, and a convolution across for each of their n."""
    size = weight.shape[-1]
    output_transform, kernel_transform, input_transform = _transforms(size)
    # (points, D, C, 1, r): the kernels' columns, transformed; tiny beside the convolutions, so made anew each time
    kernels = torch.einsum("pi,dcij->pdcj", kernel_transform, weight)[:, :, :, None]
    kernels = [kernel.contiguous(memory_format=torch.channels_last) for kernel in kernels]
    rows, columns = (side + 2 * padding - size + 1 for side in image.shape[-2:])
    result = torch.empty(len(image), rows, columns, len(weight))
    for item, out in zip(image.permute(0, 2, 3, 1).contiguous(), result, strict=True):
        for first in range(0, rows, TILE * _TILES_AT_A_TIME[size]):
            last = min(first + TILE * _TILES_AT_A_TIME[size], rows)
            starts = [min(start, rows - TILE) for start in range(first, last, TILE)]  # the last tile may overlap
            points = _to_points(item, starts, padding, input_transform)
            products = torch.empty(*points.shape[:2], columns, len(weight))
            for index, (product, point, kernel) in enumerate(zip(products, points, kernels, strict=True)):
                shift = bias if index == _EVEN_POINT else None
                found = F.conv2d(point.permute(2, 0, 1)[None], kernel, shift, padding=(0, padding))
                product.copy_(found[0].permute(1, 2, 0))
            for index, start in enumerate(starts):
                tile = out[start : start + TILE].view(TILE, -1)
                torch.mm(output_transform, products[:, index].view(len(products), -1), out=tile)
    return result.permute(0, 3, 1, 2)


def _to_points(item: Tensor, starts: list[int], padding: int, transform: Tensor) -> Tensor:
    """Rows of `item` (H, W, C) for the tiles that begin at output rows `starts`, transformed: (points, tiles, W, C)."""
    points = torch.empty(len(transform), len(starts), *item.shape[1:])
    for index, start in enumerate(starts):
        first = start - padding
        inside = slice(max(0, first), min(len(item), first + len(transform)))  # rows beyond the image are zero
        part = transform[:, inside.start - first : inside.stop - first]
        rows = item[inside]
        torch.mm(part, rows.view(len(rows), -1), out=points[:, index].view(len(points), -1))
    return points


@cache
def _transforms_of_tiles(size: int) -> tuple[Tensor, ...]:
    """`_transforms` in both dimensions at once, for tiles as columns of their pixels: Kronecker products."""
    return tuple(torch.kron(matrix, matrix) for matrix in _transforms(size))


@cache
def _transforms(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """AT (4, n), G (n, r) and BT (n, n) of F(4, r), n = 4 + r - 1, so that y = AT ((G g) * (BT d)).

    By Toom and Cook: to multiply polynomials, evaluate both at n points, multiply, and interpolate; a filter is the
    transpose of that. The rows of G are scaled to a sum of about 1, by powers of two, and those of BT back.
    """

    def evaluate(terms: int) -> np.ndarray:
        at_infinity = np.eye(terms)[-1]
        return np.array([*(point ** np.arange(terms) for point in _POINTS[size]), at_infinity])

    scale = 2.0 ** np.round(np.log2(np.abs(evaluate(size)).sum(axis=1)))[:, None]
    matrices = evaluate(TILE).T, evaluate(size) / scale, np.linalg.inv(evaluate(TILE + size - 1)).T * scale
    output, kernel, image = (torch.tensor(matrix, dtype=torch.float32) for matrix in matrices)
    return output, kernel, image


def _pays(x: Tensor, rows: int) -> bool:
    """Whether an input is one that the fast algorithm takes: else the layer is computed as ever."""
    return (
        not (torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing())
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and rows >= 2 * TILE
    )


class WinogradConv2d(nn.Conv2d):
    """An nn.Conv2d that infers by `winograd_conv2d`; it trains, scripts and exports as the layer it was made of.

    Args:
        layer: gives its parameters; see `suits`.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding, device="meta")
        self.weight, self.bias = layer.weight, layer.bias

    @staticmethod
    def suits(layer: nn.Conv2d) -> bool:
        """Whether `layer` is a convolution of a kind that gains."""
        return _is_plain(layer) and layer.padding[0] == layer.padding[1] < layer.kernel_size[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return what nn.Conv2d returns."""
        if not torch.jit.is_scripting():
            if _pays(x, x.shape[-2] + 2 * self.padding[0] - self.kernel_size[0] + 1):
                return winograd_conv2d(x, self.weight, self.bias, self.padding[0])
        return F.conv2d(x, self.weight, self.bias, padding=self.padding)


class WinogradConvTranspose2d(nn.ConvTranspose2d):
    """An nn.ConvTranspose2d that infers by `winograd_conv2d`, with its kernels turned; see `WinogradConv2d`."""

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__(layer.in_channels, layer.out_channels, layer.kernel_size, device="meta")
        self.weight, self.bias = layer.weight, layer.bias

    @staticmethod
    def suits(layer: nn.ConvTranspose2d) -> bool:
        """Whether `layer` is a transposed convolution of a kind that gains."""
        return _is_plain(layer) and layer.padding == layer.output_padding == (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Return what nn.ConvTranspose2d returns."""
        if not torch.jit.is_scripting():
            margin = self.kernel_size[0] - 1
            if _pays(x, x.shape[-2] + margin):
                return winograd_conv2d(x, self.weight.transpose(0, 1).flip(2, 3), self.bias, margin)
        return F.conv_transpose2d(x, self.weight, self.bias)


def _is_plain(layer: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Square kernels of 3 or 5, no stride, dilation or groups, and enough feature maps on both sides."""
    return (
        torch.backends.mkldnn.is_available()
        and layer.kernel_size in ((3, 3), (5, 5))
        and layer.stride == layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and min(layer.in_channels, layer.out_channels) >= _LEAST_CHANNELS[layer.kernel_size[0]]
    )
