"""The study of priors: folds, models by fold, the pack, runs that go on where they stopped, and the page."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch
from phantom import write_ct_series
from scipy import stats
from scripts.dicom import find_series
from scripts.errors import BioAttError
from scripts.priors import DESCRIPTORS

from studies.prior_study import models
from studies.prior_study.__main__ import main
from studies.prior_study.labels import make_folds, oracle_priors
from studies.prior_study.pack import read_pack
from studies.prior_study.page import attention_line, headline, robustness_line, short, use_line, verdict
from studies.prior_study.precision import adjusted_for_noise, holm, patients_needed, random_patients_and_networks
from studies.prior_study.runs import has_prior, items_of, plan, priors_of, read_study
from studies.prior_study.summary import read_records, summarise

LIVER, LUNGS = DESCRIPTORS.index("liver"), DESCRIPTORS.index("lungs")
#: So small that a run takes a second.
TINY = {"widths": [4, 8], "steps": 2, "batch_size": 4, "patch_shape": [32, 32]}
WORDS = [f"{name}={json.dumps(value)}" for name, value in TINY.items()]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three patients and a phantom, each with a series of 6 slices."""
    root = tmp_path_factory.mktemp("data")
    for seed, name in enumerate("ABCP"):
        write_ct_series(root / name, shape=(256, 256), spacing=(1.4, 1.4), slices=6, noise_sd=12.0, seed=seed)
    return root


@pytest.fixture(scope="module")
def labels(data, tmp_path_factory):
    """The lower half of each series shows the liver, the upper half the lungs; P shows nothing."""
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    lines = ["patient,descriptor,z_from_mm,z_to_mm", "P,nothing,0,0"]
    for name in "ABC":
        z = heights(data / name)
        lines += [f"{name},liver,{z[0]},{z[2]}", f"{name},lungs,{z[3]},{z[5]}"]
    path.write_text("\n".join(lines) + "\n")
    return path


def heights(folder):
    (series,) = find_series(folder)
    return [float(series.affine[2][3] + series.affine[2][2] * index) for index in range(len(series.slice_names))]


@pytest.fixture(scope="module")
def packed(data, labels, tmp_path_factory):
    """The pack of three folds, with prior models of two steps, and the folder it was made in."""
    root = tmp_path_factory.mktemp("packed")
    words = [str(data), str(root / "pack"), "--work", str(root / "work"), "--labels", str(labels), "--folds", "3"]
    assert main(["pack", *words, "--slices", "3", "--views", "60"]) == 0
    words = [str(root / "pack"), "--steps", "2", "--page", str(root / "models.md"), "--scratch", str(root / "unpacked")]
    assert main(["models", *words]) == 0 and len(list((root / "unpacked").glob("*.npz"))) == 12
    return root


@pytest.fixture(scope="module")
def pack(packed, tmp_path_factory):
    return read_pack(packed / "pack", tmp_path_factory.mktemp("unpacked"))


@pytest.fixture(scope="module")
def results(packed, tmp_path_factory):
    """All runs of one seed, by two workers."""
    folder = tmp_path_factory.mktemp("results")
    words = [str(packed / "pack"), str(folder), "--workers", "2", "--device", "cpu", "--seeds", "1", "--set", *WORDS]
    assert main(["run", *words]) == 0
    return folder


def test_patients_of_like_anatomy_are_spread_over_the_folds():
    chest, head = [("lungs", 0, 1)], [("skull", 0, 1)]
    labels = {"A/1": chest, "A/2": chest, "B": chest, "C": head, "D": head, "P": []}
    folds = make_folds(labels, 2)
    assert sorted(sum(folds, [])) == ["A", "B", "C", "D"]
    assert all(len(set(fold) & {"A", "B"}) == 1 for fold in folds)
    with pytest.raises(BioAttError, match="4 patients cannot be dealt into 5"):
        make_folds(labels, 5)


def test_the_oracle_is_the_annotation_smoothed_along_z():
    visible = torch.zeros(7, len(DESCRIPTORS), dtype=torch.bool)
    visible[:3, LIVER] = visible[3:6, LUNGS] = True  # the last shows nothing
    exact, smooth = (oracle_priors(visible, 3.0 * np.arange(7), mm) for mm in (0, 6))
    assert (exact[:, LIVER] == np.float32([1, 1, 1, 0, 0, 0, 1 / 11])).all()
    np.testing.assert_allclose(smooth.sum(1), 1, rtol=1e-6)
    assert (smooth[1:5, LIVER] <= smooth[:4, LIVER]).all() and 0.5 < smooth[2, LIVER] < 1


