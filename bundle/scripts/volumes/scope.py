"""What weights were trained on, in ranges, as their recipe records it; and input that lies outside gets a warning."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..dicom.derived import was_denoised
from ..dicom.headers import label, magnitude, one_line, open_dicom
from ..dose.image_noise import noise_frequency, noise_sd_hu
from ..errors import BioAttError
from .reader import slice_keys_from_meta
from .regions import UNKNOWN, region_of_header

logger = logging.getLogger(__name__)

#: Slices of a volume, or of a patient, whose noise is measured.
NOISE_SLICES = 5
#: A value so near to a range, as a share of its end, counts as inside: rounding in headers is no other scanner.
TOLERANCE = 0.02
#: Ranges: name in the file, words for a reader, unit.
RANGES = {
    "slice_thickness_mm": ("slice thickness", "mm"),
    "pixel_spacing_mm": ("pixel spacing", "mm"),
    "kvp": ("tube voltage", "kV"),
    "noise_sd_hu": ("noise in soft tissue", "HU"),
}
#: Classes of reconstruction kernels by the mean frequency of their noise (`noise_frequency`), in cycles a pixel, from
#: and up to: names of kernels are the vendors' own. Where classes meet, either is right.
KERNELS = {"soft": (0.0, 0.25), "medium": (0.25, 0.31), "sharp": (0.31, 1.0)}
KERNEL_TOLERANCE = 0.02


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of one volume; None for what is not, which no range excludes.

    Args:
        slice_thickness_mm, pixel_spacing_mm, kvp: by the header.
        noise_sd_hu: median over some slices, see `noise_sd_hu`.
        noise_frequency: of its noise, see there.
        region: ``head``, ``chest``, ``abdomen``, ``pelvis`` or ``unknown``.
    """

    slice_thickness_mm: float | None = None
    pixel_spacing_mm: float | None = None
    kvp: float | None = None
    noise_sd_hu: float | None = None
    noise_frequency: float | None = None
    region: str = UNKNOWN

    @property
    def kernels(self) -> list[str]:
        """Classes of kernels that its noise may be of, see `KERNELS`; none where it is not known."""
        if self.noise_frequency is None:
            return []
        lowest, highest = self.noise_frequency - KERNEL_TOLERANCE, self.noise_frequency + KERNEL_TOLERANCE
        return [name for name, (begin, end) in KERNELS.items() if begin < highest and lowest < end]


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Ranges of what a network was trained on.

    Args:
        slice_thickness_mm, pixel_spacing_mm, kvp, noise_sd_hu: [lowest, highest], or None where it was not known.
        noise_sd_hu_by_kernel: that of the noise for each class of kernels that was seen (`KERNELS`); empty where none
            was known.
        regions: those that were named; empty where none was.
    """

    slice_thickness_mm: tuple[float, float] | None
    pixel_spacing_mm: tuple[float, float] | None
    kvp: tuple[float, float] | None
    noise_sd_hu: tuple[float, float] | None
    regions: tuple[str, ...]
    patients: int
    noise_sd_hu_by_kernel: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def outside(self, facts: Facts) -> list[str]:
        """What of `facts` lies outside, in words; nothing for what is not known on either side."""
        by_kernel = self.noise_sd_hu_by_kernel if facts.kernels else {}
        told = []
        for name, (words, unit) in RANGES.items():
            value, limits = getattr(facts, name), getattr(self, name)
            if value is None or limits is None or (by_kernel and name == "noise_sd_hu"):
                continue
            if not _within(value, limits):
                told.append(f"{words} {value:.3g} {unit}, trained on {_seen(limits, unit)}")
        if by_kernel:
            told += self._noise_outside(facts)
        if self.regions and facts.region not in (*self.regions, UNKNOWN):
            told.append(f"region {facts.region}, trained on {', '.join(self.regions)}")
        return told

    def _noise_outside(self, facts: Facts) -> list[str]:
        """Words about noise of a kind of kernel that was not seen, or not so strong or weak."""
        seen = [name for name in facts.kernels if name in self.noise_sd_hu_by_kernel]
        if not seen:
            trained = " and ".join(self.noise_sd_hu_by_kernel)
            return [f"noise of a {facts.kernels[0]} reconstruction kernel, trained on {trained} ones"]
        limits = [self.noise_sd_hu_by_kernel[name] for name in seen]
        value = facts.noise_sd_hu
        if value is None or any(_within(value, one) for one in limits):
            return []
        words, unit = RANGES["noise_sd_hu"]
        ranges = "; ".join(f"{_seen(one, unit)} with {name} kernels" for name, one in zip(seen, limits, strict=True))
        return [f"{words} {value:.3g} {unit}, trained on {ranges}"]


def _within(value: float, limits: tuple[float, float]) -> bool:
    lowest, highest = limits
    return lowest * (1 - TOLERANCE) <= value <= highest * (1 + TOLERANCE)


def _seen(limits: tuple[float, float], unit: str) -> str:
    lowest, highest = limits
    return f"{lowest:.3g} to {highest:.3g}" if highest > lowest else f"{lowest:.3g} {unit} only"


def scope_of(fields: Mapping[str, Any]) -> Scope:
    """The scope that a recipe records.

    Raises:
        BioAttError: it is damaged.
    """
    try:
        ranges = {name: fields[name] and _range(fields[name]) for name in RANGES}
        by_kernel = {str(name): _range(limits) for name, limits in fields.get("noise_sd_hu_by_kernel", {}).items()}
        regions, patients = tuple(fields["regions"]), int(fields["patients"])
        return Scope(**ranges, regions=regions, patients=patients, noise_sd_hu_by_kernel=by_kernel)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BioAttError(f"the scope in the recipe of the weights is damaged ({error}); copy it again") from error


def _range(limits: Any) -> tuple[float, float]:
    lowest, highest = map(float, limits)
    return lowest, highest


class CheckScoped(MapTransform):
    """Warns where a volume lies outside the scope of the weights; in ``meta["outside_scope"]`` for what is written.

    It also warns of axial pixels that are not square, and of a series that BioAtt denoised before.

    What cannot be examined is logged and skipped: a warning never refuses a series.

    Args:
        keys: where the volumes stand, MetaTensors (1, H, W, slices) in HU by `LoadSeriesd` and `OrientSlicesd`.
        scope: as the recipe of the weights records it; None warns of nothing, and the log says so.
    """

    def __init__(self, keys: KeysCollection = "image", scope: Mapping[str, Any] | None = None) -> None:
        super().__init__(keys)
        self.scope = None if scope is None else scope_of(scope)
        if scope is None:
            logger.info("the recipe of the weights has no scope: input unlike the training data cannot be reported")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Look at the volumes under `keys`."""
        looked = dict(data)
        for key in self.key_iterator(looked):
            volume = looked[key]
            outside = [*_not_square(volume), *self._look(volume)]
            volume.meta["outside_scope"] = "; ".join(outside)
            if outside:
                logger.warning("outside what the weights were trained on: %s", volume.meta["outside_scope"])
        return looked

    def _look(self, volume: MetaTensor) -> list[str]:
        try:
            header = header_facts(volume.meta.get("header_file", ""))
            if header.get("was_denoised"):
                logger.warning("BioAtt denoised this series before; denoise the original, or detail is removed twice")
            return [] if self.scope is None else self.scope.outside(facts_of_volume(volume, header))
        except Exception as error:  # whatever it is, the series itself was read
            logger.warning("cannot compare the input with the training data (%s)", one_line(error))
            return []


