"""A 2-D network over a volume, each axial slice with its own prior, in batches (docs/adr/0002)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor

from ..device import find_precision
from ..errors import BioAttError
from ..hu import VALID_RANGE_HU, hu_to_network, in_valid_range, network_to_hu
from ..priors import PriorSource, SliceKey
from ..progress import bar
from ..strengths import Strength, as_strength
from ..volumes.reader import slice_keys_from_meta
from ..volumes.transforms import HU_UNTIL_THE_INFERER, IN_NETWORK_RANGE
from .anchoring import anchored, checked_spacing, reach
from .body import body_box, crop, fade, occupied_blocks
from .restoring import restored

logger = logging.getLogger(__name__)
Network = Callable[..., Tensor]  # of image and prior
Spacing = tuple[float, float]  # of rows and of columns, in mm
#: Above it lies soft tissue, whose noise is the measure of what is restored.
TISSUE_HU = -300.0


class SlicePriorInferer(Inferer):
    """Runs ``network(image, prior)`` over the last axis of a volume and gives slice i the prior of slice i.

    MONAI's SliceInferer drops every input but the first, so the network would run without its prior. This inferer
    asks the prior source itself, since MONAI Label calls an inferer with nothing but the volume and the network.

    A network with a `margin` sees only the bounding box of the body, with that margin, and slices of air not at
    all: in the body the result is that of the whole slice to 0.1 HU, and what lies outside the box keeps its value.

    Pixels outside -1024 to 3071 HU (padding, metal) and NaN are hidden from the network and keep their value; the
    results of the others stay within that range, which every 12-bit source can store.

    Volumes are HU on both sides; the network's own range is an affair of this class. A volume that a config of 0.5.0 or
    older turned into network range by ``HUToNetworkd`` is refused.

    Args:
        prior_source: gives the prior of each slice; None lets the network take the uniform one.
        batch_size: slices at a time. On a CPU one is fastest: larger batches outgrow the caches and make the
            allocator return memory again and again.
        precision: of the network, ``auto``, ``fp32`` or ``bf16``, see `find_precision`.
        bf16: its name and form until 0.3.2, refused.
        strength: how the output is anchored to the input, or its name, see `anchored`; linear, so the same in network
            range as in HU. None gives the bare output, which no floor holds.
        in_place: put the result where the input was, so that a long series is in memory once.

    Attributes:
        priors: of the last batch, (B, slices, K) on the CPU; None before the first and without a source.

    Raises:
        BioAttError: a setting out of its range, a volume that is not (B, 1, H, W, slices), or one to be anchored
            without an affine, which the pixel spacing comes from.
    """

    def __init__(
        self,
        *,
        prior_source: PriorSource | None = None,
        batch_size: int = 1,
        precision: str = "auto",
        bf16: bool | None = None,
        strength: Strength | str | None = None,
        in_place: bool = False,
        progress: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(batch_size, int) or batch_size < 1:
            raise BioAttError(f"batch_size must be at least 1 slice, got {batch_size!r}; give a whole number")
        if bf16 is not None:
            raise BioAttError("bf16 (true or false) is precision now: auto, fp32 or bf16")
        find_precision(precision, "cpu")
        self.prior_source = prior_source
        self.batch_size = batch_size
        self.precision = precision
        self.strength = None if strength is None else as_strength(strength)
        self.in_place = in_place
        self.progress = progress
        self.priors: Tensor | None = None

    def __call__(self, inputs: Tensor, network: Network, *args: Any, **kwargs: Any) -> Tensor:
        """Denoise `inputs` (B, 1, H, W, slices), in HU, slices from inferior to superior.

        Returns:
            The same shape, float32; a MetaTensor with the input's meta and transforms if the input was one.
        """
        if inputs.dim() != 5 or inputs.shape[1] != 1:
            raise BioAttError(f"the inferer wants a volume (B, 1, H, W, slices), got {list(inputs.shape)}")
        if isinstance(inputs, MetaTensor) and inputs.meta.get(IN_NETWORK_RANGE):
            raise BioAttError(HU_UNTIL_THE_INFERER)
        values = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        meta = inputs.meta if isinstance(inputs, MetaTensor) else {}
        in_place = self.in_place and values.dtype == torch.float32
        result = values if in_place else torch.empty_like(values, dtype=torch.float32)
        priors: Tensor | None = None
        if self.prior_source is None and getattr(network, "attention", "") == "prior":
            logger.info("no source of priors: the network uses the uniform one")
        with torch.inference_mode(), bar(values.shape[0] * values.shape[-1], "denoising", self.progress) as advance:
            for number, (item, out) in enumerate(zip(values, result, strict=True)):
                keys = slice_keys_from_meta(meta, values.shape[-1], number)
                spacing = None if self.strength is None else _anchor_spacing(meta, number, self.strength)
                size = self.batch_size
                for start in range(0, values.shape[-1], size):
                    part = slice(start, start + size)
                    stack = item[0, ..., part].movedim(-1, 0)
                    prior = None
                    if self.prior_source is not None:
                        prior = find_priors(self.prior_source, stack, keys[part])
                        if priors is None:  # one block: small ones, kept between large ones, would scatter the heap
                            priors = prior.new_empty(values.shape[::4] + prior.shape[1:])
                        priors[number, part] = prior
                    out[0, ..., part] = self._denoise(stack, prior, network, spacing).movedim(0, -1)
                    advance(len(stack))
        self.priors = priors
        if isinstance(inputs, MetaTensor):
            return MetaTensor(result, meta=inputs.meta, applied_operations=inputs.applied_operations)
        return result

    def _denoise(self, stack: Tensor, prior: Tensor | None, network: Network, spacing_mm: Spacing | None) -> Tensor:
        """Denoise slices (n, H, W), in smaller batches from then on if they do not fit in the GPU's memory."""
        done: list[Tensor] = []
        while (start := sum(map(len, done))) < len(stack):
            part = slice(start, start + self.batch_size)
            try:
                some = None if prior is None else prior[part]
                done.append(self._denoise_batch(stack[part], some, network, spacing_mm))
            except torch.OutOfMemoryError as error:
                self.batch_size = _smaller_batch(stack[part], error)
        return done[0] if len(done) == 1 else torch.cat(done)

    def _denoise_batch(
        self, stack: Tensor, prior: Tensor | None, network: Network, spacing_mm: Spacing | None
    ) -> Tensor:
        """Denoise slices (n, H, W) at once and restore the pixels excluded from denoising."""
        image, inside = network_input(stack)
        prior = None if prior is None else prior.to(image)
        margin = getattr(network, "margin", None)
        if margin is None:
            denoised = self._run(image, prior, inside, network, spacing_mm)
            return torch.where(inside, network_to_hu(denoised), stack.float())
        if spacing_mm is not None and self.strength is not None:
            margin = max(margin, reach(spacing_mm, self.strength))
        result, shape = stack.to(torch.float32, copy=True), image.shape[-2:]
        occupied = occupied_blocks(image[:, 0])
        box, busy = body_box(occupied, shape, margin, network.multiple), occupied.flatten(1).any(1)
        if box is None:
            return result
        if prior is not None and prior.dim() == 4:  # dense: its places are those of the whole slice
            prior = crop(F.interpolate(prior, size=shape, mode="bilinear", align_corners=False), box)
        image, inside, before = (crop(one, box) for one in (image, inside, result))
        part = slice(None) if busy.all() else busy
        image, inside, prior = image[part], inside[part], None if prior is None else prior[part]
        denoised = self._run(image, prior, inside, network, spacing_mm)
        if box != ((0, shape[0]), (0, shape[1])):
            denoised = torch.lerp(image[:, 0], denoised, fade(box, shape, margin, image.device))
        before[part] = torch.where(inside, network_to_hu(denoised), before[part])
        return result

    def _run(
        self, image: Tensor, prior: Tensor | None, inside: Tensor, network: Network, spacing_mm: Spacing | None
    ) -> Tensor:
        """What the network makes of `image` (n, 1, H, W), anchored; (n, H, W); both in network range."""
        low = find_precision(self.precision, image.device) == "bf16"
        with torch.autocast(image.device.type, torch.bfloat16, enabled=low):
            denoised = network(image, prior)
        return finish(image[:, 0], denoised[:, 0], inside, spacing_mm, self.strength)