def test_each_fold_has_a_model_that_never_saw_its_patients(packed, pack, monkeypatch):
    listing = json.loads((packed / "pack" / "models.json").read_text())
    assert [set(record["held_out"]) for record in listing["folds"]] == [set(fold) for fold in pack.folds]
    assert listing["made"]["prior_models"] == [record["digest"] for record in listing["folds"]]
    assert len(set(listing["made"]["prior_models"])) == 3
    assert "not BiomedCLIP" in (packed / "models.md").read_text()
    shown = []
    monkeypatch.setattr(models, "train", lambda known, folder, **_: shown.extend(known) or stop())
    with pytest.raises(InterruptedError):
        models._one_fold(packed / "pack", pack.pairs[0].parent, 0, steps=1, seed=0, threads=1)
    assert {one.patient for one in shown} == set("ABCP") - set(pack.folds[0])
    assert all(one.visible.any() for one in shown if one.patient != "P")


def stop():
    raise InterruptedError


def test_models_that_are_there_are_kept_and_the_shipped_one_is_named(packed, tmp_path):
    folder = tmp_path / "pack"
    shutil.copytree(packed / "pack", folder)
    before = (folder / "priors.npz").stat().st_mtime_ns
    assert main(["models", str(folder), "--steps", "2"]) == 0
    assert (folder / "priors.npz").stat().st_mtime_ns == before
    assert main(["models", str(folder), "--steps", "0"]) == 0
    assert json.loads((folder / "models.json").read_text())["made"]["prior_models"] == ["shipped"] * 3


def test_the_pack_gives_back_slices_to_a_step_of_their_noise(packed, pack):
    assert sorted({one.patient for one in pack.slices}) == list("ABCP") and len(pack.slices) == 12
    cached = {file.stem: file for file in (packed / "work").rglob("*.npz")}
    for one, file in zip(pack.slices, pack.pairs, strict=True):
        with np.load(file) as ours, np.load(cached[one.uid]) as before:
            body, noise = ours["body"], before["low"][0] - before["full"]
            assert ours["full"].shape == before["full"].shape and body.any()
            assert np.abs(ours["full"] - before["full"])[body].max() <= one.step_full_hu / 2
            assert np.abs(ours["low"][0] - ours["full"] - noise)[body].max() <= one.step_noise_hu / 2
            assert one.step_noise_hu < noise[body].std() / 2


def test_a_run_never_trains_on_whom_it_evaluates_and_priors_come_from_the_fold(pack):
    for fold in range(3):
        train, evaluated = items_of(pack, "compact", fold)
        assert {item["patient"] for item in evaluated} == set(pack.folds[fold])
        assert not {item["patient"] for item in evaluated} & {item["patient"] for item in train}
        assert "P" in {item["patient"] for item in train}
        assert np.array_equal(priors_of(pack, "compact", fold), pack.priors[f"compact_{fold}"])
    oracle = priors_of(pack, "oracle", 0)
    low_slice, high_slice = ([i for i, one in enumerate(pack.slices) if one.patient == "A"][k] for k in (0, -1))
    assert oracle[low_slice].argmax() == LIVER and oracle[high_slice].argmax() == LUNGS
    for name in ("uniform", "random", "dense"):
        np.testing.assert_allclose(priors_of(pack, name, 0).sum(1), 1, rtol=1e-5)


def test_a_pack_that_is_not_whole_is_one_line(packed, tmp_path, capsys):
    broken = tmp_path / "pack"
    broken.mkdir()
    (broken / "study.json").write_bytes((packed / "pack" / "study.json").read_bytes())
    assert main(["run", str(broken), str(tmp_path / "results"), "--device", "cpu"]) == 2
    assert capsys.readouterr().out.startswith("error: the pack")


