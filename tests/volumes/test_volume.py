"""DICOM and NIfTI to HU and back: same numbers, same geometry, and clear refusals."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
from made_studies import as_nifti
from phantom import write_ct_series
from scripts.errors import BioAttError
from scripts.volumes import find_inputs, load_volume
from scripts.volumes.formats.nifti import geometry
from scripts.volumes.formats.nifti import write as write_nifti


def write(path, array, affine=None, slope=None, intercept=None):
    image = nibabel.Nifti1Image(array, np.diag([0.7, 0.8, 3.0, 1.0]) if affine is None else affine)
    if slope is not None:
        image.header.set_slope_inter(slope, intercept)
    nibabel.save(image, path)
    return path


def hu_array(dtype=np.int16, shape=(6, 5, 4)):
    generator = np.random.default_rng(0)
    array = generator.uniform(-1024, 1500, shape)
    return np.rint(array).astype(dtype) if np.dtype(dtype).kind in "iu" else array.astype(dtype)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_nifti_round_trip_keeps_values_type_and_affine(tmp_path, suffix, dtype):
    affine = np.array([[0, -0.7, 0, 10], [0.8, 0, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1.0]])
    source = write(tmp_path / f"in{suffix}", hu_array(dtype), affine)
    volume = load_volume(source)
    assert write_nifti(source, volume.hu, tmp_path / f"out{suffix}") == 0
    back, original = nibabel.load(tmp_path / f"out{suffix}"), nibabel.load(source)
    assert back.get_data_dtype() == original.get_data_dtype() == dtype
    np.testing.assert_array_equal(back.affine, original.affine)
    np.testing.assert_allclose(back.get_fdata(), original.get_fdata(), rtol=1e-6)
    assert back.header["qform_code"] == original.header["qform_code"]


def test_nifti_slope_and_intercept_are_kept(tmp_path):
    stored = np.arange(120, dtype=np.uint16).reshape(6, 5, 4) * 20
    source = write(tmp_path / "in.nii.gz", stored, slope=1.0, intercept=-1024.0)
    volume = load_volume(source)
    np.testing.assert_allclose(volume.hu, stored * 1.0 - 1024)
    write_nifti(source, volume.hu + 0.4, tmp_path / "out.nii.gz")
    back = nibabel.load(tmp_path / "out.nii.gz")
    assert back.get_data_dtype() == np.uint16 and back.dataobj.inter == -1024
    np.testing.assert_array_equal(back.dataobj.get_unscaled(), stored)


def test_nifti_values_are_rounded_and_clipped_not_wrapped(tmp_path):
    source = write(tmp_path / "in.nii", hu_array())
    hu = np.zeros((6, 5, 4))
    hu[0, 0, 0], hu[1, 0, 0], hu[2, 0, 0] = 40000.0, 1.6, -1.6
    assert write_nifti(source, hu, tmp_path / "out.nii") == 1
    back = nibabel.load(tmp_path / "out.nii").get_fdata()
    assert (back[0, 0, 0], back[1, 0, 0], back[2, 0, 0]) == (32767, 2, -2)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("kind", "dtype", "shape"),
    [
        (nibabel.Nifti1Image, np.int16, (6, 5, 4)),
        (nibabel.Nifti1Image, ">i2", (6, 5, 4, 1)),
        (nibabel.Nifti2Image, np.float32, (6, 5, 4)),
        (nibabel.Nifti2Image, np.int32, (6, 5)),
    ],
)
def test_a_nifti_is_written_slice_by_slice_as_nibabel_writes_it_whole(tmp_path, suffix, kind, dtype, shape):
    values = np.random.default_rng(0).integers(-1000, 1000, shape).astype(dtype)
    affine = np.diag([-0.7, 0.8, 1.5, 1.0])
    image = kind(values, affine)
    image.header.set_data_dtype(dtype)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"kept"))
    image.header["descrip"] = b"from somewhere"
    source = tmp_path / f"source{suffix}"
    nibabel.save(image, source)
    volume = load_volume(source)
    assert np.array_equal(volume.hu, values.reshape(volume.hu.shape).astype(np.float32))
    write_nifti(source, volume.hu, tmp_path / f"out{suffix}")
    unpack = gzip.decompress if suffix.endswith("gz") else bytes
    assert unpack((tmp_path / f"out{suffix}").read_bytes()) == unpack(source.read_bytes())


def test_a_nifti_that_ends_too_early_is_refused(tmp_path):
    source = write(tmp_path / "whole.nii", hu_array())
    (tmp_path / "cut.nii").write_bytes(source.read_bytes()[:-10])
    with pytest.raises(BioAttError, match="cut.nii is cut short: .*; copy it again"):
        load_volume(tmp_path / "cut.nii")


def test_one_slice_nifti(tmp_path):
    source = write(tmp_path / "in.nii", hu_array(shape=(6, 5)))
    volume = load_volume(source)
    assert volume.hu.shape == (6, 5, 1)
    write_nifti(source, volume.hu, tmp_path / "out.nii")
    assert nibabel.load(tmp_path / "out.nii").shape == (6, 5)


def test_dicom_and_its_nifti_are_the_same_volume(tmp_path):
    series = write_ct_series(tmp_path / "series", slices=3)
    dicom = load_volume(series)
    nifti = load_volume(as_nifti(series, tmp_path / "same.nii.gz"))
    np.testing.assert_array_equal(dicom.hu, nifti.hu)
    np.testing.assert_allclose(dicom.affine, nifti.affine, atol=1e-5)
    assert len(dicom.series.slice_names) == 3 and nifti.series is None


BAD = {
    "values in \\[0, 1\\]": np.linspace(0, 1, 60, dtype=np.float32).reshape(5, 4, 3),
    "values in \\[0, 255\\]": np.arange(60, dtype=np.uint8).reshape(5, 4, 3),
    "minimum of -100, above -200": np.linspace(-100, 900, 60, dtype=np.float32).reshape(5, 4, 3),
    "no air, perhaps stored with 1024 added": np.linspace(0, 2500, 60, dtype=np.float32).reshape(5, 4, 3),
    "maximum of 50, below 100": np.linspace(-1000, 50, 60, dtype=np.float32).reshape(5, 4, 3),
    "values vary below -1100 HU, as if shifted twice": (
        np.r_[np.linspace(-2100, -1950, 30), np.linspace(-1130, 900, 4), np.linspace(-1130, -900, 26)]
        .astype(np.float32)
        .reshape(5, 4, 3)
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_not_hu_is_refused_with_the_remedy(tmp_path, message):
    source = write(tmp_path / "in.nii", BAD[message])
    remedy = "if you know that its values are HU, go on with --assume-hu"
    with pytest.raises(BioAttError, match=f"in.nii does not look like HU: .*{message}.*{remedy}"):
        load_volume(source)
    assert load_volume(source, assume_hu=True).hu.shape == (5, 4, 3)


def test_padding_that_lossy_compression_makes_vary_is_welcome_beside_tissue(tmp_path):
    array = np.r_[np.linspace(-3030, -3010, 15), np.linspace(-1000, -900, 20), np.linspace(-100, 120, 25)]
    source = write(tmp_path / "in.nii", array.astype(np.float32).reshape(5, 4, 3))
    assert load_volume(source).hu.min() < -3000.0


def test_nan_is_kept_but_nothing_but_nan_is_refused(tmp_path):
    array = hu_array(np.float32)
    array[0] = np.nan
    assert np.isnan(load_volume(write(tmp_path / "some.nii", array)).hu[0]).all()
    with pytest.raises(BioAttError, match="no finite value"):
        load_volume(write(tmp_path / "all.nii", np.full((3, 3, 3), np.nan, np.float32)))


def test_other_niftis_are_refused(tmp_path):
    colour = np.zeros((4, 4, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(BioAttError, match="expected numbers in HU"):
        load_volume(write(tmp_path / "colour.nii", colour))
    with pytest.raises(BioAttError, match="expected one 3-D volume"):
        load_volume(write(tmp_path / "time.nii", hu_array(shape=(4, 4, 2, 5))))
    (tmp_path / "text.nii.gz").write_text("no image")
    with pytest.raises(BioAttError, match="cannot be read as NIfTI"):
        load_volume(tmp_path / "text.nii.gz")
    whole = write(tmp_path / "whole.nii", hu_array(shape=(40, 40, 4))).read_bytes()
    (tmp_path / "cut.nii").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BioAttError, match="cut.nii is cut short"):
        load_volume(tmp_path / "cut.nii")
    with pytest.raises(BioAttError, match="--series chooses among DICOM series"):
        load_volume(tmp_path / "cut.nii", series="1.2")


def test_a_nifti_without_geometry_is_refused(tmp_path):
    image = nibabel.Nifti1Image(hu_array(), None)
    image.header["qform_code"] = image.header["sform_code"] = 0
    nibabel.save(image, tmp_path / "codes.nii")
    with pytest.raises(BioAttError, match="codes.nii has no geometry"):
        load_volume(tmp_path / "codes.nii")
    image.header["sform_code"], image.header["vox_offset"] = 1, 352
    for row in ("srow_x", "srow_y", "srow_z"):
        image.header[row] = [1.0, 1.0, 0.0, 0.0]
    (tmp_path / "flat.nii").write_bytes(image.header.binaryblock + bytes(4) + hu_array().tobytes(order="F"))
    with pytest.raises(BioAttError, match="no usable affine"):
        load_volume(tmp_path / "flat.nii")


def test_inputs_are_a_series_a_file_or_all_niftis_of_a_folder(tmp_path):
    for name in ("b.nii.gz", "a.nii", ".hidden.nii", "notes.txt"):
        (tmp_path / name).write_text("")
    assert [path.name for path in find_inputs(tmp_path)] == ["a.nii", "b.nii.gz"]
    series = write_ct_series(tmp_path / "series", slices=1)
    assert find_inputs(series) == [series]
    assert find_inputs(series / "0001.dcm") == [series / "0001.dcm"]


def test_inputs_that_cannot_be(tmp_path):
    with pytest.raises(BioAttError, match="does not exist"):
        find_inputs(tmp_path / "nowhere")
    with pytest.raises(BioAttError, match="no input given"):
        find_inputs("")
    write_ct_series(tmp_path / "mixed", slices=1)
    (tmp_path / "mixed" / "0001.dcm").rename(tmp_path / "mixed" / "IM0001")
    (tmp_path / "mixed" / "x.nii").write_text("")
    with pytest.raises(BioAttError, match="NIfTI and DICOM files together"):
        find_inputs(tmp_path / "mixed")


def test_a_dicom_series_beside_files_of_another_format_is_chosen_by_its_number(tmp_path):
    folder = write_ct_series(tmp_path, slices=2)
    write(folder / "mask.nii.gz", np.ones((4, 4, 2), np.uint8))
    with pytest.raises(BioAttError, match="name mask.nii.gz itself, or choose the DICOM series with --series"):
        find_inputs(folder)
    assert find_inputs(folder, "3") == [folder]


def test_subfolders_beside_niftis_are_told(tmp_path, caplog):
    write(tmp_path / "ct.nii", hu_array())
    write_ct_series(tmp_path / "more", slices=1)
    assert find_inputs(tmp_path) == [tmp_path / "ct.nii"]
    assert "its subfolders are not looked into (1, e.g. more)" in caplog.text


def test_a_device_is_no_input():
    with pytest.raises(BioAttError, match="/dev/null is neither a file nor a folder"):
        find_inputs("/dev/null")


def test_a_nifti_under_the_name_of_the_other_form_is_told_its_name(tmp_path):
    plain, packed = write(tmp_path / "a.nii", hu_array()), write(tmp_path / "b.nii.gz", hu_array())
    with pytest.raises(BioAttError, match="is not packed by gzip; rename it to c.nii$"):
        load_volume(plain.rename(tmp_path / "c.nii.gz"))
    with pytest.raises(BioAttError, match="is packed by gzip; rename it to d.nii.gz$"):
        load_volume(packed.rename(tmp_path / "d.nii"))
    assert load_volume((tmp_path / "d.nii").rename(tmp_path / "d.nii.gz")).hu.shape == hu_array().shape


def test_a_packed_nifti_whose_check_sum_is_wrong_is_refused(tmp_path):
    file = write(tmp_path / "a.nii.gz", hu_array(shape=(60, 60, 20)))
    content = bytearray(file.read_bytes())
    content[-6] ^= 255
    file.write_bytes(content)
    with pytest.raises(BioAttError, match="cannot be decoded .CRC check failed.*copy or export it again"):
        load_volume(file)


@pytest.mark.parametrize("behind", [bytes(100), b"no gzip"])
def test_bytes_behind_a_packed_nifti_are_ignored(tmp_path, behind):
    array = hu_array(shape=(60, 60, 20))
    file = write(tmp_path / "a.nii.gz", array)
    file.write_bytes(file.read_bytes() + behind)
    np.testing.assert_array_equal(load_volume(file).hu, array)


def test_voxels_that_begin_in_the_header_are_refused(tmp_path):
    file = write(tmp_path / "a.nii", hu_array())
    content = file.read_bytes()
    file.write_bytes(content[:108] + bytes(4) + content[112:])
    with pytest.raises(BioAttError, match="vox_offset is 0, within its header of 348 bytes"):
        load_volume(file)


@pytest.mark.parametrize(
    ("unit", "scale", "is_converted"),
    [("meter", 1e-3, True), ("micron", 1e3, True), ("meter", 1, False), ("micron", 1, False), ("unknown", 1, None)],
)
def test_a_unit_of_length_is_believed_where_it_makes_voxels_of_ct(tmp_path, caplog, unit, scale, is_converted):
    affine = np.array([[0, -0.7, 0, 10], [0.8, 0, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1.0]])
    stored = np.vstack([affine[:3] * scale, affine[3:]])
    image = nibabel.Nifti1Image(hu_array(), stored)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "in.nii")
    volume = load_volume(tmp_path / "in.nii")
    np.testing.assert_allclose(volume.affine, affine, rtol=1e-6)
    np.testing.assert_allclose(geometry(tmp_path / "in.nii")[1], affine, rtol=1e-6)
    what = {True: f"{unit}, is converted to mm: voxels of 0.8 x 0.7 x 3 mm", False: "no voxels of CT", None: ""}
    assert what[is_converted] in caplog.text and len(caplog.records) == (is_converted is not None)
    write_nifti(tmp_path / "in.nii", volume.hu, tmp_path / "out.nii")
    assert (tmp_path / "out.nii").read_bytes() == (tmp_path / "in.nii").read_bytes()


@pytest.mark.parametrize(("shift", "is_told"), [(100.0, True), (1e-3, False)])
def test_two_places_in_one_nifti_are_told(tmp_path, caplog, shift, is_told):
    image = nibabel.Nifti1Image(hu_array(), np.diag([0.7, 0.7, 3.0, 1.0]))
    other = image.affine.copy()
    other[0, 3] += shift
    image.set_sform(image.affine, 1)
    image.set_qform(other, 1)
    nibabel.save(image, tmp_path / "in.nii")
    np.testing.assert_allclose(load_volume(tmp_path / "in.nii").affine, image.affine, rtol=1e-6)
    assert ("sform and qform differ (by 100 at a corner); sform is taken" in caplog.text) == is_told


@pytest.mark.parametrize(("sides", "is_told"), [((1, 1, 1), True), ((5, 5, 3), False)])
def test_sides_of_voxels_that_pixdim_says_otherwise_are_told(tmp_path, caplog, sides, is_told):
    """A sform alone, and the lengths that a header has by default: viewers that read those show another size."""
    file = tmp_path / "ct.nii"
    nibabel.save(nibabel.Nifti1Image(hu_array(), np.diag([5, 5, 3, 1])), file)
    content = bytearray(file.read_bytes())
    content[80:92] = np.array(sides, "<f4").tobytes()
    file.write_bytes(content)
    np.testing.assert_array_equal(load_volume(file).affine, np.diag([5, 5, 3, 1]))
    assert ("sform makes voxels of 5 x 5 x 3, pixdim 1 x 1 x 1; sform is taken" in caplog.text) == is_told


def test_dicom_under_the_name_of_a_nifti_is_told(tmp_path):
    file = write_ct_series(tmp_path, slices=1) / "0001.dcm"
    with pytest.raises(BioAttError, match="under this name: it is DICOM; name it .dcm"):
        load_volume(file.rename(tmp_path / "a.nii"))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("<html>log in</html>", "is a web page"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a file pointer; .*git lfs pull"),
        ("/annex/objects/MD5E-s1--1.nii.gz\n", "is a file pointer; .*git annex get"),
    ],
)
def test_what_lies_in_the_place_of_a_nifti_is_told(tmp_path, text, what):
    (tmp_path / "a.nii.gz").write_text(text)
    with pytest.raises(BioAttError, match=what):
        load_volume(tmp_path / "a.nii.gz")
