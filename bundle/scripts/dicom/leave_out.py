"""Leave out of a series what is no slice of it: pages without geometry, scouts, images and frames of another plane."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from pydicom.dataset import Dataset

from ..errors import BioAttError, first_few, printable
from .geometry import slice_normal
from .headers import label, numbers
from .scan import Found, is_page, says_localizer
from .slices import Image

logger = logging.getLogger(__name__)
T = TypeVar("T", Found, Image)

_SAME_PLANE = 0.999  # cosine between normals: 2.6 degrees
_MOST_PLANES = 1000  # different ones are no series


def without_pages(uid: str, found: Sequence[Found], tell: bool) -> list[Found]:
    """`found` without images that are pages, see `is_page`, among others that are not.

    Reports, dose sheets and captures are stored so in the series they belong to, with the SOP class of its slices.
    """
    keep = [not is_page(header, file) for file, header in found]
    names = [str(file) for file, _ in found]
    return _keep(uid, list(found), names, keep, "pages in colour or without geometry", tell)


def without_localizers(uid: str, images: Sequence[Image], tell: bool) -> list[Image]:
    """`images` without the frames of an enhanced image that are localizers; images that are were left out before.

    Raises:
        BioAttError: nothing but localizers.
    """
    keep = [not says_localizer(label(one.header, "ImageType", one.file)) for one in images]
    if not any(keep):
        raise BioAttError(
            f"series {uid} holds only CT localizers (scouts), expected slices; name a folder with a CT series"
        )
    return _keep(uid, list(images), [one.name for one in images], keep, "frames that are localizers", tell)


def without_other_planes(uid: str, images: Sequence[Image], tell: bool) -> list[Image]:
    """`images` without those whose plane is not that of most: scouts that do not say so, and reformats."""
    normals = [_normal(one.header, one.file) for one in images]
    known = [normal for normal in normals if normal is not None]
    if not known:
        return list(images)
    planes, counts = np.unique(np.round(known, 4), axis=0, return_counts=True)
    if len(planes) > _MOST_PLANES:
        return list(images)
    agreeing = (np.abs(planes @ planes.T) > _SAME_PLANE) @ counts
    if 2 * agreeing.max() <= len(images):
        return list(images)
    main = planes[agreeing.argmax()]
    keep = [normal is None or abs(normal @ main) > _SAME_PLANE for normal in normals]
    return _keep(uid, list(images), [one.name for one in images], keep, "images of another plane", tell)


def _keep(uid: str, found: list[T], names: list[str], keep: list[bool], what: str, tell: bool) -> list[T]:
    left = [name for name, kept in zip(names, keep, strict=True) if not kept]
    if not left or len(left) == len(found):
        return found
    if tell:
        logger.warning("series %s: left out %d %s: %s", uid, len(left), what, first_few(list(map(printable, left))))
    return [one for one, kept in zip(found, keep, strict=True) if kept]


def _normal(header: Dataset, file: object) -> np.ndarray | None:
    try:
        orientation = numbers(header, "ImageOrientationPatient", 6, file)
        return slice_normal(orientation) if np.linalg.norm(np.cross(orientation[:3], orientation[3:])) > 0.5 else None
    except BioAttError:
        return None
