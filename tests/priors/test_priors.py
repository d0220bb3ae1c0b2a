"""Descriptors, sources without a model, and priors by CLIP: the compact model, BiomedCLIP's layout, and what fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripts.errors import BioAttError
from scripts.priors import (
    BIOMEDCLIP,
    DESCRIPTORS,
    ClipPrior,
    PriorSource,
    SliceKey,
    check_descriptors,
    make_prior,
    prepare,
)
from scripts.priors.clip import load_clip


def make_slices(count: int = 3, shape: int = 64, seed: int = 0) -> torch.Tensor:
    """HU slices of random blobs, none like the other."""
    coarse = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 300
    return torch.nn.functional.interpolate(coarse, size=(shape, shape), mode="bilinear")[:, 0]


def keys_of(count: int) -> list[SliceKey]:
    """Keys with an index alone."""
    return [SliceKey(index) for index in range(count)]


@pytest.fixture(scope="module")
def compact() -> PriorSource:
    """The compact model as it ships."""
    return make_prior("compact")


@pytest.fixture
def compact_copy(bundle_root: Path, tmp_path: Path) -> Path:
    """A copy of the compact model's folder that a test may spoil."""
    return Path(shutil.copytree(bundle_root / "models" / "prior", tmp_path / "model"))


@pytest.fixture
def offline(monkeypatch, tmp_path) -> None:
    """No hub and an empty cache, as HF_HUB_OFFLINE and HF_HOME make them in a fresh process."""
    import huggingface_hub

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def change_config(folder: Path, change: dict[str, object], section: str = "text_cfg") -> None:
    """Overwrite keys of a folder's open_clip_config.json."""
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    target = config["model_cfg"] if section == "model_cfg" else config["model_cfg"][section]
    target.update(change)
    path.write_text(json.dumps(config))


class TestDescriptors:
    """The words and their check."""

    def test_are_the_papers_eleven_in_its_order(self):
        assert len(DESCRIPTORS) == 11
        assert (DESCRIPTORS[0], DESCRIPTORS[8], DESCRIPTORS[10]) == ("skull", "abdominal aorta", "lymph nodes")

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "descriptors is empty"),
            (["liver", "liver"], "named twice: liver"),
            (["liver", " "], "non-empty words"),
            ("liver", "got the string 'liver'"),
        ],
    )
    def test_useless_descriptors_are_refused(self, words, message):
        with pytest.raises(BioAttError, match=message):
            check_descriptors(words)


class TestMakePrior:
    """The string that names a prior."""

    @pytest.mark.parametrize("prior", ["", "Compact", "random", "random:x", "random:-1", "table:", "hf-hub:", "foo:1"])
    def test_unknown_form_lists_the_forms(self, prior):
        with pytest.raises(BioAttError, match=r"unknown prior .*compact \| biomedclip \| hf-hub:NAME"):
            make_prior(prior)

    @pytest.mark.parametrize("prior", ["uniform", "random:3"])
    def test_sources_follow_the_protocol(self, prior):
        source = make_prior(prior)
        assert isinstance(source, PriorSource)
        assert source.name == prior
        assert source.descriptors == DESCRIPTORS

    @pytest.mark.parametrize("prior", ["uniform", "random:3"])
    def test_number_of_keys_must_fit(self, prior):
        with pytest.raises(BioAttError, match="3 slices came with 2 keys"):
            make_prior(prior)(make_slices(3), keys_of(2))

    def test_a_single_image_is_no_stack(self):
        with pytest.raises(BioAttError, match=r"got shape \(64, 64\)"):
            make_prior("uniform")(make_slices(1)[0], keys_of(1))


