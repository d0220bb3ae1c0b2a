import json

import numpy as np
import pytest
from made_studies import save_default_network
from phantom import write_ct_series
from scipy.ndimage import gaussian_filter
from scripts.errors import BioAttError
from scripts.priors import SliceKey

from studies.evidence import quick
from studies.evidence.alpha import alpha_section, least_errors, measure_alpha
from studies.evidence.evaluating import (
    EvaluatedPatient,
    EvaluatedSlice,
    Method,
    evaluate,
    insert_several,
    kept_patient,
    measured_alpha2,
    patient_figures,
    real_patient,
    simulated_patient,
    with_room,
)
from studies.evidence.methods import (
    anchored,
    block_matching,
    gaussians,
    network_method,
    non_local,
    parse_settings,
    spectrum_for_bm3d,
)

SPACING_MM = 1.0


def body(size=192, noise=10.0, seed=0):
    rows, columns = np.mgrid[:size, :size]
    clean = np.where(np.hypot(rows - size / 2, columns - size / 2) < 0.45 * size, 70.0, -1000.0)
    return clean + gaussian_filter(np.random.default_rng(seed).normal(0.0, 2.5 * noise, clean.shape), 0.7)


@pytest.fixture(scope="module")
def one():
    full = body()
    added = np.sqrt(3.0) * (body(seed=1) - body(seed=1, noise=0.0))
    insertions = insert_several(full, SPACING_MM, np.random.default_rng(0))
    return EvaluatedSlice(
        index=7,
        key=SliceKey(7, "1.2.3"),
        full_hu=full,
        low_hu=full + added,
        spacing_mm=SPACING_MM,
        insertions=insertions,
        alpha2=3.0,
    )


def test_the_filter_is_tuned_once_to_the_slice_without_discs(one):
    asked = []

    def tuned_to(that):
        asked.append(that.key)
        return lambda image: gaussian_filter(image, 1.0)

    found = evaluate(Method(name="x", tuned_to=tuned_to, settings=parse_settings(["0", "1.0"])), [one])
    assert asked == [one.key]
    free, held = (patient_figures(found[name]) for name in ("0", "1.0"))
    assert free["slices"] == [7] and held["contrast"]["4"] > free["contrast"]["4"]
    assert held["error_hu2"].keys() == {"body", "edges", "flat"} and abs(held["bias_hu"]["soft tissue"]) < 0.5


def test_a_blur_errs_at_edges_and_gains_in_flat_tissue(one):
    figures = {name: patient_figures(of) for name, of in evaluate(gaussians(), [one]).items()}
    none, some = figures["0 mm"], figures["1 mm"]
    assert none["noise_left"] == pytest.approx(1.0) and none["contrast"]["4"] == pytest.approx(1.0)
    assert none["contrast_by_hu"]["4"] == pytest.approx({"-20": 1.0, "20": 1.0, "40": 1.0})
    own = np.var((one.low_hu - one.full_hu)[60:130, 60:130]) / 3.0
    assert none["error_hu2"]["flat"] == pytest.approx(4.0 * own, rel=0.2)
    assert some["error_hu2"]["edges"] > none["error_hu2"]["edges"]
    assert some["error_hu2"]["flat"] < none["error_hu2"]["flat"]


def test_anchoring_leaves_the_coarse_to_the_scanner(one):
    erased, middle = np.full_like(one.low_hu, 70.0), np.s_[60:130, 60:130]
    result = anchored(1.0, restore=0.0)(one.low_hu, erased, SPACING_MM)
    # as the inferer leaves it, air under -1024 HU keeps its value
    np.testing.assert_allclose(result[middle] - 70.0, gaussian_filter(one.low_hu - 70.0, 1.0)[middle], atol=1e-2)
    np.testing.assert_allclose(result[one.low_hu < -1024.0], one.low_hu[one.low_hu < -1024.0], atol=1e-3)
    np.testing.assert_allclose(anchored(0.0)(one.low_hu, erased, SPACING_MM), erased)
    half = anchored(1.0, 0.5, restore=0.0)(one.low_hu, erased, SPACING_MM)
    np.testing.assert_allclose(half, (one.low_hu + result) / 2, atol=1e-2)


