"""The fast network: its definition a second time, any size, priors at every scale, scripting, odd pixels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from scripts.networks import ATTENTION_KINDS, BioAttUNet

K = 11
SIZES = [(1, 1), (7, 13), (8, 8), (16, 24), (33, 40), (1, 50)]
SHAPES = [((8, 12, 16), 2), ((8, 12), 4), ((4, 6, 8), 1)]


def random_network(attention="prior", widths=(8, 12, 16), fold=2, seed=0):
    """A network in float64 whose weights all matter."""
    network = BioAttUNet(widths=widths, fold=fold, attention=attention).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            fan_in = weight[0].numel() if weight.dim() > 1 else 25
            gain = 2.0 if name.startswith("slots") else 1.3
            weight.copy_(gain * torch.randn(weight.shape, generator=generator, dtype=torch.float64) / fan_in**0.5)
    return network


def random_input(batch=2, size=(24, 40), seed=1):
    """An image (B, 1, H, W) in network range and a prior (B, K) that sums to 1."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, 1, *size, generator=generator, dtype=torch.float64) * 2 - 0.5
    return image, torch.randn(batch, K, generator=generator, dtype=torch.float64).mul(1.5).softmax(dim=1)


def by_definition(state, image, prior, fold, scales):
    """Output from a state dict, for prior attention and sides that are multiples of the coarsest pixel."""

    def conv(x, name, **options):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options)

    def block(x, name):
        return x + conv(F.relu(conv(x, f"{name}.conv1", padding=1)), f"{name}.conv2", padding=1)

    batch, _, height, width = image.shape
    folded = image.reshape(batch, height // fold, fold, width // fold, fold).permute(0, 2, 4, 1, 3)
    x = conv(folded.reshape(batch, fold * fold, height // fold, width // fold), "head", padding=1)
    skips = []
    for scale in range(scales):
        x = block(x, f"encoder.{scale}")
        pooled = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)
        maps = torch.sigmoid(F.conv2d(pooled, state[f"slots.{scale}.conv.weight"], padding=3))
        x = x * torch.einsum("bk,bkhw->bhw", prior, maps)[:, None]
        if scale < scales - 1:
            skips.append(x)
            x = conv(x, f"down.{scale}", stride=2)
    for step in range(scales - 1):
        x = F.conv_transpose2d(x, state[f"up.{step}.weight"], state[f"up.{step}.bias"], stride=2) + skips.pop()
        x = block(x, f"decoder.{step}")
    residual = conv(x, "tail", padding=1).reshape(batch, fold, fold, height // fold, width // fold)
    return image + residual.permute(0, 3, 1, 4, 2).reshape(batch, 1, height, width)


@pytest.mark.parametrize(("widths", "fold"), SHAPES, ids=str)
def test_forward_is_the_definition(widths, fold):
    network, (image, prior) = random_network(widths=widths, fold=fold), random_input()
    expected = by_definition(network.state_dict(), image, prior, fold, len(widths))
    torch.testing.assert_close(network(image, prior), expected, rtol=1e-6, atol=1e-9)
    assert (network(image, prior) - image).std() > 0.01


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("widths", "fold"), SHAPES, ids=str)
def test_any_size_is_one_padded_by_replication_and_cropped_again(widths, fold, size):
    network, (image, prior) = random_network(widths=widths, fold=fold), random_input(size=size)
    rows, columns = (torch.arange(side + -side % network.multiple).clamp(max=side - 1) for side in size)
    whole = network(image[:, :, rows][..., columns], prior)
    torch.testing.assert_close(network(image, prior), whole[..., : size[0], : size[1]])


def test_missing_prior_is_the_uniform_one():
    network, (image, prior) = random_network(), random_input()
    without = network(image)
    torch.testing.assert_close(without, network(image, torch.full_like(prior, 1 / K)))


def test_two_priors_give_two_results():
    network, (image, prior) = random_network(), random_input()
    assert (network(image, prior) - network(image, prior.roll(1, dims=1))).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["spatial", "channel", "none"])
def test_networks_without_prior_attention_ignore_the_prior(attention):
    network, (image, prior) = random_network(attention), random_input()
    assert torch.equal(network(image, prior), network(image))


def test_items_of_a_batch_are_independent():
    network, (image, prior) = random_network(), random_input(batch=3)
    together = network(image, prior)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], network(image[i : i + 1], prior[i : i + 1]))


@pytest.mark.parametrize("size", [(24, 40), (23, 37)], ids=str)
def test_dense_prior_that_is_constant_equals_the_vector(size):
    network, (image, prior) = random_network(), random_input(size=size)
    dense = prior[:, :, None, None].expand(-1, -1, 3, 4)
    torch.testing.assert_close(network(image, dense), network(image, prior))


