"""Anchoring: what is coarse in a result comes from the scanner, whatever the network does (docs/adr)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import BioAttError
from ..strengths import Strength

#: Where the Gaussian is cut, in SD.
TRUNCATE = 4.0


def anchored(
    image: Tensor, output: Tensor, inside: Tensor, spacing_mm: tuple[float, float], strength: Strength
) -> Tensor:
    """Leave to the network only what is finer than the anchor.

    ::

        result = G(image) + (1 - G)(output + grain * (image - output))
               = image - (1 - grain) * (1 - G)(image - output)

    G is a Gaussian of SD `anchor_mm` in the plane. Only pixels `inside` count, and its weights sum to 1 over them: at
    the border of the image, and beside padding and metal, it sees the body and nothing else. The second line is the
    first, since G is linear; it needs one Gaussian, and none where the network changes nothing.

    So of what the network does at spatial frequency f (1/mm) the share ``1 - exp(-2 pi^2 anchor_mm^2 f^2)`` is left,
    times ``1 - grain``. The mean of a region of area A and perimeter P moves by at most
    ``sqrt(2 / pi) * anchor_mm * P / A`` of the largest change that the network makes near its edge.

    Args:
        image: (n, H, W), what the network was shown, finite.
        output: (n, H, W), what it made of it, in the same unit.
        inside: (n, H, W), bool: where the result is wanted.
        spacing_mm: of rows (along H) and of columns (along W).

    Returns:
        (n, H, W) float32; where not `inside`, the image.

    Raises:
        BioAttError: the spacing is not known.
    """
    change = torch.where(inside, image - output, 0.0).float()
    sigmas = [strength.anchor_mm / spacing for spacing in checked_spacing(spacing_mm)]
    coarse = smooth(change, sigmas).div_(weights_inside(inside, sigmas))
    fine = torch.where(inside, change.sub_(coarse), 0.0)
    return torch.sub(image.float(), fine, alpha=1 - strength.grain)


def reach(spacing_mm: tuple[float, float], strength: Strength) -> int:
    """How far away a pixel may lie and still move an anchored one, in pixels."""
    return int(TRUNCATE * strength.anchor_mm / min(spacing_mm) + 0.5)


def checked_spacing(spacing_mm: tuple[float, float] | None) -> tuple[float, float]:
    """`spacing_mm` if it is known and makes sense.

    Raises:
        BioAttError: it does not.
    """
    if spacing_mm is None or not all(math.isfinite(one) and one > 0 for one in spacing_mm):
        raise BioAttError(
            f"the pixel spacing is {spacing_mm} mm, and the anchor is in mm; give a MetaTensor with an affine, or the "
            "inferer a spacing_mm (rows, columns)"
        )
    rows, columns = spacing_mm
    return float(rows), float(columns)


def smooth(image: Tensor, sigmas: list[float]) -> Tensor:
    """Gaussian of `sigmas` pixels along the last axes of `image`, as many as there are sigmas; 0 outside it.

    Sums of shifted images: on one thread at least twice as fast as convolutions with one channel, and in full float32
    on any device.
    """
    for axis, sigma in zip(range(-len(sigmas), 0), sigmas, strict=True):
        length = image.shape[axis]
        weights = _gaussian(sigma)[:length]
        total = image * weights[0]
        for shift, weight in enumerate(weights[1:], 1):
            total.narrow(axis, shift, length - shift).add_(image.narrow(axis, 0, length - shift), alpha=weight)
            total.narrow(axis, 0, length - shift).add_(image.narrow(axis, shift, length - shift), alpha=weight)
        image = total
    return image


def _gaussian(sigma: float) -> list[float]:
    """Weights at 0, 1, 2, ... pixels; the whole kernel sums to 1."""
    half = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(int(TRUNCATE * sigma + 0.5) + 1)]
    total = half[0] + 2 * sum(half[1:])
    return [weight / total for weight in half]


def weights_inside(inside: Tensor, sigmas: list[float]) -> Tensor:
    """How much of the Gaussian lies inside, for each pixel; never 0."""
    if inside.all():
        rows, columns = (inside.new_ones(length, dtype=torch.float32) for length in inside.shape[-2:])
        return smooth(rows, sigmas[:1])[:, None] * smooth(columns, sigmas[1:])
    return smooth(inside.float(), sigmas).clamp_min_(torch.finfo(torch.float32).tiny)