def test_a_real_pair_has_no_error_against_the_truth(one):
    pair = EvaluatedSlice(
        index=0, key=one.key, full_hu=one.full_hu, low_hu=one.low_hu, spacing_mm=SPACING_MM, insertions=one.insertions
    )
    figures = patient_figures(evaluate(gaussians(), [pair])["0.7 mm"])
    assert figures["error_hu2"] == {} and figures["contrast"]["10"] < 1.0


def test_non_local_means_takes_noise_with_its_strength(one):
    left = [patient_figures(evaluate(who, [one])[name])["noise_left"] for who in non_local() for name in who.settings]
    assert left == sorted(left, reverse=True) and left[0] > 2 * left[-1]


def test_bm3d_denoises_one_insertion_and_knows_a_spectrum():
    pytest.importorskip("bm3d")
    small = body(96)
    added = 2.0 * (body(96, seed=1) - body(96, seed=1, noise=0.0))
    discs = insert_several(small, SPACING_MM, np.random.default_rng(0))
    one = EvaluatedSlice(
        index=0, key=SliceKey(0), full_hu=small, low_hu=small + added, spacing_mm=1.0, insertions=discs
    )
    for method in block_matching():
        (slices,) = evaluate(method, [one]).values()
        figures = patient_figures(slices)
        assert figures["noise_left"] < 0.7 and figures["discs"]["4"] <= 5


def test_the_spectrum_keeps_the_variance_of_white_noise():
    squares = np.random.default_rng(0).normal(0.0, 9.0, (64, 24, 24))
    spectrum = spectrum_for_bm3d(squares, 0.7, (128, 100))
    assert spectrum.shape == (128, 100)
    assert spectrum.sum() / (128 * 100) ** 2 == pytest.approx(81.0, rel=0.1)


def test_slices_are_chosen_by_rule_where_there_is_room():
    slices = [np.full((96, 96), -1000.0)] * 4 + [body(96, seed=i) for i in range(8)]
    chosen = with_room(12, slices.__getitem__, SPACING_MM, 3, seed=0)
    assert [index for index, _ in chosen] == [4, 8, 11]
    assert all(len(insertions) == 3 for _, insertions in chosen)
    with pytest.raises(BioAttError, match="no slice has room"):
        with_room(4, slices.__getitem__, SPACING_MM, 3, seed=0)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "ct" / "A"
    write_ct_series(folder, shape=(160, 160), spacing=(2.2, 2.2), slices=3, noise_sd=12.0, seed=0)
    return folder


def test_a_simulated_patient_has_four_times_the_noise_power_and_is_kept(series, tmp_path):
    patient = simulated_patient(series, 2, seed=1)
    assert patient.alpha2[0] == 3.0 and patient.alpha2[1] == pytest.approx(3.0, rel=0.5)
    kept = kept_patient(series, 2, tmp_path, seed=1)
    again = kept_patient(series, 2, tmp_path, seed=1)
    for a, b, c in zip(patient.slices, kept.slices, again.slices, strict=True):
        np.testing.assert_allclose(a.low_hu, b.low_hu)
        np.testing.assert_array_equal(b.low_hu, c.low_hu)
        assert a.insertions == b.insertions and a.key.sop_instance_uid == b.key.sop_instance_uid
    assert kept.about() == again.about() and "photons" in kept.noise


def test_the_quick_table_compares_weights_and_strengths(series, tmp_path, capsys):
    weights = save_default_network(tmp_path / "w.pt")
    command = [str(series.parents[1]), "--held-out", "A", "--work", str(tmp_path / "work"), "--prior", "uniform"]
    command += ["--weights", str(weights), "--settings", "1.0", "1.0:0.3", "--slices", "1"]
    quick.main(command)
    table = capsys.readouterr().out
    assert "| w.pt | 1.0 |" in table and "| w.pt | 1.0:0.3 |" in table
    files = sorted((tmp_path / "work").iterdir())
    quick.main(command)
    assert capsys.readouterr().out == table and sorted((tmp_path / "work").iterdir()) == files
    assert json.loads(next(f for f in files if f.suffix == ".json").read_text())


