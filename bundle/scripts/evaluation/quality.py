"""PSNR, SSIM and RMSE against the full dose inside a HU window; noise, and the HU bias of each tissue."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.metrics import PSNRMetric, RMSEMetric, SSIMMetric

from ..dose.image_noise import TISSUES_HU, flat_soft_tissue, noise_sd_hu, tissue_mask
from ..errors import BioAttError
from ..hu import WINDOWS_HU, to_window

#: Metrics that are measured inside a window: their name in configs, and the measure they give.
WINDOWED = {"psnr": "psnr_db", "ssim": "ssim", "rmse": "rmse_hu"}
#: Metrics that are measured on the image as it is, and the measures they give.
UNWINDOWED = {"noise": ("noise_sd_hu",), "bias": tuple(f"bias_{t.replace(' ', '_')}_hu" for t in TISSUES_HU)}
METRICS = (*WINDOWED, *UNWINDOWED)
#: A slice with fewer pixels of a tissue does not measure its bias, nor its noise (`flat_soft_tissue`).
FEWEST_PIXELS = 200


def image_quality(
    image_hu: np.ndarray, full_hu: np.ndarray, window: str = "abdomen", metrics: Sequence[str] = tuple(WINDOWED)
) -> dict[str, float]:
    """Compare an image with the full dose inside a HU window, by MONAI's metrics.

    Both images become grey values in [0, 1], clipped at the window's ends, as they would be displayed; the data
    range is the window's width. SSIM is that of Wang et al. (IEEE Trans Image Process 13 (2004) 600, eq. 13): a
    Gaussian window of 11x11 pixels with SD 1.5, K1 = 0.01, K2 = 0.03, averaged where the window fits into the image.

    Args:
        image_hu, full_hu: (H, W) in HU, at least 11x11.
        window: a name in `WINDOWS_HU`.
        metrics: of ``psnr``, ``ssim``, ``rmse``.

    Returns:
        ``psnr_db``, ``ssim`` and ``rmse_hu``. The PSNR of an image that equals the full dose is infinite.

    Raises:
        BioAttError: there is no such window or metric.

    Example::

        image_quality(denoised_hu, full_hu, "lung")["psnr_db"]
    """
    check_names("metrics", metrics, tuple(WINDOWED))
    check_names("windows", [window], tuple(WINDOWS_HU))
    lower, upper = WINDOWS_HU[window]
    # float64: in float32 the mean over half a million squares is good for five digits only
    image, full = (torch.from_numpy(to_window(np.asarray(x, np.float64), (lower, upper))) for x in (image_hu, full_hu))
    measured = {}
    for name in metrics:
        value = _WINDOWED_METRIC[name]()(image[None, None], full[None, None]).item()
        measured[WINDOWED[name]] = value * (upper - lower) if name == "rmse" else value
    return measured


# New with each slice: a MONAI metric keeps every value it has given until it is told to forget.
_WINDOWED_METRIC: Mapping[str, Callable[[], PSNRMetric | SSIMMetric | RMSEMetric]] = {
    "psnr": lambda: PSNRMetric(max_val=1.0),
    "ssim": lambda: SSIMMetric(spatial_dims=2, data_range=1.0),
    "rmse": RMSEMetric,
}


class TissueBias(NamedTuple):
    """Mean of image minus reference over the pixels of a tissue, in HU, and how many pixels there were."""

    mean_hu: float
    pixels: int


def tissue_bias(image_hu: np.ndarray, reference_hu: np.ndarray) -> dict[str, TissueBias]:
    """HU bias in lung, fat, soft tissue and bone.

    Args:
        image_hu: (H, W) or (slices, H, W) in HU.
        reference_hu: same shape; tissues are where *its* 9x9 mean lies in their range (`TISSUES_HU`), so the mask
            is the same for every image that is compared with it.

    Returns:
        For each tissue the bias, NaN where no pixel shows it.
    """
    biases = {}
    for tissue in TISSUES_HU:
        mask = tissue_mask(reference_hu, tissue)
        pixels = int(mask.sum())
        difference = np.asarray(image_hu, np.float64)[mask] - np.asarray(reference_hu, np.float64)[mask]
        biases[tissue] = TissueBias(float(difference.mean()) if pixels else math.nan, pixels)
    return biases


def slice_measures(
    images_hu: Mapping[str, np.ndarray],
    full_hu: np.ndarray,
    metrics: Sequence[str] = METRICS,
    windows: Sequence[str] = ("abdomen",),
) -> dict[str, dict[str, float]]:
    """All `metrics` of the images of one slice against its full dose.

    Noise is measured where the first image is flat (`flat_soft_tissue`), in every image at the same place.

    Args:
        images_hu: name to image (H, W) in HU; the low-dose input first.
        full_hu: (H, W) in HU.
        metrics: names in `METRICS`.
        windows: names in `WINDOWS_HU`; see `measure_name`.

    Returns:
        For each image its measures by name; NaN where the slice shows too little of a tissue.
    """
    flat = flat_soft_tissue(next(iter(images_hu.values()))) if "noise" in metrics else None
    windowed = [name for name in metrics if name in WINDOWED]
    measured = {}
    for name, image in images_hu.items():
        row: dict[str, float] = {}
        for window in windows:
            values = image_quality(image, full_hu, window, windowed)
            row |= {measure_name(measure, window, windows): value for measure, value in values.items()}
        if flat is not None:
            row["noise_sd_hu"] = noise_sd_hu(image, flat)
        if "bias" in metrics:
            biases = tissue_bias(image, full_hu).values()
            values = [one.mean_hu if one.pixels >= FEWEST_PIXELS else math.nan for one in biases]
            row |= dict(zip(UNWINDOWED["bias"], values, strict=True))
        measured[name] = row
    return measured


def measure_name(measure: str, window: str, windows: Sequence[str]) -> str:
    """Name of a windowed measure: in the first of `windows` as it is, e.g. ``psnr_db``, else ``psnr_db_lung``."""
    return measure if window == windows[0] else f"{measure}_{window}"


def check_names(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Refuse names that are not known; a metric that is dropped in silence would be missed too late.

    Raises:
        BioAttError: names them and those that are known.
    """
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BioAttError(f"{what}: {', '.join(map(repr, unknown))} is unknown; name some of {', '.join(known)}")