class TestUniformAndRandom:
    """Sources without a model."""

    def test_uniform_is_one_over_k(self):
        prior = make_prior("uniform", descriptors=("liver", "spine"))(make_slices(3), keys_of(3))
        assert torch.equal(prior, torch.full((3, 2), 0.5))

    def test_random_rows_are_distributions_and_differ(self):
        prior = make_prior("random:0")(make_slices(4), keys_of(4))
        assert prior.shape == (4, 11)
        assert prior.min() > 0
        torch.testing.assert_close(prior.sum(1), torch.ones(4))
        assert len({tuple(row.tolist()) for row in prior}) == 4

    def test_random_depends_on_the_slice_and_not_on_order_or_batch(self):
        slices, keys = make_slices(4), keys_of(4)
        together = make_prior("random:7")(slices, keys)
        source = make_prior("random:7")
        alone = [source(slices[i : i + 1], keys[i : i + 1])[0] for i in (3, 1, 0, 2)]
        assert torch.equal(together[[3, 1, 0, 2]], torch.stack(alone))

    def test_random_follows_the_uid_before_the_index(self):
        source, image = make_prior("random:7"), make_slices(1)
        one = source(image, [SliceKey(0, "1.2.3")])
        assert torch.equal(one, source(image, [SliceKey(5, "1.2.3")]))
        assert not torch.equal(one, source(image, [SliceKey(0, "1.2.4")]))

    def test_another_seed_gives_another_prior_and_digest(self):
        one, other = make_prior("random:1"), make_prior("random:2")
        assert not torch.equal(one(make_slices(1), keys_of(1)), other(make_slices(1), keys_of(1)))
        assert one.digest != other.digest


class TestPrepare:
    """HU to 8 bits."""

    def test_window_clips_and_truncates(self):
        hu = torch.tensor([[[-3024.0, -160.0, 39.9, 40.0, 240.0, 3071.0]]])
        assert prepare(hu, "window", (-160.0, 240.0)).tolist() == [[[0, 0, 127, 127, 255, 255]]]

    def test_minmax_is_the_papers_formula_of_each_slice(self):
        hu = make_slices(2).double()
        x = hu.numpy()
        low, high = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
        assert np.array_equal(prepare(hu, "minmax", (0, 1)).numpy(), ((x - low) / (high - low) * 255).astype(np.uint8))

    def test_minmax_of_a_constant_slice_is_black(self):
        assert prepare(torch.full((1, 4, 4), 37.0), "minmax", (0, 1)).tolist() == [[[0] * 4] * 4]


