"""The data set that trains and validates: slices of pairs, or of volumes that an application hands over."""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import Dataset
from monai.transforms import Compose, MapTransform

from ..errors import BioAttError
from ..priors import PriorSource
from .pairs import training_pairs
from .splits import BY_PATIENT, Split
from .studies import find_studies


class PairDataset(Dataset):
    """MONAI's Dataset that also takes the items of a MONAI datalist and makes pairs of their slices.

    MONAI Label puts a list of ``{"image": PATH, "label": PATH}`` in the place of a config's data. An image is a low
    dose here and its label the full dose, paired by position and kept in the cache as in any other data set.

    Args:
        data: items with a pair, by `training_pairs`; or items of a datalist (docs/data.md) with absolute paths.
        part: what they are for, ``train`` or ``validate``.
        transform: applied to each item with a pair; `PatchBatches` takes them as they are.
        cache_dir, prior_source: of `training_pairs`.

    Raises:
        BioAttError: there are no items, or their volumes cannot be used.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        part: str,
        transform: Compose | None = None,
        *,
        cache_dir: str | os.PathLike[str],
        prior_source: PriorSource,
    ) -> None:
        if not data:
            raise BioAttError(f"nothing is left to {part} on; add volumes, or give the other part a smaller share")
        if "pair" not in data[0]:
            studies = find_studies(data, progress=False)
            split = Split(kind=BY_PATIENT, parts={part: tuple(studies.patients)})
            data = training_pairs(studies, split, part, cache_dir, prior_source)
        super().__init__(data, transform)


class LoadPaird(MapTransform):
    """One low-dose realisation of a cached pair, with its full dose and its prior.

    Takes ``{"pair": CachedPair}`` (see `training_pairs`) and gives ``image`` and ``label`` (1, H, W) in HU, and
    ``prior`` (K,) or (K, h, w), all of one slice, with its ``spacing_mm`` (2,), of rows and columns, and
    ``alpha_squared``, the variance of the added noise over the full dose's own, both NaN where not known; and
    ``inside`` (1, H, W), bool, where no padding or metal is. Other keys, such as ``patient``, ``region`` and ``uid``,
    are kept. A simulated low dose has the full dose's padding and metal, without noise, as a simulated series has.

    Args:
        keys: where the pair stands, usually ``pair``.
        realisation: which.
    """

    def __init__(self, keys: KeysCollection = "pair", realisation: int = 0) -> None:
        super().__init__(keys)
        if not isinstance(realisation, int):
            raise BioAttError(f"realisation must be a number, got {realisation!r}; PatchBatches draws them")
        self.realisation = realisation

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load the pair."""
        pair = data[self.keys[0]]
        full, lows, priors = pair.load()
        spacing_mm = pair.facts.pixel_spacing_mm
        low, inside = lows[self.realisation], pair.inside()
        if pair.dose_fractions:
            low = np.where(inside, low, full)
        return {key: value for key, value in data.items() if key != self.keys[0]} | {
            "image": torch.from_numpy(low.astype(np.float32))[None],
            "label": torch.from_numpy(full.astype(np.float32))[None],
            "prior": torch.from_numpy(priors[self.realisation]),
            "inside": torch.from_numpy(inside)[None],
            "spacing_mm": torch.full((2,), math.nan if spacing_mm is None else spacing_mm),
            "alpha_squared": torch.tensor(pair.added_noise(self.realisation)),
        }
