"""Figures by slice, patient, region and overall; the handlers that make them; the curve of a training."""

from __future__ import annotations

import csv
import json
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from scripts.errors import BioAttError
from scripts.evaluation import ImageQuality, TrainingCurve, handlers
from scripts.evaluation.results import SliceResult, summarise, summary_document, write_csv
from scripts.staging import write_json


def result(patient, low, denoised, region="abdomen", **others):
    measures = {"low": {"psnr_db": low, **others}, "denoised": {"psnr_db": denoised, **others}}
    return SliceResult(patient=patient, region=region, uid="1.2", measures=measures)


def test_a_patient_with_many_slices_weighs_as_much_as_one_with_few():
    slices = [result("A", 30.0, 31.0)] * 9 + [result("B", 20.0, 23.0), result("C", 25.0, 27.0)]
    summary = summarise(slices)
    assert summary["patients"]["A"] == {"slices": 9, "low": {"psnr_db": 30.0}, "denoised": {"psnr_db": 31.0}}
    overall = summary["overall"]
    assert overall["low"]["psnr_db"]["mean"] == pytest.approx(25.0) and overall["low"]["psnr_db"]["n"] == 3
    gain = overall["difference"]["psnr_db"]
    assert gain["mean"] == pytest.approx(2.0) and gain["sd"] == pytest.approx(1.0)
    assert gain["interval_95"] == pytest.approx([2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)], abs=1e-3)


def test_more_slices_do_not_narrow_the_interval():
    patients = [("A", 30.0, 31.0), ("B", 20.0, 23.0), ("C", 25.0, 27.0)]
    few, many = (summarise([result(*one) for one in patients] * times) for times in (1, 50))
    assert few["overall"] == many["overall"]


def test_what_a_slice_does_not_show_is_left_out_of_the_mean_and_null_in_json(tmp_path):
    slices = [result("A", 1.0, 1.0, bias_fat_hu=math.nan), result("A", 1.0, math.inf, bias_fat_hu=3.0)]
    slices += [result("B", 1.0, 1.0, bias_fat_hu=math.nan)]
    summary = summarise(slices)
    assert summary["patients"]["A"]["low"]["bias_fat_hu"] == 3.0
    assert summary["overall"]["low"]["bias_fat_hu"]["n"] == 1
    write_json(tmp_path / "q.json", summary)
    read = json.loads((tmp_path / "q.json").read_text())["patients"]
    assert read["B"]["low"]["bias_fat_hu"] is None and read["A"]["denoised"]["psnr_db"] is None


def test_regions_are_summed_up_by_patient_too():
    slices = [result("A", 30.0, 31.0, "chest"), result("A", 20.0, 22.0), result("B", 22.0, 25.0)]
    document = summary_document(slices, ["psnr"], ["abdomen", "lung"])
    assert list(document["regions"]) == ["abdomen", "chest"]
    assert document["regions"]["chest"]["patients"].keys() == {"A"}
    assert document["regions"]["abdomen"]["overall"]["difference"]["psnr_db"]["mean"] == pytest.approx(2.5)
    assert document["window"] == "abdomen" and document["windows_hu"]["lung"] == (-1350.0, 150.0)


def test_the_csv_has_a_line_for_each_slice_image_and_window(tmp_path):
    measures = {"psnr_db": 30.0, "psnr_db_lung": 35.0, "noise_sd_hu": math.nan}
    one = SliceResult(patient="A", region="chest", uid="1.2", measures={"low": measures, "denoised": measures})
    write_csv(tmp_path / "new" / "q.csv", [one, one], ["psnr", "noise"], ["abdomen", "lung"])
    with open(tmp_path / "new" / "q.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2
    assert rows[1] == {
        **{"patient": "A", "region": "chest", "uid": "1.2", "image": "low"},
        **{"window": "lung", "psnr_db": "35.0", "noise_sd_hu": ""},
    }


def test_files_are_written_whole_or_not_at_all(tmp_path):
    for name, write in (
        ("q.csv", lambda path: write_csv(path, [result("A", 1.0, 2.0), None], ["psnr"], ["abdomen"])),
        ("q.json", lambda path: write_json(path, {"a": object()})),
    ):
        (tmp_path / name).write_text("old")
        with pytest.raises((AttributeError, TypeError)):
            write(tmp_path / name)
        assert (tmp_path / name).read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.csv", "q.json"]


def engine_with(items, sources):
    output = [{key: torch.full((1, 32, 32), value) for key, value in item.items()} for item in items]
    return SimpleNamespace(state=SimpleNamespace(output=output, batch=sources, metrics={}))


ITEMS = [{"label": 40.0, "image": 40.0 + low, "pred": 40.0 + out} for low, out in ((8, 4), (16, 4), (8, 2))]
SOURCES = [{"patient": "A", "region": "chest", "uid": "1.2"}, {"patient": "A"}, {"patient": "B"}]


def run(handler, items=ITEMS, sources=SOURCES):
    engine = engine_with(items, sources)
    handler.start(engine)
    handler.measure(engine)
    handler.finish(engine)
    return engine


def test_the_handler_averages_by_patient_and_writes_low_and_denoised(tmp_path, capsys):
    engine = run(ImageQuality(tmp_path / "sub" / "q.json", tmp_path / "sub" / "q.csv", windows=["abdomen", "brain"]))
    document = json.loads((tmp_path / "sub" / "q.json").read_text())
    patients = document["patients"]
    assert patients["A"]["slices"] == 2 and patients["B"]["slices"] == 1
    assert patients["A"]["low"]["rmse_hu"] == pytest.approx(12.0)
    assert patients["A"]["denoised"]["rmse_hu"] == pytest.approx(4.0)
    assert patients["A"]["denoised"]["psnr_db_brain"] == pytest.approx(20 * math.log10(80 / 4))
    assert patients["B"]["denoised"]["bias_soft_tissue_hu"] == pytest.approx(2.0)
    assert document["regions"].keys() == {"chest", "unknown"}
    metrics = engine.state.metrics
    assert metrics["denoised_rmse_hu"] == pytest.approx(3.0), "patients weigh the same"
    assert metrics["low_rmse_hu"] == pytest.approx(10.0) and "denoised_psnr_db" in metrics
    assert len((tmp_path / "sub" / "q.csv").read_text().splitlines()) == 1 + 3 * 2 * 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["A: 2 slices", "B: 1 slices", "overall: n = 2 patients"]
    assert "RMSE 10.00 -> 3.00 HU" in lines[2] and "interval" not in lines[2]


def test_three_patients_are_told_with_their_interval(tmp_path, capsys):
    run(ImageQuality(tmp_path / "q.json"), sources=[{"patient": name} for name in "ABC"])
    gain = json.loads((tmp_path / "q.json").read_text())["overall"]["difference"]["psnr_db"]
    lower, upper = gain["interval_95"]
    assert f"PSNR gain {gain['mean']:+.2f} dB, 95% interval {lower:+.2f} to {upper:+.2f}" in capsys.readouterr().out


def test_only_the_metrics_that_are_named_are_measured(tmp_path, capsys):
    run(ImageQuality(tmp_path / "q.json", metrics=["ssim"], windows=["lung"]))
    document = json.loads((tmp_path / "q.json").read_text())
    assert document["patients"]["B"]["low"].keys() == {"ssim"} and document["window"] == "lung"
    assert list(tmp_path.iterdir()) == [tmp_path / "q.json"]
    assert "PSNR" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ["psnr", "lpips"]}, "metrics: 'lpips' is unknown; name some of psnr, ssim, rmse, noise, bias"),
        ({"windows": ["liver"]}, "windows: 'liver' is unknown; name some of abdomen"),
        ({"metrics": []}, "must each name something"),
        ({"windows": []}, "must each name something"),
    ],
)
def test_unknown_names_are_refused_before_the_work(tmp_path, settings, message):
    with pytest.raises(BioAttError, match=message):
        ImageQuality(tmp_path / "q.json", **settings)


