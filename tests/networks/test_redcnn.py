"""The network against its definition, written a second time from a state dict; shapes, prior, scripting."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from made_studies import lively_network
from scripts.networks import ATTENTION_KINDS, BioAtt

CHANNELS, K = 16, 11
SIZES = [(1, 1), (5, 7), (20, 21), (21, 21), (21, 1), (40, 33), (22, 64)]


def random_network(attention="prior", seed=0, channels=CHANNELS):
    """A network in float64 whose weights and biases are all random and matter."""
    network = BioAtt(channels=channels, attention=attention).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            fan_in = weight[0].numel() if weight.dim() > 1 else 25
            gain = 2.0 if name.startswith("attention") else 1.3
            weight.copy_(gain * torch.randn(weight.shape, generator=generator, dtype=torch.float64) / fan_in**0.5)
            if name.endswith("fc.0.weight"):  # the one hidden unit of channel attention must not be dead
                weight.abs_()
    return network


def random_input(batch=2, size=(27, 30), seed=1):
    """An image (B, 1, H, W) in network range and a prior (B, K) that sums to 1."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, 1, *size, generator=generator, dtype=torch.float64) * 2 - 0.5
    return image, torch.randn(batch, K, generator=generator, dtype=torch.float64).mul(1.5).softmax(dim=1)


def by_definition(state, image, prior, kind):
    """Output and the two attention weights, from a state dict in the words of the paper; sides of 21 pixels or more."""

    def conv(x, name):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def deconv(x, name):
        return F.conv_transpose2d(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def weight_of(x, slot):
        if kind == "none":
            return torch.ones_like(x)
        if kind == "channel":
            hidden = F.relu(F.linear(x.mean((2, 3)), state[f"{slot}.fc.0.weight"]))
            return torch.sigmoid(F.linear(hidden, state[f"{slot}.fc.2.weight"]))[:, :, None, None]
        pooled = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)
        maps = torch.sigmoid(F.conv2d(pooled, state[f"{slot}.conv.weight"], padding=3))
        return maps if kind == "spatial" else torch.einsum("bk,bkhw->bhw", prior, maps)[:, None]

    skip2 = F.relu(conv(F.relu(conv(image, "conv1")), "conv2"))
    features3 = F.relu(conv(skip2, "conv3"))
    weight3 = weight_of(features3, "attention3")
    skip4 = F.relu(conv(features3 * weight3, "conv4"))
    features5 = F.relu(conv(skip4, "conv5"))
    weight5 = weight_of(features5, "attention5")
    y = F.relu(deconv(features5 * weight5, "deconv1") + skip4)
    y = F.relu(deconv(F.relu(deconv(y, "deconv2")), "deconv3") + skip2)
    return deconv(F.relu(deconv(y, "deconv4")), "deconv_last") + image, weight3, weight5


@pytest.mark.parametrize(("attention", "count"), [("prior", 1_851_021), ("none", 1_848_865), ("spatial", 1_849_061)])
def test_number_of_parameters_is_the_papers(attention, count):
    assert sum(weight.numel() for weight in BioAtt(attention=attention).parameters()) == count


@pytest.mark.parametrize("attention", ATTENTION_KINDS)
def test_forward_is_the_definition(attention):
    network, (image, prior) = random_network(attention), random_input()
    expected, weight3, weight5 = by_definition(network.state_dict(), image, prior, attention)
    torch.testing.assert_close(network(image, prior), expected, rtol=1e-5, atol=1e-8)
    if attention != "none":  # the random weights are no trivial case: the attention differs from pixel to pixel
        assert weight3.std() > 0.01 and weight5.std() > 0.01


