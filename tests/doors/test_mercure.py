"""The module for mercure, on a folder as mercure lays it: files by series, task.json, an output that exists."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_cases import changed
from phantom import write_ct_series
from scripts.app.command_line import main as bioatt
from scripts.dicom import read_volume, select_series

ROOT = Path(__file__).parents[2]
CONTAINER = ROOT / "deploy" / "container"
SMALL = {"shape": (128, 128), "spacing": (2.5, 2.5), "slices": 5, "noise_sd": 25.0}
MR = changed(Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")


@pytest.fixture(scope="module")
def module():
    """The module's code."""
    spec = importlib.util.spec_from_file_location("bioatt_mercure", CONTAINER / "mercure.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def lay(folder, *series, settings=None):
    """Put series into a folder as mercure does, with a task; their UIDs."""
    folder.mkdir()
    uids = []
    for one in series:
        for file in one.iterdir():
            header = pydicom.dcmread(file, stop_before_pixels=True)
            shutil.copy(file, folder / f"{header.SeriesInstanceUID}#{header.SOPInstanceUID}.dcm")
        uids.append(str(header.SeriesInstanceUID))
    task = {"id": "1", "process": {"module_name": "bioatt", "settings": settings}}
    (folder / "task.json").write_text(json.dumps(task))
    return uids


def series(folder, uid):
    """The files of a series as mercure names them."""
    return sorted(folder.glob(f"{uid}#*.dcm"))


@pytest.fixture
def start(module, tmp_path, monkeypatch, capsys):
    """A function that runs the module on tmp_path / "in": exit code, result.json, what was printed, output folder."""

    def begin():
        (tmp_path / "out").mkdir()
        monkeypatch.setenv("MERCURE_IN_DIR", str(tmp_path / "in"))
        monkeypatch.setenv("MERCURE_OUT_DIR", str(tmp_path / "out"))
        code = module.main()
        told = tmp_path / "out" / "result.json"
        result = json.loads(told.read_text()) if told.exists() else None
        return code, result, capsys.readouterr(), tmp_path / "out"

    return begin


@pytest.fixture
def run(start, tmp_path):
    """A function that runs the module on series: what `start` returns, and their UIDs."""

    def begin(*laid, settings=None):
        uids = lay(tmp_path / "in", *laid, settings=settings)
        return *start(), uids

    return begin


def test_each_ct_series_of_a_study_is_denoised_by_the_settings(run, tmp_path, weights):
    first = write_ct_series(tmp_path / "a", seed=1, **SMALL)
    second = write_ct_series(tmp_path / "b", seed=2, **SMALL)
    localizer = changed(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scout = write_ct_series(tmp_path / "c", seed=3, slices=1, modify=localizer)
    mr = write_ct_series(tmp_path / "d", seed=4, slices=2, modify=MR)
    settings = {"weights": str(weights), "prior": "uniform", "strength": "low"}
    code, result, said, out, uids = run(first, second, scout, mr, settings=settings)
    assert code == 0, said.err
    states = {one["series"]: one["state"] for one in result["series"]}
    assert states == dict(zip(uids, ["denoised", "denoised", "left out", "left out"], strict=True))
    assert {path.suffix for path in out.iterdir()} == {".dcm", ".json"} and len(list(out.glob("*.dcm"))) == 10
    by_uid = {one["series"]: one for one in result["series"]}
    for source, uid in ((first, uids[0]), (second, uids[1])):
        told = by_uid[uid]
        ours = tmp_path / "ours" / source.name
        words = ["--weights", str(weights), "--prior", "uniform", "--strength", "low", "--stable-uids", "--quiet"]
        assert bioatt(["denoise", str(source), str(ours), *words]) == 0
        theirs = select_series(out, told["derived_series"])
        np.testing.assert_array_equal(read_volume(theirs), read_volume(select_series(ours)))
        assert theirs.sop_instance_uids == select_series(ours).sop_instance_uids
        assert told["slices"] == 5 and min(told["noise_sd_hu"].values()) > 0
    notice = result["__mercure_notification"]
    assert notice["text"].startswith("BioAtt: 2 of 4 series denoised") and "HU before" in notice["text"]
    header = pydicom.dcmread(next(first.iterdir()))
    for keyword in ("PatientName", "PatientID", "StudyDescription", "AccessionNumber"):
        assert str(header[keyword].value) not in json.dumps(result) + said.out + said.err


def test_a_series_that_fails_asks_for_the_notification_and_the_others_are_done(run, tmp_path, weights):
    good, bad = write_ct_series(tmp_path / "a", seed=1, **SMALL), write_ct_series(tmp_path / "b", seed=2, **SMALL)
    (bad / "0002.dcm").unlink()
    code, result, _, out, uids = run(good, bad, settings={"weights": str(weights), "prior": "uniform"})
    assert code == 1 and result["__mercure_notification"]["requested"] is True
    told = {one["series"]: one for one in result["series"]}
    assert [told[uid]["state"] for uid in uids] == ["denoised", "failed"]
    assert "slices are missing" in told[uids[1]]["why"] and len(list(out.glob("*.dcm"))) == 5
    assert not any(path.name.startswith(".") for path in out.iterdir())


@pytest.mark.parametrize("left", [b"", bytes(4096), b"no DICOM any more\n", b"I" * 200])
def test_a_file_that_cannot_be_read_is_lost_from_the_series_of_its_name_alone(tmp_path, start, weights, left):
    good, bad = (write_ct_series(tmp_path / name, seed=seed, **SMALL) for seed, name in enumerate("ab"))
    uids = lay(tmp_path / "in", good, bad, settings={"weights": str(weights), "prior": "uniform"})
    last = max(series(tmp_path / "in", uids[1]), key=lambda file: pydicom.dcmread(file).InstanceNumber)
    last.write_bytes(left)  # at the end of the stack, where positions show no gap
    code, result, _, out = start()
    told = {one["series"]: one for one in result["series"]}
    assert code == 1 and [told[uid]["state"] for uid in uids] == ["denoised", "failed"]
    assert "slices are lost" in told[uids[1]]["why"] and str(last) in told[uids[1]]["why"]
    assert result["__mercure_notification"]["requested"] is True
    assert len(list(out.glob("*.dcm"))) == 5 and not any(path.name.startswith(".") for path in out.iterdir())


def test_a_series_of_which_nothing_can_be_read_fails(tmp_path, start):
    uids = lay(tmp_path / "in", write_ct_series(tmp_path / "a", **SMALL))
    for file in series(tmp_path / "in", *uids):
        file.write_bytes(b"no DICOM any more\n")
    code, result, _, _ = start()
    assert code == 1 and result["series"][0]["state"] == "failed" and "is not DICOM" in result["series"][0]["why"]


def test_an_image_that_says_another_series_than_its_name_fails_that_series(tmp_path, start, weights):
    both = [write_ct_series(tmp_path / name, seed=seed, **SMALL) for seed, name in enumerate("ab")]
    uids = lay(tmp_path / "in", *both, settings={"weights": str(weights), "prior": "uniform"})
    stray = series(tmp_path / "in", uids[1])[0]
    shutil.copy(series(tmp_path / "in", uids[0])[0], stray)
    code, result, _, _ = start()
    told = {one["series"]: one for one in result["series"]}
    assert code == 1 and [told[uid]["state"] for uid in uids] == ["denoised", "failed"]
    assert told[uids[1]]["why"].startswith(f"{stray} says another SeriesInstanceUID than its name")


def test_what_the_weights_were_not_trained_on_is_told(run, tmp_path):
    code, result, _, _, _ = run(write_ct_series(tmp_path / "a", **SMALL))
    (told,) = result["series"]
    assert code == 0 and told["state"] == "denoised" and any("pixel spacing" in one for one in told["outside_scope"])
    assert result["__mercure_notification"]["requested"] is True


def test_rules_choose_and_own_results_are_left_out(run, tmp_path, weights):
    thin = write_ct_series(tmp_path / "a", seed=1, **SMALL)
    thick = write_ct_series(tmp_path / "b", seed=2, modify=changed(SliceThickness=5.0), **SMALL)
    words = ["--weights", str(weights), "--prior", "uniform", "--quiet"]
    assert bioatt(["denoise", str(thin), str(tmp_path / "own"), *words]) == 0
    settings = {"weights": str(weights), "prior": "uniform", "rules": [{"when": {"SliceThickness": [0, 3]}}]}
    code, result, _, _, uids = run(thin, thick, tmp_path / "own", settings=settings)
    told = {one["series"]: (one["state"], one.get("why")) for one in result["series"]}
    assert code == 0 and result["__mercure_notification"]["requested"] is False
    assert told == dict(
        zip(uids, [("denoised", None), ("left out", "no rule fits"), ("left out", "BioAtt made it")], strict=True)
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"strenght": 1}, "task.json: strenght cannot be set"),
        ({"output_dir": "/"}, "output_dir cannot be set"),
        ({"rules": {}}, "expected a list"),
        ({"prior": "$print(1)"}, "prior is code"),
        ("strong", "task.json cannot be read"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(run, tmp_path, settings, told):
    code, result, said, out, _ = run(write_ct_series(tmp_path / "a", **SMALL), settings=settings)
    assert code == 2 and result is None and said.err.count("error: ") == 1 and told in said.err


@pytest.mark.parametrize("name", ["$print(1)#1.dcm", "1.2.dcm", "IM0001", "within/1.2#3.dcm"])
def test_an_image_of_another_name_is_refused(tmp_path, start, name):
    lay(tmp_path / "in", write_ct_series(tmp_path / "a", **SMALL))
    file = tmp_path / "in" / name
    file.parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / "a" / "0001.dcm", file)
    code, result, said, _ = start()
    assert code == 2 and result is None and "name is not SERIES_UID#NAME.dcm" in said.err


def test_notes_of_mercures_are_no_images(tmp_path, start, weights):
    (uid,) = lay(tmp_path / "in", write_ct_series(tmp_path / "a", **SMALL), settings={"weights": str(weights)})
    for name in (f"{uid}#1.tags", "notes.json", ".processing"):
        (tmp_path / "in" / name).write_text("{}")
    assert start()[0] == 0


def test_folders_that_are_not_there_are_one_line(run, module, tmp_path, monkeypatch, capsys):
    code, _, said, _, _ = run()
    assert code == 2 and "holds no SERIES_UID#NAME.dcm" in said.err
    monkeypatch.delenv("MERCURE_OUT_DIR")
    assert module.main() == 2 and "MERCURE_OUT_DIR names no folder" in capsys.readouterr().err


def test_the_entry_starts_the_module_or_the_command(tmp_path):
    import subprocess

    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("python3", "bioatt", "dask"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (programs / name).chmod(stat.S_IRWXU)
    for variables, said in (({}, "bioatt denoise a b"), ({"MERCURE_IN_DIR": "/in"}, "python3 /opt/bioatt/mercure.py")):
        environment = {"PATH": f"{programs}:{os.environ['PATH']}", **variables}
        done = subprocess.run(["sh", CONTAINER / "entry.sh", "denoise", "a", "b"], env=environment,
                              capture_output=True, text=True, check=True)  # fmt: skip
        assert done.stdout.strip() == said
    for words in (("dask", "worker", "tcp://a:1"), ("dask-worker", "tcp://a:1")):  # the latter as Dask's operator does
        command = ["sh", CONTAINER / "entry.sh", *words]
        environment = {"PATH": f"{programs}:{os.environ['PATH']}"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "dask worker tcp://a:1"


def test_the_image_copies_what_is_there_and_runs_without_rights():
    lines = (CONTAINER / "Containerfile").read_text().splitlines()
    sources = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert sources and all((ROOT / source).exists() for source in sources)
    assert "USER 10001:10001" in lines
    assert any(line.startswith("ENV ") and " USER=" in line for line in lines)  # MONAI asks for the user's name
