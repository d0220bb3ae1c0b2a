"""Each slice gets its own prior, padding stays, batches change nothing."""

from __future__ import annotations

import json

import pytest
import torch
from made_studies import lively_network
from monai.data import MetaTensor
from monai.inferers import SliceInferer
from scripts.errors import BioAttError
from scripts.hu import VALID_RANGE_HU, hu_to_network, network_to_hu
from scripts.inference.inferers import AutocastInferer, SlicePriorInferer
from scripts.volumes import HUToNetworkd, NetworkToHUd


class IndexPrior:
    """A prior that names the slice: descriptor i for slice i."""

    name = model = "index"

    def __init__(self) -> None:
        self.seen: list[tuple[int, torch.Size]] = []

    def __call__(self, slices_hu, keys):
        self.seen += [(key.index, slices_hu.shape[1:]) for key in keys]
        return torch.nn.functional.one_hot(torch.tensor([key.index for key in keys]), 11).float()


def prior_network(image, prior=None):
    """Adds the number of the descriptor to the image; without a prior, a thousand."""
    shift = 1000.0 if prior is None else (prior * torch.arange(prior.shape[1])).sum(1)[:, None, None, None]
    return image + shift


@pytest.fixture
def volume():
    """0 to 50 HU, so that `prior_network` stays within the valid range."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 1, 24, 30, 7, generator=generator) * 50


def test_the_result_stays_in_the_valid_range(volume):
    lower, upper = VALID_RANGE_HU
    out = SlicePriorInferer(batch_size=7)(volume, lambda image, prior=None: (image - 1.05) * 1e6)
    assert out.min() == pytest.approx(lower) and out.max() == pytest.approx(upper)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
def test_slice_i_gets_prior_i(volume, batch_size):
    out = SlicePriorInferer(prior_source=IndexPrior(), batch_size=batch_size)(volume, prior_network)
    torch.testing.assert_close(out - volume, 500 * torch.arange(7.0).expand_as(volume), atol=5e-3, rtol=0)


def test_monais_slice_inferer_would_lose_the_prior(volume):
    """Why this bundle has an inferer of its own (MONAI issue 8220): the extra input is dropped in silence."""
    priors = torch.eye(11)[:7][None]
    lost = SliceInferer(roi_size=(24, 30), spatial_dim=2, sw_batch_size=1)(volume, prior_network, priors)
    assert not torch.allclose(lost - volume, torch.arange(7.0).expand_as(volume), atol=1e-5)


def test_prior_source_sees_whole_slices_once_in_order(volume):
    source = IndexPrior()
    SlicePriorInferer(prior_source=source, batch_size=3)(volume, prior_network)
    assert source.seen == [(i, torch.Size([24, 30])) for i in range(7)]


def test_prior_source_gets_hu(volume):
    got = []

    class Source(IndexPrior):
        def __call__(self, slices_hu, keys):
            got.append(slices_hu)
            return super().__call__(slices_hu, keys)

    SlicePriorInferer(prior_source=Source(), batch_size=7)(volume, prior_network)
    assert torch.equal(got[0], volume[0, 0].movedim(-1, 0))


def test_a_real_network_acts_on_its_prior(volume):
    network = lively_network()
    volume = volume * 10 - 500
    out = SlicePriorInferer(prior_source=IndexPrior(), batch_size=2)(volume, network)
    without = SlicePriorInferer(batch_size=2)(volume, network)
    assert (out - without).abs().amax() > 5
    expected = network_to_hu(network(hu_to_network(volume[..., 4]), torch.eye(11)[4:5]).detach())
    torch.testing.assert_close(out[..., 4], expected)


def test_several_volumes_in_a_batch(volume):
    both = torch.cat([volume, volume + 10])
    out = SlicePriorInferer(prior_source=IndexPrior(), batch_size=4)(both, prior_network)
    torch.testing.assert_close(out - both, 500 * torch.arange(7.0).expand_as(both), atol=5e-3, rtol=0)


def test_volumes_in_a_batch_keep_their_own_slice_names(volume):
    names = [json.dumps({"uids": [f"{name}.{i}" for i in range(7)], "files": [""] * 7}) for name in "AB"]
    seen = []

    class Source(IndexPrior):
        def __call__(self, slices_hu, keys):
            seen.extend(key.sop_instance_uid for key in keys)
            return super().__call__(slices_hu, keys)

    batch = MetaTensor(torch.cat([volume, volume]), meta={"slice_keys": names})
    SlicePriorInferer(prior_source=Source(), batch_size=4)(batch, prior_network)
    assert seen == [f"{name}.{i}" for name in "AB" for i in range(7)]


def test_the_prior_source_is_not_shown_nan(volume):
    class Source(IndexPrior):
        def __call__(self, slices_hu, keys):
            assert torch.isfinite(slices_hu).all()
            return super().__call__(slices_hu, keys)

    volume[0, 0, :3, :3] = float("nan")
    volume[0, 0, 4, 4] = float("inf")
    out = SlicePriorInferer(prior_source=Source())(volume, prior_network)
    assert torch.equal(out.isnan(), volume.isnan()) and torch.equal(out.isinf(), volume.isinf())


def test_padding_metal_and_nan_keep_their_value_and_stay_out_of_the_network(volume):
    volume[0, 0, 3, 4, 2] = -3024.0
    volume[0, 0, 5, 6, 2] = 20000.0
    volume[0, 0, 7, 8, 2] = float("nan")
    shown = []

    def network(image, prior=None):
        shown.append(image)
        return image * 0 + 1  # water

    out = SlicePriorInferer(batch_size=7)(volume, network)
    lower, upper = (hu_to_network(limit) for limit in VALID_RANGE_HU)
    assert torch.isfinite(shown[0]).all() and shown[0].min() >= lower and shown[0].max() <= upper
    assert out[0, 0, 3, 4, 2] == -3024.0
    assert out[0, 0, 5, 6, 2] == 20000.0
    assert out[0, 0, 7, 8, 2].isnan()
    assert out.nan_to_num().count_nonzero() == 2


def test_metatensor_keeps_meta_and_transforms(volume):
    image = MetaTensor(volume, meta={"affine": torch.eye(4), "kind": "nifti"})
    image.push_applied_operation({"class": "something"})
    out = SlicePriorInferer(prior_source=IndexPrior())(image, prior_network)
    assert isinstance(out, MetaTensor)
    assert out.meta["kind"] == "nifti" and out.applied_operations == image.applied_operations


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 2, 8, 8, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(BioAttError, match="wants a volume"):
        SlicePriorInferer()(torch.zeros(shape), prior_network)


class SmallMemory(torch.nn.Module):
    """A network whose memory holds so many slices; `seen` are the batches that came."""

    def __init__(self, most):
        super().__init__()
        self.most, self.seen = most, []

    def forward(self, image, prior=None):
        self.seen.append(len(image))
        if len(image) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return prior_network(image, prior)


@pytest.mark.parametrize("in_place", [False, True])
def test_batches_that_memory_does_not_hold_become_smaller(volume, caplog, in_place):
    expected = SlicePriorInferer(prior_source=IndexPrior(), batch_size=4)(volume.clone(), prior_network)
    inferer, network = SlicePriorInferer(prior_source=IndexPrior(), batch_size=4, in_place=in_place), SmallMemory(1)
    torch.testing.assert_close(inferer(volume.clone(), network), expected, rtol=0, atol=0)
    assert network.seen[:3] == [4, 2, 1] and set(network.seen[3:]) == {1}, "it does not try again"
    assert caplog.text.count("out of memory") == 2


def test_a_slice_that_memory_does_not_hold_is_told_in_one_line(volume):
    with pytest.raises(BioAttError, match="out of memory with one slice of .* --device cpu"):
        SlicePriorInferer(batch_size=3)(volume, SmallMemory(0))


def test_a_missing_prior_is_told_once_a_volume(volume, caplog):
    caplog.set_level("INFO")
    SlicePriorInferer()(volume, lively_network())
    assert caplog.text.count("the uniform one") == 1


def test_a_volume_in_network_range_is_refused_as_configs_of_before_make_it(volume):
    converted = HUToNetworkd("image")({"image": MetaTensor(volume)})["image"]
    with pytest.raises(BioAttError, match="takes HU and gives HU; leave HUToNetworkd out"):
        SlicePriorInferer()(converted, prior_network)
    with pytest.raises(BioAttError, match="NetworkToHUd: the inferer takes HU"):
        NetworkToHUd("pred", in_place=True)
    back = NetworkToHUd("image")({"image": converted})["image"]
    torch.testing.assert_close(SlicePriorInferer()(back, prior_network), SlicePriorInferer()(volume, prior_network))


def test_batch_size_must_be_positive():
    with pytest.raises(BioAttError, match="batch_size must be at least 1"):
        SlicePriorInferer(batch_size=0)


def test_bf16_runs_in_bfloat16_and_returns_float32(volume):
    kinds = []

    def network(image, prior=None):
        out = torch.nn.functional.conv2d(image, torch.ones(1, 1, 1, 1))
        kinds.append(out.dtype)
        return out

    out = SlicePriorInferer(precision="bf16")(volume, network)
    patch = AutocastInferer(bf16=True)(volume[..., 0], network)
    assert set(kinds) == {torch.bfloat16}
    assert out.dtype == patch.dtype == torch.float32


def test_training_inferer_passes_the_prior(volume):
    out = AutocastInferer()(volume[..., 0], prior_network, torch.eye(11)[5:6])
    torch.testing.assert_close(out - volume[..., 0], torch.full((1, 1, 24, 30), 5.0))


def test_in_place_gives_the_same_result_in_the_inputs_memory(volume):
    network, image = lively_network(), MetaTensor(volume * 10 - 500, meta={"kind": "nifti"})
    image[0, 0, 1, 2, 3] = float("nan")
    expected = SlicePriorInferer(prior_source=IndexPrior(), batch_size=2)(image.clone(), network)
    before = image.data_ptr()
    out = SlicePriorInferer(prior_source=IndexPrior(), batch_size=2, in_place=True)(image, network)
    assert out.data_ptr() == before and out.meta["kind"] == "nifti"
    torch.testing.assert_close(out.as_tensor(), expected.as_tensor(), equal_nan=True)


def test_the_input_is_left_alone_by_default(volume):
    kept = volume.clone()
    SlicePriorInferer(batch_size=2)(volume, prior_network)
    assert torch.equal(volume, kept)
