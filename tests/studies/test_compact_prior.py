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

from studies.compact_prior import HELD_OUT, _pool, body_mask, draw_views, main, show, write_skeleton
from studies.compact_prior_evaluation import (
    LabelledSlices,
    evaluate,
    patient_of,
    read_labels,
    total_variation,
    visible_at,
)

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
        bone = x**2 + y**2 < 10**2
        image.PixelData = np.where(bone, 1800, np.where(disc, 1074, 24)).astype("<i2").tobytes()
        image.save_as(folder / f"{index}.dcm", enforce_file_format=True)


class TestLabels:
    """labels.csv."""

    def test_ranges_become_visible_slices_with_both_ends(self, tmp_path):
        ranges = read_labels(write_labels(tmp_path, "P1,liver,10,20", "P1,spine,-5,30"))["P1"]
        visible = visible_at(ranges, np.array([-10.0, 0.0, 10.0, 20.0, 25.0]))
        assert visible[:, DESCRIPTORS.index("liver")].tolist() == [False, False, True, True, False]
        assert visible[:, DESCRIPTORS.index("spine")].tolist() == [False, True, True, True, True]
        assert visible.sum() == 6

    def test_shares_are_equal_and_uniform_where_nothing_is_visible(self):
        visible = torch.zeros(2, 11, dtype=torch.bool)
        visible[0, [4, 9]] = True
        shares = LabelledSlices("P", torch.zeros(2, 4, 4), np.zeros(2), visible).shares
        assert shares[0].tolist() == [0.5 if i in (4, 9) else 0.0 for i in range(11)]
        torch.testing.assert_close(shares[1], torch.full((11,), 1 / 11))

    def test_target_is_nearer_to_uniform_the_fewer_are_visible(self):
        visible = torch.ones(12, 11, dtype=torch.bool).tril(-1)  # row n shows the first n
        target = LabelledSlices("P", torch.zeros(12, 4, 4), np.zeros(12), visible).target
        torch.testing.assert_close(target.sum(1), torch.ones(12))
        torch.testing.assert_close(target[0], torch.full((11,), 1 / 11))
        uniform_share = 11 * target[1:11, 10]  # the last word is visible in no row but the last
        torch.testing.assert_close(uniform_share[:3], torch.tensor([0.8, 0.5, 4 / 13]))
        assert (uniform_share.diff() < 0).all() and uniform_share[9] < 0.04
        assert target[1, 0].item() == pytest.approx(0.2 + 0.8 / 11)

    def test_a_series_may_show_nothing(self, tmp_path):
        path = write_labels(tmp_path, "phantom,nothing,0,9", "P1/a,liver,10,20")
        assert read_labels(path) == {"phantom": [], "P1/a": [("liver", 10.0, 20.0)]}
        assert not visible_at([], np.array([0.0, 9.0])).any()

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

    def test_shipped_labels_name_every_word_and_the_patients_held_out(self, bundle_root):
        labels = read_labels(bundle_root / "models" / "prior" / "labels.csv")
        assert {word for ranges in labels.values() for word, _, _ in ranges} == set(DESCRIPTORS)
        assert set(HELD_OUT) <= {patient_of(name) for name in labels}

    def test_shipped_model_was_trained_on_nobody_held_out(self, bundle_root):
        record = json.loads((bundle_root / "models" / "prior" / "figures.json").read_text())
        assert {patient_of(name) for name in record["held_out"]} == set(HELD_OUT)
        assert not {patient_of(name) for name in record["trained_on"]} & set(HELD_OUT)
        assert record["digest"] == make_prior("compact").digest


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

    def test_zoom_leaves_the_share_that_was_asked_for(self):
        closest = torch.tensor([0.35, 0.8]).repeat(200)
        zoom = draw_views(400, torch.Generator().manual_seed(0), closest)["zoom_x"]
        assert (zoom >= closest).all() and zoom.max() < 1.31 and zoom[::2].min() < 0.4 and zoom[1::2].min() < 0.85

    def test_noise_has_the_strength_that_was_drawn(self):
        views = draw_views(3, torch.Generator().manual_seed(0)) | {
            "lower_hu": torch.full((3,), -1000.0),
            "width_hu": torch.full((3,), 2000.0),
            "gamma": torch.ones(3),
            "noise_hu": torch.full((3,), 100.0),
            "smooth": torch.tensor([0.0, 1.0, 0.0]),
            "streak": torch.tensor([0.0, 0.0, 1.0]),
            "blur": torch.zeros(3),
            "angle_rad": torch.zeros(3),
            "zoom_x": torch.full((3,), 0.25),
            "stretch": torch.ones(3),
            "shift_x": torch.zeros(3),
            "shift_y": torch.zeros(3),
        }
        hu = torch.zeros(3, 128, 128)
        white, smooth, streaks = 2000 * show(hu, torch.ones_like(hu, dtype=torch.bool), views, 64)
        assert white.std() < streaks.std() < smooth.std() < 100  # what is left after the average against aliasing
        assert streaks.diff(dim=1).std() < 0.7 * streaks.diff(dim=0).std()

    def test_patients_are_drawn_as_the_root_of_their_slices(self):
        def series(name: str, count: int) -> LabelledSlices:
            hu = torch.full((count, 256, 256), -1000.0)
            hu[:, 96:160, 96:160] = 0.0
            return LabelledSlices(name, hu, 8.0 * np.arange(count), torch.zeros(count, 11, dtype=torch.bool))

        pool = _pool([series("A/one", 1), series("B", 4), series("A/two", 3)])
        weight = pool["weight"]
        assert (weight[[0, 5, 6, 7]].sum().item(), weight[1:5].sum().item()) == pytest.approx((2, 2))
        assert pool["above"].tolist() == list(range(8))  # 8 mm apart: averaged with none
        torch.testing.assert_close(pool["closest"], torch.full((8,), 0.35))

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