def test_a_real_pair_is_judged_without_a_truth(series, tmp_path, capsys):
    low = tmp_path / "low"
    write_ct_series(low, shape=(160, 160), spacing=(2.2, 2.2), slices=3, noise_sd=24.0, seed=0)
    weights = save_default_network(tmp_path / "w.pt")
    command = [str(tmp_path), "--pairs", f"{low}={series}", "--work", str(tmp_path / "work"), "--prior", "uniform"]
    quick.main([*command, "--weights", str(weights), "--settings", "1.0", "--slices", "1"])
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("| w.pt | 1.0 |") and line.count("| - ") >= 3
    short = tmp_path / "short"
    write_ct_series(short, shape=(160, 160), spacing=(2.2, 2.2), slices=2, noise_sd=24.0, seed=0)
    with pytest.raises(BioAttError, match="short and A are no pair: 2 and 3 slices"):
        real_patient(short, series, 1)
    with pytest.raises(SystemExit):
        quick.main([*command[:2], "one"])


def test_a_network_is_asked_with_the_prior_of_the_slice_without_discs(one, tmp_path):
    method = network_method("n", save_default_network(tmp_path / "w.pt"), parse_settings(["0"]), prior="random:3")
    filtered = method.tuned_to(one)
    np.testing.assert_allclose(filtered(one.low_hu), filtered(one.low_hu))
    assert filtered(one.low_hu).shape == one.low_hu.shape and np.isfinite(filtered(one.low_hu)).all()
    padded = one.low_hu.copy()
    padded[0, 0] = -3024.0
    assert filtered(padded)[0, 0] == -3024.0


def test_the_share_of_added_noise_is_measured_in_flat_tissue():
    generator, flat = np.random.default_rng(2), np.ones((96, 96), bool)
    full, added = (generator.normal(40.0, sd, flat.shape) for sd in (10.0, 10.0 * np.sqrt(3.0)))
    assert measured_alpha2(full, added, flat) == pytest.approx(3.0, rel=0.15)
    assert np.isnan(measured_alpha2(full, added, ~flat))


def test_errors_are_set_out_by_both_ratios_of_noises(one):
    """The simulated noise is right, so by the nominal ratio nothing at all has the error of the low dose."""
    network = Method(name="network", tuned_to=lambda _: lambda image: image)
    patient = EvaluatedPatient(name="P", slices=[one], dose_fraction=0.25, alpha2=(3.0, 1.5))
    found = measure_alpha([patient], [network, gaussians()])["patients"]["P"]
    nominal, measured = (errors["body"] for errors in found["error_hu2"])
    noise = one.full_hu - body(noise=0.0) + one.low_hu - one.full_hu
    assert nominal["network"] == pytest.approx(np.mean(noise[one.regions["body"]] ** 2), rel=0.05)
    assert nominal["Gaussian"] < nominal["network"] and measured["network"] > 1.2 * nominal["network"]
    text = alpha_section({"patients": {"P": found}})
    ratio = nominal["network"] / nominal["Gaussian"]
    assert f"| P | body | 3.00 | 1.50 | {ratio:.2f} |" in text and "body on 0 of 1 and 0 of 1 patients" in text


def test_an_estimate_below_zero_shows_that_the_ratio_is_too_low(one):
    truth = body(noise=0.0)
    outputs = {("network", ""): [truth], ("Gaussian", "1 mm"): [truth]}
    errors = [least_errors([one], outputs, alpha2) for alpha2 in (3.0, 1.0)]
    assert abs(errors[0]["body"]["network"]) < 10.0 and errors[1]["body"]["network"] < -100.0  # of 400 HU^2 of noise
    assert "| below 0 |" in alpha_section({"patients": {"P": {"alpha2": [3.0, 1.0], "error_hu2": errors}}})
