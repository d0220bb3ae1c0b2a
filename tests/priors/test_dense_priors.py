"""Tempered and dense priors: their formulas, and their way through patches, training and inference."""

from __future__ import annotations

import dataclasses
import json
import shutil

import nibabel
import numpy as np
import pydicom
import pytest
import torch
import torch.nn.functional as F
from made_studies import write_patients
from phantom import write_ct_series
from scripts.app.command_line import main
from scripts.errors import BioAttError
from scripts.networks import Recipe, read_recipe, write_recipe
from scripts.priors import DESCRIPTORS, SliceKey, TemperedPrior, make_prior
from scripts.priors.clip import load_clip
from scripts.priors.dense import over_whole_slice, place_embeddings
from scripts.volumes import radiological_slices


def make_slices(count=3, shape=(64, 64), seed=0):
    """HU slices of random blobs, none like the other."""
    coarse = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 300
    return F.interpolate(coarse, size=shape, mode="bilinear")[:, 0]


def keys_of(count):
    return [SliceKey(index) for index in range(count)]


@pytest.fixture(scope="module")
def vector():
    return make_prior("compact")


@pytest.fixture(scope="module")
def dense():
    return make_prior("compact", form="dense")


class TestTempered:
    """p^(1/T), normalised."""

    def test_of_a_softmax_it_is_that_of_the_logits_over_t(self, vector):
        slices = make_slices()
        logits = vector(slices, keys_of(3)).double().log()
        for temperature in (0.5, 3.0):
            found = make_prior("compact", temperature=temperature)(slices, keys_of(3))
            wanted = (logits / temperature).softmax(1).float()
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)

    def test_is_flatter_above_one_and_sharper_below(self):
        sources = [make_prior("random:0", temperature=t) for t in (0.5, 1.0, 2.0, 50.0)]
        highest = [source(make_slices(1), keys_of(1)).max().item() for source in sources]
        assert highest == sorted(highest, reverse=True) and highest[-1] == pytest.approx(1 / 11, abs=0.01)

    def test_zero_stays_zero_and_uniform_uniform(self):
        class OneHot:
            name, model, digest, descriptors = "table:x", "x", "0", DESCRIPTORS

            def __call__(self, slices_hu, keys):
                return torch.eye(11)[:1]

        assert torch.equal(TemperedPrior(OneHot(), 4)(make_slices(1), keys_of(1)), torch.eye(11)[:1])
        uniform = make_prior("uniform", temperature=4.0)(make_slices(1), keys_of(1))
        torch.testing.assert_close(uniform, torch.full((1, 11), 1 / 11))

    def test_is_told_in_model_and_digest(self, vector):
        tempered = [make_prior("compact", temperature=t) for t in (2.0, 3.0)]
        assert len({vector.digest, *(source.digest for source in tempered)}) == 3
        assert tempered[0].name == "compact" and tempered[0].model == f"{vector.model}, temperature 2"
        assert type(make_prior("compact", temperature=1.0)) is type(vector)

    @pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf"), "2"])
    def test_what_is_no_temperature_is_refused(self, temperature):
        with pytest.raises(BioAttError, match="must be a number above 0"):
            make_prior("uniform", temperature=temperature)


