import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scripts.errors import BioAttError
from scripts.evaluation.truth import independent_target, pooled, region_errors, squared_error, truth_regions

SHAPE = (96, 96)
EVERYWHERE = np.ones(SHAPE, bool)


def truth():
    """An edge, a disc and a slope."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = np.where(columns > 48, 60.0, 10.0) + 0.2 * rows
    return image + 40.0 * (np.hypot(rows - 30, columns - 70) < 6)


def correlated(generator, sd):
    """Noise with a texture, as a scanner's."""
    noise = gaussian_filter(generator.normal(size=SHAPE), 1.0, mode="wrap")
    return sd * noise / (1 / (2 * np.sqrt(np.pi) * 1.0))


@pytest.mark.parametrize("alpha2", [1.0, 3.0])
@pytest.mark.parametrize(
    "denoise",
    [
        lambda low: low,
        lambda low: 0.5 * low + 0.5 * gaussian_filter(low, 2.0),
        lambda low: gaussian_filter(low, 1.5),
        lambda low: np.where(np.abs(low - gaussian_filter(low, 2.0)) > 25.0, low, gaussian_filter(low, 2.0)),
        lambda low: np.zeros_like(low),
    ],
    ids=["keeps all noise", "keeps half", "blurs", "not linear", "keeps nothing"],
)
def test_the_estimate_is_the_true_error_within_its_interval(denoise, alpha2):
    clean, sd = truth(), 12.0
    generator = np.random.default_rng(5)
    differences, errors = [], []
    for _ in range(150):
        full = clean + correlated(generator, sd)
        added = correlated(generator, sd * np.sqrt(alpha2))
        out = denoise(full + added)
        true = float(np.mean((out - clean) ** 2))
        estimate, pixels = squared_error(out, full, added, alpha2, EVERYWHERE)
        assert pixels == clean.size
        differences.append(estimate - true)
        errors.append(true)
    standard_error = np.std(differences, ddof=1) / np.sqrt(len(differences))
    assert abs(np.mean(differences)) < 3.0 * standard_error
    assert standard_error < 0.05 * np.mean(errors), "the interval says something"


def test_psnr_against_a_noisy_full_dose_prefers_what_keeps_noise_and_the_truth_does_not():
    clean, generator = truth(), np.random.default_rng(0)
    against_full, against_truth = {}, {}
    for _ in range(40):
        full, added = clean + correlated(generator, 12.0), correlated(generator, 12.0 * np.sqrt(3.0))
        for kept in (0.0, 0.25):
            out = clean + kept * (full + added - clean)
            against_full.setdefault(kept, []).append(np.mean((out - full) ** 2))
            against_truth.setdefault(kept, []).append(squared_error(out, full, added, 3.0, EVERYWHERE)[0])
    assert np.mean(against_full[0.25]) < np.mean(against_full[0.0])
    assert np.mean(against_truth[0.25]) > np.mean(against_truth[0.0]) + 10.0


def test_the_targets_noise_is_uncorrelated_with_the_inputs():
    generator = np.random.default_rng(1)
    own, added = generator.normal(size=(2, 1_000_000)) * [[10.0], [10.0 * np.sqrt(3.0)]]
    target = independent_target(own, added, 3.0)
    assert abs(np.mean(target * (own + added))) < 1.0
    assert target.var() == pytest.approx(100.0 * (1 + 1 / 3), rel=0.01)


def test_a_dose_that_is_not_lower_has_no_target():
    with pytest.raises(BioAttError, match="alpha2 must be above 0"):
        independent_target(np.zeros((2, 2)), np.zeros((2, 2)), 0.0)


def test_regions_are_body_edges_and_flat_soft_tissue():
    generator = np.random.default_rng(2)
    rows, columns = np.mgrid[:160, :160]
    distance = np.hypot(rows - 80, columns - 80)
    image = np.where(distance < 60, 50.0, -1000.0)
    image[70:90, 40:60] = -850.0  # lung
    image[100:116, 60:76], image[100:116, 84:100] = -400.0, -600.0  # denser and less dense than the limit
    image[2:6, 2:30] = 0.0  # the table
    image += generator.normal(0.0, 30.0, image.shape)
    regions = truth_regions(image, 1.0)
    assert set(regions) == {"body", "edges", "flat"}
    assert not regions["body"][:10].any() and not regions["body"][80, 50] and regions["body"][80, 100]
    assert regions["body"][108, 68] and not regions["body"][108, 92]
    assert regions["edges"].any() and not (regions["edges"] & ~regions["body"]).any()
    assert not regions["edges"][110, 80], "noise is no edge"
    assert regions["flat"].any() and not (regions["flat"] & regions["edges"]).any()
    added = generator.normal(0.0, 30.0 * np.sqrt(3.0), image.shape)
    errors = region_errors(image, image, added, 3.0, regions)
    assert {name: pixels for name, (_, pixels) in errors.items()} == {n: int(m.sum()) for n, m in regions.items()}


def test_pixels_count_alike_and_a_region_without_any_is_left_out():
    nothing = squared_error(np.zeros(SHAPE), np.zeros(SHAPE), np.zeros(SHAPE), 1.0, ~EVERYWHERE)
    assert np.isnan(nothing[0]) and nothing[1] == 0
    assert pooled([(1.0, 1), (4.0, 2), nothing]) == pytest.approx(3.0)
    assert np.isnan(pooled([nothing]))
