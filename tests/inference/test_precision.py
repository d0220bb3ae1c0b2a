"""One rule for precision: bf16 where it is faster, and near enough to fp32 on real slices."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from scripts import device as device_room
from scripts.app.command_line import parse
from scripts.device import find_precision
from scripts.errors import BioAttError
from scripts.inference import AnchoredInferer, SlicePriorInferer
from scripts.workflow import CONFIGS, check_overrides, open_workflow

AFFINE = torch.diag(torch.tensor([0.8, 0.8, 1.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("flags", "found"), [({"avx512_bf16"}, "bf16"), ({"amx_bf16", "avx2"}, "bf16"), ({"avx512f"}, "fp32"), ((), "fp32")]
)
def test_auto_asks_the_processor(monkeypatch, flags, found):
    monkeypatch.setattr(device_room, "processor", lambda entry: " ".join(flags))
    assert find_precision("auto", "cpu") == found
    assert find_precision("fp32", "cpu") == "fp32" and find_precision("bf16", torch.device("cpu")) == "bf16"


@pytest.mark.parametrize("supported", [True, False])
def test_auto_asks_the_gpu_for_what_it_does_not_emulate(monkeypatch, supported):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported)
    assert find_precision("auto", "cuda:0") == ("bf16" if supported else "fp32")
    assert find_precision("auto", "mps") == "fp32"


@pytest.mark.parametrize("make", [SlicePriorInferer, lambda **given: AnchoredInferer(strength="low", **given)])
def test_other_words_are_refused(make):
    with pytest.raises(BioAttError, match="precision is 'half', expected auto, fp32 or bf16"):
        make(precision="half")


def test_the_old_name_is_refused_with_the_new_one():
    with pytest.raises(BioAttError, match="bf16 .* is precision now: auto, fp32 or bf16"):
        SlicePriorInferer(bf16=True)
    with pytest.raises(BioAttError, match="bf16 is gone: it is precision"):
        check_overrides(["bf16"], [CONFIGS / "inference.json"])


@pytest.mark.parametrize("command", ["denoise", "explain", "evaluate"])
def test_commands_take_it(command):
    more = ["--slice", "0"] if command == "explain" else []
    assert parse([command, "a", "b", *more, "--precision", "bf16"]).precision == "bf16"


@pytest.mark.parametrize("given", ["auto", "fp32", "bf16"])
def test_what_ran_is_recorded(weights, given):
    overrides = {"weights": str(weights), "prior": "uniform", "precision": given, "device": torch.device("cpu")}
    parser = open_workflow("inference", ["inference.json"], overrides).parser
    provenance = parser.get_parsed_content("provenance")
    assert provenance.precision == find_precision(given, "cpu") == provenance.as_dict()["precision"]
    assert provenance.contribution().endswith(f"precision {provenance.precision}")
    assert parser.get_parsed_content("inferer").precision == given


@pytest.mark.parametrize("given", ["", "fp32", "bf16"])
def test_evaluation_runs_in_the_precision_of_denoising(weights, given):
    """Without the option, and with it: what is judged is what a user gets."""
    precision = {"precision": given} if given else {}
    inferers = []
    for purpose, configs, place in (
        ("inference", ["inference.json"], "inferer"),
        ("training", ["train.json", "evaluate.json"], "validate#inferer"),
    ):
        overrides = {"weights": str(weights), "device": torch.device("cpu"), "prior": "uniform", **precision}
        inferers.append(open_workflow(purpose, configs, overrides).parser.get_parsed_content(place))
    assert {one.precision for one in inferers} == {given or "auto"}


@torch.inference_mode()
def test_bf16_of_the_shipped_network_is_near_fp32(shipped_network):
    """Bare, in 25 HU of noise around soft tissue: rounding the image to 8 bits would alone be 0.7 HU RMS."""
    image = 1.1 + 0.05 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    full = shipped_network(image)
    with torch.autocast("cpu", torch.bfloat16):
        low = shipped_network(image).float()
    difference = 500.0 * (low - full)
    assert 0 < difference.square().mean().sqrt() <= 0.25 and difference.abs().max() <= 1.0


@pytest.mark.data
def test_bf16_is_near_fp32_on_real_slices(real_slices, shipped_network):
    """Of what a user gets, at the GPU if there is one; else of the middle of each slice: bf16 is slow here."""
    place = "cuda" if torch.cuda.is_available() else "cpu"
    network = shipped_network.to(place)
    for hu in real_slices:
        part = hu if place == "cuda" else hu[192:320, 192:320]
        volume = MetaTensor(part[None, None, ..., None], affine=AFFINE).to(place)
        low, full = (
            SlicePriorInferer(strength="standard", precision=one)(volume, network).as_tensor()
            for one in ("bf16", "fp32")
        )
        difference = low - full
        assert 0 < difference.square().mean().sqrt() <= 0.5 and difference.abs().max() <= 4.0
    network.cpu()
