"""Patches of a grid, the paper's, and an order of items that hangs on nothing but seed and epoch."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import Dataset
from monai.transforms import Compose, MapTransform
from torch.utils.data import DistributedSampler

from ..errors import BioAttError


def grid_patches(items: Sequence[Mapping[Hashable, Any]], patch_shape: Sequence[int]) -> list[dict[Hashable, Any]]:
    """One item per patch of a grid over each slice, with its ``corner`` (row, column); `GridPatchd` cuts it out.

    What is left at the lower and right border is lost, as in the paper: 17 of 512 pixels at a patch of 55.

    Args:
        items: with ``pair``, see `training_pairs`.
        patch_shape: rows and columns in pixels, also the step of the grid.
    """
    height, width = patch_shape
    return [
        dict(item) | {"corner": (row, column)}
        for item in items
        for rows, columns in [item["pair"].load()[0].shape]
        for row in range(0, rows - height + 1, height)
        for column in range(0, columns - width + 1, width)
    ]


class GridPatchd(MapTransform):
    """Cut the patch at ``corner`` out of the images under `keys`, (1, H, W).

    Args:
        keys: the images.
        patch_shape: rows and columns in pixels.
    """

    def __init__(self, keys: KeysCollection, patch_shape: Sequence[int]) -> None:
        super().__init__(keys)
        self.height, self.width = patch_shape

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with patches (1, h, w).

        Raises:
            BioAttError: the prior is dense, and would not be turned with the patch.
        """
        if "prior" in data and data["prior"].dim() != 1:
            raise BioAttError("patches of a grid, the paper's, take one prior for a slice; set prior_form=vector")
        row, column = data["corner"]
        place = (slice(None), slice(row, row + self.height), slice(column, column + self.width))
        return dict(data) | {key: data[key][place] for key in self.key_iterator(data)}


class SeededDataset(Dataset):
    """MONAI's Dataset whose random transforms hang on the index alone, however many processes load it.

    An index may exceed the length: index + n * length is item `index`, augmented otherwise. `EpochSampler` makes use
    of that, so that an epoch can be done again exactly, after a crash or by another number of processes.

    Args:
        data: items.
        transform: applied to each; its random state is set before.
        seed: of all that is random.
    """

    def __init__(self, data: Sequence[Any], transform: Compose, seed: int = 0) -> None:
        super().__init__(data, transform)
        self.seed = seed

    def __getitem__(self, index: int) -> Any:
        """Return item ``index % len(self)`` with the augmentation of `index`."""
        state = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        self.transform.set_random_state(seed=int(torch.randint(2**31, (), generator=state)))
        return self._transform(index % len(self))


class EpochSampler(DistributedSampler):
    """PyTorch's DistributedSampler that also counts the epochs: index + epoch * length, for `SeededDataset`.

    Every epoch is a new order of all items. With n processes each takes every n-th item, so n processes see in one
    step what a single one with n times the batch sees. MONAI's trainer tells the epoch.

    Args:
        dataset: to draw from.
        num_replicas, rank: of the process group; 1 and 0 where there is none.
        seed: of the order.
    """

    def __init__(
        self, dataset: SeededDataset, num_replicas: int | None = None, rank: int | None = None, seed: int = 0
    ) -> None:
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            num_replicas, rank = num_replicas or 1, rank or 0
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed)

    def __iter__(self) -> Iterator[int]:
        """Yield this process's indices of the epoch."""
        return (index + self.epoch * len(self.dataset) for index in super().__iter__())
