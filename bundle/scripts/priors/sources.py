"""What every source of priors looks like, the two that need no model, uniform and random, and the tempered one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from ..errors import BioAttError

#: The paper's 11 anatomical descriptors, in its order (arXiv 2504.01662; the authors' table has the same columns).
DESCRIPTORS: tuple[str, ...] = tuple(
    "skull, ventricles, lungs, mediastinum, liver, kidneys, pancreas, spleen, abdominal aorta, spine, "
    "lymph nodes".split(", ")
)


@dataclass(frozen=True)
class SliceKey:
    """Names one slice, so that its prior can never be mistaken for a neighbour's.

    Args:
        index: position from inferior to superior, 0-based.
        sop_instance_uid: SOPInstanceUID, where there is one.
        file: path of the file the slice came from; of a volume in one file, the same for all slices.
    """

    index: int
    sop_instance_uid: str = ""
    file: str = ""

    def __str__(self) -> str:
        """Words for a message."""
        return f"slice {self.index} (SOPInstanceUID {self.sop_instance_uid or 'none'}, file {self.file or 'none'})"


@runtime_checkable
class PriorSource(Protocol):
    """A callable that gives each slice a distribution over the descriptors.

    ``source(slices_hu, keys)`` takes float32 HU `(n, H, W)` in radiological orientation and n keys, and returns
    float32 `(n, K)` on the CPU, rows summing to 1; or dense `(n, K, h, w)`, where each place's K numbers do.

    Attributes:
        looks_at_slices: whether the pixels decide; where they do not, no HU need be made for it. True if missing.
        name: the prior string as it was given, e.g. ``compact``.
        model: what it stands for, in words, for logs, reports and DICOM.
        digest: hex digest of everything that decides a prior (weights, descriptors, preparation), to key caches.
        descriptors: the K words.
    """

    name: str
    model: str
    digest: str
    descriptors: tuple[str, ...]

    def __call__(self, slices_hu: torch.Tensor, keys: Sequence[SliceKey]) -> torch.Tensor:
        """Return priors `(n, K)` or `(n, K, h, w)`."""
        ...


def whole_slice_priors(priors: torch.Tensor) -> torch.Tensor:
    """One prior for each slice, (n, K): of dense priors (n, K, h, w) their mean over the places."""
    return priors if priors.dim() == 2 else priors.mean(dim=(2, 3))


class UniformPrior:
    """1/K for every descriptor of every slice: no anatomy at all. The network's own default."""

    looks_at_slices = False

    def __init__(self, *, descriptors: Sequence[str] = DESCRIPTORS) -> None:
        self.name = "uniform"
        self.model = "uniform prior (no model)"
        self.descriptors = check_descriptors(descriptors)
        self.digest = digest_of(self.name, *self.descriptors)

    def __call__(self, slices_hu: torch.Tensor, keys: Sequence[SliceKey]) -> torch.Tensor:
        """Return `(n, K)`, each value 1/K."""
        count = check_slices(slices_hu, keys)
        return torch.full((count, len(self.descriptors)), 1.0 / len(self.descriptors))


class RandomPrior:
    """Uniform random numbers, normalised: the control of the paper's ablation.

    A slice's prior is a function of the seed and the slice (its SOPInstanceUID, else its index) alone, whatever
    the order or batches of the calls. (The authors draw anew at every call; then no run can be repeated.)

    Args:
        seed: a number from 0 on.
    """

    looks_at_slices = False

    def __init__(self, seed: int, *, descriptors: Sequence[str] = DESCRIPTORS) -> None:
        self.name = f"random:{seed}"
        self.model = f"random prior, seed {seed} (a control, no model)"
        self.descriptors = check_descriptors(descriptors)
        self.digest = digest_of(self.name, *self.descriptors)
        self._seed = seed

    def __call__(self, slices_hu: torch.Tensor, keys: Sequence[SliceKey]) -> torch.Tensor:
        """Return `(n, K)`, every row another distribution."""
        check_slices(slices_hu, keys)
        return torch.stack([self._draw(key) for key in keys])

    def _draw(self, key: SliceKey) -> torch.Tensor:
        digest = digest_of(str(self._seed), key.sop_instance_uid or str(key.index))
        generator = torch.Generator().manual_seed(int(digest[:15], 16))
        numbers = torch.rand(len(self.descriptors), generator=generator)
        return numbers / numbers.sum()


class TemperedPrior:
    """Another source's priors with a softmax temperature T: p^(1/T), normalised. Ours, not the paper's.

    Of a CLIP's softmax this is its logits divided by T. Above 1 the prior is flatter, so that more than one of a
    network's attention maps counts; below 1 it is sharper. What is 0 stays 0, and a uniform prior uniform.

    Args:
        temperature: T, above 0.

    Raises:
        BioAttError: a temperature that is none.
    """

    def __init__(self, source: PriorSource, temperature: float) -> None:
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
            raise BioAttError(f"the temperature of a prior must be a number above 0, got {temperature!r}; write e.g. 2")
        self._source, self._temperature = source, float(temperature)
        self.looks_at_slices = getattr(source, "looks_at_slices", True)
        self.name = source.name
        self.model = f"{source.model}, temperature {temperature:g}"
        self.descriptors = source.descriptors
        self.digest = digest_of("tempered", repr(self._temperature), source.digest)

    def __call__(self, slices_hu: torch.Tensor, keys: Sequence[SliceKey]) -> torch.Tensor:
        """Return the tempered priors, in the source's form."""
        prior = self._source(slices_hu, keys)
        powers = (prior / prior.amax(dim=1, keepdim=True)) ** (1.0 / self._temperature)
        return powers / powers.sum(dim=1, keepdim=True)


def check_descriptors(descriptors: Sequence[str]) -> tuple[str, ...]:
    """Return `descriptors` as a tuple if a prior over them means something.

    Raises:
        BioAttError: none, a repeated or an empty one, or a single string.
    """
    if isinstance(descriptors, str):
        raise BioAttError(f"descriptors must be a list of words, got the string {descriptors!r}; put it in []")
    words = tuple(descriptors)
    if not words:
        raise BioAttError("descriptors is empty; name at least one word, or leave it out for the paper's 11")
    if any(not isinstance(word, str) or not word.strip() for word in words):
        raise BioAttError(f"descriptors must be non-empty words, got {list(words)}; remove the empty one")
    repeated = sorted({word for word in words if words.count(word) > 1})
    if repeated:
        raise BioAttError(f"descriptors are named twice: {', '.join(repeated)}; name each once")
    return words


def check_slices(slices_hu: torch.Tensor, keys: Sequence[SliceKey]) -> int:
    """Return n if `slices_hu` is `(n, H, W)` with n >= 1 and there are n keys.

    Raises:
        BioAttError: another number of dimensions, no slice, or another number of keys.
    """
    shape = tuple(slices_hu.shape)
    if len(shape) != 3 or 0 in shape:
        raise BioAttError(f"slices must be (n, rows, columns) in HU, got shape {shape}; add or drop a dimension")
    if len(keys) != shape[0]:
        raise BioAttError(f"{shape[0]} slices came with {len(keys)} keys; name each slice by one SliceKey")
    return shape[0]


def digest_of(*parts: str | bytes) -> str:
    """Hex digest of the parts in order; a part's length counts, so ("ab", "c") is not ("a", "bc")."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()
