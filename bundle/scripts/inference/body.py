"""Where in a slice the network has work to do: the box that holds all that is not air, with a margin."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..hu import hu_to_network

#: A block whose mean lies below is air: under that of lungs, over that of noisy air, whose lowest values are clipped.
AIR_HU = -900.0
#: Side of the blocks whose means are looked at, in pixels.
BLOCK = 8
#: Share of the margin, at its rim, in which a result fades into the input.
FADE = 0.25

#: (first, end) along the rows' axis and along the columns'.
Box = tuple[tuple[int, int], tuple[int, int]]


def occupied_blocks(image: Tensor) -> Tensor:
    """Whether each block of 8 x 8 pixels of `image` (n, H, W) in network range is more than air, (n, h, w).

    Blocks cut by the right or lower side of the image count by the pixels they have.
    """
    return F.avg_pool2d(image[:, None].float(), BLOCK, ceil_mode=True)[:, 0] > hu_to_network(AIR_HU)


def body_box(occupied: Tensor, shape: tuple[int, int], margin: int, multiple: int = 1) -> Box | None:
    """The box that holds the occupied blocks of all slices with `margin` pixels around them, within the image.

    Args:
        occupied: (n, h, w), see `occupied_blocks`.
        shape: (H, W) of the image.
        multiple: the box begins at a multiple of it, and ends at one or with the image.

    Returns:
        The box; None where all is air.
    """
    if not occupied.any():
        return None
    rows, columns = (
        _extent(occupied.any(0).any(axis), length, margin, multiple) for axis, length in zip((1, 0), shape, strict=True)
    )
    return rows, columns


def _extent(occupied: Tensor, length: int, margin: int, multiple: int) -> tuple[int, int]:
    """(first, end) along one axis, from its blocks (h,)."""
    blocks = occupied.nonzero()[:, 0]
    first = max(0, int(blocks[0]) * BLOCK - margin)
    end = (int(blocks[-1]) + 1) * BLOCK + margin
    return first - first % multiple, min(length, end + -end % multiple)


def crop(image: Tensor, box: Box) -> Tensor:
    """`image` (..., H, W) within `box`, a view of it."""
    (top, bottom), (left, right) = box
    return image[..., top:bottom, left:right]


def fade(box: Box, shape: tuple[int, int], margin: int, device: torch.device) -> Tensor:
    """How much of the result counts, (h, w) of `box`: 1, and down to nearly 0 at those of its sides that cut the image.

    So no edge shows in the air, and nothing of what the network makes of the cut.
    """
    width = max(1, round(FADE * margin))
    rows, columns = (_ramp(first, end, length, width) for (first, end), length in zip(box, shape, strict=True))
    return torch.minimum(rows[:, None], columns).to(device)


def _ramp(first: int, end: int, length: int, width: int) -> Tensor:
    """Weights of the pixels from `first` to `end` of an axis of `length`; they fall over `width` pixels to a cut."""
    places = torch.arange(end - first)
    weights = torch.ones(end - first)
    if first > 0:
        weights = torch.minimum(weights, (places + 1) / (width + 1))
    if end < length:
        weights = torch.minimum(weights, (places.flip(0) + 1) / (width + 1))
    return weights
