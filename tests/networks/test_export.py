"""An exported network gives what PyTorch gives, at any size; the file names what made it."""

from __future__ import annotations

import onnx
import pytest
import torch
from made_studies import lively_network, save_network, save_with_recipe
from scripts.app.command_line import main
from scripts.errors import BioAttError
from scripts.networks import BioAttUNet, Recipe, export, write_recipe
from scripts.networks.export import TOLERANCE, export_network, load_exported
from scripts.priors import DESCRIPTORS

NETWORKS = {"fast": lambda: lively_unet(), "RED-CNN form": lambda: lively_network(channels=4)}
RECORD = {"network": "tiny", "weights_sha256": "ab"}
SHAPES = [(1, 1, 1), (1, 8, 8), (1, 16, 24), (3, 7, 30), (1, 21, 22), (2, 33, 40)]


def lively_unet():
    """An untrained fast network whose output differs visibly from its input and hangs on its prior."""
    torch.manual_seed(0)
    network = BioAttUNet(widths=(4, 6, 8)).eval()
    with torch.no_grad():
        for slot in network.slots:
            slot.conv.weight.mul_(20.0)
        network.tail.weight.mul_(5.0)
    return network


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Network and file of a name; exporting takes seconds, so each is made once."""
    made = {}

    def make(name):
        if name not in made:
            network, file = NETWORKS[name](), tmp_path_factory.mktemp("exported") / "network.onnx"
            assert export_network(network, file, record=RECORD) <= TOLERANCE
            made[name] = network, file
        return made[name]

    return make


@pytest.mark.parametrize("name", NETWORKS)
def test_exported_network_equals_the_eager_one_at_every_size_and_batch(name, exported):
    network, file = exported(name)
    run = load_exported(file)
    for shape in SHAPES:
        generator = torch.Generator().manual_seed(sum(shape))
        image = torch.rand(shape[0], 1, *shape[1:], generator=generator)
        prior = torch.rand(shape[0], 11, generator=generator).mul(4).softmax(dim=1)
        with torch.inference_mode():
            expected, got = network(image, prior), run(image, prior)
            other = run(image, prior.roll(1, dims=1))
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0, msg=lambda text, shape=shape: f"{shape}: {text}")
        assert (expected - image).abs().max() > 1e-2
    assert (got - other).abs().max() > 1e-6, "the prior acts"
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_onnx_names_its_inputs_and_axes_and_is_valid(exported):
    model = onnx.load(exported("fast")[1])
    onnx.checker.check_model(model, full_check=True)
    axes = {
        one.name: [dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim]
        for one in (*model.graph.input, *model.graph.output)
    }
    assert axes == {
        "image": ["batch", 1, "height", "width"],
        "prior": ["batch", 11],
        "denoised": ["batch", 1, "height", "width"],
    }
    assert {one.key: one.value for one in model.metadata_props} == RECORD | {"network_range": "(HU + 500) / 500"}


def test_a_file_that_gives_another_result_is_refused_and_not_left(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_write", lambda network, file, record: file.write_bytes(b"written"))
    monkeypatch.setattr(export, "load_exported", lambda file: None)
    monkeypatch.setattr(export, "_compare", lambda network, run: float("nan"))
    with pytest.raises(BioAttError, match="differs from PyTorch by nan"):
        export_network(lively_unet(), tmp_path / "n.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["n.bin", "n.ts", "n.pt2", "n"])
def test_wrong_names_are_refused(tmp_path, file):
    with pytest.raises(BioAttError, match=rf"{file} must end in .onnx"):
        export_network(lively_unet(), tmp_path / file)


def test_missing_package_is_told_with_its_install_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(BioAttError, match="needs onnxruntime; python -m pip install onnx onnxruntime onnxscript"):
        export_network(lively_unet(), tmp_path / "n.onnx")


def test_command_exports_weights_with_their_record(tmp_path, capsys, monkeypatch):
    weights = save_with_recipe(lively_network(channels=4), tmp_path / "w.pt", prior="random:3")
    words = ["--weights", str(weights)]
    assert main(["export", str(tmp_path / "n.onnx"), *words]) == 0
    assert "BioAtt(channels=4, attention=prior)" in capsys.readouterr().out
    record = {one.key: one.value for one in onnx.load(tmp_path / "n.onnx").metadata_props}
    assert len(record["weights_sha256"]) == 64 and "not for diagnosis" in record["notice"]
    assert record["prior"] == "random:3" and record["prior_descriptors"].split(", ") == list(DESCRIPTORS)
    assert main(["export", str(tmp_path / "n.onnx"), *words]) == 2
    assert "--overwrite" in capsys.readouterr().err
    monkeypatch.setattr(export, "export_network", lambda network, target, **words: 0.0)
    assert main(["export", str(tmp_path / "n.onnx"), *words, "--overwrite"]) == 0


def test_command_refuses_weights_of_another_architecture(tmp_path, capsys):
    weights = save_network(tmp_path / "w.pt", channels=4)
    write_recipe(weights, Recipe(network_def=lively_network(channels=8).definition))
    assert main(["export", str(tmp_path / "n.onnx"), "--weights", str(weights)]) == 2
    assert "choose the network_def it was trained with" in capsys.readouterr().err