class TestEvaluate:
    """Figures of a source."""

    def test_uniform_source_has_the_known_figures(self):
        visible = torch.zeros(3, 11, dtype=torch.bool)
        visible[:, [4, 9]] = True
        patient = LabelledSlices("P", torch.zeros(3, 32, 32), np.arange(3.0), visible)
        constant = torch.zeros(11)
        constant[4] = 1.0
        figures = evaluate(make_prior("uniform"), patient, constant)
        assert figures["highest_absent"] == figures["highest_absent_max"] == pytest.approx(1 / 11, abs=1e-4)
        assert figures["highest_few"] is None  # each slice shows two
        assert figures["cross_entropy"] == figures["cross_entropy_uniform"] == pytest.approx(math.log(11), abs=1e-4)
        shown, hidden = 0.25 + 0.5 / 11, 0.5 / 11  # two visible: half of the target is uniform
        floor = -2 * shown * math.log(shown) - 9 * hidden * math.log(hidden)
        assert figures["cross_entropy_floor"] == pytest.approx(floor, abs=1e-4)
        assert figures["tv_to_target"] == pytest.approx(9 / 22, abs=1e-4)
        assert figures["tv_to_target_constant"] == pytest.approx(1 - shown, abs=1e-4)
        assert figures["mass_on_visible_target"] == pytest.approx(2 * shown, abs=1e-4)
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
        assert record["previous"] == {} and "The model before it" not in readme
        first = (out / "open_clip_model.safetensors").read_bytes()
        assert main([*call, "--steps", "2", "--seed", "5"]) == 0
        assert (out / "open_clip_model.safetensors").read_bytes() == first

    def test_all_series_of_a_patient_are_held_out_and_compared(self, tmp_path):
        for series in ("P1", "P2/a", "P2/b"):
            write_series(tmp_path / series.partition("/")[0] / series)
        labels = write_labels(tmp_path, "P1,liver,0,5", "P2/a,liver,0,5", "P2/b,nothing,0,10")
        roots, out = [str(tmp_path / "P1"), str(tmp_path / "P2")], tmp_path / "model"
        call = ["--data", *roots, "--out", str(out), "--labels", str(labels), "--held-out", "P2", "--steps", "1"]
        assert main(call) == 0
        old = out.rename(tmp_path / "old")
        assert main([*call, "--previous", str(old), "--seed", "1"]) == 0
        record = json.loads((out / "figures.json").read_text())
        assert (list(record["trained_on"]), list(record["held_out"])) == (["P1"], ["P2/a", "P2/b"])
        assert record["previous_digest"] == make_prior(f"local-dir:{old}").digest != record["digest"]
        assert list(record["previous"]) == ["P2/a", "P2/b"]
        was, now = record["previous"]["P2/a"]["highest_absent"], record["held_out"]["P2/a"]["highest_absent"]
        readme = (out / "README.md").read_text()
        assert f"| highest_absent | {was:g} / {now:g} |" in readme
        assert "Trained on 1 patients, donors and phantoms (3 slices)" in readme

    def test_a_patient_without_a_folder_is_named(self, tmp_path, capsys):
        labels = write_labels(tmp_path, "P1,liver,0,5")
        call = ["--data", str(tmp_path), "--out", str(tmp_path / "model"), "--labels", str(labels), "--held-out"]
        assert main(call) == 2
        assert "error: P1: not in" in capsys.readouterr().out
        assert not (tmp_path / "model").exists()
