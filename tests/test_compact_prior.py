"""Training the compact prior model: labels, augmentation, tokenizer, the folder it writes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from scripts.errors import BioAttError
from scripts.priors import DESCRIPTORS, SliceKey, make_prior

from studies.compact_prior import body_mask, draw_views, main, show, write_skeleton
from studies.compact_prior_judge import LabelledSlices, judge, read_labels, total_variation, visible_at

HEAD = "patient,descriptor,z_from_mm,z_to_mm"


def write_labels(tmp_path, *rows: str):
    """labels.csv of these rows."""
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([HEAD, *rows]) + "\n")
    return path


def write_series(folder, count: int = 3, shape: int = 256) -> None:
    """A small axial CT series: a disc of soft tissue that grows from slice to slice, z from 0 in steps of 5 mm."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[:shape, :shape] - shape / 2
    for index in range(count):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"1.2.3.{index + 1}"
        image = Dataset()
        image.file_meta = meta
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, f"1.2.3.{index + 1}"
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = "1.2.1", "1.2.3", "1.2.4"
        image.Modality, image.ImageType, image.RescaleType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], "HU"
        image.Rows = image.Columns = shape
        image.PixelSpacing, image.SliceThickness = [1.5, 1.5], 5
        image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 5 * index], [1, 0, 0, 0, 1, 0]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.RescaleSlope, image.RescaleIntercept = 1, -1024
        disc = x**2 + y**2 < (60 + 15 * index) ** 2
        image.PixelData = np.where(disc, 1074, 0).astype("<i2").tobytes()
        image.save_as(folder / f"{index}.dcm", enforce_file_format=True)


class TestLabels:
    """labels.csv."""

    def test_ranges_become_visible_slices_with_both_ends(self, tmp_path):
        ranges = read_labels(write_labels(tmp_path, "P1,liver,10,20", "P1,spine,-5,30"))["P1"]
        visible = visible_at(ranges, np.array([-10.0, 0.0, 10.0, 20.0, 25.0]))
        assert visible[:, DESCRIPTORS.index("liver")].tolist() == [False, False, True, True, False]
        assert visible[:, DESCRIPTORS.index("spine")].tolist() == [False, True, True, True, True]
        assert visible.sum() == 6

    def test_target_is_equal_shares_and_uniform_where_nothing_is_visible(self):
        visible = torch.zeros(2, 11, dtype=torch.bool)
        visible[0, [4, 9]] = True
        target = LabelledSlices("P", torch.zeros(2, 4, 4), np.zeros(2), visible).target
        assert target[0].tolist() == [0.5 if i in (4, 9) else 0.0 for i in range(11)]
        torch.testing.assert_close(target[1], torch.full((11,), 1 / 11))

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("P1,heart,0,1", "line 2: unknown descriptor 'heart'"),
            ("P1,liver,0,x", "line 2: z_from_mm and z_to_mm must be numbers"),
            ("P1,liver,2,1", "line 2: z_from_mm 2.0 must not exceed z_to_mm 1.0"),
        ],
    )
    def test_faulty_rows_are_named(self, tmp_path, row, message):
        with pytest.raises(BioAttError, match=message):
            read_labels(write_labels(tmp_path, row))

    def test_other_columns_are_refused(self, tmp_path):
        (tmp_path / "labels.csv").write_text("patient,word\nP1,liver\n")
        with pytest.raises(BioAttError, match="must have the columns"):
            read_labels(tmp_path / "labels.csv")

    def test_shipped_labels_name_every_word_but_ventricles(self, bundle_root):
        labels = read_labels(bundle_root / "models" / "prior" / "labels.csv")
        named = {word for ranges in labels.values() for word, _, _ in ranges}
        assert set(DESCRIPTORS) - named == {"ventricles"}


