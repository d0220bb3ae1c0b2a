"""MONAI's door to our volumes: an image reader for LoadImaged, for DICOM series and NIfTI files in HU."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.data import ImageReader

from ..dicom import FileProcesses, KnownSeries
from ..priors import SliceKey
from .volume import Volume, load_volume


@dataclass(kw_only=True, eq=False)
class SeriesReader(ImageReader):
    """Reads a DICOM series, a DICOM file or a NIfTI file as HU, float32, with an affine to RAS.

    Unlike MONAI's readers it refuses what is not CT in HU, sorts slices by position, and keeps the names of the
    slices in ``meta["slice_keys"]`` (`slice_keys_from_meta` reads it), so that priors are found by
    SOPInstanceUID and never by position.

    Args:
        series, assume_hu, allow_gaps, one_scan: see `load_volume`.
        processes: decode a DICOM series by these, see `read_volume`.
        known: DICOM series whose headers were looked at before.

    Raises:
        BioAttError: on reading, see `load_volume`.
    """

    series: str | int = ""  # MONAI's command line reads a SeriesNumber as a number
    assume_hu: bool = False
    allow_gaps: bool = False
    one_scan: bool = False
    progress: bool = False
    processes: FileProcesses | None = None
    known: KnownSeries | None = None

    def verify_suffix(self, filename: Sequence[os.PathLike | str] | os.PathLike | str) -> bool:
        """Every path may be tried: DICOM files need no suffix."""
        return True

    def read(self, data: Sequence[os.PathLike | str] | os.PathLike | str, **kwargs: Any) -> Volume:
        """Read the one path in `data`."""
        return load_volume(data if isinstance(data, (str, os.PathLike)) else data[0], **vars(self))

    def get_data(self, img: Volume) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the array and the meta data that LoadImaged makes a MetaTensor of."""
        series = img.series
        meta = {
            "affine": img.affine,
            "original_affine": img.affine.copy(),
            "spatial_shape": np.asarray(img.hu.shape),
            "original_channel_dim": float("nan"),
            "space": "RAS",
            "filename_or_obj": str(img.source),
            "kind": "file" if series is None else "dicom",
            "series_instance_uid": "" if series is None else series.series_instance_uid,
            "selection": json.dumps({} if series is None else series.selection),
            "slice_keys": _slice_keys_to_meta(img),
            "header_file": "" if series is None else str(series.files[0]),
        }
        return img.hu, meta


def slice_keys_from_meta(meta: dict[str, Any], count: int, item: int = 0) -> list[SliceKey]:
    """Names of the `count` axial slices, inferior to superior, from a MetaTensor's meta; inverse of writing them.

    Meta data of a batch holds a list; `item` tells whose names are wanted.

    A DICOM series with axial slices has its UIDs and files; any other volume has its file name and the index.
    """
    text = meta.get("slice_keys", "")
    text = text if isinstance(text, str) else text[item]
    known = json.loads(text) if text else {}
    uids, files = known.get("uids", []), known.get("files", [])
    if len(uids) == count:
        return [SliceKey(i, uid, file) for i, (uid, file) in enumerate(zip(uids, files, strict=True))]
    return [SliceKey(i, "", known.get("source", "")) for i in range(count)]


def _slice_keys_to_meta(volume: Volume) -> str:
    # A string, since meta data is collated into batches, and strings survive that.
    known: dict[str, Any] = {"source": str(volume.source)}
    # Slices are named only where the third axis runs from inferior to superior, as in an axial series.
    if volume.series is not None and abs(volume.affine[2, 2]) >= np.abs(volume.affine[:2, 2]).max():
        known |= {"uids": list(volume.series.slice_names), "files": list(map(str, volume.series.files))}
    return json.dumps(known)
