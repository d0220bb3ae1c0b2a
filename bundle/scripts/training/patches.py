"""Patches of a pair for training, augmented alike, and an order of them that hangs on nothing but seed and epoch."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import Dataset
from monai.transforms import Compose, MapTransform, RandomizableTransform
from torch import Tensor
from torch.utils.data import DistributedSampler

from ..errors import BioAttError

#: Patches are centred where the full dose is denser than this, HU: on the body or its couch, not in the air around.
_AIR_HU = -500.0
#: Every so many pixels are looked at to find the body.
_STRIDE = 4


class RandPairPatchesd(RandomizableTransform, MapTransform):
    """Draw patches of a low and a full dose at the same places, augmented alike, as a list of items.

    Each patch is turned and flipped, shifted by a few HU, and its noise is scaled: adding g times the simulated noise
    of dose fraction k is adding the noise of another fraction k' with 1/k' - 1 = g^2 (1/k - 1). A share of the
    patches is *shrunk*: pixels of the full dose are averaged s x s, which takes most of its own noise off and makes
    its edges sharper, and simulated noise from elsewhere in the slice is added. So the network also sees targets that
    are cleaner than a scanner's full dose, and learns to denoise input of routine dose.

    Where the item has a cleaned full dose under ``target`` (`CleanedTargets`), what the network shall give lies
    between it and the full dose: full + c (target - full), with one c for simulated low doses and another for a share
    of patches that get no simulated noise, as routine-dose input has none.

    One transform and not a chain of MONAI's crops and flips, since it moves noise between places (docs/adr/0007).

    A dense prior (K, h, w) under ``prior`` becomes each patch's own, (K, rows, columns), turned like it.

    Args:
        keys: low and full dose, each (1, H, W) in HU; all other keys are passed on with each patch.
        patch_shape: rows and columns in pixels; a smaller slice is padded by replication.
        num_patches: patches a slice.
        noise_gain: range of g, drawn evenly in its logarithm; (1, 1) leaves the noise as it was simulated.
        shrink_probability: share of shrunk patches, in [0, 1].
        shrink_factors: s is one of these; those that do not fit into the image are left out.
        noise_zoom: range of the factor by which the noise of a shrunk patch is enlarged, its SD kept: above 1 it is
            coarser, as smooth kernels make it, below 1 finer. Else the network learns to take away the texture of
            simulated noise alone, and to keep that of scanners, which its targets have.
        shift_hu: both doses are shifted by up to so much.
        routine_probability: share of patches without simulated noise, in [0, 1]; needs targets, or the network
            learns to do nothing.
        cleaning: c for patches with simulated noise, and for those without; above 1 takes off more than the target.
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch_shape: Sequence[int],
        num_patches: int,
        *,
        noise_gain: tuple[float, float] = (1.0, 1.0),
        shrink_probability: float = 0.0,
        shrink_factors: Sequence[int] = (2, 3),
        noise_zoom: tuple[float, float] = (1.0, 1.0),
        shift_hu: float = 0.0,
        routine_probability: float = 0.0,
        cleaning: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, 1.0)
        self.low, self.full = self.keys
        self.patch_shape = tuple(patch_shape)
        self.num_patches = num_patches
        self.noise_gain = tuple(noise_gain)
        self.shrink_probability = shrink_probability
        self.shrink_factors = tuple(shrink_factors)
        self.noise_zoom = tuple(noise_zoom)
        self.shift_hu = shift_hu
        self.routine_probability = routine_probability
        self.cleaning = tuple(cleaning)

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        """Return `num_patches` items with patches (1, h, w) in place of the slices."""
        low, full = (self._at_least_a_patch(data[key]) for key in (self.low, self.full))
        noise = low - full
        target = self._at_least_a_patch(data["target"]) if "target" in data else full
        rows, columns = _body(full[0])
        prior = data.get("prior")
        dense = prior if prior is not None and prior.dim() == 3 else None
        shape = tuple(data[self.full].shape[-2:])
        kept = {key: value for key, value in data.items() if key != "target"}
        draw = partial(self._patch, full, target - full, noise, rows, columns, dense, shape)
        return [kept | draw() for _ in range(self.num_patches)]

    def _patch(
        self,
        full: Tensor,
        cleaner: Tensor,
        noise: Tensor,
        rows: Tensor,
        columns: Tensor,
        dense: Tensor | None,
        shape: tuple[int, int],
    ) -> dict[Hashable, Tensor]:
        factor, gain = 1, math.exp(self.R.uniform(*map(math.log, self.noise_gain)))
        if self.R.uniform() < self.shrink_probability:
            fitting = [s for s in self.shrink_factors if self._fits(s, full)]
            factor = int(self.R.choice(fitting)) if fitting else 1
        routine = self.R.uniform() < self.routine_probability
        place = self._place(full.shape[1:], rows, columns, factor)
        patch, change = full[place], self.cleaning[routine] * cleaner[place]
        patch_noise = noise[place]
        if factor > 1:
            patch, change = (F.avg_pool2d(x, factor) for x in (patch, change))
            patch_noise = self._zoomed(noise[self._place(full.shape[1:], rows, columns, 1)])
        image = patch if routine else patch + gain * patch_noise
        label = patch + change
        shift = self.R.uniform(-self.shift_hu, self.shift_hu)
        turns, flip = int(self.R.randint(4)), bool(self.R.randint(2))
        patches = {self.low: image + shift, self.full: label + shift}
        if dense is not None:
            patches["prior"] = prior_of_patch(dense, shape, place[1:], self.patch_shape)
        for key, patch in patches.items():
            patch = torch.rot90(patch, turns, (1, 2))
            patches[key] = (patch.flip(2) if flip else patch).contiguous()
        return patches

    def _zoomed(self, noise: Tensor) -> Tensor:
        """A noise patch with a coarser or finer grain, from its middle or from it and its mirror image; the same SD."""
        zoom = self.R.uniform(*self.noise_zoom)
        if zoom == 1.0:
            return noise
        if zoom < 1.0:  # finer grain needs more of it: the mirrored patch continues it
            margin = [int(side * (1.0 / zoom - 1.0) / 2.0) for side in self.patch_shape]
            source = F.pad(noise, [margin[1], margin[1], margin[0], margin[0]], mode="reflect")
        else:
            margin = [int(side * (1.0 - 1.0 / zoom) / 2.0) for side in self.patch_shape]
            source = noise[:, margin[0] : noise.shape[1] - margin[0], margin[1] : noise.shape[2] - margin[1]]
        zoomed = F.interpolate(source[None], size=self.patch_shape, mode="bicubic", antialias=True)[0]
        return zoomed * (source.std() / zoomed.std().clamp(min=1e-6))

    def _fits(self, factor: int, image: Tensor) -> bool:
        return all(factor * side <= room for side, room in zip(self.patch_shape, image.shape[1:], strict=True))

    def _at_least_a_patch(self, image: Tensor) -> Tensor:
        bottom, right = (max(0, wanted - side) for wanted, side in zip(self.patch_shape, image.shape[1:], strict=True))
        return F.pad(image, [0, right, 0, bottom], mode="replicate") if bottom or right else image

    def _place(self, shape: Sequence[int], rows: Tensor, columns: Tensor, factor: int) -> tuple[slice, ...]:
        """A patch of `factor` times the size, its centre drawn from the body, kept inside the image."""
        chosen = int(self.R.randint(len(rows)))
        place = [slice(None)]
        for centre, length, side in zip((rows[chosen], columns[chosen]), shape, self.patch_shape, strict=True):
            start = int(centre) - factor * side // 2 + int(self.R.randint(_STRIDE))
            start = min(max(start, 0), length - factor * side)
            place.append(slice(start, start + factor * side))
        return tuple(place)


def prior_of_patch(dense: Tensor, shape: tuple[int, int], place: Sequence[slice], patch_shape: Sequence[int]) -> Tensor:
    """The prior (K, rows, columns) at the pixels of a patch: what the network itself interpolates for a whole slice.

    Args:
        dense: prior of the whole slice, (K, h, w).
        shape: rows and columns of the slice in pixels.
        place: rows and columns that the patch covers; more than `patch_shape` if it was averaged down.
        patch_shape: rows and columns of the patch.
    """
    axes = []
    for part, length, count in zip(place, shape, patch_shape, strict=True):
        step = (part.stop - part.start) / count
        centres = part.start + step * (torch.arange(count, dtype=torch.float32) + 0.5)
        axes.append(2.0 * centres / length - 1.0)
    y, x = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([x, y], dim=-1)[None]
    return F.grid_sample(dense[None], grid, padding_mode="border", align_corners=False)[0]


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


def _body(full_hu: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of pixels that are not air; of all pixels in a slice of air."""
    dense = full_hu[::_STRIDE, ::_STRIDE] > _AIR_HU
    rows, columns = torch.nonzero(dense if bool(dense.any()) else torch.ones_like(dense), as_tuple=True)
    return rows * _STRIDE, columns * _STRIDE
