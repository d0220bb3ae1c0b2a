"""Small studies and weights that several test files share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from phantom import write_ct_series
from scripts.networks import BioAtt, BioAttUNet, Denoiser, Recipe, write_recipe
from scripts.priors import SliceKey
from scripts.training.pairs import CachedPair
from scripts.volumes import load_volume

#: Overrides of train.json that make a training small; studies and epochs are each test's own.
SMALL_TRAINING = {"prior": "uniform", "network_def#widths": [4, 6], "patch_shape": [32, 32]}
#: The same as words behind `--set`, and what makes an epoch short.
SMALL_WORDS = ["views=60", "prior=uniform", "network_def#widths=[4,6]", "patch_shape=[32,32]", "batch_size=4"]
SMALL_WORDS += ["steps_per_epoch=10", "learning_rate=0.003"]


def lively_network(channels: int = 8, seed: int = 0) -> BioAtt:
    """An untrained network whose output differs visibly from its input and hangs on its prior."""
    torch.manual_seed(seed)
    network = BioAtt(channels=channels).eval()
    with torch.no_grad():
        for block in (network.attention3, network.attention5):
            block.conv.weight.mul_(20.0)
        for layer in (network.conv2, network.conv3, network.conv4, network.conv5, network.deconv1, network.deconv2):
            layer.weight.mul_(2.0)
    return network


def to_reference(state: dict[str, torch.Tensor], attention: str) -> dict[str, torch.Tensor]:
    """A state dict of ours with the keys of the authors' checkpoints; the inverse of `from_reference`."""
    names = {"channel": ("attention2.", "attention3.")}.get(attention, ("spatial_attention3.", "spatial_attention5."))
    back = dict(zip(("attention3.", "attention5."), names, strict=True)) if attention != "none" else {}
    parts = {key: key.partition(".") for key in state}
    return {back.get(f"{first}.", f"{first}.") + rest: state[key] for key, (first, _, rest) in parts.items()}


def save_default_network(path: Path, seed: int = 0, **fields: Any) -> Path:
    """Untrained weights of inference.json's network, whose output differs visibly and hangs on its prior."""
    torch.manual_seed(seed)
    network = BioAttUNet()
    with torch.no_grad():
        for slot in network.slots:
            slot.conv.weight.mul_(20.0)
        for layer in (network.head, network.tail, *network.up):
            layer.weight.mul_(2.0)
    return save_with_recipe(network, path, **fields)


def save_network(path: Path, **arguments: int) -> Path:
    """Weights of a `lively_network`."""
    return save_with_recipe(lively_network(**arguments), path)


def save_with_recipe(network: Denoiser, path: Path, **fields: Any) -> Path:
    """Weights of `network` and their recipe, with `fields` of it."""
    torch.save(network.state_dict(), path)
    write_recipe(path, Recipe(network_def=network.definition, **fields))
    return path


def write_patients(root: Path, names: str, slices: int) -> Path:
    """Full-dose series for training, small and each with its own noise: a folder of `root` for each letter."""
    for seed, name in enumerate(names):
        write_ct_series(root / name, shape=(96, 96), spacing=(3.5, 3.5), slices=slices, noise_sd=12.0, seed=seed)
    return root


def random_pairs(folder: Path, count: int, shape: tuple[int, int]) -> list[dict[str, Any]]:
    """Items of `training_pairs` whose slices are numbers by chance, with three simulated realisations each."""
    items = []
    for number in range(count):
        generator = np.random.default_rng(number)
        full = generator.integers(-50, 150, shape).astype(np.int16)
        low = (full + generator.normal(0.0, 40.0, (3, *shape))).round().astype(np.int16)
        path = folder / f"random{number}.npz"
        np.savez(path, full=full, low=low)
        priors = np.full((3, 11), 1 / 11, dtype=np.float32)
        name = f"P-{number}"
        pair = CachedPair(
            path=path, priors=priors, patient=name, key=SliceKey(number, name), uid=name, dose_fractions=(0.2,) * 3
        )
        items.append({"pair": pair, "patient": name, "region": "unknown", "uid": name})
    return items


def as_nifti(series: Path, path: Path, *, axes: tuple[int, int, int] = (0, 1, 2), flip: tuple[int, ...] = ()) -> Path:
    """Write a DICOM series as NIfTI, int16, its axes permuted and some of them reversed; the same points in space."""
    volume = load_volume(series)
    image = nibabel.Nifti1Image(np.rint(volume.hu).astype(np.int16), volume.affine)
    orientation = np.stack([axes, [-1 if axis in flip else 1 for axis in range(3)]], axis=1)
    nibabel.save(image.as_reoriented(orientation), path)
    return path
