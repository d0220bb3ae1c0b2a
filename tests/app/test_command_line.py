"""The `bioatt` command: help without torch, convert, priors, demo."""

from __future__ import annotations

import json
import subprocess
import sys

import pydicom
import pytest
import torch
from made_studies import to_reference
from phantom import write_ct_series
from scripts import errors
from scripts.app.command_line import build_parser, main
from scripts.app.demo import check_former_demo
from scripts.errors import BioAttError
from scripts.networks import BioAtt, load_weights
from scripts.strengths import STRENGTHS

COMMANDS = ("denoise", "priors", "train", "evaluate", "simulate", "convert", "demo")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert len(capsys.readouterr().out) > 300


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("denoise", "prior, one of (default: the one that the recipe of the weights names)"),
        ("explain", "prior, one of (default: the one that the recipe of the weights names)"),
        ("priors", "prior, one of (default: compact)"),
        ("evaluate", "folder for figures by patient and slice, and the cached pairs"),
        ("train", "folder for weights, checkpoints, curve, figures and the cached pairs"),
    ],
)
def test_help_tells_the_default_prior_and_what_is_in_out(command, told, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert told in " ".join(capsys.readouterr().out.split())


def test_help_lists_all_commands_and_says_what_it_is_not(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS) and "not a medical device" in " ".join(text.split())


def test_a_stop_while_a_command_loads_is_told_in_a_line(monkeypatch, capsys):
    def stopped(name):
        if name == "errors":
            return errors
        raise KeyboardInterrupt

    monkeypatch.setattr("scripts.app.command_line.bundle_module", stopped)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "stopped; nothing half-written is left\n"


def test_help_imports_no_torch(bundle_root):
    code = (
        "import sys; sys.argv = ['bioatt', '--help']\n"
        "from scripts.app.command_line import main\n"
        "try: main()\n"
        "except SystemExit: print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=bundle_root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"


@pytest.mark.parametrize("words", [[], ["denoise"], ["denoise", "a"], ["blur", "a", "b"]])
def test_wrong_usage_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as end:
        build_parser().parse_args(words)
    assert end.value.code == 2
    assert "usage: bioatt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--stregth", "0.5"], "error: bioatt denoise has no option --stregth; did you mean --strength? see bioatt "),
        (["--stregth=0.5"], "has no option --stregth; did you mean --strength?"),
        (["--bf16"], "error: --bf16 is gone: auto is the default now, else --precision bf16"),
        (["--volume-unit"], "has no option --volume-unit; see bioatt denoise --help"),
        (["c"], "error: bioatt denoise does not take c; see bioatt denoise --help"),
    ],
)
def test_an_option_that_does_not_exist_is_told_with_the_one_that_may_be_meant(words, told, capsys):
    with pytest.raises(SystemExit) as end:
        main(["denoise", "a", "b", *words])
    assert end.value.code == 2 and told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["denoise", "a", "b", "--network", "redcnn"], "--network is gone: the recipe beside the weights says it"),
        (["ablate", "a", "b", "--records", "c"], "--records is gone: finished runs are in OUT/runs"),
        (["benchmark", "--output", "a", "--training"], "--training is gone: `make benchmark` measures it"),
        (["info", "--training"], "bioatt info has no option --training"),
    ],
)
def test_an_option_that_is_gone_is_told_by_the_command_that_had_it(words, told, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2 and told in capsys.readouterr().err


@pytest.mark.parametrize("attention", ["prior", "spatial", "channel", "none"])
def test_convert_writes_weights_and_the_network_def_for_them(tmp_path, attention, capsys):
    torch.manual_seed(0)
    theirs = BioAtt(channels=32, attention=attention).eval()
    torch.save(to_reference(theirs.state_dict(), attention), tmp_path / "theirs.pth")
    assert main(["convert", str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pt")]) == 0
    assert f"attention={attention}" in capsys.readouterr().out
    definition = json.loads((tmp_path / "ours.json").read_text())["network_def"]
    assert definition.pop("_target_") == "BioAtt"
    ours = load_weights(BioAtt(**definition), tmp_path / "ours.pt")
    image, prior = torch.rand(1, 1, 30, 30), torch.rand(1, 11).softmax(1)
    torch.testing.assert_close(ours(image, prior), theirs(image, prior))


def test_convert_refuses_bad_files_and_keeps_what_is_there(tmp_path, capsys):
    (tmp_path / "text.pth").write_text("no checkpoint")
    assert main(["convert", str(tmp_path / "text.pth"), str(tmp_path / "ours.pt")]) == 2
    assert "text.pth" in capsys.readouterr().err
    assert not (tmp_path / "ours.pt").exists()
    torch.save({"some.weight": torch.zeros(1)}, tmp_path / "other.pth")
    assert main(["convert", str(tmp_path / "other.pth"), str(tmp_path / "ours.pt")]) == 2
    assert "lacks key conv1.weight" in capsys.readouterr().err
    torch.save(to_reference(BioAtt(channels=16).state_dict(), "prior"), tmp_path / "good.pth")
    (tmp_path / "ours.pt").write_text("mine")
    assert main(["convert", str(tmp_path / "good.pth"), str(tmp_path / "ours.pt")]) == 2
    assert "--overwrite" in capsys.readouterr().err and (tmp_path / "ours.pt").read_text() == "mine"
    assert main(["convert", str(tmp_path / "good.pth"), str(tmp_path / "ours.pt"), "--overwrite"]) == 0
    assert main(["convert", str(tmp_path / "good.pth"), str(tmp_path / "ours.bin")]) == 2
    assert main(["convert", str(tmp_path / "good.pth"), str(tmp_path / "none" / "ours.pt")]) == 2
    assert "its folder does not exist" in capsys.readouterr().err


def test_priors_writes_a_row_a_slice_by_uid(tmp_path, capsys):
    series = write_ct_series(tmp_path / "series", slices=3)
    assert main(["priors", str(series), str(tmp_path / "p.csv"), "--prior", "random:1"]) == 0
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert len(lines) == 1 + 1 + 3
    uids = {str(pydicom.dcmread(file).SOPInstanceUID) for file in series.iterdir()}
    assert all(any(uid in line for line in lines) for uid in uids)
    capsys.readouterr()
    assert main(["priors", str(series), str(tmp_path / "p.csv")]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_demo_denoises_and_leaves_dicom_and_a_picture(tmp_path, capsys, caplog, monkeypatch):
    from scripts.app import demo

    monkeypatch.setattr(demo, "SLICES", 2)
    assert main(["demo", str(tmp_path / "demo")]) == 0
    out, err = capsys.readouterr()
    assert "WARNING" not in out + err and [one for one in caplog.records if one.levelname == "WARNING"] == []
    lines = [line for line in out.splitlines()[-8:-1] if "." in line and "PSNR" not in line]
    rows = {line[:10].strip(): [float(x) for x in line[10:].split()] for line in lines}
    assert list(rows) == ["low dose", *STRENGTHS]
    noises = [row[2] for row in rows.values()]
    assert noises == sorted(noises, reverse=True), "each strength leaves less noise"
    low, denoised = rows["low dose"], rows["standard"]
    assert denoised[0] > low[0] + 1.0, "PSNR rises by more than 1 dB"
    assert denoised[1] > low[1], "SSIM rises"
    assert denoised[2] < 0.8 * low[2], "noise falls by more than 20%"
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == [
        ".bioatt-demo",
        "demo.png",
        "denoised",
        "denoised_high",
        "denoised_low",
        "low_dose",
        "truth",
    ]
    assert (tmp_path / "demo" / "demo.png").read_bytes()[:4] == b"\x89PNG"
    assert len(list((tmp_path / "demo" / "denoised").glob("*.dcm"))) == 2
    check_former_demo(tmp_path / "demo")
    (tmp_path / "demo" / "thesis.txt").write_text("years of work")
    with pytest.raises(BioAttError, match="holds thesis.txt, which no demo wrote"):
        check_former_demo(tmp_path / "demo")


def test_demo_replaces_only_a_former_demo(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "truth").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert main(["demo", str(tmp_path / "mine")]) == 2
    assert "is not a demo" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").exists()
