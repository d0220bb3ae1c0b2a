"""How sharp boundaries are: the 10-90% width of the mean profile across body and bone edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

#: Positions across an edge in pixels, from the low side to the high side.
POSITIONS = np.arange(-8.0, 6.01, 0.1)
#: Edge kinds: HU level of the contour, HU allowed 5 pixels outside it, and 3 pixels inside.
EDGES_HU = {"body": (-500.0, (-1100.0, -850.0), (-200.0, 200.0)), "bone": (200.0, (-150.0, 150.0), (250.0, 3000.0))}


@dataclass(frozen=True)
class EdgeLines:
    """Where an image is sampled: lines across an edge, found once and used for every version of the image.

    Args:
        rows, columns: (lines, positions) in pixels.
    """

    rows: np.ndarray
    columns: np.ndarray

    def profiles(self, image_hu: np.ndarray) -> np.ndarray:
        """Values along the lines, (lines, positions), in HU."""
        return map_coordinates(np.asarray(image_hu, dtype=np.float32), [self.rows, self.columns], order=1)


def find_edge_lines(image_hu: np.ndarray, edge: str) -> EdgeLines:
    """Lines across the edges called `edge` (``body`` or ``bone``) of a slice (H, W) in HU.

    The contour and its normals come from the image smoothed by a Gaussian of 1.5 pixels, so that noise does not
    place the lines. Where the plateaus are not those of such an edge no line is drawn.
    """
    from skimage.measure import find_contours

    level, outside_hu, inside_hu = EDGES_HU[edge]
    smooth = gaussian_filter(np.asarray(image_hu, dtype=np.float32), 1.5)
    contours = [line for line in find_contours(smooth, level) if len(line) >= 40]
    if not contours:
        return EdgeLines(np.empty((0, len(POSITIONS))), np.empty((0, len(POSITIONS))))
    points = np.concatenate(contours)[::2]
    normals = np.stack([map_coordinates(slope, points.T, order=1) for slope in np.gradient(smooth)], axis=1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(min=1e-6)
    places = points[:, :, None] + normals[:, :, None] * POSITIONS
    limit = np.array(smooth.shape)[None, :, None] - 1
    fits = ((places >= 0) & (places <= limit)).all(axis=(1, 2))
    smooth_profiles = map_coordinates(smooth, [places[:, 0], places[:, 1]], order=1)
    for position, (lower, upper) in ((-5.0, outside_hu), (3.0, inside_hu)):
        value = smooth_profiles[:, np.argmin(np.abs(POSITIONS - position))]
        fits &= (value >= lower) & (value <= upper)
    return EdgeLines(places[fits, 0], places[fits, 1])


def edge_width(profile_hu: np.ndarray) -> float:
    """Distance in pixels from 10% to 90% of a mean edge profile (positions,), sampled at `POSITIONS`.

    0% is the mean of the outer plateau (4 to 8 pixels outside), 100% the highest value within 5 pixels inside.
    NaN where the profile does not rise.
    """
    low = float(profile_hu[POSITIONS <= -4.0].mean())
    high = float(profile_hu[(POSITIONS >= 0.0) & (POSITIONS <= 5.0)].max())
    if not high > low:
        return float("nan")
    share = (profile_hu - low) / (high - low)
    return _crossing(share, 0.9) - _crossing(share, 0.1)


def edge_widths(
    references: Sequence[np.ndarray], images: Mapping[str, Sequence[np.ndarray]], spacing_mm: float
) -> dict[str, dict[str, float]]:
    """10-90% width in mm of each kind of edge, by the name of an image; kinds with under 50 lines are left out.

    Args:
        references: slices (H, W) in HU in which the lines across edges are found.
        images: other versions of the same slices, by name.
        spacing_mm: width of a pixel in mm.
    """
    widths: dict[str, dict[str, float]] = {}
    for edge in EDGES_HU:
        lines = [find_edge_lines(reference, edge) for reference in references]
        if sum(len(line.rows) for line in lines) < 50:
            continue
        widths[edge] = {
            name: edge_width(np.concatenate([x.profiles(y) for x, y in zip(lines, stack, strict=True)]).mean(0))
            * spacing_mm
            for name, stack in images.items()
        }
    return widths


def _crossing(share: np.ndarray, level: float) -> float:
    """Position where `share` last rises through `level` before its top."""
    top = int(np.argmax(np.where((POSITIONS >= 0.0) & (POSITIONS <= 5.0), share, -np.inf)))
    below = np.flatnonzero(share[: top + 1] < level)
    if not below.size:
        return float("nan")
    i = int(below[-1])
    part = (level - share[i]) / (share[i + 1] - share[i])
    return float(POSITIONS[i] + part * (POSITIONS[i + 1] - POSITIONS[i]))