class TestAugmentation:
    """Drawn in one step, applied in another."""

    def test_same_generator_gives_the_same_images(self):
        hu = torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(0)) * 200
        body = torch.ones(4, 64, 64, dtype=torch.bool)
        one, two = (show(hu, body, draw_views(4, torch.Generator().manual_seed(s)), 32) for s in (3, 3))
        other = show(hu, body, draw_views(4, torch.Generator().manual_seed(4)), 32)
        assert one.shape == (4, 32, 32) and 0 <= one.min() and one.max() <= 1
        assert torch.equal(one, two) and not torch.equal(one, other)

    def test_left_stays_left(self):
        hu = torch.full((32, 64, 64), -1000.0)
        hu[:, 16:48, 8:24] = 200.0
        body = torch.ones_like(hu, dtype=torch.bool)
        images = show(hu, body, draw_views(32, torch.Generator().manual_seed(0)), 32)
        assert (images[:, :, :16].sum((1, 2)) > images[:, :, 16:].sum((1, 2))).all()

    def test_body_mask_takes_the_patient_and_not_the_table(self):
        hu = torch.full((1, 128, 128), -1000.0)
        hu[0, 20:90, 20:110] = 30.0
        hu[0, 40:60, 40:60] = -1000.0  # air inside is body
        hu[0, 110:118, 10:120] = 100.0
        mask = body_mask(hu)[0]
        assert mask[50, 50] and mask[30, 30] and not mask[114, 60] and not mask[5, 5]


class TestTokenizer:
    """The byte-level tokenizer of the model's folder."""

    def test_reads_back_through_open_clip_with_its_end_at_the_highest_number(self, tmp_path):
        import open_clip

        write_skeleton(tmp_path)
        tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["Liver", "liver", "abdominal aorta"])
        assert tokens.shape == (3, 32)
        assert torch.equal(tokens[0], tokens[1])
        assert tokens[:, 0].tolist() == [257] * 3
        assert tokens.argmax(1).tolist() == [6, 6, 16]  # after start and one token a letter
        assert tokens.max() == 258 and tokens[0, 7:].sum() == 0


class TestJudge:
    """Figures of a source."""

    def test_uniform_source_has_the_known_figures(self):
        visible = torch.zeros(3, 11, dtype=torch.bool)
        visible[:, [4, 9]] = True
        patient = LabelledSlices("P", torch.zeros(3, 32, 32), np.arange(3.0), visible)
        constant = torch.zeros(11)
        constant[4] = 1.0
        figures = judge(make_prior("uniform"), patient, constant)
        assert figures["cross_entropy"] == figures["cross_entropy_uniform"] == pytest.approx(math.log(11), abs=1e-4)
        assert figures["cross_entropy_floor"] == pytest.approx(math.log(2), abs=1e-4)
        assert figures["tv_to_target"] == pytest.approx(9 / 11, abs=1e-4)
        assert figures["tv_to_target_constant"] == 0.5
        assert figures["mass_on_visible"] == pytest.approx(2 / 11, abs=1e-4)
        assert figures["mass_on_visible_constant"] == 1.0
        assert figures["neighbour_tv"] == figures["stability_tv"] == 0

    def test_total_variation_is_zero_for_equal_and_one_for_disjoint(self):
        a, b = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
        assert total_variation(a, a).item() == 0 and total_variation(a, b).item() == 1


class TestCommand:
    """The whole, small."""

    def test_trains_and_writes_a_folder_that_loads(self, tmp_path, capsys):
        for patient in ("P1", "P2"):
            write_series(tmp_path / "data" / patient)
        labels = write_labels(tmp_path, "P1,liver,0,5", "P2,liver,0,5", "P2,spine,0,10")
        out = tmp_path / "model"
        call = ["--data", str(tmp_path / "data"), "--out", str(out), "--labels", str(labels), "--held-out", "P2"]
        assert main([*call, "--steps", "2", "--seed", "5"]) == 0
        record = json.loads((out / "figures.json").read_text())
        assert (record["seed"], record["steps"], list(record["held_out"])) == (5, 2, ["P2"])
        source = make_prior(f"local-dir:{out}")
        assert source.digest == record["digest"]
        assert source(torch.zeros(1, 64, 64), [SliceKey(0)]).sum().item() == pytest.approx(1, abs=1e-6)
        readme = (out / "README.md").read_text()
        assert "It is not BiomedCLIP" in readme and f"{record['held_out']['P2']['tv_to_target']:g}" in readme
        assert (out / "labels.csv").read_text() == labels.read_text()
        first = (out / "open_clip_model.safetensors").read_bytes()
        assert main([*call, "--steps", "2", "--seed", "5"]) == 0
        assert (out / "open_clip_model.safetensors").read_bytes() == first

    def test_a_patient_without_a_folder_is_named(self, tmp_path, capsys):
        labels = write_labels(tmp_path, "P1,liver,0,5")
        call = ["--data", str(tmp_path), "--out", str(tmp_path / "model"), "--labels", str(labels), "--held-out"]
        assert main(call) == 2
        assert "error: P1: not in" in capsys.readouterr().out
        assert not (tmp_path / "model").exists()
