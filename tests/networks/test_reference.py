"""Checkpoints in the authors' four layouts, made by a second implementation, give the same output here."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from made_studies import to_reference
from scripts.errors import BioAttError
from scripts.networks import ATTENTION_KINDS, BioAtt, load_reference_checkpoint
from scripts.networks.reference import from_reference
from torch import nn

CHANNELS, K = 16, 11
ATTENTION_KEYS = {
    "prior": ["spatial_attention3.conv.weight", "spatial_attention5.conv.weight"],
    "spatial": ["spatial_attention3.conv.weight", "spatial_attention5.conv.weight"],
    "channel": [f"attention{i}.fc.{j}.weight" for i in (2, 3) for j in (0, 2)],
    "none": [],
}


class MapGate(nn.Module):
    """Spatial gate with one map, or with K maps and a prior."""

    def __init__(self, maps):
        super().__init__()
        self.conv = nn.Conv2d(2, maps, 7, padding=3, bias=False)

    def forward(self, x, prior):
        gate = self.conv(torch.stack((x.mean(1), x.max(1)[0]), 1)).sigmoid()
        return x * (gate if gate.shape[1] == 1 else (gate * prior[..., None, None]).sum(1)[:, None])


class ChannelGate(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels):
        super().__init__()
        inner = channels // 16
        self.fc = nn.Sequential(
            nn.Linear(channels, inner, bias=False), nn.ReLU(), nn.Linear(inner, channels, bias=False), nn.Sigmoid()
        )

    def forward(self, x, prior):
        return x * self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))[..., None, None]


class Published(nn.Module):
    """RED-CNN in the authors' names, with one of their gates after the third and the fifth convolution."""

    def __init__(self, kind, channels=CHANNELS, descriptors=K):
        super().__init__()
        for i in range(1, 6):
            setattr(self, f"conv{i}", nn.Conv2d(1 if i == 1 else channels, channels, 5))
        for name in ("deconv1", "deconv2", "deconv3", "deconv4"):
            setattr(self, name, nn.ConvTranspose2d(channels, channels, 5))
        self.deconv_last = nn.ConvTranspose2d(channels, 1, 5)
        self.gates = {"prior": ("spatial_attention3", "spatial_attention5"), "channel": ("attention2", "attention3")}
        self.gates = {**self.gates, "spatial": self.gates["prior"], "none": ()}[kind]
        for name in self.gates:
            gate = ChannelGate(channels) if kind == "channel" else MapGate(descriptors if kind == "prior" else 1)
            setattr(self, name, gate)

    def forward(self, image, prior):
        kept, x = [image], image
        for i in range(1, 6):
            x = getattr(self, f"conv{i}")(x).relu()
            if i in (3, 5) and self.gates:
                x = getattr(self, self.gates[i // 2 - 1])(x, prior)
            if i in (2, 4):
                kept.append(x)
        x = (self.deconv1(x) + kept.pop()).relu()
        x = self.deconv2(x).relu()
        x = (self.deconv3(x) + kept.pop()).relu()
        x = self.deconv4(x).relu()
        return self.deconv_last(x) + kept.pop()


def published(kind, seed=0, **sizes):
    """A network in the authors' layout with random weights, all of which matter."""
    network = Published(kind, **sizes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            fan_in = weight[0].numel() if weight.dim() > 1 else 25
            gain = 2.0 if "attention" in name else 1.3
            weight.copy_(gain * torch.randn(weight.shape, generator=generator) / fan_in**0.5)
            if name.endswith("fc.0.weight"):  # the one hidden unit of channel attention must not be dead
                weight.abs_()
    return network.eval()


def random_input(descriptors=K):
    """An image (2, 1, 29, 26) and a prior (2, K)."""
    generator = torch.Generator().manual_seed(1)
    prior = torch.randn(2, descriptors, generator=generator).softmax(dim=1)
    return torch.rand(2, 1, 29, 26, generator=generator) * 2 - 0.5, prior


def save(state, folder, name="published.pth") -> Path:
    """The file that `state` was saved to."""
    torch.save(state, folder / name)
    return folder / name


@pytest.mark.parametrize("form", [str, Path, torch.load], ids=["str", "Path", "dict"])
@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@torch.no_grad()
def test_output_is_that_of_the_published_network(tmp_path, kind, form):
    theirs = published(kind)
    ours = load_reference_checkpoint(form(save(theirs.state_dict(), tmp_path)))
    image, prior = random_input()
    expected = theirs(image, prior)
    assert (ours(image, prior) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert ours.attention == kind
    assert isinstance(ours, BioAtt)
    assert not any(module.training for module in ours.modules())


def test_layout_is_the_one_that_the_authors_published():
    for kind, attention_keys in ATTENTION_KEYS.items():
        state = published(kind).state_dict()
        assert sorted(key for key in state if "attention" in key) == attention_keys


def test_channels_and_descriptors_are_read_off_the_shapes():
    theirs = published("prior", channels=6, descriptors=4)
    ours = load_reference_checkpoint(theirs.state_dict())
    image, prior = random_input(descriptors=4)
    torch.testing.assert_close(ours(image, prior), theirs(image, prior))
    assert ours.num_descriptors == 4


def test_the_two_blocks_are_not_exchanged():
    state = published("channel").state_dict()
    ours = load_reference_checkpoint(state).state_dict()
    assert torch.equal(ours["attention3.fc.0.weight"], state["attention2.fc.0.weight"])
    assert torch.equal(ours["attention5.fc.0.weight"], state["attention3.fc.0.weight"])


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_names_go_there_and_back(kind):
    theirs, ours = published(kind).state_dict(), BioAtt(channels=CHANNELS, attention=kind).state_dict()
    assert set(from_reference(theirs, kind)) == set(ours)
    assert set(to_reference(ours, kind)) == set(theirs)
    there_and_back = to_reference(from_reference(theirs, kind), kind)
    assert list(there_and_back) == list(theirs)
    assert all(there_and_back[key] is theirs[key] for key in theirs)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_unknown_extra_key_is_refused(tmp_path, kind):
    file = save({**published(kind).state_dict(), "epoch": torch.tensor(3)}, tmp_path)
    with pytest.raises(BioAttError, match=r"published.pth has the unknown key epoch"):
        load_reference_checkpoint(file)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_each_missing_key_is_refused(kind):
    state = published(kind).state_dict()
    for missing in state:
        with pytest.raises(BioAttError, match=r"key"):
            load_reference_checkpoint({key: value for key, value in state.items() if key != missing})


def test_missing_key_is_named():
    state = published("prior").state_dict()
    del state["deconv3.bias"]
    with pytest.raises(BioAttError, match=r"lacks key deconv3.bias"):
        load_reference_checkpoint(state)


@pytest.mark.parametrize("key", ["deconv3.weight", "conv1.bias", "spatial_attention5.conv.weight"])
def test_wrong_shape_is_refused(key):
    state = published("prior").state_dict()
    state[key] = state[key][:-1]
    with pytest.raises(BioAttError, match=r"has shape \[.*wants \["):
        load_reference_checkpoint(state)


@pytest.mark.parametrize("key", ["conv1.weight", "spatial_attention3.conv.weight"])
@pytest.mark.parametrize("shape", [(), (0,)], ids=["scalar", "empty"])
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_tensor_without_a_size_to_read_off_is_refused(key, shape):
    state = published("prior").state_dict()
    state[key] = torch.zeros(shape)
    with pytest.raises(BioAttError, match=key.removeprefix("spatial_")):
        load_reference_checkpoint(state)


def test_our_own_weights_are_no_reference_checkpoint():
    with pytest.raises(BioAttError, match="unknown key attention3.conv.weight"):
        load_reference_checkpoint(BioAtt(channels=8).state_dict())


class RunsCode:
    """Unpickling it makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_file_with_code_is_refused_and_the_code_not_run(tmp_path, writer):
    marker, file = tmp_path / "marker", tmp_path / "published.pth"
    state = {**published("none").state_dict(), "trap": RunsCode(marker)}
    if writer == "torch":
        torch.save(state, file)
    else:
        file.write_bytes(pickle.dumps(state, protocol=2))
    with pytest.raises(BioAttError, match="refused|cannot be read"):
        load_reference_checkpoint(file)
    assert not marker.exists()
    pickle.loads(pickle.dumps(RunsCode(marker)))
    assert marker.exists(), "the trap does not work, so the test shows nothing"


@pytest.mark.parametrize(
    "state", [{}, {"state_dict": {"conv1.weight": torch.zeros(1)}}, {"epoch": 3}, [torch.zeros(1)]]
)
def test_file_without_a_plain_state_dict_is_refused(tmp_path, state):
    with pytest.raises(BioAttError, match="no plain state dict"):
        load_reference_checkpoint(save(state, tmp_path))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint\n" * 100, b"PK\x03\x04" + bytes(100)])
def test_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "published.pth").write_bytes(content)
    with pytest.raises(BioAttError, match="published.pth"):
        load_reference_checkpoint(tmp_path / "published.pth")


def test_state_dict_of_something_else_is_refused():
    with pytest.raises(BioAttError, match="lacks key conv1.weight and is no RED-CNN checkpoint"):
        load_reference_checkpoint(nn.Linear(2, 2).state_dict())


def test_missing_file_is_told(tmp_path):
    with pytest.raises(BioAttError, match="nowhere.pth does not exist"):
        load_reference_checkpoint(tmp_path / "nowhere.pth")