class TestCompact:
    """The model that ships with the bundle."""

    def test_priors_are_distributions(self, compact):
        prior = compact(make_slices(3), keys_of(3))
        assert prior.shape == (3, 11) and prior.dtype == torch.float32
        torch.testing.assert_close(prior.sum(1), torch.ones(3))

    def test_priors_can_enter_a_network_in_training(self, compact):
        weight = torch.ones(11, requires_grad=True)
        (compact(make_slices(1), keys_of(1)) * weight).sum().backward()  # refused for inference tensors
        torch.testing.assert_close(weight.grad.sum(), torch.tensor(1.0))

    def test_batches_do_not_change_priors(self, compact, monkeypatch):
        slices = make_slices(5)
        whole = compact(slices, keys_of(5))
        monkeypatch.setattr("scripts.priors.clip.BATCH_SIZE", 2)
        torch.testing.assert_close(compact(slices, keys_of(5)), whole)

    def test_equals_open_clip_by_hand(self, compact, bundle_root):
        import open_clip

        name = f"local-dir:{bundle_root / 'models' / 'prior'}"
        network, preprocess = open_clip.create_model_from_pretrained(name)
        slices = make_slices(2)
        scaled = ((slices.clip(-160, 240) + 160) / 400 * 255).numpy().astype(np.uint8)
        images = torch.stack([preprocess(Image.fromarray(image)) for image in scaled])
        with torch.no_grad():
            logits, _ = network.eval().get_logits(images, open_clip.get_tokenizer(name)(list(DESCRIPTORS)))
        torch.testing.assert_close(compact(slices, keys_of(2)), logits.softmax(-1))

    def test_says_that_it_is_not_biomedclip(self, compact):
        assert compact.name == "compact"
        assert compact.model == "compact prior model 2.0 (a stand-in, not BiomedCLIP), window -160 to 240 HU"

    def test_fits_its_limits(self, bundle_root):
        files = {file.name: file.stat().st_size for file in (bundle_root / "models" / "prior").iterdir()}
        assert files["open_clip_model.safetensors"] < 8e6
        assert {"open_clip_config.json", "tokenizer.json", "labels.csv", "figures.json", "README.md"} <= set(files)

    def test_shipped_figures_belong_to_the_shipped_weights(self, compact, bundle_root):
        figures = json.loads((bundle_root / "models" / "prior" / "figures.json").read_text())
        assert figures["digest"] == compact.digest
        for held_out in figures["held_out"].values():
            if held_out["tv_to_target_uniform"] > 0.3:
                assert held_out["tv_to_target"] < held_out["tv_to_target_constant"] < held_out["tv_to_target_uniform"]
            else:  # one word or none is visible, the target itself is near uniform; the page names who is no nearer
                assert held_out["highest_few"] < 0.3

    def test_the_page_names_held_out_patients_that_the_model_knows_no_better_than_uniform(self, bundle_root):
        folder = bundle_root / "models" / "prior"
        figures = json.loads((folder / "figures.json").read_text())["held_out"]
        worse = [name for name, row in figures.items() if row["tv_to_target"] >= row["tv_to_target_uniform"]]
        assert f"than the uniform prior, by TV: {', '.join(worse) or 'none'}." in (folder / "README.md").read_text()

    def test_digest_is_stable_and_follows_what_decides_a_prior(self, compact, compact_copy):
        assert make_prior(f"local-dir:{compact_copy}").digest == compact.digest
        others = [
            make_prior("compact", window_hu=(-160.0, 241.0)).digest,
            make_prior("compact", preparation="minmax").digest,
            make_prior("compact", descriptors=DESCRIPTORS[:5]).digest,
        ]
        assert len({compact.digest, *others}) == 4

    def test_preparation_reaches_the_model(self, compact):
        slices = make_slices(1)
        assert not torch.allclose(
            make_prior("compact", preparation="minmax")(slices, keys_of(1)), compact(slices, keys_of(1))
        )

    def test_unknown_words_are_refused(self):
        with pytest.raises(BioAttError, match="does not know heart"):
            make_prior("compact", descriptors=("heart", "liver"))

    def test_values_that_are_not_finite_are_refused_by_name(self, compact):
        slices = make_slices(2)
        slices[1, 0, 0] = float("nan")
        with pytest.raises(BioAttError, match=r"slice 1 \(SOPInstanceUID 1.2, .* not finite"):
            compact(slices, [SliceKey(0), SliceKey(1, "1.2", "a.dcm")])

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"preparation": "log"}, "one of window, minmax, got 'log'"),
            ({"window_hu": (240.0, -160.0)}, "lower < upper"),
            ({"device": "nowhere"}, "device 'nowhere' is not one"),
            ({"descriptors": ()}, "descriptors is empty"),
        ],
    )
    def test_useless_settings_are_refused(self, setting, message):
        with pytest.raises(BioAttError, match=message):
            make_prior("compact", **setting)

    def test_import_loads_no_heavy_package_and_loading_prints_nothing(self, bundle_root):
        code = (
            "import scripts.priors, sys; print([m for m in ('open_clip', 'transformers', 'PIL') if m in sys.modules]);"
            "scripts.priors.make_prior('compact')"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=bundle_root, capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("[]\n", "")


class TestWhatFails:
    """Every way a model folder or the hub is unusable ends in one line with a remedy."""

    def test_folder_is_missing(self, tmp_path):
        with pytest.raises(BioAttError, match="no such folder .*nowhere"):
            make_prior(f"local-dir:{tmp_path / 'nowhere'}")

    def test_config_is_missing(self, compact_copy):
        (compact_copy / "open_clip_config.json").unlink()
        with pytest.raises(BioAttError, match="open_clip_config.json is missing"):
            make_prior(f"local-dir:{compact_copy}")

    def test_config_is_broken(self, compact_copy):
        (compact_copy / "open_clip_config.json").write_text("{}")
        with pytest.raises(BioAttError, match="is not an open_clip config"):
            make_prior(f"local-dir:{compact_copy}")

    def test_weights_are_missing(self, compact_copy):
        (compact_copy / "open_clip_model.safetensors").unlink()
        with pytest.raises(BioAttError, match="no weights in .*open_clip_model.safetensors"):
            make_prior(f"local-dir:{compact_copy}")

    def test_weights_are_cut_short(self, compact_copy):
        weights = compact_copy / "open_clip_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100_000])
        with pytest.raises(BioAttError, match="cannot be loaded"):
            make_prior(f"local-dir:{compact_copy}")

    def test_weights_that_run_code_are_not_read(self, compact_copy):
        (compact_copy / "open_clip_model.safetensors").unlink()
        torch.save({"state_dict": Path("x")}, compact_copy / "open_clip_pytorch_model.bin")  # a class, not a tensor
        with pytest.raises(BioAttError, match="cannot be loaded"):
            make_prior(f"local-dir:{compact_copy}")

    def test_tokenizer_is_missing(self, compact_copy):
        (compact_copy / "tokenizer.json").unlink()
        with pytest.raises(BioAttError, match="the tokenizer cannot be read"):
            make_prior(f"local-dir:{compact_copy}")

    def test_embedding_size_differs_from_the_weights(self, compact_copy):
        change_config(compact_copy, {"embed_dim": 32}, "model_cfg")
        with pytest.raises(BioAttError, match=r"weights do not fit .*embedding size \(embed_dim\).*size mismatch"):
            make_prior(f"local-dir:{compact_copy}")

    def test_weights_of_another_network(self, compact_copy):
        change_config(compact_copy, {"layers": 3})
        with pytest.raises(BioAttError, match="weights do not fit .*keys differ"):
            make_prior(f"local-dir:{compact_copy}")

    def test_towers_of_different_embedding_size(self, compact_copy, monkeypatch):
        import open_clip

        encode = open_clip.model.CLIP.encode_text
        monkeypatch.setattr(open_clip.model.CLIP, "encode_text", lambda *a, **k: encode(*a, **k)[:, :48])
        with pytest.raises(BioAttError, match="does not fit the text tower, whose embedding has 48 numbers"):
            make_prior(f"local-dir:{compact_copy}")

    def test_hub_is_not_reachable(self, offline):
        wanted = (
            f"{BIOMEDCLIP} is neither in the local cache nor reachable .*HF_HUB_OFFLINE is set.*--prior compact, or"
        )
        with pytest.raises(BioAttError, match=wanted):
            make_prior("biomedclip")


@pytest.fixture(scope="module")
def biomedclip_layout(tmp_path_factory) -> Path:
    """BiomedCLIP's folder with random weights: its ViT-B/16, a BERT of its kind but small, its config's keys."""
    import open_clip
    from transformers import BertConfig

    folder = tmp_path_factory.mktemp("biomedclip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({w for d in DESCRIPTORS for w in d.split()})]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertConfig(vocab_size=len(words), initializer_range=0.5, **size).save_pretrained(folder / "text_tower")
    text = {"hf_model_name": str(folder / "text_tower"), "hf_tokenizer_name": "hub/name", "context_length": 256}
    text |= {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}
    vision = {"timm_model_name": "vit_base_patch16_224", "timm_model_pretrained": False}
    vision |= {"timm_pool": "", "timm_proj": "linear", "image_size": 224}
    config = {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = open_clip.model.CustomTextCLIP(**{**config, "text_cfg": {**text, "hf_model_pretrained": False}})
    network.logit_scale.data.fill_(np.log(1000.0))  # so that priors of random weights are far from uniform
    torch.save({k: v.half() for k, v in network.state_dict().items()}, folder / "open_clip_pytorch_model.bin")
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    config["text_cfg"] = {**text, "hf_model_name": "text_tower"}  # beside the config: the folder can be moved
    whole = {"model_cfg": config, "preprocess_cfg": {"mean": mean, "std": std}}
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    return folder


class TestBiomedClipLayout:
    """The layout of the paper's model, loaded from a folder with no network."""

    def test_priors_equal_open_clip_by_hand(self, biomedclip_layout, monkeypatch, offline):
        import open_clip

        source = ClipPrior(f"local-dir:{biomedclip_layout}", preparation="minmax")
        slices = make_slices(2)
        prior = source(slices, keys_of(2))
        assert prior.shape == (2, 11)
        torch.testing.assert_close(prior.sum(1), torch.ones(2))
        assert (prior[0] - prior[1]).abs().max() > 1e-3 and (prior - 1 / 11).abs().max() > 1e-2

        monkeypatch.chdir(biomedclip_layout)  # open_clip alone takes hf_model_name from the working folder
        network, preprocess = open_clip.create_model_from_pretrained("local-dir:.")
        low, high = slices.amin((1, 2), keepdim=True), slices.amax((1, 2), keepdim=True)
        scaled = ((slices - low) / (high - low) * 255).numpy().astype(np.uint8)
        images = torch.stack([preprocess(Image.fromarray(image)) for image in scaled])
        assert images.shape == (2, 3, 224, 224)
        with torch.no_grad():
            logits, _ = network.eval().get_logits(images, open_clip.get_tokenizer("local-dir:.")(list(DESCRIPTORS)))
        torch.testing.assert_close(prior, logits.softmax(-1), rtol=1e-4, atol=1e-6)

    def test_dense_priors_are_the_projected_patch_tokens(self, biomedclip_layout, offline):
        source = ClipPrior(f"local-dir:{biomedclip_layout}", form="dense")
        slices = make_slices(1)
        prior = source(slices, keys_of(1))
        assert prior.shape == (1, 11, 14, 14)
        torch.testing.assert_close(prior.sum(1), torch.ones(1, 14, 14))

        network, preprocess, tokenizer = load_clip(f"local-dir:{biomedclip_layout}")
        image = preprocess(Image.fromarray(prepare(slices, "window", (-160.0, 240.0))[0].numpy()))
        with torch.no_grad():
            tokens = network.eval().visual.head(network.visual.trunk.forward_features(image[None]))
            tokens = torch.nn.functional.normalize(tokens[0, 1:], dim=-1)  # without the class token
            texts = network.encode_text(tokenizer(list(DESCRIPTORS)), normalize=True)
            wanted = (network.logit_scale.exp() * tokens @ texts.T).softmax(-1)
        torch.testing.assert_close(prior[0].flatten(1).T, wanted, rtol=1e-4, atol=1e-6)

    def test_text_tower_on_the_hub_is_named_with_its_key(self, biomedclip_layout, tmp_path, offline):
        for file in biomedclip_layout.iterdir():
            (tmp_path / file.name).symlink_to(file)
        config = (tmp_path / "open_clip_config.json").read_text()
        (tmp_path / "open_clip_config.json").unlink()
        (tmp_path / "open_clip_config.json").write_text(config)
        change_config(tmp_path, {"hf_model_name": "microsoft/no-such-model"})
        wanted = "model_cfg.text_cfg.hf_model_name .*'microsoft/no-such-model'.*config.json into a folder beside it"
        with pytest.raises(BioAttError, match=wanted):
            make_prior(f"local-dir:{tmp_path}")
