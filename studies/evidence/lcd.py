"""Low-contrast detectability on the LCD phantom of DIDSR/LCD_CT: d' of four discs at three doses, before and after."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scripts.errors import BioAttError

from studies.measures.observer import (
    CHANNELS,
    Scores,
    channel_outputs,
    compare_detectability,
    held_out_scores,
    laguerre_gauss_channels,
)

from .denoisers import Denoiser

#: What is added to HU before they are stored.
STORED_OFFSET_HU = 1000.0
_TYPES = {"MET_SHORT": "<i2", "MET_USHORT": "<u2"}
#: Its files say 1. The discs are 3, 5, 7 and 10 mm wide and measure 4.69, 7.76, 10.87 and 15.46 pixels.
SPACING_MM = 0.645
#: Half the side of a disc's region is so many radii, but never less than so many pixels.
REACH, LEAST_HALF = 3.0, 11
#: Places on the discs' circle where images without discs are looked at.
PLACES = 8


@dataclass(frozen=True)
class Disc:
    """A disc of the phantom: contrast in HU, radius in pixels, and its middle as (row, column)."""

    contrast_hu: float
    radius: float
    center: tuple[float, float]

    @property
    def name(self) -> str:
        """As in tables, e.g. ``14 HU, 4 pixels``."""
        return f"{self.contrast_hu:g} HU, {2 * self.radius:.0f} pixels"


def read_mhd(path: Path) -> np.ndarray:
    """A MetaImage in HU: (H, W), or (slices, H, W) of one raw file per slice.

    Raises:
        BioAttError: the header names another form, or a raw file is missing or of the wrong length.
    """
    try:
        fields = dict(re.findall(r"^(\w+) = (.*?)\s*$", path.read_text(), re.MULTILINE))
        sizes = [int(size) for size in fields["DimSize"].split()]
        dtype = np.dtype(_TYPES[fields["ElementType"]])
        pattern, *numbers = fields["ElementDataFile"].split()
        first, last, step = map(int, numbers) if numbers else (0, 0, 1)
        files = [path.with_name(pattern % i if numbers else pattern) for i in range(first, last + 1, step)]
        images = [np.fromfile(file, dtype).reshape(sizes[1], sizes[0]) for file in files]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise BioAttError(f"{path} is no MetaImage as expected ({error}); take the small data set of LCD_CT") from error
    stack = np.stack(images).astype(np.float32) - STORED_OFFSET_HU
    return stack if numbers else stack[0]


def find_discs(truth_hu: np.ndarray) -> list[Disc]:
    """The discs in a noiseless phantom (H, W): islands above water, with their highest HU as contrast; faintest first.

    Pixels at a disc's edge hold a part of its contrast, so its area is the sum over it in units of the contrast.
    """
    from scipy.ndimage import center_of_mass, label

    islands, count = label(truth_hu > 0.5)
    discs = []
    for i in range(1, count + 1):
        here = np.where(islands == i, truth_hu, 0.0)
        contrast = float(np.median(here[here > 0.5 * here.max()]))
        radius = float(np.sqrt(here.sum() / contrast / np.pi))
        discs.append(Disc(contrast, radius, tuple(map(float, center_of_mass(here)))))
    return sorted(discs, key=lambda one: one.contrast_hu)


def measure_lcd(folder: Path, denoisers: list[Denoiser], *, draws: int = 2000, seed: int = 0) -> dict[str, Any]:
    """d' per dose and disc, and over the discs of a dose, before and after each denoiser.

    Args:
        folder: with ground_truth.mhd and dose_NNN/signal_present and signal_absent.
        denoisers: see `Denoiser`.
        draws, seed: of the bootstrap.

    Raises:
        BioAttError: `folder` does not hold the phantom.
    """
    discs = find_discs(read_mhd(folder / "ground_truth.mhd"))
    doses: dict[str, Any] = {}
    for place in sorted(folder.glob("dose_*")):
        stacks = [read_mhd(place / name / f"{name}.mhd") for name in ("signal_present", "signal_absent")]
        before = [_scores(*stacks, disc) for disc in discs]
        doses[f"{int(place.name.removeprefix('dose_')) / 100:g}"] = {
            denoiser.name: _compare(before, [denoiser(stack, SPACING_MM) for stack in stacks], discs, draws, seed)
            for denoiser in denoisers
        }
    return {
        "discs": [{"name": d.name, "contrast_hu": d.contrast_hu, "radius_pixels": d.radius} for d in discs],
        "repeats": len(stacks[0]),
        "channels": CHANNELS,
        "draws": draws,
        "seed": seed,
        "doses": doses,
    }


def _compare(before: list, stacks: list[np.ndarray], discs: list[Disc], draws: int, seed: int) -> dict[str, Any]:
    after = [_scores(*stacks, disc) for disc in discs]
    one = {
        disc.name: compare_detectability([b], [a], draws=draws, seed=seed)
        for disc, b, a in zip(discs, before, after, strict=True)
    }
    return one | {"mean of the discs": compare_detectability(before, after, draws=draws, seed=seed)}


def _scores(present_hu: np.ndarray, absent_hu: np.ndarray, disc: Disc) -> Scores:
    """Held-out scores of a disc; without it, at `PLACES` places as far from the middle, where the noise is the same."""
    half = max(LEAST_HALF, round(REACH * disc.radius))
    channels = laguerre_gauss_channels(2 * half, channel_width(disc.radius))
    present = channel_outputs(_region(present_hu, disc.center, half), channels)
    middle = (np.array(absent_hu.shape[1:]) - 1) / 2
    turned = np.exp(2j * np.pi * np.arange(PLACES) / PLACES) * complex(*(np.array(disc.center) - middle))
    places = [(middle[0] + one.real, middle[1] + one.imag) for one in turned]
    absent = [channel_outputs(_region(absent_hu, place, half), channels) for place in places]
    return held_out_scores(present, np.stack(absent, axis=1))


def _region(stack_hu: np.ndarray, center: tuple[float, float], half: int) -> np.ndarray:
    """Squares (n, 2 half, 2 half) whose middle lies within half a pixel of `center`."""
    rows, columns = (slice(round(c + 0.5) - half, round(c + 0.5) + half) for c in center)
    return stack_hu[:, rows, columns]


def channel_width(radius: float) -> float:
    """Width of the channels for a disc: the first then holds most of its energy (``exp(-pi r^2 / a^2)`` at r: 0.6)."""
    return 2.5 * radius
