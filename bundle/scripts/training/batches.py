"""Training patches, cut and augmented in batches on the device that trains; targets without bias."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from torch import Tensor

from ..errors import BioAttError
from ..hu import VALID_RANGE_HU, hu_to_network
from .pairs import CachedPair

logger = logging.getLogger(__name__)

#: Patches are centred where the full dose is denser than this, HU: on the body or its couch, not in the air around.
_AIR_HU = -500.0
#: Every so many pixels are looked at to find the body.
_STRIDE = 4
#: Pixels around the source of a patch that a filter may reach into.
_FILTER_MARGIN = 6
#: Weak structures that are put into a patch with a probe, at most.
_BLOBS = 4
#: How many times as high as others dense structures are.
_DENSE = 10.0
#: Drawn priors are uniform numbers to a power up to this, normalised: at 1 nearly even, far above one descriptor.
_SUREST_POWER = 12.0
#: Noise that a patch without any counts as, in HU, where its weight is found.
_LEAST_NOISE_HU = 5.0
#: HU^2 in one unit of (network range)^2.
NETWORK_POWER = 1.0 / (hu_to_network(1.0) - hu_to_network(0.0)) ** 2


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How patches are varied. All of it is linear and done to input and target alike, so targets stay without bias.

    Args:
        noise_gain: range of g, by which the simulated noise is scaled, drawn evenly in its logarithm: at a base dose of
            a fifth, 0.5 to 2.2 are dose fractions from a half to a twentieth.
        zoom: range of pixels of the slice per pixel of the patch, drawn evenly in its logarithm.
        zoom_probability, filter_probability: shares of patches that are zoomed, and that are filtered.
        filter_gain: range of c in ``x + c (x - G x)``: below 0 smoothing, above sharpening, as other kernels do.
        filter_sd: range of the SD of G in pixels.
        shift_hu: both doses are shifted by up to so much.
        uniform_prior, other_prior, random_prior: shares of patches that get the uniform prior, that of another slice,
            and one that is drawn, between even and sure of one descriptor, so that a wrong prior does little harm.
        probe_share: share of the patches that are shown a second time with a weak structure put in.
        probe_hu, probe_pixels: ranges of its height, of either sign, and of its diameter in pixels of the patch.
        dense_probe: share of these patches whose structures are ten times as high and denser than what is around, as
            bone and contrast medium are: what keeps edges sharp.
    """

    noise_gain: tuple[float, float] = (0.5, 2.2)
    zoom: tuple[float, float] = (0.7, 1.6)
    zoom_probability: float = 0.5
    filter_gain: tuple[float, float] = (-0.8, 0.8)
    filter_probability: float = 0.5
    filter_sd: tuple[float, float] = (0.6, 1.5)
    shift_hu: float = 10.0
    uniform_prior: float = 0.5
    other_prior: float = 0.1
    random_prior: float = 0.0
    probe_share: float = 0.5
    probe_hu: tuple[float, float] = (8.0, 60.0)
    probe_pixels: tuple[float, float] = (1.5, 9.0)
    dense_probe: float = 0.0


