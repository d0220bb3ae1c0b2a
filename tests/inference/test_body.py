"""The network is shown the box that holds the body, and nothing in the body changes by it."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from scripts.hu import hu_to_network, network_to_hu
from scripts.inference.body import BLOCK, body_box, crop, fade, occupied_blocks
from scripts.inference.inferers import SlicePriorInferer
from scripts.networks import BioAtt, BioAttUNet

AFFINE = torch.diag(torch.tensor([0.8, 0.8, 1.0, 1.0], dtype=torch.float64))


def air(shape=(1, 256, 240), sd=20.0, seed=0):
    noise = sd * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (noise - 1000.0).clamp_min(-1024.0)


def with_body(rows=(112, 144), columns=(96, 136), **options):
    hu = air(**options)
    hu[:, slice(*rows), slice(*columns)] += 1050.0
    return hu


def denoised(hu, network, strength):
    volume = MetaTensor(hu[None, None, ..., None], affine=AFFINE)
    return SlicePriorInferer(strength=strength, precision="fp32")(volume, network).as_tensor()[0, 0, ..., 0]


class Recorder(torch.nn.Module):
    """Halves what it is shown, and keeps the shapes and priors."""

    margin, multiple = 16, 8

    def __init__(self):
        super().__init__()
        self.shapes, self.priors = [], []

    def forward(self, image, prior=None):
        self.shapes.append(tuple(image.shape))
        self.priors.append(prior)
        return image / 2


def test_noisy_air_is_no_body_and_lungs_are():
    assert not occupied_blocks(hu_to_network(air(sd=60.0))).any()
    assert occupied_blocks(hu_to_network(air() + 150.0)).all(), "lungs of -850 HU, from side to side"
    assert occupied_blocks(torch.zeros(1, 3, 4)).shape == (1, 1, 1), "images smaller than a block have one"
    cut = torch.full((1, 9, 8), hu_to_network(-1000.0))
    cut[:, 8] = 0.0
    assert occupied_blocks(cut)[0, :, 0].tolist() == [False, True], "a block that the side cuts is judged by its rest"


def test_the_box_holds_the_body_and_its_margin_in_the_networks_steps():
    occupied = occupied_blocks(hu_to_network(with_body()))
    (top, bottom), (left, right) = body_box(occupied, (256, 240), 13, 8)
    assert (top, bottom, left, right) == (96, 160, 80, 152)
    assert body_box(occupied, (256, 240), 500, 8) == ((0, 256), (0, 240))
    assert body_box(occupied_blocks(hu_to_network(air())), (256, 240), 13) is None


def test_the_result_fades_only_where_the_box_cuts_the_image():
    weights = fade(((0, 40), (8, 48)), (40, 100), 16, torch.device("cpu"))
    assert weights[20, 20] == 1 and torch.equal(weights[0], weights[39]), "its rows are whole"
    assert (weights[:, 0] < 0.25).all() and (weights[:, 4:-4] == 1).all() and torch.equal(weights, weights.flip(1))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_network_sees_the_box_and_no_slice_of_air_and_what_lies_outside_is_exact(batch_size):
    hu = torch.cat([with_body(), air(seed=1), with_body(rows=(120, 152))])
    hu[0, 120, 100], hu[0, 2, 2], hu[2, 3, 3] = 5000.0, float("nan"), -3024.0
    network = Recorder()
    out = SlicePriorInferer(batch_size=batch_size)(hu.movedim(0, -1)[None, None], network)[0, 0].movedim(-1, 0)
    assert sum(shape[0] for shape in network.shapes) == 2
    assert all(shape[2] < 100 and shape[3] < 100 for shape in network.shapes)
    assert torch.equal(out[1], hu[1]), "air"
    outside = torch.ones_like(out, dtype=torch.bool)
    outside[:, 96:168, 80:152] = False
    torch.testing.assert_close(out[outside], hu[outside], rtol=0, atol=0, equal_nan=True)
    assert out[0, 120, 100] == 5000.0, "metal"
    expected = network_to_hu(hu_to_network(hu) / 2)
    torch.testing.assert_close(out[2, 120:152, 96:136], expected[2, 120:152, 96:136])


def test_a_dense_prior_stays_where_it_belongs():
    dense = torch.rand(1, 11, 8, 8, generator=torch.Generator().manual_seed(2))
    network = Recorder()
    inferer = SlicePriorInferer(prior_source=lambda slices, keys: dense)
    inferer(with_body()[..., None][None], network)
    whole = torch.nn.functional.interpolate(dense, size=(256, 240), mode="bilinear", align_corners=False)
    torch.testing.assert_close(network.priors[0], whole[..., 96:160, 80:152])


@pytest.mark.parametrize("make", [BioAtt, BioAttUNet])
@pytest.mark.parametrize("attention", ["prior", "spatial", "none"])
def test_with_its_margin_the_box_gives_what_the_whole_slice_gives(make, attention):
    """In the body, of untrained networks of the real ones' form; RED-CNN's margin is all it sees, so it is exact."""
    torch.manual_seed(0)
    size = {"channels": 4} if make is BioAtt else {"widths": (4, 6, 8)}
    network = make(attention=attention, **size).eval()
    image = hu_to_network(with_body())[:, None]
    box = body_box(occupied_blocks(image[:, 0]), (256, 240), network.margin, network.multiple)
    with torch.inference_mode():
        whole, part = crop(network(image), box), network(crop(image, box))
    (top, _), (left, _) = box
    body = (..., slice(112 - top, 144 - top), slice(96 - left, 136 - left))
    assert part.shape[-1] < 240
    torch.testing.assert_close(part[body], whole[body], rtol=0, atol=0.1 / 500 if make is BioAttUNet else 1e-5)


def test_a_network_that_sees_the_whole_slice_gets_it():
    for network in (BioAtt(channels=2, attention="channel"), BioAttUNet(widths=(2, 2), attention="channel")):
        assert network.margin is None
    network = Recorder()
    network.margin = None
    SlicePriorInferer()(with_body()[..., None][None], network)
    assert network.shapes == [(1, 1, 256, 240)]


@pytest.mark.data
@pytest.mark.parametrize("strength", ["standard", None])
def test_bodies_of_real_slices_are_those_of_whole_slices_to_a_tenth_hu(
    real_slices, shipped_network, monkeypatch, strength
):
    boxed = [denoised(hu, shipped_network, strength) for hu in real_slices]
    monkeypatch.setattr(shipped_network, "margin", None)
    for hu, result in zip(real_slices, boxed, strict=True):
        body = occupied_blocks(hu_to_network(hu)[None])[0].repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
        difference = (result - denoised(hu, shipped_network, strength))[body[: hu.shape[0], : hu.shape[1]]]
        assert difference.abs().max() <= 0.1
