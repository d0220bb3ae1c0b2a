"""The parts of the evidence with denoisers whose effect is known, on phantoms and small series."""

from __future__ import annotations

import numpy as np
import pytest
from made_studies import save_default_network
from phantom import write_ct_series
from scipy.ndimage import gaussian_filter
from scripts.errors import BioAttError

from studies.evidence.denoisers import Denoiser, bundle_denoiser, gaussian_denoiser, nlm_denoiser
from studies.evidence.lcd import find_discs, measure_lcd, read_mhd
from studies.evidence.limits import Limit
from studies.evidence.patients import Patient
from studies.evidence.phantom import calibrated, gaussian_with_noise, noise_passed, phantom_limits
from studies.evidence.quality import SMOOTH, measure_doses, measure_quality
from studies.evidence.quality_page import over_patients
from studies.measures.phantoms import rod_phantom

IDENTITY = Denoiser(name="network", denoise=lambda stack, spacing_mm: stack)
BLUR = Denoiser(name="blur", denoise=lambda stack, spacing_mm: gaussian_filter(stack, (0, 1.0, 1.0)))


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evidence") / "A"
    write_ct_series(folder, shape=(160, 160), spacing=(2.2, 2.2), slices=4, noise_sd=12.0, seed=0)
    return Patient.read(folder, seed=3)


def test_a_low_dose_hangs_on_seed_slice_dose_and_realisation_alone(patient):
    low = patient.low(1, 0.25)
    np.testing.assert_array_equal(low, patient.low(1, 0.25))
    for other in (patient.low(1, 0.25, 1), patient.low(1, 0.5), patient.low(2, 0.25)):
        assert not np.array_equal(low, other)
    np.testing.assert_array_equal(patient.low(1, 1.0), patient.full(1))
    assert patient.chosen(2) == [1, 3] and patient.chosen(0) == [0, 1, 2, 3]


def test_quality_has_every_denoiser_and_its_share_of_the_cap(patient):
    perfect = Denoiser(
        name="network", denoise=lambda stack, spacing_mm: np.repeat(patient.full(2)[None], len(stack), 0)
    )
    result = measure_quality([patient], [perfect, BLUR, nlm_denoiser()], slices=1)
    mean = result["patients"]["A"]
    assert list(mean) == ["slices", "low", "network", SMOOTH, "blur", "nlm"] and mean["slices"] == 1
    gain = result["gain"]["A"]["blur"]
    assert gain["psnr_db"] == pytest.approx(mean["blur"]["psnr_db"] - mean["low"]["psnr_db"])
    assert gain["share_of_cap"] == pytest.approx(gain["psnr_db"] / 6.0206, rel=1e-4)
    kept = {limit["name"]: limit["kept"] for limit in result["limits"]}
    assert kept["A: PSNR over non-local means"] and kept["A: HU of soft tissue kept"]
    shifted = Denoiser(name="network", denoise=lambda stack, spacing_mm: stack + 3.0)
    limits = measure_quality([patient], [shifted, nlm_denoiser()], slices=1)["limits"]
    assert not any(limit["kept"] for limit in limits)


def test_a_blur_and_the_gaussian_of_equal_noise_are_alike(patient):
    ours = Denoiser(name="network", denoise=BLUR.denoise)
    mean = measure_quality([patient], [ours, nlm_denoiser()], slices=2)["patients"]["A"]
    for measure in ("psnr_db", "noise_sd_hu"):
        assert mean[SMOOTH][measure] == pytest.approx(mean["network"][measure], rel=0.03)
    for row in measure_doses([patient], {"low": ours}, slices=1)["rows"]:
        assert row["gaussian"]["noise_sd_hu"] == pytest.approx(row["out"]["noise_sd_hu"], rel=0.03)
        assert row["edges_mm"]["body"]["gaussian"] == pytest.approx(row["edges_mm"]["body"]["out"], rel=0.03)


def test_means_over_patients_have_intervals_from_three_patients_on(patient):
    result = measure_quality([patient], [IDENTITY, nlm_denoiser()], slices=1)
    mean = over_patients(result)
    assert mean["network"]["gain_db"] == {"n": 1, "mean": 0.0, "sd": None, "interval_95": None}
    assert mean["low"]["psnr_db"]["mean"] == result["patients"]["A"]["low"]["psnr_db"] and "gain_db" not in mean["low"]


def test_doing_nothing_does_no_harm_at_full_dose_and_does_not_help_below(patient):
    rows = measure_doses([patient], {"low": IDENTITY, "high": IDENTITY}, slices=2)["rows"]
    assert [row["strength"] for row in rows[:2]] == ["low", "high"]
    assert [row["dose_fraction"] for row in rows[::2]] == [1.0, 0.5, 0.25, 0.1]
    assert rows[0]["out"]["psnr_db"] == np.inf
    for row in rows[2:]:
        assert row["out"] == pytest.approx(row["low"])
        for one in row["edges_mm"].values():
            assert one["out"] == pytest.approx(one["low"], nan_ok=True)


def test_the_phantoms_full_dose_has_the_noise_that_was_asked_for():
    phantom = rod_phantom(192, 1.0, diameter_mm=180.0, rods_per_contrast=2, rod_radius_mm=10.0, edge_sd_mm=0.9)
    simulator = calibrated(phantom, 9.0)
    noise = simulator.low_dose(phantom.image_hu, 0.5, np.random.default_rng(5)) - phantom.image_hu
    assert phantom.rois(noise).std() == pytest.approx(9.0, rel=0.08)