class TestDense:
    """A distribution at each place."""

    def test_each_place_has_a_distribution(self, dense):
        prior = dense(make_slices(2), keys_of(2))
        assert prior.shape == (2, 11, 4, 4) and prior.dtype == torch.float32
        torch.testing.assert_close(prior.sum(1), torch.ones(2, 4, 4))
        assert prior.std(dim=(2, 3)).max() > 1e-3, "places differ"

    def test_can_enter_a_network_in_training(self, dense):
        weight = torch.ones(11, 1, 1, requires_grad=True)
        (dense(make_slices(1), keys_of(1)) * weight).sum().backward()
        torch.testing.assert_close(weight.grad.sum(), torch.tensor(16.0))

    def test_a_place_is_what_the_pooling_makes_of_it_alone(self, bundle_root):
        network, _, _ = load_clip(f"local-dir:{bundle_root / 'models' / 'prior'}")
        tower = network.visual.eval()
        images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            found = place_embeddings(tower, images)
            pool, features = tower.attnpool, tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(images)))))
            for row, column in ((0, 0), (1, 3), (3, 2)):
                place = features[:, :, row, column] + pool.positional_embedding[1 + 4 * row + column]
                alone = F.multi_head_attention_forward(
                    *(place[None],) * 3,
                    embed_dim_to_check=place.shape[1],
                    num_heads=pool.num_heads,
                    q_proj_weight=pool.q_proj.weight,
                    k_proj_weight=pool.k_proj.weight,
                    v_proj_weight=pool.v_proj.weight,
                    in_proj_weight=None,
                    in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
                    bias_k=None,
                    bias_v=None,
                    add_zero_attn=False,
                    dropout_p=0.0,
                    out_proj_weight=pool.c_proj.weight,
                    out_proj_bias=pool.c_proj.bias,
                    use_separate_proj_weight=True,
                    need_weights=False,
                )[0][0]
                torch.testing.assert_close(found[:, :, row, column], F.normalize(alone, dim=-1))

    def test_tokens_of_open_clips_transformer_are_projected(self):
        import open_clip

        with torch.random.fork_rng():
            torch.manual_seed(0)
            vision = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 64}
            text = {"context_length": 8, "vocab_size": 10, "width": 16, "heads": 2, "layers": 1}
            tower = open_clip.model.CLIP(24, vision, text).visual.eval()
            images = torch.randn(2, 3, 64, 64)
        tower.output_tokens = True
        with torch.no_grad():
            _, tokens = tower(images)
            wanted = F.normalize(tokens @ tower.proj, dim=-1)
            found = place_embeddings(tower, images)
        assert found.shape == (2, 24, 4, 4)
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), wanted)

    def test_a_tower_without_embeddings_of_places_is_refused(self):
        with pytest.raises(BioAttError, match="kind Linear has no dense prior"):
            place_embeddings(torch.nn.Linear(2, 2), torch.zeros(1, 3, 4, 4))

    def test_form_is_told_in_model_and_digest_and_can_be_tempered(self, vector, dense):
        assert dense.model == f"{vector.model}, dense" and dense.digest != vector.digest
        hot = make_prior("compact", form="dense", temperature=5.0)(make_slices(1), keys_of(1))
        torch.testing.assert_close(hot.sum(1), torch.ones(1, 4, 4))
        assert hot.max() < dense(make_slices(1), keys_of(1)).max()

    @pytest.mark.parametrize("prior", ["uniform", "random:0"])
    def test_what_sees_no_places_has_no_dense_form(self, prior):
        with pytest.raises(BioAttError, match=f"the prior {prior} has no form 'dense'"):
            make_prior(prior, form="dense")

    def test_an_unknown_form_is_refused(self):
        with pytest.raises(BioAttError, match="one of vector, dense, got 'map'"):
            make_prior("compact", form="map")


class TestOverWholeSlice:
    """Where the model's square lies in a slice that is none."""

    def test_shortest_side_leaves_the_margins_as_their_nearest_place(self):
        maps = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        whole = over_whole_slice(maps, (512, 768), "shortest")
        assert whole.shape == (2, 3, 4, 6)
        torch.testing.assert_close(whole, maps[..., [0, 0, 1, 2, 3, 3]])
        torch.testing.assert_close(over_whole_slice(maps, (768, 512), "shortest"), maps[:, :, [0, 0, 1, 2, 3, 3]])

    def test_longest_side_leaves_out_the_padding(self):
        maps = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(over_whole_slice(maps, (512, 768), "longest"), maps[:, :, 1:5])

    @pytest.mark.parametrize(("shape", "mode"), [((512, 512), "shortest"), ((512, 768), "squash")])
    def test_all_seen_is_as_it_is(self, shape, mode):
        maps = torch.randn(1, 3, 4, 4)
        assert over_whole_slice(maps, shape, mode) is maps

    def test_a_slice_that_is_not_square_has_a_map_of_its_form(self, dense):
        prior = dense(make_slices(1, (64, 96)), keys_of(1))
        assert prior.shape == (1, 11, 4, 6)
        torch.testing.assert_close(prior.sum(1), torch.ones(1, 4, 6))