class PatchBatches:
    """Batches of augmented patches; what MONAI's trainer takes for its data loader.

    Full doses and noise live on the device. A step draws its patches there: patient, then slice, then a place on the
    body, each evenly, so every patient counts the same. With simulated noise a of dose fraction k, scaled by g::

        input   full + g a
        target  full - a / (g alpha^2),    alpha^2 = 1 / k - 1

    whose noise is uncorrelated with the input's, so the squared error leads to the noise-free image and not to the
    scanner's own noise. Real pairs keep their full dose as target. Everything random is drawn by a generator of seed
    and step, so a step is the same on every device, after a crash, and for any number of processes.

    Each batch is a dict:

    - ``image`` (B + P, 1, h, w) in network range: B inputs, then P of them again with a weak structure put in;
    - ``label`` (B, 3, h, w): target and structure in network range, and the weight of the patch, 1 / noise power of
      its input in (network range)^-2, so that noisy series do not rule; see `scripts.training.ProbedSquaredError`;
    - ``prior`` (B + P, K), or dense (B + P, K, h, w).

    Args:
        data: items with ``pair``, by `training_pairs`.
        batch_size: B, over all processes.
        patch_shape: h and w in pixels.
        steps: batches an epoch.
        augmentation: arguments of `Augmentation` by name.
        seed: of all that is random.
        device: where slices, noise and patches live.
        most_slices: no more are held at a time; of more slices each epoch takes others.

    Source: recorrupted-to-recorrupted, Pang et al., CVPR 2021; Noisier2Noise, Moran et al., CVPR 2020; the structures
    are those of arXiv 2402.10010.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        *,
        batch_size: int,
        patch_shape: Sequence[int],
        steps: int,
        augmentation: dict[str, Any],
        seed: int = 0,
        device: torch.device | str = "cpu",
        most_slices: int = 2000,
    ) -> None:
        if not data:
            raise BioAttError("nothing is left to train on; add volumes, or leave fewer patients out")
        processes = idist.get_world_size()
        if batch_size < processes or batch_size % processes:
            raise BioAttError(f"batch_size {batch_size} must be a multiple of the {processes} processes")
        self.pairs: list[CachedPair] = [item["pair"] for item in data]
        self.batch_size = batch_size
        self.patch_shape = tuple(int(side) for side in patch_shape)
        self.steps = steps
        known = {field.name for field in fields(Augmentation)}
        if unknown := set(augmentation) - known:
            raise BioAttError(
                f"augmentation {', '.join(sorted(unknown))} is not known; it has {', '.join(sorted(known))}"
            )
        self.augmentation = Augmentation(**augmentation)
        self.probed = round(self.augmentation.probe_share * batch_size)
        if self.probed % processes:
            raise BioAttError(
                f"probe_share of batch_size {batch_size} is {self.probed} patches with a structure, expected a "
                f"multiple of the {processes} processes; change batch_size"
            )
        self.seed = seed
        self.device = torch.device(device)
        self.most_slices = most_slices
        self.epoch = 1
        self._pool: _Pool | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer, so that each epoch draws its own patches."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda engine: setattr(self, "epoch", engine.state.epoch))

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield this process's share of each batch of the epoch."""
        first = (self.epoch - 1) * self.steps
        for step in range(first, first + self.steps):
            yield self.batch(step)

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of one step, counted from the start of the training."""
        pool = self._fill_pool((step // self.steps) if len(self.pairs) > self.most_slices else 0)
        drawn = _draw(self.augmentation, pool, self.batch_size, _generator(self.seed, step))
        share = slice(idist.get_rank(), None, idist.get_world_size())
        return _cut(pool, {name: value[share].to(self.device) for name, value in drawn.items()}, self)

    def _fill_pool(self, turn: int) -> _Pool:
        if self._pool is None or self._pool.turn != turn:
            self._pool = None  # two pools need not fit
            self._pool = _Pool(self._chosen(turn), turn, self.device)
        return self._pool

    def _chosen(self, turn: int) -> list[CachedPair]:
        """The pairs of a pool: all, or as many as may be held, patients as even as they can be."""
        if len(self.pairs) <= self.most_slices:
            return self.pairs
        order = torch.randperm(len(self.pairs), generator=_generator(self.seed, -1 - turn)).tolist()
        seen: Counter[str] = Counter()  # how many slices of each patient come before
        ranked = []
        for index in order:
            patient = self.pairs[index].patient
            ranked.append((seen[patient], index))
            seen[patient] += 1
        return [self.pairs[index] for _, index in sorted(ranked, key=lambda one: one[0])[: self.most_slices]]


class _Pool:
    """Slices of a training on the device, and where their bodies lie."""

    def __init__(self, pairs: Sequence[CachedPair], turn: int, device: torch.device) -> None:
        self.turn = turn
        loaded = [pair.load() for pair in pairs]
        shapes = [full.shape for full, _, _ in loaded]
        rows, columns = (max(sides) for sides in zip(*shapes, strict=True))
        realisations = max(len(lows) for _, lows, _ in loaded)
        self.full = torch.zeros([len(pairs), rows, columns], dtype=torch.int16, device=device)
        self.low = torch.zeros([len(pairs), realisations, rows, columns], dtype=torch.int16, device=device)
        priors, alpha, centres, starts = [], [], [], [0]
        for index, (pair, (full, lows, prior)) in enumerate(zip(pairs, loaded, strict=True)):
            height, width = full.shape
            take = np.arange(realisations) % len(lows)
            self.full[index, :height, :width] = torch.from_numpy(full)
            self.low[index, :, :height, :width] = torch.from_numpy(lows[take])
            priors.append(torch.from_numpy(prior[take]).float())
            alpha.append([pair.alpha_squared(int(which)) for which in take])
            centres.append(_body(full))
            starts.append(starts[-1] + len(centres[-1]))
        self.priors = _stack_priors(priors).to(device)
        self.alpha_squared = torch.tensor(alpha, dtype=torch.float32, device=device)
        self.shapes = torch.tensor(shapes, device=device)
        # What draws stays on the CPU: small, and the same for every device.
        self.realisations = torch.tensor([len(lows) for _, lows, _ in loaded])
        self.centres = torch.from_numpy(np.concatenate(centres))
        self.starts = torch.tensor(starts)
        slices = Counter(pair.patient for pair in pairs)
        shares = [1.0 / slices[pair.patient] / len(slices) for pair in pairs]  # every patient is as likely as any other
        self.cumulative = torch.tensor(shares, dtype=torch.float64).cumsum(0)


def _generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def _stack_priors(priors: Sequence[Tensor]) -> Tensor:
    shapes = {tuple(prior.shape[1:]) for prior in priors}
    if len(shapes) > 1:
        raise BioAttError(f"priors of the slices have different shapes {sorted(shapes)}; use one prior for all of them")
    return torch.stack(list(priors))


def _body(full_hu: np.ndarray) -> np.ndarray:
    """(n, 2) rows and columns of pixels that are not air; of all pixels in a slice of air."""
    dense = full_hu[::_STRIDE, ::_STRIDE] > _AIR_HU
    return np.argwhere(dense if dense.any() else np.ones_like(dense)) * _STRIDE


# Random parameters are drawn in one step and applied in another.


def _draw(ranges: Augmentation, pool: _Pool, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """All that is random of a batch, on the CPU, one row a patch."""

    def uniform(lower: float, upper: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) * (upper - lower) + lower

    def even_in_logarithm(lower: float, upper: float) -> Tensor:
        return uniform(math.log(lower), math.log(upper)).exp()

    def draw_items() -> Tensor:
        share = torch.rand(count, generator=generator, dtype=torch.float64)
        return torch.searchsorted(pool.cumulative, share).clamp(max=len(pool.cumulative) - 1)

    item, other = draw_items(), draw_items()
    bodies = pool.starts[item + 1] - pool.starts[item]
    centre = pool.centres[pool.starts[item] + (uniform(0, 1) * bodies).long().clamp(max=bodies - 1)]
    centre = centre + torch.randint(_STRIDE, (count, 2), generator=generator)
    realisations = pool.realisations[item]
    first = (uniform(0, 1) * realisations).long().clamp(max=realisations - 1)
    second = (first + 1 + (uniform(0, 1) * (realisations - 1)).long()) % realisations
    zoomed, filtered = uniform(0, 1) < ranges.zoom_probability, uniform(0, 1) < ranges.filter_probability
    prior = uniform(0, 1)
    return {
        "item": item,
        "other": other,
        "centre": centre,
        "first": first,
        "second": second,
        "mixing_rad": torch.where(second == first, torch.zeros(count), uniform(0.0, 2.0 * math.pi)),
        "gain": even_in_logarithm(*ranges.noise_gain),
        "zoom": torch.where(zoomed, even_in_logarithm(*ranges.zoom), torch.ones(count)),
        "filter_gain": torch.where(filtered, uniform(*ranges.filter_gain), torch.zeros(count)),
        "filter_sd": uniform(*ranges.filter_sd),
        "turns": torch.randint(4, (count,), generator=generator),
        "flip": torch.randint(2, (count,), generator=generator),
        "shift_hu": uniform(-ranges.shift_hu, ranges.shift_hu),
        "uniform_prior": prior < ranges.uniform_prior,
        "other_prior": prior > 1.0 - ranges.other_prior,
        "random_prior": (prior - ranges.uniform_prior >= 0) & (prior - ranges.uniform_prior < ranges.random_prior),
        "drawn_prior": uniform(0.0, 1.0, pool.priors.shape[2]) ** even_in_logarithm(1.0, _SUREST_POWER)[:, None],
        "dense": uniform(0, 1) < ranges.dense_probe,
        "blobs": torch.randint(1, _BLOBS + 1, (count,), generator=generator),
        "blob_place": uniform(0.0, 1.0, _BLOBS, 2),
        "blob_diameter": uniform(*ranges.probe_pixels, _BLOBS),
        "blob_hu": uniform(*ranges.probe_hu, _BLOBS)
        * (2.0 * torch.randint(2, (count, _BLOBS), generator=generator) - 1),
        "blob_edge": uniform(0.3, 1.5, _BLOBS),
    }


def _cut(pool: _Pool, drawn: dict[str, Tensor], batches: PatchBatches) -> dict[str, Tensor]:
    """The patches that `drawn` describes; see `PatchBatches`."""
    height, width = batches.patch_shape
    full, noise, places = _source(pool, drawn, batches)
    images = _filtered(torch.stack([full, noise], 1), drawn["filter_gain"], drawn["filter_sd"])
    half_side = (images.shape[-1] - 1) / 2.0
    images = F.grid_sample(images, places / half_side, align_corners=True, padding_mode="border")
    full, noise = images[:, 0], images[:, 1]
    gain = drawn["gain"][:, None, None]
    alpha_squared = pool.alpha_squared[drawn["item"], drawn["first"]][:, None, None]
    real = torch.isinf(alpha_squared)
    gain = torch.where(real, torch.ones_like(gain), gain)
    shift = drawn["shift_hu"][:, None, None]
    low = full + shift + gain * noise
    target = full + shift - noise / (gain * alpha_squared)
    power = (noise**2).mean((1, 2), keepdim=True) * (gain**2 + torch.where(real, 0.0, 1.0 / alpha_squared))
    weight = NETWORK_POWER / (power + _LEAST_NOISE_HU**2)
    probed = batches.probed // idist.get_world_size()
    structure = torch.zeros_like(low)  # of the patches that are shown with one
    structure[:probed] = _structures({name: value[:probed] for name, value in drawn.items()}, height, width)
    shown = hu_to_network(torch.cat([low, low[:probed] + structure[:probed]]).clamp(*VALID_RANGE_HU))
    prior = _priors(pool, drawn, places, batches)
    label = torch.stack(
        [hu_to_network(target), hu_to_network(structure) - hu_to_network(0.0), weight.expand_as(low)], 1
    )
    return {"image": shown[:, None], "label": label, "prior": torch.cat([prior, prior[:probed]])}


def _source(pool: _Pool, drawn: dict[str, Tensor], batches: PatchBatches) -> tuple[Tensor, Tensor, Tensor]:
    """Squares (B, S, S) of full dose and noise around the patches, and where the patches' pixels lie in them.

    The places are (B, h, w, 2), column and row in pixels from the middle of the square.
    """
    height, width = batches.patch_shape
    reach = max(batches.augmentation.zoom[1], 1.0)
    side = 2 * (math.ceil(max(height, width) * reach / 2) + _FILTER_MARGIN)
    side += (side - max(height, width)) % 2  # pixels of a patch that is not zoomed fall on pixels
    item, first, second = drawn["item"], drawn["first"], drawn["second"]
    offset = torch.arange(side, device=item.device) - side // 2
    limits = pool.shapes[item] - 1
    rows, columns = (
        torch.minimum((drawn["centre"][:, axis, None] + offset).clamp(min=0), limits[:, axis, None]) for axis in (0, 1)
    )
    place = (rows[:, :, None], columns[:, None, :])
    at = item[:, None, None]
    full = pool.full[at, *place].float()
    noises = [pool.low[at, which[:, None, None], *place].float() - full for which in (first, second)]
    mixing = drawn["mixing_rad"]
    alike = (pool.alpha_squared[item, first] / pool.alpha_squared[item, second]).sqrt().nan_to_num(nan=0.0)
    noise = noises[0] * mixing.cos()[:, None, None] + noises[1] * (mixing.sin() * alike)[:, None, None]
    y, x = torch.meshgrid(
        *(torch.arange(length, device=item.device) - (length - 1) / 2.0 for length in (height, width)), indexing="ij"
    )
    angle = drawn["turns"][:, None, None] * (math.pi / 2)
    cos, sin = angle.cos().round() * drawn["zoom"][:, None, None], angle.sin().round() * drawn["zoom"][:, None, None]
    mirrored = torch.where(drawn["flip"][:, None, None] == 1, -x, x)
    return full, noise, torch.stack([cos * mirrored - sin * y, sin * mirrored + cos * y], -1)


def _filtered(images: Tensor, gain: Tensor, sd_pixels: Tensor) -> Tensor:
    """``x + c (x - G x)`` of images (B, n, S, S), one c and one Gaussian each; linear, at the borders periodic."""
    side = images.shape[-1]
    y, x = torch.fft.fftfreq(side, device=images.device), torch.fft.rfftfreq(side, device=images.device)
    square = (y[:, None] ** 2 + x[None] ** 2)[None]
    passed = torch.exp(-2.0 * math.pi**2 * sd_pixels[:, None, None] ** 2 * square)
    response = 1.0 + gain[:, None, None] * (1.0 - passed)
    return torch.fft.irfft2(torch.fft.rfft2(images) * response[:, None], s=(side, side))


def _structures(drawn: dict[str, Tensor], height: int, width: int) -> Tensor:
    """Discs with soft edges, most of them weak, (B, h, w) in HU."""
    device = drawn["blob_hu"].device
    rows = torch.arange(height, device=device)[None, None, :, None]
    columns = torch.arange(width, device=device)[None, None, None, :]
    row, column = (drawn["blob_place"][:, :, axis, None, None] * side for axis, side in ((0, height), (1, width)))
    distance = ((rows - row) ** 2 + (columns - column) ** 2).sqrt()
    edge = drawn["blob_edge"][:, :, None, None]
    profile = torch.sigmoid((drawn["blob_diameter"][:, :, None, None] / 2.0 - distance) / edge)
    shown = torch.arange(_BLOBS, device=device)[None] < drawn["blobs"][:, None]
    hu = torch.where(drawn["dense"][:, None], drawn["blob_hu"].abs() * _DENSE, drawn["blob_hu"])
    return (profile * (hu * shown)[:, :, None, None]).sum(1)


def _priors(pool: _Pool, drawn: dict[str, Tensor], places: Tensor, batches: PatchBatches) -> Tensor:
    """Priors of the patches' slices; of some another slice's, of some one that was drawn, of some uniform."""
    chosen = torch.where(drawn["other_prior"], drawn["other"], drawn["item"])
    prior = pool.priors[chosen, drawn["first"] % pool.priors.shape[1]]
    if prior.dim() == 4:
        prior = _dense_prior(prior, pool.shapes[drawn["item"]], drawn["centre"], places)
    ones = [1] * (prior.dim() - 1)
    some = (drawn["drawn_prior"] / drawn["drawn_prior"].sum(1, keepdim=True)).view(*prior.shape[:2], *ones[1:])
    prior = torch.where(drawn["random_prior"].view(-1, *ones), some.to(prior.dtype), prior)
    uniform = drawn["uniform_prior"].view(-1, *ones)
    return torch.where(uniform, torch.full_like(prior, 1.0 / prior.shape[1]), prior)


def _dense_prior(prior: Tensor, shapes: Tensor, centre: Tensor, places: Tensor) -> Tensor:
    """The prior (B, K, h, w) at the pixels of the patches: what a network itself interpolates for a whole slice."""
    middle = torch.stack([centre[:, 1], centre[:, 0]], -1)[:, None, None] - 0.5
    sides = torch.stack([shapes[:, 1], shapes[:, 0]], -1)[:, None, None]
    grid = 2.0 * (places + middle + 0.5) / sides - 1.0
    return F.grid_sample(prior, grid, padding_mode="border", align_corners=False)
