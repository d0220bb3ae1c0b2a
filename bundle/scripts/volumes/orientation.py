"""Axial slices as a radiologist sees them, whatever the storage order, prone or feet first."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, InvertibleTransform, MapTransform

from .reader import SeriesReader
from .transforms import LoadSeriesd

#: Axes of a volume (rows, columns, slices): rows run to posterior, columns to the patient's left, slices to superior.
RADIOLOGICAL_AXES = "PLS"


class OrientSlicesd(MapTransform, InvertibleTransform):
    """A volume to (1, rows, columns, slices) in radiological orientation, in its own memory; invertible.

    What MONAI's EnsureChannelFirstd and Orientationd do together, but those copy the volume to keep its axes in the
    order of memory, there and back, and a long series does not fit into memory three times. Here axes are only
    renamed, and reversed ones are turned slice by slice; so the input must not be used any more.

    Args:
        keys: where the volumes stand, MetaTensors (X, Y, Z) or (1, X, Y, Z) with an affine to RAS.
    """

    def __init__(self, keys: KeysCollection = "image") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Turn the volumes under `keys`."""
        return dict(data) | {key: self._turn(data[key]) for key in self.key_iterator(data)}

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Turn the volumes under `keys` back, (1, X, Y, Z)."""
        return dict(data) | {key: self._turn_back(data[key]) for key in self.key_iterator(data)}

    def _turn(self, volume: MetaTensor) -> MetaTensor:
        from nibabel.orientations import inv_ornt_aff

        values, affine = volume.as_tensor(), np.asarray(volume.affine, dtype=np.float64)
        values = values if values.dim() == 4 else values[None]
        change = radiological_change(affine)
        axes, reversed_axes = np.argsort(change[:, 0]).tolist(), np.flatnonzero(change[:, 1] < 0).tolist()
        _reverse(values, reversed_axes)
        permuted = values.permute(0, *(axis + 1 for axis in axes))
        turned = _placed(volume, permuted, affine @ inv_ornt_aff(change, values.shape[1:]))
        done = {"axes": axes, "reversed": reversed_axes, "affine": affine}
        self.push_transform(turned, orig_size=tuple(values.shape[1:]), extra_info=done)
        return turned

    def _turn_back(self, volume: MetaTensor) -> MetaTensor:
        done = self.pop_transform(volume)["extra_info"]
        values = volume.as_tensor().permute(0, *(int(axis) + 1 for axis in np.argsort(done["axes"])))
        _reverse(values, done["reversed"])
        return _placed(volume, values, done["affine"])


def radiological_change(affine: np.ndarray) -> np.ndarray:
    """nibabel's orientation array that turns a volume of this affine to `RADIOLOGICAL_AXES`."""
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    return ornt_transform(io_orientation(affine), axcodes2ornt(RADIOLOGICAL_AXES))


def _placed(volume: MetaTensor, values: torch.Tensor, affine: np.ndarray) -> MetaTensor:
    """`volume` with other values and affine."""
    meta = dict(volume.meta) | {"affine": torch.as_tensor(affine)}
    return MetaTensor(values, meta=meta, applied_operations=volume.applied_operations)


def _reverse(volume: torch.Tensor, axes: list[int]) -> None:
    """Reverse spatial `axes` of `volume` (1, X, Y, Z) in its own memory, in pieces along the axis that is coarsest."""
    for axis in (int(axis) + 1 for axis in axes):
        _, coarsest = max((volume.stride(other), other) for other in (1, 2, 3) if other != axis)
        for i in range(volume.shape[coarsest]):
            piece = volume.narrow(coarsest, i, 1)
            piece.copy_(piece.flip(axis))


class RadiologicalSlices:
    """The slices of one volume in radiological orientation: ``slices[i]`` is (H, W) float32 HU, i from inferior.

    Args:
        volume: (1, H, W, slices) with its affine and meta.
    """

    def __init__(self, volume: MetaTensor) -> None:
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
    load = Compose([LoadSeriesd("image", SeriesReader(**reader)), OrientSlicesd("image")])
    return RadiologicalSlices(load({"image": path})["image"])