def test_all_runs_are_done_side_by_side_and_each_evaluates_its_fold(results, pack):
    records = read_records(results, read_study(TINY))
    study = read_study(TINY)
    assert len(records) == len(plan(study | {"seeds": 1}, 3)) == 24
    for record in records:
        assert set(record["patients"]) == set(pack.folds[record["fold"]])
        for figures in record["patients"].values():
            has_prior = record["attention"] == "prior"
            assert ("uniform" in figures) == ("other region" in figures) == has_prior
            assert figures["low"] > 0 and math.isfinite(figures["right"]) and figures["slices"] == 3
            if record["prior"] == "uniform" and has_prior:
                assert figures["uniform"] == pytest.approx(figures["right"])


def test_runs_that_are_there_are_not_done_again(results, packed, tmp_path):
    kept = {file.name: file.read_bytes() for file in results.glob("*.json")}
    gone = sorted(kept)[0]
    for name, content in kept.items():
        if name != gone:
            (tmp_path / name).write_bytes(content)
    words = [str(packed / "pack"), str(tmp_path), "--workers", "2", "--device", "cpu", "--seeds", "1", "--set", *WORDS]
    assert main(["run", *words]) == 0
    again = json.loads((tmp_path / gone).read_text())
    assert again["patients"] == json.loads(kept[gone])["patients"]  # a run hangs on its seed alone
    assert all((tmp_path / name).read_bytes() == content for name, content in kept.items() if name != gone)


def test_runs_without_their_prior_are_left_out(pack, capsys):
    bare = dataclasses.replace(pack, priors={})
    priors = {run.prior for run in plan(read_study(TINY), 3) if has_prior(bare, run)}
    assert priors == {"uniform", "random", "oracle"} and "make it by the part `models`" in capsys.readouterr().out
    assert all(has_prior(pack, run) for run in plan(read_study(TINY), 3))


def test_no_time_leaves_the_runs_undone(packed, tmp_path, capsys):
    words = [str(packed / "pack"), str(tmp_path / "results"), "--limit-s", "0", "--device", "cpu", "--set", *WORDS]
    assert main(["run", *words]) == 1
    assert "0 of 72 runs are there" in capsys.readouterr().out


def test_the_page_says_how_many_runs_are_in(results, tmp_path):
    page = tmp_path / "page.md"
    assert main(["page", str(results), str(page), "--set", *WORDS]) == 0
    text = page.read_text()
    assert "24 of 72 planned runs are in" in text and "3 patients with 9 slices" in text
    assert page.with_suffix(".png").exists()
    summary = json.loads(page.with_suffix(".json").read_text())
    assert headline(summary) in text and summary["arms"]["prior: oracle"]["patients"] == 3


def test_records_of_other_settings_are_refused(results, tmp_path, capsys):
    assert main(["page", str(results), str(tmp_path / "page.md")]) == 2
    assert "is of other settings" in capsys.readouterr().out
    assert main(["page", str(tmp_path), str(tmp_path / "page.md")]) == 2
    assert "too few to compare" in capsys.readouterr().out
    with pytest.raises(BioAttError, match="settings wings are not known"):
        read_study({"wings": 2})


ALL_IN = {"planned_runs": 8, "finished_runs": 8}


def records_of(errors, contrast=0.5):
    """Records of arms whose errors by patient are given, of two folds and two seeds."""
    return [
        {
            "arm": arm,
            "seed": seed,
            "fold": number % 2,
            "patients": {patient: {"low": 400.0, "right": error, "contrast": {"4": contrast}, "slices": 1}},
        }
        for arm, by_patient in errors.items()
        for seed in (0, 1)
        for number, (patient, error) in enumerate(by_patient.items())
    ]


def test_a_gain_is_the_ratio_of_errors_in_db_by_patient():
    base = dict(zip("ABCD", (100.0, 10.0, 50.0, 1000.0), strict=True))
    half = {patient: error / 2 for patient, error in base.items()}
    summary = summarise(records_of({"prior: uniform": base, "prior: oracle": half}), ["prior: uniform"])
    gain = summary["arms"]["prior: oracle"]["gain_db"]["prior: uniform"]
    assert gain["mean"] == pytest.approx(10 * math.log10(2)) and gain["n"] == 4 and set(gain["by_seed"]) == {"0", "1"}
    assert summary["arms"]["prior: oracle"]["gain_db_by_network"]["prior: uniform"]["n"] == 4
    assert summary["arms"]["prior: uniform"]["error_left"]["mean"] == pytest.approx(290 / 400)
    assert headline(summary | ALL_IN).startswith("A prior that knows the anatomy helps: oracle has")