@pytest.mark.parametrize("attention", ATTENTION_KINDS)
def test_single_precision_stays_close_to_double(attention):
    network, (image, prior) = random_network(attention), random_input()
    exact = network(image, prior)
    single = network.float()(image.float(), prior.float())
    assert single.dtype == torch.float32
    assert (single.double() - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_size_keeps_its_shape(size):
    network, (image, prior) = random_network(), random_input(size=size)
    denoised = network(image, prior)
    assert denoised.shape == image.shape
    assert denoised.isfinite().all()


def test_small_image_is_one_padded_by_replication_and_cropped_again():
    network, (image, prior) = random_network(), random_input(size=(5, 24))
    rows = torch.arange(21).clamp(max=4)
    expected, *_ = by_definition(network.state_dict(), image[:, :, rows], prior, "prior")
    torch.testing.assert_close(network(image, prior), expected[:, :, :5], rtol=1e-5, atol=1e-8)


def test_missing_prior_is_the_uniform_one():
    network, (image, prior) = random_network(), random_input()
    torch.testing.assert_close(network(image), network(image, torch.full_like(prior, 1 / K)))


def test_two_priors_give_two_results():
    network, (image, prior) = random_network(), random_input()
    other = prior.roll(1, dims=1)
    assert (network(image, prior) - network(image, other)).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["spatial", "channel", "none"])
def test_networks_without_prior_attention_ignore_the_prior(attention):
    network, (image, prior) = random_network(attention), random_input()
    assert torch.equal(network(image, prior), network(image))


def test_dense_prior_that_is_constant_equals_the_vector():
    network, (image, prior) = random_network(), random_input()
    dense = prior[:, :, None, None].expand(-1, -1, 27, 30)
    torch.testing.assert_close(network(image, dense), network(image, prior))


def test_items_of_a_batch_are_independent():
    network, (image, prior) = random_network(), random_input(batch=3)
    together = network(image, prior)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], network(image[i : i + 1], prior[i : i + 1]))
    changed = prior.clone()
    changed[1] = changed[1].roll(4)
    difference = (network(image, changed) - together).abs().amax(dim=(1, 2, 3))
    assert difference[1] > 1e-3
    assert difference[0] < 1e-9 and difference[2] < 1e-9


@pytest.mark.parametrize("attention", ["prior", "spatial", "none"])
def test_shift_of_the_image_shifts_the_result_away_from_the_borders(attention):
    network, (image, prior) = random_network(attention, channels=4), random_input(batch=1, size=(72, 75))
    down, right, border = 3, 5, 27  # five convolutions and back, and twice three pixels of attention, reach 26 far
    one = network(image[..., down:, right:], prior)[..., border:-border, border:-border]
    two = network(image, prior)[..., down:, right:][..., border:-border, border:-border]
    assert one.numel() > 100
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    "shape", [(21, 21), (1, 21, 21), (2, 3, 21, 21), (1, 1, 1, 21, 21), (0, 1, 21, 21), (1, 1, 0, 21)], ids=str
)
@pytest.mark.parametrize("method", ["forward", "attention_maps"])
def test_wrong_image_is_refused(method, shape):
    with pytest.raises(ValueError, match=r"image must be \(B, 1, H, W\), not empty, got \["):
        getattr(BioAtt(channels=4), method)(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(11,), (1, 11), (2, 10), (2, 12), (2, 11, 3), (1, 11, 4, 4), (2, 10, 4, 4)], ids=str)
@pytest.mark.parametrize("method", ["forward", "attention_maps"])
def test_wrong_prior_is_refused(method, shape):
    with pytest.raises(ValueError, match=r"prior must be \(2, 11\) or \(2, 11, h, w\), got \["):
        getattr(BioAtt(channels=4), method)(torch.zeros(2, 1, 21, 21), torch.zeros(shape))


def test_unknown_attention_is_refused():
    with pytest.raises(ValueError, match="attention must be one of"):
        BioAtt(attention="cbam")


@pytest.mark.parametrize("attention", ATTENTION_KINDS)
def test_scripted_network_equals_the_eager_one(attention):
    network = random_network(attention)
    scripted = torch.jit.script(network)
    _, vector = random_input()
    dense = vector[:, :, None, None] * torch.linspace(0.5, 1.5, 12, dtype=torch.float64).reshape(3, 4)
    with torch.jit.optimized_execution(False):  # compiling for each shape anew would take seconds
        for size, prior in (((24, 23), vector), ((5, 30), dense), ((27, 30), None)):
            image, _ = random_input(size=size)
            torch.testing.assert_close(scripted(image, prior), network(image, prior))
            eager_maps, scripted_maps = network.attention_maps(image, prior), scripted.attention_maps(image, prior)
            assert eager_maps.keys() == scripted_maps.keys()
            for name, maps in eager_maps.items():
                torch.testing.assert_close(scripted_maps[name], maps)


