"""`bioatt denoise --all-series`: each CT series of a study, as it is denoised alone; the rest is told."""

from __future__ import annotations

import json
import re
import zipfile

import numpy as np
import pydicom
import pytest
from dicom_cases import changed
from phantom import write_ct_series
from scripts.app.command_line import main
from scripts.dicom import read_volume, select_series

MR = changed(SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality="MR")


def member(number, **values):
    """Modifies the phantom's series to be series `number` of one study."""

    def modify(dataset, i):
        uid = f"1.2.3.{number}"
        dataset.SeriesInstanceUID, dataset.SeriesNumber = uid, number
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{i + 1}"
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return modify


def write(folder, number, modify=None, **options):
    modify = modify or member(number)
    return write_ct_series(folder, seed=number, noise_sd=30.0, modify=modify, **{"slices": 3, **options})


@pytest.fixture
def study(tmp_path):
    """Two CT series, a scout, a reformat and an MR series."""
    folder = tmp_path / "study"
    write(folder / "a", 2)
    write(folder / "b", 3, slices=4)
    write(folder / "scout", 1, member(1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), slices=1)
    write(folder / "reformat", 4, member(4, ImageType=["DERIVED", "SECONDARY", "REFORMATTED"]))
    write(folder / "mr", 5, lambda dataset, i: (member(5)(dataset, i), MR(dataset, i)), slices=2)
    return folder


@pytest.fixture
def run(weights, here, capsys):
    def start(*words):
        options = ["--weights", str(weights), "--quiet", *(("--scheduler", here) if "--all-series" in words else ())]
        code = main(["denoise", *map(str, words), *options])
        return code, capsys.readouterr()

    return start


def rows(out):
    """Number -> (images, state, rest) of the table."""
    found = re.findall(r"^ +(\d+|-) +(\d+)  (denoised|left out|failed) +(.*)$", out, re.MULTILINE)
    return {number: (int(images), state, rest) for number, images, state, rest in found}


def test_each_ct_series_is_denoised_as_it_is_alone_and_the_rest_is_told(study, run, tmp_path):
    code, said = run(study, tmp_path / "out", "--all-series", "--stable-uids")
    assert code == 0, said.err
    told = rows(said.out)
    assert {number: row[:2] for number, row in told.items()} == {
        "1": (1, "left out"),
        "2": (3, "denoised"),
        "3": (4, "denoised"),
        "4": (3, "left out"),
        "5": (2, "left out"),
    }
    assert told["1"][2] == "localizer" and told["4"][2] == "no rule fits: it is DERIVED"
    assert told["5"][2] == "MR (MR Image Storage)" and told["2"][2].startswith("series0002")
    assert said.out.rstrip().endswith("2 denoised, 3 left out, 0 failed")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["series0002", "series0003"]
    for name, folder in (("series0002", "a"), ("series0003", "b")):
        assert run(study / folder, tmp_path / folder, "--stable-uids")[0] == 0
        ours, alone = (select_series(place) for place in (tmp_path / "out" / name, tmp_path / folder))
        assert np.array_equal(read_volume(ours), read_volume(alone))
        assert ours.sop_instance_uids == alone.sop_instance_uids


