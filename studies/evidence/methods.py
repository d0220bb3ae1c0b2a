"""Who is evaluated: networks at their strengths, 0.3.2 as it shipped, and the filters at every setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scripts.dose.image_noise import noise_sd_hu, without_trend
from scripts.evaluation.texture import noise_power_spectrum_2d
from scripts.hu import VALID_RANGE_HU, hu_to_network, network_to_hu
from scripts.strengths import choose_strength

from studies.measures.baselines import bm3d, chambolle, gaussian, non_local_means

from .denoisers import open_network
from .evaluating import EvaluatedSlice, Filter, Method, Setting

#: SD of the baseline in mm; 0 is the input itself, where its curve begins.
GAUSSIANS_MM = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0, 4.0, 6.0)
#: Strength h of non-local means as a share of the noise.
NLM_STRENGTHS = (0.5, 0.7, 0.9, 1.2)
#: Weight of total variation as a share of the noise.
TV_WEIGHTS = (0.5, 0.8, 1.2, 1.8)
#: The noise that BM3D is given: white, of so many times the measured SD; or the measured spectrum.
BM3D_NOISES = (1.0, "spectrum")
#: Share of the output that 0.3.2's ``--strength`` mixed with the input.
BLENDS = (1.0, 0.75, 0.5)


def anchored(anchor_mm: float, grain: float = 0.0, restore: float | None = None) -> Setting:
    """A strength as it ships, see `scripts.inference.finish`; an anchor of 0 leaves the network alone."""
    import torch
    from scripts.inference import finish

    if not anchor_mm:
        return lambda image_hu, output_hu, spacing_mm: image_hu - (1.0 - grain) * (image_hu - output_hu)
    strength = choose_strength(anchor_mm=anchor_mm, grain=grain, restore=restore)

    def at_strength(image_hu: np.ndarray, output_hu: np.ndarray, spacing_mm: float) -> np.ndarray:
        image, output = (torch.from_numpy(np.array(one[None], np.float32)) for one in (image_hu, output_hu))
        inside = (image >= VALID_RANGE_HU[0]) & (image <= VALID_RANGE_HU[1])
        shown = (hu_to_network(one) for one in (image.clamp(*VALID_RANGE_HU), output))
        result = finish(*shown, inside, (spacing_mm, spacing_mm), strength)
        return torch.where(inside, network_to_hu(result), image)[0].numpy()

    return at_strength


def network_method(
    name: str, weights: Path, settings: Mapping[str, Setting], *, network_config: str = "", prior: str = "uniform"
) -> Method:
    """A network, asked with the prior of each slice without discs.

    Args:
        name: see `Method`.
        weights: its weights file.
        settings: see `Method`.
        network_config: a config whose network_def fits the weights; inference.json's own if empty.
        prior: as everywhere.
    """
    opened = open_network(weights, network_config=network_config, prior=prior, strength=None)

    def tuned_to(one: EvaluatedSlice) -> Filter:
        prior_of_slice = opened.prior(one.low_hu, one.key)
        return lambda image: opened.output(image, prior_of_slice)

    return Method(name=name, tuned_to=tuned_to, settings=settings, edges=True)


def blends() -> dict[str, Setting]:
    """The strengths of 0.3.2: a share of output and input."""
    return {f"strength {share:g}": _blend(share) for share in BLENDS}


def gaussians() -> Method:
    """The baseline at every setting."""
    settings = {f"{sigma:g} mm": _gaussian(sigma) for sigma in GAUSSIANS_MM}
    return Method(name="Gaussian", tuned_to=lambda one: lambda image: image, settings=settings)


def non_local(insertions: int = 1) -> list[Method]:
    """Non-local means at every setting, one after the other; sigma is the noise of the slice's flat soft tissue."""
    return [
        Method(name="non-local means", tuned_to=_non_local(h), settings={f"h {h:g}": _as_it_is}, insertions=insertions)
        for h in NLM_STRENGTHS
    ]


def total_variation(insertions: int = 1) -> list[Method]:
    """Total variation at every setting; the noise is that of the slice's flat soft tissue."""
    return [
        Method(
            name="total variation",
            tuned_to=_total_variation(weight),
            settings={f"weight {weight:g}": _as_it_is},
            insertions=insertions,
        )
        for weight in TV_WEIGHTS
    ]


def block_matching(insertions: int = 1) -> list[Method]:
    """BM3D at every setting, in the window alone; it is slow, so one insertion has to do."""
    return [
        Method(name="BM3D", tuned_to=_bm3d(noise), settings={_told(noise): _as_it_is}, insertions=insertions)
        for noise in BM3D_NOISES
    ]


def _as_it_is(image_hu: np.ndarray, output_hu: np.ndarray, spacing_mm: float) -> np.ndarray:
    return output_hu


def _blend(share: float) -> Setting:
    return lambda image, output, spacing_mm: image + share * (output - image)