def test_the_limits_of_the_phantom_notice_a_blur():
    nps = {"full": {"peak_frequency_per_mm": 0.3}, "denoised": {"peak_frequency_per_mm": 0.2}}
    ttf = {"14": {"low": {"ttf50_per_mm": 0.3}, "denoised": {"ttf50_per_mm": 0.28}}}
    limits = phantom_limits({"nps": nps, "ttf": ttf, "bias_hu": {"0": 0.1, "14": -2.5}})
    assert [limit.kept for limit in limits] == [False, True, False]


def white_noise(sd_hu):
    """Low dose of white noise, and what is left of it."""
    frequency = np.linspace(0.0, 0.5, 51)
    low = {"frequency_per_mm": frequency.tolist(), "nps_hu2_mm2": np.ones(51).tolist(), "sd_hu": 10.0}
    return {"low": low, "denoised": {"sd_hu": sd_hu}}


def test_the_gaussian_beside_a_denoiser_leaves_as_much_noise():
    sigma_mm = gaussian_with_noise(white_noise(2.0))
    noise = 10.0 * np.random.default_rng(0).standard_normal((256, 256))
    left = gaussian_denoiser("g", sigma_mm)(noise[None], 1.0).std()
    assert left == pytest.approx(2.0, rel=0.1)
    assert gaussian_with_noise(white_noise(10.0)) == 0.0  # all of it


def test_noise_passed_is_told_band_by_band():
    low = white_noise(1.0)["low"]
    halved = np.array(low["nps_hu2_mm2"])
    halved[np.array(low["frequency_per_mm"]) >= 0.2] = 0.25
    shares = noise_passed({"nps_hu2_mm2": halved.tolist()}, low)
    assert shares == pytest.approx([1.0, 1.0, 0.5, 0.5])


def test_what_cannot_be_measured_keeps_no_limit():
    assert not Limit("x", float("nan"), "<", 1.0, "HU").kept and not Limit("x", float("nan"), ">=", 1.0, "HU").kept


def write_mhd(path, stack, kind="MET_SHORT"):
    path.parent.mkdir(parents=True, exist_ok=True)
    stack = np.asarray(stack)
    names = f"{path.stem}_%03d.raw 1 {len(stack)} 1" if stack.ndim == 3 else f"{path.stem}.raw"
    sizes = " ".join(map(str, reversed(stack.shape[-2:])))
    path.write_text(f"NDims = {stack.ndim}\nDimSize = {sizes}\nElementType = {kind}\nElementDataFile = {names}\n")
    for i, image in enumerate(stack if stack.ndim == 3 else [stack]):
        name = names.split()[0]
        (path.parent / (name % (i + 1) if stack.ndim == 3 else name)).write_bytes(
            (image + 1000).astype("<i2").tobytes()
        )


def lcd_folder(root, contrast=12.0, repeats=24):
    """One disc of 6 pixels' radius in 128 pixels of water with noise."""
    axis = np.arange(128)
    truth = np.where(np.hypot(axis[:, None] - 88, axis - 88) <= 6, contrast, 0.0)
    noise = np.random.default_rng(0).normal(0.0, 20.0, (2, repeats, 128, 128))
    write_mhd(root / "ground_truth.mhd", truth, "MET_USHORT")
    for name, stack in (("signal_present", noise[0] + truth), ("signal_absent", noise[1])):
        write_mhd(root / "dose_050" / name / f"{name}.mhd", stack.round())
    return root


def test_the_phantom_is_read_its_disc_found_and_d_prime_is_the_one_of_white_noise(tmp_path):
    folder = lcd_folder(tmp_path)
    (disc,) = find_discs(read_mhd(folder / "ground_truth.mhd"))
    assert disc.contrast_hu == 12.0 and disc.radius == pytest.approx(6.0, rel=0.05) and disc.center == (88.0, 88.0)
    blind = Denoiser(name="blind", denoise=lambda stack, spacing_mm: np.random.default_rng(9).normal(size=stack.shape))
    doses = measure_lcd(folder, [IDENTITY, blind], draws=200)["doses"]
    same, gone = (doses["0.5"][name]["mean of the discs"] for name in ("network", "blind"))
    expected = 12.0 / 20.0 * np.sqrt(np.pi) * 6.0
    assert same["before"] == pytest.approx(expected, rel=0.3) and same["verdict"] == "not lower"
    assert same["before_95"][0] < expected
    assert gone["after"] < 1.0 and gone["verdict"] == "lower"


def test_another_file_is_refused(tmp_path):
    (tmp_path / "x.mhd").write_text("DimSize = 4 4\nElementType = MET_FLOAT\nElementDataFile = x.raw\n")
    with pytest.raises(BioAttError, match="no MetaImage as expected"):
        read_mhd(tmp_path / "x.mhd")


def test_the_bundles_denoiser_is_the_inference_of_the_weights(tmp_path, patient):
    weights = save_default_network(tmp_path / "w.pt")
    one = bundle_denoiser("network", weights, prior="uniform", device="cpu")
    low = patient.low(1, 0.25)
    out = one(np.stack([low, low]), 0.8)
    assert out.shape == (2, *low.shape) and np.abs(out[0] - low).max() > 1.0
    np.testing.assert_allclose(out[0], out[1], atol=1e-3)
    assert one.record["prior"] == "uniform" and len(one.record["weights_sha256"]) == 64
    assert one.record["strength"]["name"] == "standard"
    weak = bundle_denoiser("network", weights, prior="uniform", device="cpu", strength="low")(low[None], 0.8)[0]
    assert 0 < np.std(weak - low) < np.std(out[0] - low)
    bare = bundle_denoiser("network", weights, prior="uniform", device="cpu", strength=None)
    assert bare.record["strength"] is None and np.std(bare(low[None], 0.8)[0] - low) > np.std(out[0] - low)
    assert np.std(one(low[None], 0.4)[0] - low) > np.std(out[0] - low), "the anchor is in mm"
    assert one.record["parameters"] > 1_000_000
