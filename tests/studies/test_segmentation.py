"""Dice of TotalSegmentator's labels, with a stand-in for it that thresholds the image."""

import json
import stat
import sys

import nibabel
import numpy as np
import pytest

from studies.segmentation import main, overlaps

STAND_IN = f"""#!{sys.executable}
import sys, nibabel, numpy as np
image = nibabel.load(sys.argv[sys.argv.index("-i") + 1])
labels = (np.asarray(image.dataobj) > 200).astype(np.uint8)
nibabel.save(nibabel.Nifti1Image(labels, image.affine), sys.argv[sys.argv.index("-o") + 1])
"""


@pytest.fixture
def images(tmp_path):
    full = np.zeros((12, 12, 12), np.int16)
    full[2:10, 2:10, 2:10] = 300
    shifted = np.roll(full, 2, axis=0)
    for name, values in {"full": full, "same": full, "shifted": shifted, "small": full[:6]}.items():
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii.gz")
    return tmp_path


def test_labels_are_compared_with_those_of_the_full_dose(images, monkeypatch, capsys):
    command = images / "bin" / "TotalSegmentator"
    command.parent.mkdir()
    command.write_text(STAND_IN)
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
    words = [str(images / "full.nii.gz"), str(images / "out")]
    assert main([*words, str(images / "same.nii.gz"), str(images / "shifted.nii.gz")]) == 0
    told = json.loads((images / "out" / "dice.json").read_text())
    assert told["same.nii.gz"] == {"1": 1.0} and told["shifted.nii.gz"]["1"] == pytest.approx(6 / 8)
    assert main([*words, str(images / "small.nii.gz")]) == 2
    assert "give images of one grid" in capsys.readouterr().out


def test_without_it_there_is_one_line(images, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(images))
    assert main([str(images / "full.nii.gz"), str(images / "out"), str(images / "same.nii.gz")]) == 2
    assert capsys.readouterr().out.startswith("error: TotalSegmentator is not installed; pip install")


def test_small_structures_are_left_out(tmp_path):
    labels = np.zeros((10, 10, 10), int)
    labels[:5], labels[9, 9, 9] = 1, 2
    assert overlaps(labels, labels, tmp_path) == {"1": 1.0}
