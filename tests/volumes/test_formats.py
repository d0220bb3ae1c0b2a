"""MetaImage and NRRD beside NIfTI: the same points in space, back as they were stored, and one file a format."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import SimpleITK
from made_studies import as_nifti
from phantom import write_ct_series
from scripts.errors import BioAttError
from scripts.volumes import find_inputs, load_volume
from scripts.volumes.formats import FORMATS, format_of, suffix_of

TURNED = (0.8, 0.6, 0, -0.6, 0.8, 0)
NAMES = ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"]


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "series"
    return write_ct_series(
        folder, shape=(48, 40), slices=3, spacing=(2.0, 3.0), orientation=(0.8, 0.6, 0, -0.6, 0.8, 0)
    )


def from_series(series, path):
    """The series as ITK reads it from NIfTI."""
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(as_nifti(series, path.with_name("nifti.nii")))), str(path))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_values_and_places_are_those_of_the_series(series, tmp_path, name):
    file = from_series(series, tmp_path / name)
    expected, found = load_volume(series), load_volume(file)
    assert found.series is None and found.hu.dtype == np.float32
    np.testing.assert_array_equal(found.hu, expected.hu)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
    shape, affine = format_of(file).geometry(file)
    assert shape == found.hu.shape
    np.testing.assert_array_equal(affine, found.affine)


@pytest.mark.parametrize("name", NAMES)
def test_written_as_stored_and_clipped_to_its_type(series, tmp_path, name):
    image = SimpleITK.ReadImage(str(from_series(series, tmp_path / name)))
    image.SetMetaData("remark", "kept")  # which MetaImage has no room for
    SimpleITK.WriteImage(image, str(tmp_path / name))
    hu = load_volume(tmp_path / name).hu + 0.4
    hu[0, 0, 0] = 1e6
    (tmp_path / "out").mkdir()
    assert format_of(name).write(tmp_path / name, hu, tmp_path / "out" / name) == 1
    back = SimpleITK.ReadImage(str(tmp_path / "out" / name))
    assert back.GetPixelID() == image.GetPixelID()
    assert name.endswith(("mha", "mhd")) or back.GetMetaData("remark") == "kept"
    for part in ("Spacing", "Origin", "Direction"):
        np.testing.assert_allclose(
            getattr(back, f"Get{part}")(), getattr(image, f"Get{part}")(), rtol=1e-12, atol=1e-12
        )
    values, before = SimpleITK.GetArrayFromImage(back), SimpleITK.GetArrayFromImage(image)
    assert values[0, 0, 0] == 32767
    values[0, 0, 0] = before[0, 0, 0]
    np.testing.assert_array_equal(values, before)


def test_a_folder_of_files_is_its_files(series, tmp_path):
    files = [from_series(series, tmp_path / name) for name in ("b.mha", "a.nrrd")]
    (tmp_path / "nifti.nii").unlink()
    assert find_inputs(tmp_path) == sorted(files)


def test_bad_files_are_told_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "text.mha").write_text("no image")
    with pytest.raises(BioAttError, match="cannot be read as MetaImage or NRRD") as info:
        load_volume(tmp_path / "text.mha")
    assert "\n" not in str(info.value)
    SimpleITK.WriteImage(SimpleITK.Image([4, 4], SimpleITK.sitkInt16), str(tmp_path / "flat.nrrd"))
    with pytest.raises(BioAttError, match="expected one 3-D volume"):
        load_volume(tmp_path / "flat.nrrd")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(BioAttError, match="need SimpleITK; python -m pip install SimpleITK"):
        load_volume(tmp_path / "flat.nrrd")


def test_suffixes_are_known_as_they_are_spelt_and_belong_to_one_format():
    assert suffix_of("a/CT.NII.gz") == ".NII.gz" and suffix_of("CT.dcm") == ""
    assert format_of("x.NRRD").NAME == "MetaImage or NRRD" and format_of("folder") is None
    suffixes = [one for form in FORMATS for one in form.SUFFIXES]
    assert len(set(suffixes)) == len(suffixes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [SimpleITK.sitkFloat32, SimpleITK.sitkInt16])
def test_values_stay_when_the_image_that_they_came_from_is_gone(tmp_path, name, kind):
    """Float values were looked at where SimpleITK's image lay, and were others, or a crash, once it was freed."""
    array = np.random.default_rng(0).normal(0, 300, (6, 5, 4)).round().astype(np.float32)
    SimpleITK.WriteImage(SimpleITK.Cast(SimpleITK.GetImageFromArray(array), kind), str(tmp_path / name))
    values, _ = format_of(name).read(tmp_path / name)
    assert values.flags.owndata or values.base.flags.owndata
    np.testing.assert_array_equal(values, array.transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("a.nhdr", "space directions", "# ", "does not say how far its voxels are apart"),
        ("a.mhd", "ElementSpacing", "Comment", "does not say how far its voxels are apart"),
        ("a.nhdr", "kinds:", 'space units: "microns" "microns" "microns"\nkinds:', "units are microns, expected mm"),
        ("a.nhdr", "kinds:", 'space units: "mm" "mm" "mm"\nkinds:', ""),
    ],
)
def test_lengths_that_are_unknown_or_not_in_mm_are_refused(series, tmp_path, name, old, new, message):
    file = from_series(series, tmp_path / name)
    assert file.read_text().count(old) == 1
    file.write_text(file.read_text().replace(old, new))
    if not message:
        load_volume(file)
        return
    with pytest.raises(BioAttError, match=message):
        load_volume(file)


