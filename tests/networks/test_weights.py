"""Weights files: tensors only, a strict fit, a digest that anyone can check."""

from __future__ import annotations

import hashlib
import pickle

import pytest
import torch
from safetensors.torch import save_file
from scripts.errors import BioAttError
from scripts.networks import BioAtt, load_weights, read_state_dict, weights_sha256


def network(seed=0, **arguments):
    """A small network with weights of that seed."""
    made = BioAtt(**{"channels": 4, **arguments})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return made


def save(state, file):
    """Save to `file` in the format of its suffix and return it."""
    save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)
    return file


def assert_equal_states(one, two):
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("form", [str, lambda path: path], ids=["str", "Path"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_round_trip(tmp_path, suffix, form):
    saved = network(seed=1)
    file = save(saved.state_dict(), tmp_path / f"weights{suffix}")
    assert_equal_states(dict(read_state_dict(form(file))), dict(saved.state_dict()))
    target = network(seed=2).train()
    loaded = load_weights(target, form(file))
    assert loaded is target
    assert_equal_states(loaded.state_dict(), saved.state_dict())
    assert not any(module.training for module in loaded.modules())


def test_network_of_another_precision_keeps_it(tmp_path):
    file = save(network(seed=1).half().state_dict(), tmp_path / "weights.pt")
    loaded = load_weights(network(seed=2), file)
    assert loaded.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.conv1.weight, network(seed=1).half().conv1.weight.float())


def test_missing_file_is_told_with_the_remedy(tmp_path):
    with pytest.raises(BioAttError, match="nowhere.pt does not exist; .*--weights"):
        read_state_dict(tmp_path / "nowhere.pt")


def test_folder_is_no_weights_file(tmp_path):
    with pytest.raises(BioAttError, match="weights file"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"plain text", bytes(1000)])
def test_file_in_no_known_format_is_refused(tmp_path, suffix, content):
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(content)
    with pytest.raises(BioAttError, match=f"weights{suffix} "):
        read_state_dict(file)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_file_cut_short_is_refused(tmp_path, suffix):
    file = save(network().state_dict(), tmp_path / f"weights{suffix}")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BioAttError, match="cannot be read"):
        read_state_dict(file)


class RunsCode:
    """Unpickling it makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def test_code_in_a_file_is_never_run(tmp_path):
    marker = tmp_path / "marker"
    file = save({**network().state_dict(), "trap": RunsCode(marker)}, tmp_path / "weights.pt")
    with pytest.raises(BioAttError, match="more than tensors and is refused"):
        read_state_dict(file)
    assert not marker.exists()
    pickle.loads(pickle.dumps(RunsCode(marker)))
    assert marker.exists(), "the trap does not work, so the test shows nothing"


def test_pickled_network_is_refused(tmp_path):
    with pytest.raises(BioAttError, match="save the plain state dict instead"):
        read_state_dict(save(network(), tmp_path / "weights.pt"))


@pytest.mark.parametrize(
    "content", [{}, [torch.zeros(1)], torch.zeros(1), {"a": 1}, {"network": {"a": torch.zeros(1)}}]
)
def test_file_that_holds_no_named_tensors_is_refused(tmp_path, content):
    with pytest.raises(BioAttError, match=r"weights.pt holds no plain state dict .*save network.state_dict\(\)"):
        read_state_dict(save(content, tmp_path / "weights.pt"))


def refusal(tmp_path, state, target):
    """The message with which `state` is refused; `target` has to stay as it was."""
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(BioAttError) as info:
        load_weights(target, save(state, tmp_path / "weights.pt"))
    assert_equal_states(target.state_dict(), before)
    assert "network_def" in str(info.value)
    return str(info.value)


def test_missing_key_is_named(tmp_path):
    state = network(seed=1).state_dict()
    del state["conv3.bias"]
    assert "weights.pt lacks key conv3.bias and does not fit BioAtt" in refusal(tmp_path, state, network())


def test_unknown_key_is_named(tmp_path):
    state = {**network(seed=1).state_dict(), "module.conv1.bias": torch.zeros(4)}
    assert "has the unknown key module.conv1.bias" in refusal(tmp_path, state, network())


def test_prefix_of_a_parallel_wrapper_does_not_fit(tmp_path):
    state = {f"module.{key}": value for key, value in network(seed=1).state_dict().items()}
    assert " key " in refusal(tmp_path, state, network())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"attention": "none"}, "lacks key attention3.conv.weight"),
        ({"attention": "spatial"}, "attention3.conv.weight has shape [1, 2, 7, 7], the network wants [11, 2, 7, 7]"),
        ({"attention": "channel"}, "lacks key attention3.conv.weight"),
        ({"channels": 5}, "has shape [5"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, other, message):
    assert message in refusal(tmp_path, network(seed=1, **other).state_dict(), network())


def test_weights_with_attention_do_not_fit_a_network_without(tmp_path):
    message = refusal(tmp_path, network(seed=1).state_dict(), network(attention="none"))
    assert "has the unknown key attention3.conv.weight" in message


def test_digest_is_the_files_sha256(tmp_path):
    file = save(network().state_dict(), tmp_path / "weights.pt")
    assert weights_sha256(file) == weights_sha256(str(file)) == hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(file.read_bytes() + b"!")
    assert weights_sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    (tmp_path / "empty").write_bytes(b"")
    assert weights_sha256(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
