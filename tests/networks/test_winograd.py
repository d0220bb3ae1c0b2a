"""The fast convolutions give what the plain ones give, and stand where they gain and nowhere else."""

from __future__ import annotations

import copy

import pytest
import torch
from scripts.networks import BioAtt, BioAttUNet, load_weights, use_winograd
from scripts.networks import winograd as module
from scripts.networks.winograd import WinogradConv2d, WinogradConvTranspose2d, winograd_conv2d
from torch import nn

#: Rounding of one layer as a share of its range, by width of the kernels; the plain layer has 0.2e-6.
ROUNDING = {3: 1e-6, 5: 2e-6}


def difference(got, expected):
    """Largest difference as a share of the range of what was expected."""
    return float((got.double() - expected).abs().max() / (expected.max() - expected.min()))


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("shape", [(2, 8, 9), (1, 65, 70), (1, 131, 12), (1, 12, 131)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_it_is_a_convolution(size, shape, with_bias):
    generator = torch.Generator().manual_seed(0)
    count, height, width = shape
    image = torch.randn(count, 6, height, width, generator=generator)
    weight = torch.randn(10, 6, size, size, generator=generator)
    bias = torch.randn(10, generator=generator) if with_bias else None
    for padding in range(size):
        if height + 2 * padding - size + 1 < module.TILE:
            continue
        for layout in (torch.contiguous_format, torch.channels_last):
            got = winograd_conv2d(image.contiguous(memory_format=layout), weight, bias, padding)
            doubles = None if bias is None else bias.double()
            expected = torch.conv2d(image.double(), weight.double(), doubles, padding=padding)
            assert got.shape == expected.shape and difference(got, expected) < ROUNDING[size]


@pytest.mark.parametrize("size", [3, 5])
def test_a_kernel_of_one_pixel_moves_the_image(size):
    """Tiles, bands and edges lie where they should."""
    image = torch.rand(1, 1, 135 + size, 7, generator=torch.Generator().manual_seed(0))
    for row, column in ((0, 0), (size - 1, 2), (2, size - 1)):
        weight = torch.zeros(1, 1, size, size)
        weight[0, 0, row, column] = 1.0
        got = winograd_conv2d(image, weight, None)
        expected = image[..., row : row + 136, column : column + 8 - size]
        torch.testing.assert_close(got, expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: BioAtt(channels=96, attention="none"), (64, 64)),
        (lambda: BioAtt(channels=32), (37, 90)),
        (lambda: BioAttUNet(), (90, 75)),
        (lambda: BioAttUNet(widths=(64, 64)), (64, 128)),
    ],
)
def test_networks_keep_their_output(make, size):
    """To 1e-5 of the range, against float64, and no worse than the plain form by more than rounding."""
    torch.manual_seed(0)
    plain = make().eval()
    with torch.no_grad():
        for weight in plain.parameters():
            weight.mul_(1.6 if weight.dim() > 1 else 1.0)
    fast = use_winograd(copy.deepcopy(plain).to(memory_format=torch.channels_last))
    assert any(isinstance(layer, WinogradConv2d) for layer in fast.modules())
    assert fast.state_dict().keys() == plain.state_dict().keys()
    image, prior = torch.rand(2, 1, *size), torch.rand(2, 11).softmax(dim=1)
    exact = copy.deepcopy(plain).double()(image.double(), prior.double()).detach()
    with torch.inference_mode():
        assert (exact - image).std() > 0.05
        assert difference(fast(image, prior), exact) < 1e-5
        assert difference(fast(image, prior), exact) < 5 * difference(plain(image, prior), exact) + 1e-6


def layers(network):
    """Names of the layers that were replaced."""
    fast = (WinogradConv2d, WinogradConvTranspose2d)
    return {name for name, layer in network.named_modules() if isinstance(layer, fast)}


def test_wide_layers_of_red_cnn_are_replaced_when_weights_are_loaded(tmp_path):
    network = BioAtt(channels=32)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    wide = {"conv2", "conv3", "conv4", "conv5", "deconv1", "deconv2", "deconv3", "deconv4"}
    assert layers(load_weights(network, tmp_path / "w.pt")) == wide


def test_layers_of_the_fast_network_with_many_feature_maps_are_replaced():
    wide = {
        "encoder.1.conv1",
        "encoder.1.conv2",
        "encoder.2.conv1",
        "encoder.2.conv2",
        "decoder.0.conv1",
        "decoder.0.conv2",
    }
    assert layers(use_winograd(BioAttUNet())) == wide, "not those of few channels or with strides"


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(64, 64, 5, stride=2),
        nn.Conv2d(64, 64, 5, dilation=2),
        nn.Conv2d(64, 64, 5, groups=2),
        nn.Conv2d(64, 64, 5, padding=2, padding_mode="reflect"),
        nn.Conv2d(64, 64, 5, padding=5),
        nn.Conv2d(64, 64, 5, padding=(2, 1)),
        nn.Conv2d(64, 64, 5, padding="same"),
        nn.Conv2d(64, 64, 7),
        nn.Conv2d(64, 31, 5),
        nn.ConvTranspose2d(64, 64, 5, padding=1),
        nn.ConvTranspose2d(64, 64, 5, stride=2, output_padding=1),
    ],
    ids=str,
)
def test_other_layers_stay_what_they_are(layer):
    assert layers(use_winograd(nn.Sequential(layer))) == set()


def test_a_replaced_layer_trains_and_runs_in_bf16_and_on_small_images_as_before(monkeypatch):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(32, 32, 5), nn.ConvTranspose2d(32, 32, 5))
    fast = use_winograd(copy.deepcopy(plain))
    monkeypatch.setattr(module, "winograd_conv2d", None)  # calling it would raise
    image = torch.randn(1, 32, 40, 40)
    for network in (plain, fast):
        network(image).square().mean().backward()
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    with torch.inference_mode():
        assert torch.equal(fast(image[..., :6, :]), plain(image[..., :6, :]))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(fast(image), plain(image))
