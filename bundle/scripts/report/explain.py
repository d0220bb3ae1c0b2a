"""One slice explained: where the network attends, and what changes when another prior is given to it."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from ..dose.image_noise import flat_soft_tissue, noise_sd_hu, tissue_mask
from ..errors import BioAttError
from ..hu import VALID_RANGE_HU
from ..inference.inferers import SlicePriorInferer, find_priors
from ..ownership import EXPLAINED, check_replaceable
from ..priors import PriorSource, whole_slice_priors
from ..provenance import Provenance
from ..staging import staged_folder
from ..volumes.orientation import RadiologicalSlices
from ..volumes.reader import slice_keys_from_meta
from .explained import attention_figure, swap_figure
from .pictures import slice_attention


@dataclass(frozen=True, kw_only=True)
class Explained:
    """What is known of one slice.

    Args:
        index: of the slice, from 0, inferior to superior.
        hu: (H, W), the input.
        affine: 4x4 of the slice as a volume (H, W, 1), index to RAS in mm.
        descriptors: the K words of a prior.
        priors: name of the prior (right, uniform, other) to its vector (K,), of a dense one the mean over its places.
        other: the descriptor that the prior ``other`` lies on.
        denoised_hu: name of the prior to the result (H, W).
        maps: see the networks' ``attention_maps``, of the right prior.
        grids: see the networks' ``attention_grids``.
    """

    index: int
    hu: np.ndarray
    affine: np.ndarray
    name: str
    descriptors: Sequence[str]
    priors: dict[str, np.ndarray]
    other: str
    denoised_hu: dict[str, np.ndarray]
    maps: dict[str, Tensor]
    grids: dict[str, tuple[int, int]]

    def shares(self, name: str) -> dict[str, float]:
        """The prior of that name, by descriptor."""
        return dict(zip(self.descriptors, map(float, self.priors[name]), strict=True))


def explain_slice(
    volume: RadiologicalSlices, index: int, network: nn.Module, inferer: SlicePriorInferer, other: str = ""
) -> Explained:
    """Denoise a slice with its own prior, the uniform one and that of another region, and find its attention maps.

    Args:
        index: of the slice, from 0, inferior to superior.
        inferer: denoises as in any run, with the prior source of the run.
        other: the descriptor on which all of another region's prior lies; by default the one least likely here.

    Raises:
        BioAttError: there is no such slice or descriptor, or the network has no prior attention.
    """
    check_prior_attention(network)
    if not 0 <= index < len(volume):
        raise BioAttError(
            f"there is no slice {index}: the series has slices 0 to {len(volume) - 1}; choose one of them"
        )
    source: PriorSource = inferer.prior_source
    place = next(network.parameters())
    image = torch.from_numpy(volume[index]).to(place)
    given = find_priors(source, image[None], [slice_keys_from_meta(volume.meta, len(volume))[index]])
    right = whole_slice_priors(given)[0]
    other = other or source.descriptors[int(right.argmin())]
    if other not in source.descriptors:
        raise BioAttError(f"there is no descriptor {other!r}; choose one of {', '.join(source.descriptors)}")
    priors = {
        "right": right,
        "uniform": torch.full_like(right, 1 / len(right)),
        "other": torch.eye(len(right))[source.descriptors.index(other)],
    }
    affine = np.asarray(volume.meta["affine"], dtype=np.float64).copy()
    affine[:3, 3] += index * affine[:3, 2]
    whole = MetaTensor(image[None, None, ..., None], affine=torch.from_numpy(affine))
    return Explained(
        index=index,
        descriptors=source.descriptors,
        hu=volume[index],
        affine=affine,
        name=slice_keys_from_meta(volume.meta, len(volume))[index].sop_instance_uid,
        priors={name: prior.numpy() for name, prior in priors.items()},
        other=other,
        denoised_hu={
            name: _denoise(whole, prior, network, inferer) for name, prior in {**priors, "right": given[0]}.items()
        },
        maps=slice_attention(network, volume[index], given[0]),
        grids=network.attention_grids(),
    )


def check_prior_attention(network: nn.Module) -> None:
    """Refuse a network that no prior goes into.

    Raises:
        BioAttError: says what it has instead.
    """
    kind = network.attention
    if kind != "prior":
        what = "no attention" if kind == "none" else f"{kind} attention"
        raise BioAttError(f"{network.title} has {what}, and no prior attention to explain; choose a network with it")


def swap_figures(one: Explained) -> dict[str, dict[str, float | None]]:
    """For each prior: noise of the result, and how it differs from that of the right prior, in HU.

    Returns:
        ``noise_sd_hu`` where the input is flat soft tissue (None without); of the difference to the right prior
        ``rms_hu`` and ``max_hu`` over the slice, and ``soft_tissue_shift_hu``, its mean in soft tissue (None without).
    """
    shown = np.nan_to_num(one.hu, nan=VALID_RANGE_HU[0]).clip(*VALID_RANGE_HU)
    flat, soft = flat_soft_tissue(shown), tissue_mask(shown, "soft tissue")
    figures = {}
    for name, denoised in one.denoised_hu.items():
        difference = np.nan_to_num(denoised - one.denoised_hu["right"]).astype(np.float64)
        figures[name] = {
            "noise_sd_hu": noise_sd_hu(denoised, flat) if flat.any() else None,
            "rms_hu": float(np.sqrt((difference**2).mean())),
            "max_hu": float(np.abs(difference).max()),
            "soft_tissue_shift_hu": float(difference[soft].mean()) if soft.any() else None,
        }
    return figures


def write_explained(one: Explained, folder: str, provenance: Provenance, *, overwrite: bool = False) -> None:
    """Write the pictures, the NIfTI files and explain.json; the folder appears whole.

    ::

        folder/
          explain.json                    priors, figures, what made it
          priors.png                      the slice with each prior, and the differences
          BLOCK.png                       every descriptor's map over the slice, and the weighted sum
          BLOCK.nii.gz                    the maps (h, w, 1, K), in the order of the descriptors
          BLOCK_weighted.nii.gz           their weighted sum (h, w, 1)
          input.nii.gz, denoised.nii.gz, difference_uniform.nii.gz, difference_other.nii.gz
    """
    record = {
        "slice": one.index,
        "sop_instance_uid": one.name,
        "other": one.other,
        "priors": {name: one.shares(name) for name in one.priors},
        "figures": swap_figures(one),
        "descriptors": list(one.descriptors),
        "made_by": provenance.as_dict(),
    }
    check_replaceable(folder)
    with staged_folder(folder, overwrite) as staging:
        swap_figure(staging / "priors.png", one.hu, one.denoised_hu, one.other)
        images = {"input": one.hu, "denoised": one.denoised_hu["right"]}
        for name in ("uniform", "other"):
            images[f"difference_{name}"] = one.denoised_hu[name] - one.denoised_hu["right"]
        for name, image in images.items():
            _save_nifti(staging / f"{name}.nii.gz", image[..., None], one.affine)
        for block, grid in one.grids.items():
            maps, total = one.maps[block], one.maps[f"{block}_weighted"]
            affine = one.affine @ map_to_image(grid)
            _save_nifti(staging / f"{block}.nii.gz", maps.permute(1, 2, 0)[:, :, None].numpy(), affine)
            _save_nifti(staging / f"{block}_weighted.nii.gz", total.permute(1, 2, 0).numpy(), affine)
            both, shares = torch.cat([total, maps]), one.shares("right")
            attention_figure(staging / f"{block}.png", one.denoised_hu["right"], both, grid, shares)
        record["files"] = sorted(file.name for file in staging.iterdir())
        (staging / EXPLAINED).write_text(json.dumps(record, indent=2) + "\n")


def map_to_image(grid: tuple[int, int]) -> np.ndarray:
    """4x4, index of a map's pixel to that of the image: the middle of a map's pixel is that of the square it covers."""
    step, start = grid
    matrix = np.diag([float(step), float(step), 1.0, 1.0])
    matrix[:2, 3] = start + (step - 1) / 2
    return matrix


def table(one: Explained) -> list[str]:
    """The figures in lines."""
    right = one.priors["right"]
    most = ", ".join(f"{one.descriptors[k]} {right[k]:.0%}" for k in right.argsort()[::-1][:3])
    names = {"right": f"right ({most})", "uniform": "uniform", "other": f"all on {one.other}"}
    width = max(map(len, names.values())) + 2
    lines = [
        f"{'prior':<{width}}{'noise SD':>10}{'RMS':>10}{'largest':>10}{'soft tissue':>14}   HU, against the right prior"
    ]
    for name, figures in swap_figures(one).items():
        noise, shift = figures["noise_sd_hu"], figures["soft_tissue_shift_hu"]
        lines.append(
            f"{names[name]:<{width}}{'-' if noise is None else f'{noise:.1f}':>10}{figures['rms_hu']:>10.2f}"
            f"{figures['max_hu']:>10.1f}{'-' if shift is None else f'{shift:+.2f}':>14}"
        )
    return lines


def _denoise(volume: MetaTensor, prior: Tensor, network: nn.Module, inferer: SlicePriorInferer) -> np.ndarray:
    """The slice (H, W) of `volume` (1, 1, H, W, 1) in HU, denoised with `prior`, (K,) or (K, h, w); HU."""
    given = copy.copy(inferer)
    given.prior_source = lambda slices_hu, keys: prior[None]
    given.in_place, given.progress = False, False
    return given(volume, network).as_tensor()[0, 0, ..., 0].cpu().numpy()


def _save_nifti(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    import nibabel

    image = nibabel.Nifti1Image(np.ascontiguousarray(values, dtype=np.float32), affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