def test_the_headline_follows_the_intervals():
    base = dict(zip("ABCD", (100.0, 10.0, 50.0, 1000.0), strict=True))
    same = {patient: 1.001 * error for patient, error in base.items()}
    spread = {
        patient: factor * error for factor, (patient, error) in zip((0.7, 1.4, 0.8, 1.3), base.items(), strict=True)
    }
    alike = summarise(records_of({"prior: uniform": base, "prior: oracle": same}), ["prior: uniform"])
    assert headline(alike | ALL_IN).startswith("Priors do not help")
    open_end = summarise(records_of({"prior: uniform": base, "prior: oracle": spread}), ["prior: uniform"])
    assert headline(open_end | ALL_IN).startswith("We found no evidence that priors help")
    some = headline(open_end | {"planned_runs": 9, "finished_runs": 8})
    assert some.startswith("Not finished: 8 of 9 runs are in. We found no evidence")
    assert "4 patients and 4 networks" in some
    none = summarise(records_of({"prior: uniform": base}), ["prior: uniform"])
    assert headline(none | ALL_IN).startswith("Nothing can be said yet")
    assert [verdict(one) for one in ((0.06, 0.2), (-0.2, -0.06), (-0.01, 0.02), (-0.1, 0.2), None)] == [
        *("better", "worse", "no difference", "undecided", "undecided")
    ]


def test_the_headline_counts_the_priors_that_help_and_names_an_oracle_that_does_not():
    base = dict(zip("ABCD", (100.0, 10.0, 50.0, 1000.0), strict=True))
    half = {patient: error / 2 for patient, error in base.items()}
    unsure = {p: f * error for f, (p, error) in zip((0.7, 1.3, 0.8, 1.1), base.items(), strict=True)}
    arms = {"prior: uniform": base, "prior: compact": half, "prior: oracle": unsure}
    told = headline(summarise(records_of(arms), ["prior: uniform"]) | ALL_IN)
    assert told.startswith("1 of 2 priors that know the anatomy helps: compact has less error than the uniform prior")
    assert "speaks against a large gain. The largest, compact's, is 50% of the error." in told


def test_what_another_prior_at_test_time_does_is_told_with_its_interval():
    base = dict(zip("ABCD", (100.0, 10.0, 50.0, 1000.0), strict=True))
    summary = summarise(records_of({"prior: uniform": base}), ["prior: uniform"])
    assert use_line(summary) == ""
    sure, unsure = ({"n": 4, "mean": 0.2, "sd": 0.1, "interval_95": ends} for ends in ([0.1, 0.3], [-0.1, 0.5]))
    open_end = use_line({"use": {"prior: compact": {"uniform": sure, "other region": unsure}}})
    assert "gain +0.20 (+0.10 to +0.30) dB by" in open_end and "+0.20 (-0.10 to +0.50) dB over" in open_end
    assert "leaves open" in open_end
    assert use_line({"use": {"prior: compact": {"uniform": sure, "other region": sure}}}).endswith("use what it says.")


def test_how_far_a_gain_hangs_on_single_patients_is_told():
    base = dict(zip("ABCD", (100.0, 10.0, 50.0, 1000.0), strict=True))
    factors = (0.5, 0.7, 0.71, 1.02)
    arm = {patient: factor * error for factor, (patient, error) in zip(factors, base.items(), strict=True)}
    summary = summarise(records_of({"prior: uniform": base, "prior: oracle": arm}), ["prior: uniform"])
    told = robustness_line(summary)
    gains = sorted(-10 * math.log10(factor) for factor in factors)
    assert f"oracle gains on 3 of 4 (median {(gains[1] + gains[2]) / 2:+.2f} dB" in told
    without = [np.array(gains[:one] + gains[one + 1 :]) for one in range(4)]
    least = min(few.mean() - stats.t.ppf(0.975, 2) * few.std(ddof=1) / 3**0.5 for few in without)
    assert f"lower end of the interval at least {least:+.2f} without any one patient" in told
    alone = summarise(records_of({"prior: uniform": base}), ["prior: uniform"])
    assert robustness_line(alone) == ""