def test_dense_prior_acts_where_it_stands_also_in_a_padded_image():
    network, image = random_network(), random_input(batch=1, size=(90, 260))[0]
    dense = torch.zeros(1, K, 90, 260, dtype=torch.float64)
    dense[:, 0, :, :130], dense[:, 1, :, 130:] = 1.0, 1.0
    vectors = torch.eye(K, dtype=torch.float64)
    for scale in range(3):
        weighted, left, right = (
            network.attention_maps(image, prior)[f"attention{scale}_weighted"]
            for prior in (dense, vectors[:1], vectors[1:2])
        )
        boundary, reach = 130 // (2 * 2**scale), 45 // 2**scale
        torch.testing.assert_close(weighted[..., : boundary - reach], left[..., : boundary - reach])
        torch.testing.assert_close(weighted[..., boundary + reach :], right[..., boundary + reach :])


@pytest.mark.parametrize("attention", ATTENTION_KINDS)
def test_scripted_network_equals_the_eager_one(attention):
    network = random_network(attention)
    scripted = torch.jit.script(network)
    _, vector = random_input()
    dense = vector[:, :, None, None] * torch.linspace(0.5, 1.5, 12, dtype=torch.float64).reshape(3, 4)
    with torch.jit.optimized_execution(False):
        for size, prior in (((24, 23), vector), ((5, 30), dense), ((27, 30), None)):
            image, _ = random_input(size=size)
            torch.testing.assert_close(scripted(image, prior), network(image, prior))
            eager_maps, scripted_maps = network.attention_maps(image, prior), scripted.attention_maps(image, prior)
            assert eager_maps.keys() == scripted_maps.keys()
            for name, maps in eager_maps.items():
                torch.testing.assert_close(scripted_maps[name], maps)


def test_attention_maps_are_those_of_forward():
    """Features times the maps that are shown, in place of the blocks, give the same result."""
    network, (image, prior) = random_network(), random_input()
    expected, maps = network(image, prior), network.attention_maps(image, prior)
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        "attention0": (2, K, 12, 20),
        "attention0_weighted": (2, 1, 12, 20),
        "attention1": (2, K, 6, 10),
        "attention1_weighted": (2, 1, 6, 10),
        "attention2": (2, K, 3, 5),
        "attention2_weighted": (2, 1, 3, 5),
    }
    for scale, slot in enumerate(network.slots):
        weighted = torch.einsum("bk,bkhw->bhw", prior, maps[f"attention{scale}"])[:, None]
        torch.testing.assert_close(maps[f"attention{scale}_weighted"], weighted)
        slot.forward = lambda x, prior, weighted=weighted: x * weighted
    torch.testing.assert_close(network(image, prior), expected)


@pytest.mark.parametrize("attention", ATTENTION_KINDS)
def test_gradient_reaches_every_parameter(attention):
    network, (image, prior) = random_network(attention), random_input()
    for slot in network.slots:
        if attention == "channel":  # with features that are positive on average its one hidden unit is alive
            slot.fc[0].weight.data.abs_()
            slot.register_forward_pre_hook(lambda _, inputs: (inputs[0].abs(), inputs[1]))
    network(image, prior).square().mean().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, name


@pytest.mark.parametrize("shape", [(16, 16), (2, 3, 16, 16), (0, 1, 16, 16)], ids=str)
@pytest.mark.parametrize("method", ["forward", "attention_maps"])
def test_wrong_image_is_refused(method, shape):
    with pytest.raises(ValueError, match=r"image must be \(B, 1, H, W\), not empty, got \["):
        getattr(random_network().float(), method)(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(11,), (1, 11), (2, 10), (2, 11, 3), (1, 11, 4, 4)], ids=str)
@pytest.mark.parametrize("method", ["forward", "attention_maps"])
def test_wrong_prior_is_refused(method, shape):
    with pytest.raises(ValueError, match=r"prior must be \(2, 11\) or \(2, 11, h, w\), got \["):
        getattr(random_network().float(), method)(torch.zeros(2, 1, 16, 16), torch.zeros(shape))


@pytest.mark.parametrize("target", ["BioAttUNet", "scripts.networks.BioAttUNet"])
def test_config_finds_the_class(target):
    parser = ConfigParser({"imports": ["$import scripts.networks"], "net": {"_target_": target, "widths": [4, 6]}})
    parser.get_parsed_content("imports")
    assert type(parser.get_parsed_content("net")) is BioAttUNet
