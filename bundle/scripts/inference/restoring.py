"""Restoring: detail that the network took off, given back where it can be distinguished from noise (docs/adr/0021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..strengths import Strength
from .anchoring import checked_spacing, smooth, weights_inside

#: What is finer than a Gaussian of this SD in mm is detail.
DETAIL_MM = 1.4
#: SD in mm of the Gaussian over which what was taken off is compared with the detail that is left.
WINDOW_MM = 5.0
#: Largest share of its own detail that even tissue is given.
EVEN_SHARE = 0.1
#: What noise alone adds to the share beside strong edges, where the network lets more of it through.
NOISE_SHARE = 0.12
#: Side in pixels of the blocks that are compared: the share changes slowly, so it is found on a coarser grid.
BLOCK = 4


def restored(
    image: Tensor, result: Tensor, inside: Tensor, tissue: Tensor, spacing_mm: tuple[float, float], strength: Strength
) -> Tensor:
    """Give back detail, as far as what was taken off looks like the detail that is left.

    ::

        detail = (1 - G) result,    taken = image - result
        share  = (<taken, detail> - noise_share <detail, detail> - offset) / (<detail, detail> + noise),  in [0, 1]
        out    = result + restore * share * detail

    G is a Gaussian of SD `DETAIL_MM` in the plane, and ``< , >`` the mean of products over one of `WINDOW_MM`. Of a
    lesion, a vessel or an edge that the network flattened, what was taken off looks like what is left, and `share` is
    nearly that of a least-squares fit of ``taken`` by ``detail``; noise that was taken off hardly does. ``noise`` is
    the median of ``<detail, detail>`` over `tissue`, most of which is even: detail that does not stand out of it is
    given little. ``offset`` lowers the share so that in even tissue, where what is left of the noise looks a little
    like what was taken off, it is `EVEN_SHARE` in the median, or less; ``noise_share`` does so at strong edges.

    Nothing is added that is not in the result: the share is never negative, so detail changes its size and not its
    sign, and where the network took nothing off, the result stays.

    Args:
        image: (n, H, W), what the network was shown, finite.
        result: (n, H, W), the anchored output, in the same unit.
        inside: (n, H, W), bool: where the result is wanted.
        tissue: (n, H, W), bool: soft tissue and what is denser.
        spacing_mm: of rows (along H) and of columns (along W).
        strength: see there; its `restore` says how much of all this.

    Returns:
        (n, H, W); where not `inside`, the result as it was.

    Raises:
        BioAttError: the spacing is not known.
    """
    if not strength.restore:
        return result
    spacing_mm = checked_spacing(spacing_mm)
    sigmas, windows = ([mm / spacing for spacing in spacing_mm] for mm in (DETAIL_MM, WINDOW_MM / BLOCK))
    kept = torch.where(inside, result, 0.0)
    detail = torch.where(inside, kept - smooth(kept, sigmas).div_(weights_inside(inside, sigmas)), 0.0)
    taken = torch.where(inside, image - result, 0.0)
    common, own = (smooth(_means(detail * one), windows) for one in (taken, detail))
    share = torch.stack([_share(*one) for one in zip(common, own, _means(tissue.float()) > 0.5, strict=True)])
    share = F.interpolate(share[:, None], scale_factor=BLOCK, mode="bilinear", align_corners=False)[:, 0]
    rows, columns = image.shape[-2:]
    return torch.addcmul(result, share[:, :rows, :columns], detail, value=strength.restore)


def _share(common: Tensor, own: Tensor, tissue: Tensor) -> Tensor:
    """Share to give back in each block, from the means of products (h, w) and where tissue is, (h, w)."""
    if not tissue.any():
        return torch.zeros_like(common)
    noise, common = own[tissue].median(), common - NOISE_SHARE * own
    offset = (common[tissue].median() - EVEN_SHARE * 2.0 * noise).clamp_min(0.0)
    return ((common - offset) / (own + noise).clamp_min(torch.finfo(own.dtype).tiny)).clamp_(0.0, 1.0)


def _means(image: Tensor) -> Tensor:
    """Means of the blocks of (n, H, W); the last ones may be smaller."""
    return F.avg_pool2d(image[:, None], BLOCK, ceil_mode=True, count_include_pad=False)[:, 0]