def _not_square(volume: MetaTensor) -> list[str]:
    """Words about axial pixels that are longer one way than the other: the weights saw square ones."""
    rows_mm, columns_mm = np.linalg.norm(np.asarray(volume.affine)[:3, :2], axis=0)
    if abs(rows_mm / columns_mm - 1) <= TOLERANCE:
        return []
    return [f"pixels of {rows_mm:.3g} x {columns_mm:.3g} mm (rows x columns) in axial slices, trained on square ones"]


def facts_of_volume(volume: MetaTensor, header: Mapping[str, Any]) -> Facts:
    """Facts of a MetaTensor (1, H, W, slices) in HU, with `header_facts`; NIfTI has no tube voltage and no region.

    SliceThickness counts where the slices are those of the series; axial slices through a coronal, sagittal or
    steeply oblique one are as thick as its pixels are apart.
    """
    steps_mm = np.linalg.norm(np.asarray(volume.affine)[:3, :3], axis=0)
    keys = slice_keys_from_meta(volume.meta, volume.shape[-1])
    count = volume.shape[-1]
    chosen = np.unique(np.linspace(0, count - 1, NOISE_SLICES + 2).round().astype(int)[1:-1])
    slices = [volume[0, ..., int(i)].numpy() for i in chosen]
    known = [noise for noise in map(noise_sd_hu, slices) if not math.isnan(noise)]
    frequency = noise_frequency(slices)
    thickness_mm = header.get("SliceThickness") if keys[0].sop_instance_uid else None
    return Facts(
        slice_thickness_mm=thickness_mm or float(steps_mm[2]),
        pixel_spacing_mm=float(steps_mm[0]),
        kvp=header.get("KVP"),
        noise_sd_hu=float(np.median(known)) if known else None,
        noise_frequency=None if math.isnan(frequency) else frequency,
        region=header.get("region", UNKNOWN),
    )


def header_facts(file: str) -> dict[str, Any]:
    """SliceThickness, KVP and region of a DICOM file, as far as they can be read, and whether BioAtt denoised it."""
    dataset = open_dicom(Path(file), stop_before_pixels=True) if file else None
    if dataset is None:
        return {}
    region = region_of_header(label(dataset, "BodyPartExamined", file))
    sizes = {keyword: magnitude(dataset, keyword, file) for keyword in ("SliceThickness", "KVP")}
    return {**sizes, "region": region, "was_denoised": was_denoised(dataset)}
