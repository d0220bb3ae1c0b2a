"""The data set that trains and validates: slices of pairs, or of volumes that an application hands over."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from monai.transforms import Compose

from ..errors import BioAttError
from ..priors import PriorSource
from .pairs import training_pairs
from .patches import SeededDataset
from .splits import BY_PATIENT, Split
from .studies import find_studies


class PairDataset(SeededDataset):
    """SeededDataset that also takes the items of a MONAI datalist and makes pairs of their slices.

    MONAI Label puts a list of ``{"image": PATH, "label": PATH}`` in the place of a config's data. An image is a low
    dose here and its label the full dose, paired by position and kept in the cache as in any other data set.

    Args:
        data: items with a pair, by `training_pairs`; or items of a datalist (docs/data.md) with absolute paths.
        part: what they are for, ``train`` or ``validate``.
        transform: applied to each item with a pair; `PatchBatches` takes them as they are.
        cache_dir, prior_source: of `training_pairs`.
        seed: of all that is random in the transforms.

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
        seed: int = 0,
    ) -> None:
        if not data:
            raise BioAttError(f"nothing is left to {part} on; add volumes, or give the other part a smaller share")
        if "pair" not in data[0]:
            studies = find_studies(data, progress=False)
            split = Split(kind=BY_PATIENT, parts={part: tuple(studies.patients)})
            data = training_pairs(studies, split, part, cache_dir, prior_source)
        super().__init__(data, transform, seed)
