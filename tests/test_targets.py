"""Cleaned targets: noise taken down where it is flat, strong edges kept, cached beside the pairs, used in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_studies import write_patients
from scipy.ndimage import gaussian_filter
from scripts.app.command_line import main
from scripts.errors import BioAttError
from scripts.networks import BioAttUNet
from scripts.priors import SliceKey, make_prior
from scripts.training import CleanedTargets, RandPairPatchesd, find_studies, make_split, make_targets, training_pairs
from torch import nn


class Smoothing(nn.Module):
    """A 5x5 mean filter with a state dict: it takes noise away and blurs edges."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.full((1, 1, 5, 5), 1 / 25))

    def forward(self, image, prior=None):
        padded = torch.nn.functional.pad(image, [2, 2, 2, 2], mode="replicate")
        return torch.conv2d(padded, self.kernel)


@pytest.fixture
def smoothing(tmp_path):
    """Weights of `Smoothing` on disk."""
    torch.save(Smoothing().state_dict(), tmp_path / "teacher.pt")
    return tmp_path / "teacher.pt"


def targets(weights, **options):
    return CleanedTargets(network=Smoothing(), weights=weights, prior_source=make_prior("uniform"), **options)


def step(noise_sd=10.0, height_hu=1000.0):
    """A vertical edge of `height_hu` on soft tissue, one pixel wide, with white noise."""
    profile = gaussian_filter(np.where(np.arange(64) < 32, 0.0, height_hu), 0.5)
    noise = np.random.default_rng(0).normal(scale=noise_sd, size=(64, 64))
    return (np.tile(profile, (64, 1)) + noise).astype(np.float32)


def test_flat_noise_falls_to_the_networks_and_strong_edges_stay(smoothing):
    full = step()
    cleaned = targets(smoothing, sharpening=0.0)(full, SliceKey(0))
    assert cleaned.shape == full.shape and cleaned.dtype == np.float32
    flat = cleaned[4:-4, 4:24]
    assert flat.std() == pytest.approx(full[4:-4, 4:24].std() / 5, rel=0.25)
    np.testing.assert_allclose(cleaned[:, 31:33], full[:, 31:33], atol=0.02 * 1000)
    blurred = np.abs(Smoothing()(torch.from_numpy(full)[None, None]).detach().numpy()[0, 0] - full)[:, 31:33]
    assert blurred.mean() > 10 * np.abs(cleaned - full)[:, 31:33].mean()


def test_sharpening_makes_a_strong_edge_narrower_and_leaves_a_weak_one(tmp_path):
    def slope(image):
        return np.diff(image.mean(0)).max()

    identity = torch.zeros(1, 1, 5, 5)
    identity[0, 0, 2, 2] = 1.0
    torch.save({"kernel": identity}, tmp_path / "identity.pt")
    plain, sharp = (targets(tmp_path / "identity.pt", sharpening=s) for s in (0.0, 0.5))
    strong, weak = step(noise_sd=0.0), step(noise_sd=0.0, height_hu=10.0)
    assert slope(sharp(strong, SliceKey(0))) > 1.1 * slope(plain(strong, SliceKey(0)))
    np.testing.assert_allclose(sharp(weak, SliceKey(0)), plain(weak, SliceKey(0)), atol=0.02)


def test_the_digest_names_weights_and_settings(smoothing, tmp_path):
    other = {key: value * 2 for key, value in Smoothing().state_dict().items()}
    torch.save(other, tmp_path / "other.pt")
    made = [targets(smoothing), targets(tmp_path / "other.pt"), targets(smoothing, sharpening=0.2)]
    made.append(targets(smoothing, edge_hu_per_pixel=50.0))
    assert len({one.digest for one in made}) == 4
    assert targets(smoothing).digest == made[0].digest


def test_without_weights_full_doses_are_the_targets(tmp_path):
    assert make_targets("", BioAttUNet(), make_prior("uniform")) is None
    with pytest.raises(BioAttError, match="does not exist"):
        make_targets(str(tmp_path / "none.pt"), BioAttUNet(), make_prior("uniform"))


