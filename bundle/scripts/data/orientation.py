"""Axial slices as a radiologist sees them, whatever the storage order, prone or feet first."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, Orientationd

from .reader import SeriesReader
from .transforms import LoadSeriesd

#: Axes of a volume (rows, columns, slices): rows run to posterior, columns to the patient's left, slices to superior.
RADIOLOGICAL_AXES = "PLS"


class RadiologicalSlices:
    """The slices of one volume in radiological orientation: ``slices[i]`` is (H, W) float32 HU, i from inferior.

    Args:
        source: where it came from.
        volume: (1, H, W, slices) with its affine and meta.
    """

    def __init__(self, source: str, volume: MetaTensor) -> None:
        self.source = source
        self.meta: dict[str, Any] = dict(volume.meta)
        self.spacing_mm = float(np.linalg.norm(np.asarray(volume.affine)[:3, 0]))
        self._array = volume.numpy()[0]

    def __len__(self) -> int:
        return self._array.shape[-1]

    def __getitem__(self, index: int) -> np.ndarray:
        return np.ascontiguousarray(self._array[..., index])


def radiological_slices(path: str | os.PathLike[str], **reader: Any) -> RadiologicalSlices:
    """Read a volume and turn it as inference.json does.

    Args:
        path: DICOM series or NIfTI file.
        reader: arguments of `SeriesReader`.
    """
    load = Compose(
        [
            LoadSeriesd("image", SeriesReader(**reader)),
            EnsureChannelFirstd("image", channel_dim="no_channel"),
            Orientationd("image", axcodes=RADIOLOGICAL_AXES),
        ]
    )
    return RadiologicalSlices(str(path), load({"image": path})["image"])
