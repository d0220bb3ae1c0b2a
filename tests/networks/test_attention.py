"""Attention blocks against their definition in plain tensor operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scripts.networks.attention import (
    ATTENTION_KINDS,
    ChannelAttention,
    NoAttention,
    PriorAttention,
    SpatialAttention,
    make_attention,
)

K, CHANNELS = 5, 32


def generator(seed):
    """A seeded generator."""
    return torch.Generator().manual_seed(seed)


def features(batch=2, height=9, width=13, seed=0):
    """Random feature maps, some negative, each channel with a mean of its own, (B, C, H, W)."""
    mean = torch.randn(batch, CHANNELS, 1, 1, generator=generator(seed + 100))
    return mean + torch.randn(batch, CHANNELS, height, width, generator=generator(seed))


def priors(batch=2, seed=1, size=()):
    """Random priors that sum to 1, (B, K) or (B, K, h, w)."""
    return torch.randn(batch, K, *size, generator=generator(seed)).softmax(dim=1)


def block(kind, seed=2):
    """A block whose weights are random and large enough for its maps to differ."""
    made = make_attention(kind, CHANNELS, K)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(0.4 * torch.randn(weight.shape, generator=generator(seed)))
    return made


def spatial_maps(x, weight):
    """Mean and max over channels, a zero-padded 7x7 convolution, sigmoid."""
    pooled = torch.stack([x.sum(1) / x.shape[1], x.max(1).values], 1)
    return 1 / (1 + torch.exp(-F.conv2d(F.pad(pooled, (3, 3, 3, 3)), weight)))


def test_prior_block_is_its_definition():
    attention, x, prior = block("prior"), features(), priors()
    maps = spatial_maps(x, attention.conv.weight)
    expected = x * torch.einsum("bk,bkhw->bhw", prior, maps)[:, None]
    torch.testing.assert_close(attention.maps(x), maps)
    torch.testing.assert_close(attention(x, prior), expected)
    assert maps.shape == (2, K, 9, 13)


def test_spatial_block_is_its_definition():
    attention, x = block("spatial"), features()
    maps = spatial_maps(x, attention.conv.weight)
    assert maps.shape == (2, 1, 9, 13)
    torch.testing.assert_close(attention(x, priors()), x * maps)


def test_channel_block_is_its_definition():
    attention, x = block("channel"), features()
    first, second = (attention.state_dict()[key] for key in ("fc.0.weight", "fc.2.weight"))
    assert first.shape == (CHANNELS // 16, CHANNELS) and second.shape == (CHANNELS, CHANNELS // 16)
    squeezed = x.flatten(2).sum(2) / x[0, 0].numel()
    weights = 1 / (1 + torch.exp(-(F.relu(squeezed @ first.T) @ second.T)))
    torch.testing.assert_close(attention(x, priors()), x * weights[:, :, None, None])


def test_channel_block_keeps_one_hidden_unit():
    assert ChannelAttention(8).state_dict()["fc.0.weight"].shape == (1, 8)


def test_none_changes_nothing():
    attention, x = NoAttention(), features()
    assert torch.equal(attention(x, priors()), x)
    assert torch.equal(attention.weigh(attention.maps(x), priors()), torch.ones(2, 1, 9, 13))


@pytest.mark.parametrize("kind", ["prior", "spatial"])
def test_blocks_have_the_papers_parameters_only(kind):
    shapes = {name: tuple(weight.shape) for name, weight in block(kind).named_parameters()}
    assert shapes == {"conv.weight": (K if kind == "prior" else 1, 2, 7, 7)}


@pytest.mark.parametrize("k", range(K))
def test_one_hot_prior_picks_its_map(k):
    attention, x = block("prior"), features()
    one_hot = F.one_hot(torch.tensor([k, k]), K).float()
    torch.testing.assert_close(attention(x, one_hot), x * attention.maps(x)[:, k : k + 1])


def test_each_item_is_weighted_by_its_own_prior():
    attention, x = block("prior"), features()
    one_hot = F.one_hot(torch.tensor([3, 1]), K).float()
    maps = attention.maps(x)
    torch.testing.assert_close(attention(x, one_hot), x * torch.stack([maps[0, 3:4], maps[1, 1:2]]))


def test_output_is_linear_in_the_prior():
    attention, x = block("prior"), features()
    p, q = priors(seed=3), priors(seed=4)
    torch.testing.assert_close(attention(x, 0.3 * p + 1.7 * q), 0.3 * attention(x, p) + 1.7 * attention(x, q))


@pytest.mark.parametrize("size", [(9, 13), (1, 1), (4, 30)])
def test_dense_prior_that_is_constant_equals_the_vector(size):
    attention, x, prior = block("prior"), features(), priors()
    dense = prior[:, :, None, None].expand(-1, -1, *size)
    torch.testing.assert_close(attention(x, dense), attention(x, prior))


def test_dense_prior_of_the_features_size_acts_pixel_by_pixel():
    attention, x, dense = block("prior"), features(), priors(size=(9, 13))
    torch.testing.assert_close(attention(x, dense), x * (dense * attention.maps(x)).sum(1, keepdim=True))


def test_dense_prior_of_another_size_is_interpolated_linearly():
    attention, x = block("prior"), features(height=4, width=8)
    left, right = priors(seed=5), priors(seed=6)
    dense = torch.stack([left, right], dim=-1)[:, :, None, :]  # (B, K, 1, 2)
    share = ((torch.arange(8) + 0.5) / 8 * 2 - 0.5).clamp(0, 1)  # of the right half, by pixel centres
    spread = left[..., None] * (1 - share) + right[..., None] * share
    expected = x * (spread[:, :, None, :] * attention.maps(x)).sum(1, keepdim=True)
    torch.testing.assert_close(attention(x, dense), expected)


@pytest.mark.parametrize("kind", ["spatial", "channel", "none"])
def test_blocks_without_a_prior_ignore_it(kind):
    attention, x = block(kind), features()
    assert torch.equal(attention(x, priors(seed=7)), attention(x, priors(seed=8)))


def test_prior_block_does_not_ignore_it():
    attention, x = block("prior"), features()
    assert not torch.allclose(attention(x, priors(seed=7)), attention(x, priors(seed=8)), rtol=1e-3)


@pytest.mark.parametrize("kind", ["prior", "spatial", "channel"])
def test_maps_lie_between_zero_and_one_and_vary(kind):
    maps = block(kind).double().maps(features().double())  # in single precision a sigmoid may round to 1
    assert maps.min() > 0 and maps.max() < 1
    assert maps.std() > 0.05


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_forward_is_the_features_times_the_weighted_maps(kind):
    attention, x, prior = block(kind), features(), priors()
    torch.testing.assert_close(attention(x, prior), x * attention.weigh(attention.maps(x), prior))


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_scripted_block_equals_the_eager_one(kind):
    attention, x, prior = block(kind), features(), priors()
    torch.testing.assert_close(torch.jit.script(attention)(x, prior), attention(x, prior))


@pytest.mark.parametrize("dense", [False, True])
def test_gradient_reaches_convolution_features_and_prior(dense):
    attention = block("prior").double()
    x = features().double().requires_grad_()
    prior = priors(size=(2, 2) if dense else ()).double().requires_grad_()
    attention(x, prior).square().sum().backward()
    for leaf in (attention.conv.weight, x, prior):
        assert (leaf.grad != 0).all()
        # Along a random direction the gradient is what the difference quotient says.
        direction = torch.randn(leaf.shape, generator=generator(9), dtype=torch.float64)
        with torch.no_grad():
            leaf.add_(1e-6 * direction)
            above = attention(x, prior).square().sum()
            leaf.sub_(2e-6 * direction)
            below = attention(x, prior).square().sum()
            leaf.add_(1e-6 * direction)
        torch.testing.assert_close((leaf.grad * direction).sum(), (above - below) / 2e-6, rtol=1e-5, atol=1e-6)


def test_kinds_are_what_make_attention_makes():
    classes = [PriorAttention, SpatialAttention, ChannelAttention, NoAttention]
    assert [type(make_attention(kind, 16, 11)) for kind in ATTENTION_KINDS] == classes


@pytest.mark.parametrize("kind", ["Prior", "", "cbam"])
def test_unknown_kind_is_refused(kind):
    with pytest.raises(ValueError, match=f"must be one of prior, spatial, channel, none, got '{kind}'"):
        make_attention(kind, 16, 11)
