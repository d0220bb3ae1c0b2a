"""Noise and tissue of a CT slice, measured on the image itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude, maximum_filter, minimum_filter, uniform_filter
from scipy.signal.windows import hann

#: Tissue classes by the HU of the 9x9 in-plane mean.
TISSUES_HU = {"lung": (-950.0, -700.0), "fat": (-130.0, -60.0), "soft tissue": (0.0, 100.0), "bone": (200.0, 1500.0)}
NEIGHBOURHOOD = 9
_AIR_HU = -1000.0
#: Flat squares of soft tissue that a slice gives at most; their side in pixels, how few of them are too few for a
#: spectrum, and how many enough.
REGIONS_PER_SLICE, SIDE, FEWEST_REGIONS, ENOUGH_REGIONS = 4, 32, 3, 8
#: HU of flat tissue that is looked at, and of what is taken where that is too little: water, and organs full of
#: contrast medium.
FLAT_TISSUES_HU = TISSUES_HU["soft tissue"], (-60.0, 180.0)
#: Below, anatomy is stronger than noise; cycles a pixel.
LOWEST_FREQUENCY, HIGHEST_FREQUENCY = 0.12, 0.5


def local_mean(image_hu: np.ndarray) -> np.ndarray:
    """Mean over 9x9 pixels in the plane, of (H, W) or (slices, H, W)."""
    return uniform_filter(np.asarray(_finite(image_hu), dtype=np.float32), size=_window(image_hu))


def tissue_mask(image_hu: np.ndarray, tissue: str) -> np.ndarray:
    """Where the 9x9 mean lies in the range of `tissue`; a mask on noisy pixels would bias the mean."""
    lower, upper = TISSUES_HU[tissue]
    mean = local_mean(image_hu)
    return (mean >= lower) & (mean <= upper)


def local_sd(image_hu: np.ndarray) -> np.ndarray:
    """SD over 9x9 pixels in the plane (with Bessel's correction), of (H, W) or (slices, H, W)."""
    image = np.asarray(_finite(image_hu), dtype=np.float64)
    size = _window(image)
    variance = uniform_filter(image * image, size=size) - uniform_filter(image, size=size) ** 2
    count = NEIGHBOURHOOD**2
    return np.sqrt(variance.clip(min=0.0) * count / (count - 1))


def flat_soft_tissue(image_hu: np.ndarray) -> np.ndarray:
    """The flattest quarter of the soft tissue: where anatomy hides the noise least, of (H, W) or (slices, H, W).

    Windows of 9x9 pixels that touch air, fat or bone are left out, and of the rest those with a small gradient are
    kept; both are found on an image smoothed by a Gaussian, so that noise itself hardly matters. In a stack each
    slice gives its own quarter. Under 200 pixels count as none.
    """
    image = np.asarray(_finite(image_hu), dtype=np.float32)
    if image.ndim == 3:
        return np.stack([flat_soft_tissue(one) for one in image])
    smooth = gaussian_filter(image, 1.5)
    lowest, highest = minimum_filter(smooth, NEIGHBOURHOOD), maximum_filter(smooth, NEIGHBOURHOOD)
    mask = tissue_mask(image, "soft tissue") & (lowest > -100.0) & (highest < 200.0)
    if mask.any():
        gradient = gaussian_gradient_magnitude(image, 3.0)
        mask &= gradient <= np.quantile(gradient[mask], 0.25)
    return mask if mask.sum() >= 200 else np.zeros_like(mask)


def flat_regions(
    image_hu: np.ndarray, side: int, tissue_hu: tuple[float, float] = TISSUES_HU["soft tissue"]
) -> list[tuple[slice, slice]]:
    """Rows and columns of up to four squares of `side` pixels in soft tissue, apart, those with least structure.

    Args:
        image_hu: (H, W) in HU.
        side: in pixels, even.
        tissue_hu: range of the 9x9 means that count as soft tissue.
    """
    smooth = gaussian_filter(np.asarray(_finite(image_hu), dtype=np.float32), 2.0)
    window = {"size": side, "mode": "constant"}
    local = local_mean(image_hu)
    soft = uniform_filter(((local >= tissue_hu[0]) & (local <= tissue_hu[1])).astype(np.float64), **window)
    flat = (minimum_filter(smooth, cval=-1e4, **window) > -100.0) & (maximum_filter(smooth, cval=1e4, **window) < 200.0)
    mean = uniform_filter(smooth.astype(np.float64), **window)
    structure = uniform_filter(smooth.astype(np.float64) ** 2, **window) - mean**2
    structure = np.where(flat & (soft > 0.95), structure, np.inf)
    found = []
    while len(found) < REGIONS_PER_SLICE and np.isfinite(structure).any():
        row, column = np.unravel_index(structure.argmin(), structure.shape)
        top, left = int(row) - side // 2, int(column) - side // 2
        found.append((slice(top, top + side), slice(left, left + side)))
        near = (slice(max(0, row - side + 1), row + side), slice(max(0, column - side + 1), column + side))
        structure[near] = np.inf
    return found


def flat_squares(
    slices_hu: Sequence[np.ndarray], others: Sequence[np.ndarray], side: int, tissue_hu: tuple[float, float]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Squares of `flat_regions` of slices, and those of other images of them at the same places."""
    places = [(i, place) for i, hu in enumerate(slices_hu) for place in flat_regions(hu, side, tissue_hu)]
    return [slices_hu[i][place] for i, place in places], [others[i][place] for i, place in places]


def noise_sd_hu(image_hu: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Noise in flat soft tissue: the median of the SDs over 9x9 pixels, in HU; NaN without soft tissue.

    Args:
        image_hu: (H, W) or (slices, H, W) in HU.
        mask: where to look; `flat_soft_tissue` of the image if not given. Give the input's to compare images.
    """
    if mask is None:
        mask = flat_soft_tissue(image_hu)
    return float(np.median(local_sd(image_hu)[mask])) if mask.any() else float("nan")


def noise_frequency(slices_hu: Sequence[np.ndarray]) -> float:
    """Mean frequency of the noise in flat tissue, in cycles a pixel, from 0.12 up; NaN without flat tissue.

    It tells a sharp reconstruction kernel from a soft one, by the image and whatever the dose is.

    Args:
        slices_hu: slices (H, W) in HU; as many are looked at as are needed.
    """
    squares: list[np.ndarray] = []
    for tissue_hu in FLAT_TISSUES_HU:
        squares = []
        for image in slices_hu:
            squares += [image[place] for place in flat_regions(image, SIDE, tissue_hu)]
            if len(squares) >= ENOUGH_REGIONS:
                break
        if len(squares) >= FEWEST_REGIONS:
            break
    if len(squares) < FEWEST_REGIONS:
        return math.nan
    frequency, power = ring_frequencies(), noise_spectrum(squares)
    band = (frequency >= LOWEST_FREQUENCY) & (frequency <= HIGHEST_FREQUENCY)
    weight = power[band] * frequency[band]
    return float(weight @ frequency[band] / weight.sum()) if weight.sum() > 0.0 else math.nan


def ring_frequencies() -> np.ndarray:
    """Frequency of each ring of `noise_spectrum`, in cycles a pixel."""
    return np.arange(len(ring_means(np.zeros((SIDE, SIDE))))) / SIDE


def noise_spectrum(squares_hu: Sequence[np.ndarray]) -> np.ndarray:
    """Mean power over squares, by ring: of each, less its surface of second order, under a Hann window."""
    flat = without_trend(np.asarray(squares_hu, dtype=np.float64))
    window = np.outer(hann(SIDE, sym=False), hann(SIDE, sym=False))
    power = (np.abs(np.fft.fft2(flat * window)) ** 2).mean(0) / (window**2).sum()
    return ring_means(power)


def ring_means(spectrum: np.ndarray) -> np.ndarray:
    """Means of a spectrum (N, N) of an FFT over rings of one step of frequency, from frequency 0 to the corners."""
    size = len(spectrum)
    axis = np.fft.fftfreq(size)
    rings = np.rint(np.hypot(*np.meshgrid(axis, axis)) * size).astype(int).ravel()
    return np.bincount(rings, spectrum.ravel()) / np.bincount(rings)


def without_trend(squares: np.ndarray) -> np.ndarray:
    """Each square (..., N, N) less the surface a + bx + cy + dx^2 + exy + fy^2 that fits it best."""
    size = squares.shape[-1]
    y, x = (axis.ravel() for axis in np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j])
    basis, _ = np.linalg.qr(np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1))
    flat = squares.reshape(*squares.shape[:-2], -1)
    return squares - (flat @ basis @ basis.T).reshape(squares.shape)


def has_noise(sd_hu: float) -> bool:
    """Whether there is noise that a change can be given as a share of: an SD that is not shown as 0.0 HU."""
    return bool(sd_hu >= 0.05)


def _finite(image_hu: np.ndarray) -> np.ndarray:
    """Air in place of NaN and infinity, which filters would smear over whole rows."""
    image = np.asarray(image_hu)
    finite = np.isfinite(image)
    return image if finite.all() else np.where(finite, image, _AIR_HU)


def _window(image: np.ndarray) -> tuple[int, ...]:
    return (1,) * (np.ndim(image) - 2) + (NEIGHBOURHOOD, NEIGHBOURHOOD)