def _gaussian(sigma_mm: float) -> Setting:
    return lambda image, output, spacing_mm: gaussian(image, sigma_mm, spacing_mm) if sigma_mm else image


def _non_local(strength: float) -> Any:
    def tuned_to(one: EvaluatedSlice) -> Filter:
        noise = noise_sd_hu(one.low_hu, one.plane.flat)
        return lambda image: non_local_means(image, noise, strength, blend=1.0, patch_noise=1.0)

    return tuned_to


def _total_variation(weight: float) -> Any:
    def tuned_to(one: EvaluatedSlice) -> Filter:
        noise = noise_sd_hu(one.low_hu, one.plane.flat)
        return lambda image: chambolle(image, weight * noise)

    return tuned_to


def _bm3d(told: float | str) -> Any:
    def tuned_to(one: EvaluatedSlice) -> Filter:
        noise = noise_sd_hu(one.low_hu, one.plane.flat)
        if told == "spectrum" and one.plane.squares:
            squares = np.stack([one.low_hu[part] for part in one.plane.squares])
            spectrum = spectrum_for_bm3d(squares, one.spacing_mm, one.low_hu[one.window].shape)
            return lambda image: _in_window(one, image, spectrum)
        return lambda image: _in_window(one, image, noise * (told if isinstance(told, float) else 1.0))

    return tuned_to


def _in_window(one: EvaluatedSlice, image_hu: np.ndarray, noise_hu: float | np.ndarray) -> np.ndarray:
    result = np.array(image_hu)
    result[one.window] = bm3d(image_hu[one.window], noise_hu)
    return result


def spectrum_for_bm3d(squares_hu: np.ndarray, spacing_mm: float, shape: tuple[int, int]) -> np.ndarray:
    """Noise power of flat squares (n, N, N), as ``<|DFT|^2>`` of an image of `shape`, interpolated between bins."""
    from scipy.interpolate import RegularGridInterpolator

    side = squares_hu.shape[-1]
    power = noise_power_spectrum_2d(without_trend(squares_hu), spacing_mm) / spacing_mm**2 * shape[0] * shape[1]
    lines = np.arange(-(side // 2) - 1, side - side // 2 + 1) / side
    wrapped = np.pad(np.fft.fftshift(power), 1, mode="wrap")
    rows, columns = (np.fft.fftfreq(length) for length in shape)
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    return RegularGridInterpolator((lines, lines), wrapped)(grid)


def _told(noise: float | str) -> str:
    return "measured spectrum" if noise == "spectrum" else f"white, {noise:g} of the noise"


def gaussian_noises(low_hu: np.ndarray, flat: np.ndarray, spacing_mm: float) -> list[float]:
    """Noise in flat tissue after each of `GAUSSIANS_MM`, in HU; NaN without flat tissue."""
    return [
        noise_sd_hu(gaussian(low_hu, sigma, spacing_mm) if sigma else low_hu, flat) if flat.any() else math.nan
        for sigma in GAUSSIANS_MM
    ]


def equal_gaussian_mm(noises_hu: Sequence[float], wanted_hu: float) -> float:
    """SD in mm of the Gaussian that leaves the noise `wanted_hu`, between those of `gaussian_noises`."""
    falling = slice(int(np.argmin(noises_hu)), None, -1)  # beyond it neighbouring tissue runs into the flat places
    return float(np.interp(wanted_hu, noises_hu[falling], GAUSSIANS_MM[falling]))


class Smoothing:
    """Gaussians of a low dose (H, W) in HU that leave as much noise in `flat` tissue as other images have there."""

    def __init__(self, low_hu: np.ndarray, flat: np.ndarray, spacing_mm: float) -> None:
        self.low_hu, self.flat, self.spacing_mm = low_hu, flat, spacing_mm
        self.noises_hu = gaussian_noises(low_hu, flat, spacing_mm)

    def sigma_mm(self, image_hu: np.ndarray) -> float:
        """SD of the Gaussian that leaves the noise of `image_hu`."""
        return equal_gaussian_mm(self.noises_hu, noise_sd_hu(image_hu, self.flat))

    def like(self, image_hu: np.ndarray) -> np.ndarray:
        """The low dose, smoothed so; all NaN where it shows no flat tissue."""
        if not self.flat.any():
            return np.full(self.low_hu.shape, math.nan, np.float32)
        return gaussian(self.low_hu, self.sigma_mm(image_hu), self.spacing_mm)


def parse_settings(texts: Sequence[str]) -> dict[str, Setting]:
    """``1.0`` is an anchor in mm, ``1.0:0.2`` with a share of the grain, ``1.0:0:0`` without restored detail.

    An anchor of 0 is the network alone.
    """
    found = {}
    for text in texts:
        anchor, grain, restore, *_ = [*text.split(":"), "", ""]
        found[text] = anchored(float(anchor), float(grain or 0), float(restore) if restore else None)
    return found