@pytest.mark.parametrize("unit", ["cm", "mm"])
def test_units_of_single_axes_count_too(tmp_path, unit):
    fields = ("type: short", "dimension: 3", "sizes: 4 4 4", "spacings: 1 1 1", f'units: "{unit}" "{unit}" "{unit}"')
    header = "\n".join(("NRRD0004", *fields, "encoding: raw", "endian: little", "", ""))
    (tmp_path / "a.nrrd").write_bytes(header.encode() + np.arange(-1000, -936, dtype="<i2").tobytes())
    if unit == "mm":
        assert format_of("a.nrrd").read(tmp_path / "a.nrrd")[0].shape == (4, 4, 4)
        return
    with pytest.raises(BioAttError, match="units are cm, expected mm"):
        format_of("a.nrrd").read(tmp_path / "a.nrrd")


@pytest.mark.parametrize("name", ["a.mhd", "a.nhdr"])
def test_values_in_a_file_that_is_not_there_or_cut_are_told(series, tmp_path, name, capfd):
    file = from_series(series, tmp_path / name)
    (data,) = (one for one in tmp_path.glob("a.*raw*") if one != file)
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(BioAttError, match=r"cut short|decoded \(\[nrrd\]"):
        load_volume(file)
    data.unlink()
    with pytest.raises(BioAttError, match=rf"{data.name}, which is not here"):
        load_volume(file)
    assert capfd.readouterr().err.count("Read: Cannot open data file") == 0


def test_raw_values_that_are_cut_within_the_file_are_told(series, tmp_path):
    file = from_series(series, tmp_path / "a.mha")
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(file)), str(file), False)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(
        BioAttError, match="a.mha is cut short: its header promises 11520 bytes of values, it has 11517"
    ):
        load_volume(file)


def test_an_axis_that_is_not_of_space_is_refused(tmp_path):
    head = "type: short\ndimension: 3\nsizes: 4 5 6\nendian: little\nencoding: raw\nspace: LPS\n"
    head += "space directions: none (1,0,0) (0,1,0)\nspace origin: (0,0,0)\n"
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0005\n" + head.encode() + b"\n" + bytes(240))
    with pytest.raises(BioAttError, match="has 2 directions in space, expected 3"):
        load_volume(tmp_path / "a.nrrd")
