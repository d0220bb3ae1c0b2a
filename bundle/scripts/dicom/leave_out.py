"""Leave out of a series what is no slice of it: pages without geometry, scouts and images of another plane."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from ..errors import BioAttError, printable
from .geometry import slice_normal
from .headers import numbers
from .scan import Found, is_page

logger = logging.getLogger(__name__)

_SAME_PLANE = 0.999  # cosine between normals: 2.6 degrees
_MOST_PLANES = 1000  # different ones are no series
_NAMED = 5


def without_pages(uid: str, found: Sequence[Found], tell: bool) -> list[Found]:
    """`found` without images that are pages, see `is_page`, among others that are not.

    Reports, dose sheets and captures are stored so in the series they belong to, with the SOP class of its slices.
    """
    return _keep(
        uid, found, [not is_page(header, file) for file, header in found], "pages in colour or without geometry", tell
    )


def without_other_planes(uid: str, found: Sequence[Found], tell: bool) -> list[Found]:
    """`found` without images whose plane is not that of most: scouts that do not say so, and reformats."""
    normals = [_normal(header, file) for file, header in found]
    known = [normal for normal in normals if normal is not None]
    if not known:
        return list(found)
    planes, counts = np.unique(np.round(known, 4), axis=0, return_counts=True)
    if len(planes) > _MOST_PLANES:
        return list(found)
    agreeing = (np.abs(planes @ planes.T) > _SAME_PLANE) @ counts
    if 2 * agreeing.max() <= len(found):
        return list(found)
    main = planes[agreeing.argmax()]
    keep = [normal is None or abs(normal @ main) > _SAME_PLANE for normal in normals]
    return _keep(uid, found, keep, "images of another plane", tell)


def _keep(uid: str, found: Sequence[Found], keep: list[bool], what: str, tell: bool) -> list[Found]:
    left = [file for (file, _), kept in zip(found, keep, strict=True) if not kept]
    if not left or len(left) == len(found):
        return list(found)
    if tell:
        names = ", ".join(map(printable, left[:_NAMED])) + (" and more" if len(left) > _NAMED else "")
        logger.warning("series %s: left out %d %s: %s", uid, len(left), what, names)
    return [one for one, kept in zip(found, keep, strict=True) if kept]


def _normal(header: Dataset, file: object) -> np.ndarray | None:
    try:
        orientation = numbers(header, "ImageOrientationPatient", 6, file)
        return slice_normal(orientation) if np.linalg.norm(np.cross(orientation[:3], orientation[3:])) > 0.5 else None
    except BioAttError:
        return None