def test_attention_without_anatomy_is_told_beside_none():
    base = dict(zip("ABCD", (100.0, 10.0, 50.0, 1000.0), strict=True))
    half = {patient: error / 2 for patient, error in base.items()}
    summary = summarise(records_of({"no attention": base, "spatial": half}), ["no attention"])
    assert "spatial +3.01 (+3.01 to +3.01) dB and +0.0" in attention_line(summary)
    assert not attention_line(summarise(records_of({"no attention": base}), ["no attention"]))


def test_an_error_below_zero_has_no_db_and_is_told():
    base = dict(zip("ABCD", (100.0, -1.0, 50.0, 1000.0), strict=True))
    summary = summarise(records_of({"prior: uniform": base, "prior: oracle": base}), ["prior: uniform"])
    assert summary["arms"]["prior: oracle"]["gain_db"]["prior: uniform"]["n"] == 3
    assert summary["not_positive"] == 4
    assert torch.tensor(summary["arms"]["prior: oracle"]["gain_db"]["prior: uniform"]["mean"]) == 0


def test_a_line_on_the_noise_narrows_what_it_explains_and_leaves_the_mean():
    generator = np.random.default_rng(0)
    low = {str(number): 10.0 ** generator.uniform(2, 5) for number in range(20)}
    follows = {patient: math.log10(error) - 3.0 + 0.01 * generator.normal() for patient, error in low.items()}
    found = adjusted_for_noise(follows, low)
    values = np.array(list(follows.values()))
    plain = stats.t.interval(0.95, 19, values.mean(), stats.sem(values))
    assert found["mean"] == pytest.approx(values.mean()) and found["r2"] > 0.99 and found["slope_db"] > 0.9
    assert np.ptp(found["interval_95"]) < 0.05 * np.ptp(plain)


def test_networks_at_random_widen_the_interval_and_without_them_it_is_students():
    generator = np.random.default_rng(1)
    folds = {f"{fold}{number}": fold for fold in range(4) for number in range(6)}
    patients = {patient: generator.normal() for patient in folds}
    networks = {(fold, seed): generator.normal(0, 2) for fold in range(4) for seed in range(3)}
    alike = {(patient, seed): patients[patient] for patient in folds for seed in range(3)}
    with_networks = {(p, seed): value + networks[folds[p], seed] for (p, seed), value in alike.items()}
    calm, wide = (random_patients_and_networks(of, folds) for of in (alike, with_networks))
    assert calm["mean"] == pytest.approx(np.mean(list(patients.values())))
    within = [np.array([patients[p] for p in folds if folds[p] == fold]) for fold in range(4)]
    spread = math.sqrt(sum(((of - of.mean()) ** 2).sum() for of in within) / 20)
    half = stats.t.ppf(0.975, 20) * spread / math.sqrt(24)
    assert np.ptp(calm["interval_95"]) / 2 == pytest.approx(half) == calm["half_width_of_patients"]
    assert np.ptp(wide["interval_95"]) > 1.3 * np.ptp(calm["interval_95"])
    assert wide["half_width_of_patients"] == pytest.approx(half), "endless seeds leave the patients"
    del with_networks["00", 0]
    assert random_patients_and_networks(with_networks, folds)["interval_95"] is None


def test_so_many_patients_are_needed_and_no_fewer():
    n = patients_needed(0.2, 0.05)
    widths = [stats.t.ppf(0.975, count - 1) * 0.2 / math.sqrt(count) for count in (n, n - 1)]
    assert widths[0] <= 0.05 < widths[1]
    with pytest.raises(ValueError, match="needs more than"):
        patients_needed(1e4, 0.05)


def test_holm_never_lowers_a_p_and_keeps_their_order():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}


def test_the_short_sentence_names_gain_contrast_patients_and_runs():
    base = dict(zip("ABCD", (100.0, 10.0, 50.0, 1000.0), strict=True))
    half = {patient: error / 2 for patient, error in base.items()}
    summary = summarise(records_of({"prior: uniform": base, "prior: compact": half}), ["prior: uniform"]) | ALL_IN
    assert "have 3.01 dB (3.01 to 3.01) less error" in short(summary) and "50% of it" in short(summary)
    assert short(summary).endswith("(4 patients, 8 of 8 runs)")