@pytest.mark.parametrize(("key", "message"), [("pred", "pred of a slice of A.*learning rate"), ("label", "label of a")])
def test_nan_is_an_error_not_a_slice_left_out(tmp_path, key, message):
    with pytest.raises(BioAttError, match=message):
        run(ImageQuality(tmp_path / "q.json"), items=[ITEMS[0] | {key: math.nan}], sources=SOURCES[:1])
    assert not (tmp_path / "q.json").exists()


def test_processes_put_their_slices_together_and_only_the_first_writes(tmp_path, monkeypatch, capsys):
    alone = run(ImageQuality(tmp_path / "alone.json")).state.metrics
    other = ImageQuality(tmp_path / "other.json")
    other.measure(engine_with(ITEMS[:1], SOURCES[:1]))
    monkeypatch.setattr(handlers.idist, "all_gather", lambda mine: [tuple(other._slices), mine])
    for rank, written in ((0, True), (1, False)):
        monkeypatch.setattr(handlers.idist, "get_rank", lambda rank=rank: rank)
        path = tmp_path / f"{rank}.json"
        together = run(ImageQuality(path), ITEMS[1:], SOURCES[1:]).state.metrics
        assert together == pytest.approx(alone, nan_ok=True)
        assert path.exists() == written
    assert (tmp_path / "0.json").read_text() == (tmp_path / "alone.json").read_text()


def train(path, epochs, validated=(), low=30.0):
    """Let a curve see the given epochs of a training, each of two iterations with losses epoch and epoch + 2."""
    validator = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}))
    curve = TrainingCurve(path, validator)
    for epoch in epochs:
        state = SimpleNamespace(epoch=epoch, iteration=2 * epoch, max_epochs=9)
        optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
        engine = SimpleNamespace(state=state, optimizer=optimizer, logger=logging.getLogger("test"))
        curve.start(engine)
        for loss in (epoch, epoch + 2):
            state.output = {"loss": torch.tensor(float(loss))}
            curve.collect(engine)
        if epoch in validated:
            metrics = {"denoised_psnr_db": low + epoch, "low_psnr_db": low, "denoised_ssim": 0.9}
            validator.state = SimpleNamespace(epoch=epoch, metrics=metrics)
        curve.write(engine)
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_curve_shows_the_input_beside_what_became_of_it(tmp_path):
    rows = train(tmp_path / "sub" / "curve.csv", [1, 2], validated=[2])
    assert [float(row["loss"]) for row in rows] == [2.0, 3.0]
    assert rows[0]["psnr_db"] == rows[0]["low_psnr_db"] == ""
    assert (float(rows[1]["psnr_db"]), float(rows[1]["low_psnr_db"])) == (32.0, 30.0)


def test_a_resumed_training_keeps_its_curve_up_to_the_checkpoint(tmp_path):
    path = tmp_path / "curve.csv"
    train(path, [1, 2, 3, 4], validated=[2, 4], low=30.0)
    rows = train(path, [4, 5], validated=[4], low=20.0)  # the checkpoint was that of epoch 3
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5]
    assert [row["low_psnr_db"] for row in rows] == ["", "30.0", "", "20.0", ""]


def test_a_training_from_the_start_begins_its_curve_anew(tmp_path):
    train(tmp_path / "curve.csv", [1, 2, 3])
    assert [int(row["epoch"]) for row in train(tmp_path / "curve.csv", [1])] == [1]