def _smaller_batch(stack: Tensor, error: torch.OutOfMemoryError) -> int:
    """Half as many slices as the (n, H, W) that did not fit into memory."""
    count, rows, columns = stack.shape
    if count == 1:
        raise BioAttError(
            f"{stack.device}: out of memory with one slice of {rows} x {columns}; close other jobs on this device, or "
            "use --precision bf16 or --device cpu"
        ) from error
    if stack.device.type == "cuda":
        torch.cuda.empty_cache()
    logger.warning("%s: out of memory with %d slices at a time, going on with %d", stack.device, count, count // 2)
    return count // 2


def network_input(slices: Tensor) -> tuple[Tensor, Tensor]:
    """What a network is shown of `slices` (n, H, W) in HU.

    Returns:
        The image (n, 1, H, W) in network range, without NaN and within the valid range, and where it is the slice as it
        was, (n, H, W).
    """
    return _in_valid_range(hu_to_network(_finite(slices)))[:, None], in_valid_range(slices)


def find_priors(source: PriorSource, slices: Tensor, keys: list[SliceKey]) -> Tensor:
    """Priors (n, K), on the CPU, of `slices` (n, H, W) in HU that `keys` name."""
    if not getattr(source, "looks_at_slices", True):
        return source(slices, keys)
    return source(_finite(slices).float().cpu(), keys)


def _finite(slices: Tensor) -> Tensor:
    """NaN as the lowest HU of the valid range."""
    lower, upper = VALID_RANGE_HU
    return torch.nan_to_num(slices, nan=lower, posinf=upper, neginf=lower)


def finish(
    image: Tensor, denoised: Tensor, inside: Tensor, spacing_mm: Spacing | None, strength: Strength | None
) -> Tensor:
    """What a user is given of a network's output: clipped and, if there is a strength, anchored and restored.

    Args:
        image: (n, H, W), what the network was shown, in network range.
        denoised: (n, H, W), what it made of it.
        inside: (n, H, W), bool: where the result is wanted.
        spacing_mm: of rows and columns.
        strength: see `anchored` and `restored`; None for the bare output.

    Returns:
        (n, H, W) float32 in network range.

    Raises:
        BioAttError: there is a strength, and the spacing is not known.
    """
    denoised = _in_valid_range(denoised.float())
    if strength is None:
        return denoised
    result = anchored(image, denoised, inside, spacing_mm, strength)
    tissue = inside & (result > hu_to_network(TISSUE_HU))
    return _in_valid_range(restored(image, result, inside, tissue, spacing_mm, strength))


def _in_valid_range(image: Tensor) -> Tensor:
    """`image` in network range, clipped to the valid range."""
    return image.clamp(*(hu_to_network(limit) for limit in VALID_RANGE_HU))


def _anchor_spacing(meta: dict[str, Any], item: int, strength: Strength) -> Spacing:
    """Spacing of rows and columns in mm, of a volume (H, W, slices), by its affine; a batch has one for each item.

    Warns of pixels so coarse that the anchor leaves nothing to the network.
    """
    if meta.get("affine") is None:
        return checked_spacing(None)
    affine = torch.as_tensor(meta["affine"]).reshape(-1, 4, 4).double().cpu()
    rows, columns = torch.linalg.norm(affine[min(item, len(affine) - 1), :3, :2], dim=0).tolist()
    rows, columns = checked_spacing((rows, columns))
    if strength.anchor_mm < min(rows, columns) / 2:
        logger.warning(
            "pixels of %.3g x %.3g mm are coarser than what an anchor of %.3g mm leaves to the network: the result is "
            "nearly the input; give a larger --anchor-mm (anchor_mm)",
            *(rows, columns, strength.anchor_mm),
        )
    return rows, columns


class AutocastInferer(SimpleInferer):
    """MONAI's SimpleInferer for training: passes the prior on, and may run the network in bfloat16 on any device.

    Args:
        bf16: autocast to bfloat16; the result is float32 either way.
    """

    def __init__(self, *, bf16: bool = False) -> None:
        super().__init__()
        self.precision = "bf16" if bf16 else "fp32"

    def __call__(self, inputs: Tensor, network: Network, *args: Any, **kwargs: Any) -> Tensor:
        """Return ``network(inputs, prior)`` for `inputs` (B, 1, H, W) and ``args = (prior,)``."""
        low = find_precision(self.precision, inputs.device) == "bf16"
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=low):
            return network(inputs, *args, **kwargs).float()


class AnchoredInferer(AutocastInferer):
    """`AutocastInferer` with the output anchored, for evaluation of what a reader is given.

    Args:
        strength, precision: see `SlicePriorInferer`.
    """

    def __init__(self, *, strength: Strength | str, precision: str = "auto") -> None:
        super().__init__()
        find_precision(precision, "cpu")
        self.precision = precision
        self.strength = as_strength(strength)

    def __call__(self, inputs: Tensor, network: Network, *args: Any, **kwargs: Any) -> Tensor:
        """Return the anchored output for `inputs` (B, 1, H, W).

        Args:
            args: prior, spacing_mm (B, 2) and, if it is known, inside (B, 1, H, W): where no padding or metal is.
        """
        prior, spacings, *known = args
        output = super().__call__(inputs, network, prior, **kwargs)
        (insides,) = known or (torch.ones_like(inputs, dtype=torch.bool),)
        results = [
            finish(image, denoised, inside, tuple(spacing.tolist()), self.strength)
            for image, denoised, inside, spacing in zip(inputs, output, insides, spacings, strict=True)
        ]
        return torch.stack(results)