def test_scripted_network_refuses_what_the_eager_one_refuses():
    scripted = torch.jit.script(BioAtt(channels=4))
    with pytest.raises(Exception, match="prior must be"):
        scripted(torch.zeros(2, 1, 21, 21), torch.zeros(1, 11))


def test_attention_maps_have_one_map_a_descriptor_in_the_size_of_their_features():
    network, (image, prior) = random_network(), random_input(size=(27, 34))
    maps = network.attention_maps(image, prior)
    shapes = {name: tuple(value.shape) for name, value in maps.items()}
    assert shapes == {
        "attention3": (2, K, 15, 22),
        "attention3_weighted": (2, 1, 15, 22),
        "attention5": (2, K, 7, 14),
        "attention5_weighted": (2, 1, 7, 14),
    }
    assert all(value.min() > 0 and value.max() < 1 for value in maps.values())


@pytest.mark.parametrize("attention", ATTENTION_KINDS)
def test_attention_maps_are_those_of_forward(attention):
    network, (image, prior) = random_network(attention), random_input()
    _, weight3, weight5 = by_definition(network.state_dict(), image, prior, attention)
    maps = network.attention_maps(image, prior)
    for name, weight in (("attention3", weight3), ("attention5", weight5)):
        torch.testing.assert_close(maps[f"{name}_weighted"].expand_as(weight), weight, rtol=1e-5, atol=1e-8)
        if attention == "prior":
            summed = torch.einsum("bk,bkhw->bhw", prior, maps[name])[:, None]
            torch.testing.assert_close(maps[f"{name}_weighted"], summed)


@pytest.mark.parametrize("attention", ATTENTION_KINDS)
def test_gradient_reaches_every_parameter(attention):
    network, (image, prior) = random_network(attention), random_input()
    network(image, prior).square().mean().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, name


def test_gradient_reaches_image_and_prior():
    network, (image, prior) = random_network(), random_input()
    image.requires_grad_(), prior.requires_grad_()
    network(image, prior).square().mean().backward()
    assert (image.grad != 0).all()
    assert (prior.grad != 0).all()


@pytest.mark.parametrize("attention", ATTENTION_KINDS)
def test_state_dict_holds_tensors_of_parameters_only(attention):
    network = BioAtt(channels=8, attention=attention)
    state = network.state_dict()
    assert all(type(value) is torch.Tensor for value in state.values())
    assert set(state) == {name for name, _ in network.named_parameters()}


def test_number_of_descriptors_can_be_chosen():
    network = BioAtt(channels=4, num_descriptors=3)
    image = torch.rand(1, 1, 21, 21, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(image), network(image, torch.full((1, 3), 1 / 3)))
    with pytest.raises(ValueError, match=r"prior must be \(1, 3\)"):
        network(image, torch.full((1, 11), 1 / 11))


def test_dense_prior_acts_where_it_stands():
    """Descriptor 0 on the left half, descriptor 1 on the right: each half is as with that vector, off the border."""
    torch.manual_seed(0)
    network = lively_network()
    image = torch.rand(1, 1, 96, 96)
    dense = torch.zeros(1, 11, 96, 96)
    dense[:, 0, :, :48], dense[:, 1, :, 48:] = 1.0, 1.0
    mixed, left, right = (network(image, prior) for prior in (dense, torch.eye(11)[:1], torch.eye(11)[1:2]))
    torch.testing.assert_close(mixed[..., :20], left[..., :20])
    torch.testing.assert_close(mixed[..., -20:], right[..., -20:])
    # the boundary lies in the middle of the image, not shifted by the unpadded convolutions
    weighted, one, other = (
        network.attention_maps(image, prior)["attention3_weighted"] for prior in (dense, *torch.eye(11)[:2, None])
    )
    torch.testing.assert_close(weighted[..., :42], one[..., :42])
    torch.testing.assert_close(weighted[..., 42:], other[..., 42:])


def test_a_double_prior_serves_a_float_image():
    network = BioAtt(channels=4)
    image = torch.rand(1, 1, 24, 24)
    prior = torch.rand(1, 11).softmax(1)
    torch.testing.assert_close(network(image, prior.double()), network(image, prior))