def test_training_and_evaluation_take_dense_and_tempered_priors(tmp_path):
    data = write_patients(tmp_path / "data", "AB", 2)
    small = ["views=60", "prior=compact", "prior_form=dense", "prior_temperature=3", "network_def#widths=[4,6]"]
    small += ["patch_shape=[32,32]", "batch_size=4", "steps_per_epoch=10", "tensorboard=false"]
    more = ["train#trainer#max_epochs=2", "val_interval=2"]
    assert main(["train", str(data), str(tmp_path / "out"), "--validation", "B", "--set", *small, *more]) == 0
    kept = [np.load(path) for path in (tmp_path / "out" / "cache").glob("*/*.prior.npy")]
    assert len(kept) == 4 and {one.shape[1:] for one in kept} == {(11, 4, 4)}
    words = [str(data), str(tmp_path / "e"), "--weights", str(tmp_path / "out" / "model.pt")]
    assert main(["evaluate", *words, "--set", *small]) == 0
    assert (tmp_path / "e" / "evaluation.json").exists()


def taught_with(path, weights, **recipe):
    """A copy of weights whose recipe says that they were trained so."""
    shutil.copyfile(weights, path)
    write_recipe(path, dataclasses.replace(read_recipe(weights), **recipe))
    return path


@pytest.mark.parametrize("prior", ["uniform", "random:3"])
def test_a_control_has_no_form_whatever_the_weights_were_trained_with(prior):
    recipe = Recipe(prior_form="dense", prior_temperature=2.0, sha256="ab")
    source = make_prior(prior, form="dense", recipe=recipe)
    assert source(torch.zeros(1, 8, 8), keys_of(1)).shape == (1, 11)
    with pytest.raises(BioAttError, match="has no form 'dense'"):
        make_prior(prior, form="dense")


def test_denoising_with_a_dense_tempered_prior_says_so_and_differs(tmp_path, weights):
    series = write_ct_series(tmp_path / "series", shape=(96, 96), spacing=(3.5, 3.5), slices=2, noise_sd=30.0)
    words = ["--weights", str(weights), "--quiet", "--prior", "compact"]
    assert main(["denoise", str(series), str(tmp_path / "vector"), *words]) == 0
    taught = taught_with(tmp_path / "taught.pt", weights, prior_form="dense", prior_temperature=2.5)
    assert main(["denoise", str(series), str(tmp_path / "dense"), *words[2:], "--weights", str(taught)]) == 0
    first, second = (
        [pydicom.dcmread(path) for path in sorted((tmp_path / name).iterdir())] for name in ("vector", "dense")
    )
    assert "dense, temperature 2.5" in second[0].DerivationDescription
    assert "temperature" not in first[0].DerivationDescription
    assert any((a.pixel_array != b.pixel_array).any() for a, b in zip(first, second, strict=True))


def test_a_report_and_an_explanation_show_the_mean_over_places_of_a_dense_prior(tmp_path, weights, dense, no_figures):
    series = write_ct_series(tmp_path / "series", shape=(96, 96), spacing=(3.5, 3.5), slices=2, noise_sd=30.0)
    taught = taught_with(tmp_path / "taught.pt", weights, prior_form="dense")
    words = ["--weights", str(taught), "--quiet", "--prior", "compact"]
    assert main(["denoise", str(series), str(tmp_path / "out"), *words, "--report"]) == 0
    page = (tmp_path / "out.html").read_text()
    assert "the mean over the places of a dense prior" in page
    assert main(["explain", str(series), str(tmp_path / "why"), *words[:2], *words[3:], "--slice", "1"]) == 0
    record = json.loads((tmp_path / "why" / "explain.json").read_text())
    right, figures = list(record["priors"]["right"].values()), record["figures"]
    assert len(right) == 11 and sum(right) == pytest.approx(1.0, abs=1e-5)
    hu = radiological_slices(series)
    expected = dense(torch.from_numpy(hu[1][None].copy()), keys_of(1)).mean(dim=(2, 3))[0]
    assert right == pytest.approx(expected.tolist(), abs=1e-4)
    written = nibabel.load(tmp_path / "why" / "denoised.nii.gz").get_fdata()[..., 0]
    in_series = radiological_slices(tmp_path / "out")[1]
    assert np.abs(written - in_series).max() < 1.0, "the network was explained with the dense prior itself"
    assert figures["uniform"]["rms_hu"] > 0
