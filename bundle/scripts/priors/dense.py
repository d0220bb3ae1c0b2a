"""Dense priors: a distribution over the descriptors at each place of a slice. Ours; the paper has one for a slice."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BioAttError


def place_embeddings(tower: nn.Module, images: Tensor) -> Tensor:
    """Embeddings of the places of `images` (n, 3, H, W) in the space of the texts, (n, E, h, w), of length 1.

    A transformer's patch token is projected as its class token is. A residual network's place is embedded as its
    attention pooling would embed the slice if it looked at that place alone, the idea of MaskCLIP (arXiv 2112.01071).
    Neither tower was trained for this: only the embedding of the whole slice was.

    Args:
        tower: the image tower of an open_clip model: timm or open_clip transformer, or residual network.

    Raises:
        BioAttError: a tower of another kind.
    """
    project = _projection(tower)
    found = tower.forward_intermediates(images, indices=1, normalize_intermediates=True, intermediates_only=True)
    features = found["image_intermediates"][-1]
    places = project(features.flatten(2).transpose(1, 2))  # (n, h w, E)
    return F.normalize(places, dim=-1).transpose(1, 2).unflatten(2, features.shape[-2:])


def _projection(tower: nn.Module) -> Callable[[Tensor], Tensor]:
    """What turns features (n, places, C) of the last layer into embeddings (n, places, E)."""
    if hasattr(tower, "attnpool") and hasattr(tower.attnpool, "v_proj"):
        pool = tower.attnpool
        return lambda x: pool.c_proj(pool.v_proj(x + pool.positional_embedding[1:]))
    if hasattr(tower, "trunk") and getattr(tower.trunk, "global_pool", None) == "token":
        return tower.head
    if getattr(tower, "pool_type", None) == "tok" and getattr(tower, "proj", None) is not None:
        return lambda x: x @ tower.proj
    raise BioAttError(
        f"an image tower of the kind {type(tower).__name__} has no dense prior: its places have no embedding; "
        "use prior_form=vector"
    )


def over_whole_slice(maps: Tensor, shape: tuple[int, int], resize_mode: str) -> Tensor:
    """Maps (n, K, h, w) of what a model saw, as maps of the whole slice with `shape` (rows, columns).

    A model sees the middle square of a slice that is not square (``shortest``), the slice within a larger square
    (``longest``), or all of it (``squash``), as open_clip resizes it. What it did not see is as its nearest place.
    """
    rows, columns = shape
    if rows == columns or resize_mode == "squash":
        return maps
    side = max(shape) if resize_mode == "longest" else min(shape)
    size = [max(1, round(count * length / side)) for count, length in zip(maps.shape[-2:], shape, strict=True)]
    scale = torch.tensor([[[columns / side, 0.0, 0.0], [0.0, rows / side, 0.0]]]).expand(len(maps), -1, -1)
    grid = F.affine_grid(scale.to(maps), [*maps.shape[:2], *size], align_corners=False)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)
