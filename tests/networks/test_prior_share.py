"""How much of the say a prior has (docs/adr/0019): a share of it, the uniform one for the rest."""

from __future__ import annotations

import pytest
import torch
from scripts.errors import BioAttError
from scripts.networks import BioAtt, BioAttUNet, load_weights, make_network, read_recipe
from scripts.networks.recipe import Recipe

K = 11
SHAPES = {BioAtt: {"channels": 4}, BioAttUNet: {"widths": (4, 6)}}
every_network = pytest.mark.parametrize("network", SHAPES)


def pair(network, share):
    """The same weights twice: with a share, and with the whole prior."""
    torch.manual_seed(0)
    some = network(**SHAPES[network], prior_share=share).double().eval()
    whole = network(**SHAPES[network]).double().eval()
    whole.load_state_dict(some.state_dict())
    return some, whole


def shown(dense=False):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 1, 24, 32, generator=generator, dtype=torch.float64)
    size = (2, K, 6, 8) if dense else (2, K)
    return image, (4 * torch.randn(size, generator=generator, dtype=torch.float64)).softmax(1)


@every_network
@pytest.mark.parametrize("dense", [False, True])
@torch.inference_mode()
def test_the_rest_of_a_prior_is_uniform(network, dense):
    (some, whole), (image, prior) = pair(network, 0.2), shown(dense)
    mixed = 0.2 * prior + 0.8 / K
    torch.testing.assert_close(some(image, prior), whole(image, mixed))
    maps, expected = some.attention_maps(image, prior), whole.attention_maps(image, mixed)
    assert set(maps) == set(expected)
    for name, value in maps.items():
        torch.testing.assert_close(value, expected[name])
    assert not torch.allclose(some(image, prior), whole(image, prior), rtol=0, atol=1e-6)


@every_network
@torch.inference_mode()
def test_the_uniform_prior_and_none_are_as_ever(network):
    (some, whole), (image, prior) = pair(network, 0.2), shown()
    uniform = torch.full_like(prior, 1 / K)
    torch.testing.assert_close(some(image, uniform), whole(image, uniform))
    torch.testing.assert_close(some(image), whole(image))


@every_network
@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_from_0_to_1(network, share):
    with pytest.raises(ValueError, match="prior_share must be from 0 to 1"):
        network(**SHAPES[network], prior_share=share)


def test_a_recipe_with_no_share_is_refused():
    with pytest.raises(BioAttError, match="prior_share must be from 0 to 1"):
        make_network(Recipe(network_def={"_target_": "BioAttUNet", "prior_share": 2}))


def test_the_recipe_has_the_share_of_the_shipped_weights_and_no_others(bundle_root, tmp_path):
    weights = bundle_root / "models" / "model.pt"
    recipe = read_recipe(weights)
    network = make_network(recipe)
    assert network.prior_share == recipe.network_def["prior_share"] == network.definition["prior_share"] < 1
    alone = tmp_path / "w.pt"
    alone.write_bytes(weights.read_bytes())
    assert make_network(read_recipe(alone)).prior_share == 1


@torch.inference_mode()
def test_a_prior_that_is_sure_of_something_wrong_does_little_to_the_shipped_weights(bundle_root):
    """In 25 HU of noise, by every descriptor: up to 3% of the noise; the whole prior does up to 14%."""
    weights = bundle_root / "models" / "model.pt"
    network = load_weights(make_network(read_recipe(weights)), weights)
    image = 1.1 + 0.05 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    priors = torch.eye(K)
    change = (network(image.expand(K, -1, -1, -1), priors) - network(image)).square().mean((1, 2, 3)).sqrt() / 0.05
    assert 0 < change.min() and change.max() < 0.03