def test_a_zip_into_an_empty_folder_by_rules(study, run, tmp_path):
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(study.rglob("*.dcm")):
            archive.write(file, file.relative_to(study))
    (tmp_path / "rules.json").write_text(json.dumps([{"derived": True, "when": {"ImageType": "REFORMATTED"}}]))
    (tmp_path / "out").mkdir()
    words = ("--all-series", "--rules", tmp_path / "rules.json")
    code, said = run(tmp_path / "study.zip", tmp_path / "out", *words)
    assert code == 0, said.err
    assert {number for number, row in rows(said.out).items() if row[1] == "denoised"} == {"4"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["series0004"]
    assert run(study / "reformat", tmp_path / "alone")[0] == 0
    zipped, alone = (read_volume(select_series(tmp_path / name)) for name in ("out/series0004", "alone"))
    assert np.array_equal(zipped, alone)


def test_each_series_is_denoised_by_the_settings_of_its_rule_and_overwritten_when_told(study, run, tmp_path):
    rule = {"when": {"SeriesNumber": "^3$"}, "settings": {"strength": "low"}}
    (tmp_path / "rules.json").write_text(json.dumps([rule, {}]))
    for words in ((), ("--rules", tmp_path / "rules.json", "--overwrite")):
        assert run(study, tmp_path / "out", "--all-series", *words)[0] == 0
    made = {name: next((tmp_path / "out" / name).glob("*.dcm")) for name in ("series0002", "series0003")}
    told = {name: pydicom.dcmread(file).DerivationDescription for name, file in made.items()}
    assert "strength standard" in told["series0002"] and "strength low" in told["series0003"]


def test_a_series_that_fails_stops_no_other_and_gives_1(study, run, tmp_path):
    (study / "b" / "0002.dcm").unlink()
    code, said = run(study, tmp_path / "out", "--all-series")
    told = rows(said.out)
    assert code == 1 and told["2"][1] == "denoised" and told["3"][1] == "failed"
    assert "missing" in told["3"][2] and said.out.rstrip().endswith("1 denoised, 3 left out, 1 failed")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["series0002"]


def test_a_rule_that_cannot_be_used_stops_the_series_of_no_other(study, run, tmp_path):
    rule = {"when": {"SeriesNumber": "^3$"}, "settings": {"weights": str(tmp_path / "none.pt")}}
    (tmp_path / "rules.json").write_text(json.dumps([rule, {}]))
    code, said = run(study, tmp_path / "out", "--all-series", "--rules", tmp_path / "rules.json")
    told = rows(said.out)
    assert code == 1 and told["2"][1] == "denoised" and told["3"][1] == "failed" and "none.pt" in told["3"][2]


def test_a_study_of_which_nothing_is_denoised_is_no_success(run, tmp_path):
    write(tmp_path / "study", 4, member(4, ImageType=["DERIVED", "SECONDARY", "REFORMATTED"]))
    code, said = run(tmp_path / "study", tmp_path / "out", "--all-series")
    assert code == 2 and rows(said.out)["4"][1:] == ("left out", "no rule fits: it is DERIVED")
    assert said.out.rstrip().endswith("1 series: 0 denoised, 1 left out, 0 failed")
    assert re.search("study: nothing was denoised, none of its 1 series is chosen .*--rules .*--series", said.err)
    assert not (tmp_path / "out").exists()


def test_series_of_one_number_get_folders_of_their_own(run, tmp_path):
    write(tmp_path / "study" / "a", 2)
    write(tmp_path / "study" / "b", 2, lambda dataset, i: (member(7)(dataset, i), changed(SeriesNumber=2)(dataset, i)))
    code, said = run(tmp_path / "study", tmp_path / "out", "--all-series")
    assert code == 0, said.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["series0002", "series0002_2"]


def test_a_uid_that_is_none_is_not_taken_as_a_setting(run, tmp_path):
    write(tmp_path / "study", 2, member(2, SeriesInstanceUID="$print('taken')"))
    code, said = run(tmp_path / "study", tmp_path / "out", "--all-series")
    assert code == 1 and "is no UID" in rows(said.out)["2"][2]
    assert "taken" not in said.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--all-series", "--series", "3"], "leave out --series"),
        (["--all-series", "--one-scan"], "leave out --one-scan"),
        (["--all-series", "--cohort"], "leave out --cohort"),
        (["--rules", "rules.json"], "together with --all-series"),
    ],
)
def test_what_does_not_go_together_is_refused(study, run, tmp_path, words, told):
    code, said = run(study, tmp_path / "out", *words)
    assert code == 2 and told in said.err and not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_refused(study, run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    code, said = run(study, tmp_path / "out", "--all-series")
    assert code == 2 and "out exists" in said.err
    assert run(study, study / "out", "--all-series")[0] == 2