def test_targets_are_kept_beside_the_pairs_and_damage_is_told(smoothing, tmp_path):
    studies = find_studies(write_patients(tmp_path / "data", "AB", 2), progress=False)
    parts = make_split(studies, file=tmp_path / "split.json", train_patients=studies.patients)

    def pairs(cleaner):
        options = {"dose_fractions": (0.5,), "filter_names": ("hann",), "views": 60, "targets": cleaner}
        found = training_pairs(studies, parts, "train", tmp_path / "cache", make_prior("uniform"), **options)
        return [item["pair"] for item in found]

    assert pairs(None)[0].load_target() is None
    pair = pairs(targets(smoothing))[0]
    expected = targets(smoothing)(pair.load()[0], pair.key)
    np.testing.assert_allclose(pair.load_target(), expected.round().clip(-1024), atol=0.51)
    assert pair.path == pairs(None)[0].path
    pair.target.write_bytes(b"half")
    with pytest.raises(BioAttError, match="damaged"):
        pair.load_target()


def patches(**options):
    generator = torch.Generator().manual_seed(0)
    full = 100.0 * torch.randn((1, 64, 64), generator=generator)
    data = {"image": full + 7.0, "label": full, "target": full - 10.0}
    transform = RandPairPatchesd(["image", "label"], (16, 16), 60, **options)
    transform.set_random_state(seed=0)
    return transform(data)


def test_labels_lie_between_full_dose_and_target_and_routine_patches_get_no_noise():
    found = patches(routine_probability=0.5, cleaning=(0.5, 1.5))
    assert all("target" not in item for item in found)
    changes = {round((item["label"] - item["image"]).mean().item(), 3) for item in found}
    assert changes == {-15.0, -12.0}  # 1.5 * -10 without noise; 0.5 * -10 - 7 with it
    assert {round((x["label"] - x["image"]).mean().item(), 3) for x in patches(cleaning=(0.5, 1.5))} == {-12.0}


def test_a_training_begins_with_weights_and_learns_from_targets_of_others(tmp_path):
    data = write_patients(tmp_path / "data", "AB", 2)
    small = ["views=60", "prior=uniform", "network_def#widths=[4,6]", "patch_shape=[32,32]", "num_workers=0"]
    small += ["train#trainer#max_epochs=1", "tensorboard=false"]
    torch.manual_seed(3)
    torch.save(BioAttUNet(widths=[4, 6]).state_dict(), tmp_path / "first.pt")
    first = f"initial_weights={tmp_path / 'first.pt'}"
    words = ["train", str(data), str(tmp_path / "still"), "--validate", "B", "--set", *small, first]
    assert main([*words, "learning_rate=0.0"]) == 0
    begun = torch.load(tmp_path / "first.pt", weights_only=True)
    still = torch.load(tmp_path / "still" / "model.pt", weights_only=True)
    assert all(torch.equal(begun[key], still[key]) for key in begun)
    words[2] = str(tmp_path / "moved")
    words += [f"target_weights={tmp_path / 'first.pt'}", "routine_probability=0.5"]
    assert main([*words, "learning_rate=0.001"]) == 0
    assert list((tmp_path / "moved" / "cache").rglob("*.target.npy"))
    moved = torch.load(tmp_path / "moved" / "model.pt", weights_only=True)
    assert any(not torch.equal(begun[key], moved[key]) for key in begun)


def test_targets_may_be_cleaned_by_a_network_of_another_form(tmp_path):
    data = write_patients(tmp_path / "data", "AB", 2)
    torch.save(BioAttUNet(widths=[4, 6]).state_dict(), tmp_path / "first.pt")
    words = ["train", str(data), str(tmp_path / "out"), "--validate", "B", "--set", "views=60", "prior=uniform"]
    words += ["patch_shape=[32,32]", "num_workers=0", "train#trainer#max_epochs=1", "tensorboard=false"]
    words += ['network_def={"_target_":"BioAtt","channels":4,"attention":"none"}']
    words += [f"target_weights={tmp_path / 'first.pt'}"]
    assert main(words) == 2, "the weights do not fit the network that is trained"
    assert main([*words, 'targets#network={"_target_":"BioAttUNet","widths":[4,6]}']) == 0
    assert list((tmp_path / "out" / "cache").rglob("*.target.npy"))


def test_weights_of_another_network_do_not_begin_a_training(tmp_path, capsys):
    data = write_patients(tmp_path / "data", "AB", 2)
    torch.save(BioAttUNet(widths=[4, 8]).state_dict(), tmp_path / "first.pt")
    words = ["train", str(data), str(tmp_path / "out"), "--validate", "B", "--set", "views=60", "prior=uniform"]
    words += ["network_def#widths=[4,6]", f"initial_weights={tmp_path / 'first.pt'}"]
    assert main(words) == 2
    assert "the network wants" in capsys.readouterr().err
