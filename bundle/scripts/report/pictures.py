"""Pictures of slices and maps as data URIs, and the colours that all plots share."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..hu import to_window
from ..inference.inferers import network_input
from ..networks import Denoiser

#: Okabe and Ito's colours, told apart by the colour-blind; and the two of "before" and "after".
OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")
BEFORE, AFTER = "#D55E00", "#0072B2"
#: Of maps: light is high, also without colour.
COLOUR_MAP = "viridis"


def grey_picture(image: np.ndarray, limits: tuple[float, float]) -> str:
    """`image` (H, W) in grey from black at the lower of `limits` to white at the upper one."""
    return png((to_window(image, limits) * 255).round().astype(np.uint8))


def colour_picture(values: np.ndarray, limits: tuple[float, float]) -> str:
    """`values` (H, W) in the colour map, dark at the lower of `limits`."""
    return png(_colours(to_window(values, limits)))


def overlay_picture(grey: np.ndarray, values: np.ndarray, limits: tuple[float, float], opacity: float = 0.6) -> str:
    """`values` (H, W) in the colour map over `grey` (H, W) in [0, 1]."""
    colours = _colours(to_window(values, limits))
    mixed = opacity * colours + (1 - opacity) * 255 * grey[..., None]
    return png(mixed.round().astype(np.uint8))


def bar_picture(colour: bool) -> str:
    """A scale from low to high, 256 x 1 pixels, in the colour map or in grey."""
    ramp = np.linspace(0.0, 1.0, 256)[None]
    return colour_picture(ramp, (0.0, 1.0)) if colour else grey_picture(ramp, (0.0, 1.0))


def png(pixels: np.ndarray) -> str:
    """A data URI of uint8 (H, W) or (H, W, 3)."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def slice_attention(network: Denoiser, image_hu: np.ndarray, prior: Tensor) -> dict[str, Tensor]:
    """The ``attention_maps`` of a network for one slice (H, W), each (K, h, w), by the prior of that slice."""
    place = next(network.parameters())
    image, _ = network_input(torch.from_numpy(image_hu).to(place)[None])
    with torch.inference_mode():
        maps = network.attention_maps(image, prior.to(place)[None])
    return {name: block[0].float().cpu() for name, block in maps.items()}


def on_image(maps: Tensor, grid: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Attention maps brought to the pixels of their image, by nearest neighbour.

    Args:
        maps: (K, h, w).
        grid: pixels of the image that one of a map covers, and where in the image the first begins.
        shape: (H, W) of the image.

    Returns:
        (K, H, W); NaN where the image has no map (the margin of unpadded convolutions).
    """
    step, start = grid
    large = maps.repeat_interleave(step, dim=1).repeat_interleave(step, dim=2)
    bottom, right = (max(0, side - start - got) for side, got in zip(shape, large.shape[1:], strict=True))
    padded = F.pad(large, [start, right, start, bottom], value=float("nan"))
    return padded[:, : shape[0], : shape[1]]


def map_limits(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """Limits of the colours of a block's maps, each (H, W): their 1st and 99th percentile."""
    lower, upper = (float(limit) for limit in np.nanpercentile(np.stack(maps), (1, 99)))
    return lower, max(upper, lower + 1e-3)


def shrunk(image: np.ndarray, longest: int) -> np.ndarray:
    """`image` (H, W) averaged down until no side is over `longest` pixels; NaN counts as the mean of the rest."""
    factor = max(image.shape) / longest
    filled = np.nan_to_num(image, nan=float(np.nanmean(image)))
    if factor <= 1:
        return filled
    shape = [max(1, round(side / factor)) for side in image.shape]
    return F.interpolate(torch.from_numpy(filled)[None, None].float(), size=shape, mode="area")[0, 0].numpy()


def _colours(values: np.ndarray) -> np.ndarray:
    """RGB uint8 of values in [0, 1]; NaN as the lowest."""
    from matplotlib import colormaps

    return (colormaps[COLOUR_MAP](np.nan_to_num(values))[..., :3] * 255).round().astype(np.uint8)
