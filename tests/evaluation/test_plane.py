import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scripts.errors import BioAttError
from scripts.evaluation.lesions import Lesion, contrast_recovery
from scripts.evaluation.plane import CONTRASTS_HU, DISCS_AN_INSERTION, PlanePoint, PlaneSlice, insert_discs

SPACING_MM = 0.8


@pytest.fixture(scope="module")
def one():
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:256, :256]
    clean = np.where(np.hypot(rows - 128, columns - 128) < 110, 80.0, -1000.0)
    full = clean + gaussian_filter(generator.normal(0.0, 30.0, clean.shape), 0.7)
    low = full + gaussian_filter(generator.normal(0.0, 50.0, clean.shape), 0.7)
    generator = np.random.default_rng(3)
    insertions = [insert_discs(full, SPACING_MM, generator, turn) for turn in range(len(CONTRASTS_HU))]
    return PlaneSlice(low_hu=low, anatomy_hu=full, spacing_mm=SPACING_MM, insertions=insertions)


def test_every_diameter_meets_every_contrast(one):
    for discs in one.insertions:
        sizes = [disc.lesion.diameter_mm for disc in discs]
        assert {d: sizes.count(d) for d in DISCS_AN_INSERTION} == DISCS_AN_INSERTION
    met = {(disc.lesion.diameter_mm, disc.contrast_hu) for discs in one.insertions for disc in discs}
    assert met == {(d, c) for d in DISCS_AN_INSERTION for c in CONTRASTS_HU}
    places = [disc.lesion.center for discs in one.insertions for disc in discs]
    assert len(set(places)) == len(places), "each insertion has places of its own"


def test_the_images_hold_the_discs_and_nothing_else(one):
    images = one.images()
    np.testing.assert_array_equal(images[0], one.low_hu.astype(np.float32))
    for image, discs in zip(images[1:], one.insertions, strict=True):
        whole = sum(disc.contrast_hu * disc.lesion.profile(image.shape, SPACING_MM) for disc in discs)
        np.testing.assert_allclose(image - images[0], whole, atol=1e-3)


def test_a_window_is_all_that_is_looked_at(one):
    window = (slice(60, 200), slice(60, 200))
    seen = PlaneSlice(low_hu=one.low_hu, anatomy_hu=one.anatomy_hu, spacing_mm=SPACING_MM, insertions=[], window=window)
    assert seen.flat[window].any() and seen.flat.sum() == seen.flat[window].sum()
    assert seen.squares and all(60 <= part.start and part.stop <= 200 for square in seen.squares for part in square)


def test_the_identity_keeps_everything(one):
    figures = one.measure(one.images()).summary()
    assert (figures["noise_left"], figures["frequency_left"]) == pytest.approx((1.0, 1.0))
    assert figures["contrast"] == pytest.approx(dict.fromkeys(("4", "6", "10", "15"), 1.0), abs=1e-3)
    assert figures["discs"] == {"4": 15, "6": 12, "10": 6, "15": 3}


def test_what_erases_everything_keeps_nothing(one):
    smooth = np.full_like(one.low_hu, 80.0)
    figures = one.measure([smooth for _ in one.images()]).summary()
    assert figures["noise_left"] < 0.1 and set(figures["contrast"].values()) == {0.0}


def test_a_gaussian_keeps_what_its_formula_says_at_any_noise(one):
    sigma = 1.0 / SPACING_MM
    figures = one.measure([gaussian_filter(image, sigma) for image in one.images()]).summary()
    for diameter, kept in figures["contrast"].items():
        profile = Lesion(float(diameter), (128, 128)).profile((256, 256), SPACING_MM)
        assert kept == pytest.approx(contrast_recovery(gaussian_filter(profile, sigma), profile, 1.0), abs=0.01)
    assert 0.2 < figures["noise_left"] < 0.6 and figures["frequency_left"] < 0.8
    assert figures["contrast"]["4"] < figures["contrast"]["6"] < figures["contrast"]["10"]


def test_points_of_slices_add_up(one):
    point = one.measure(one.images())
    both = point + one.measure([np.full_like(image, 80.0) for image in one.images()])
    assert both.summary()["discs"]["4"] == 2 * point.summary()["discs"]["4"]
    assert both.summary()["contrast"]["4"] < 0.6


def test_fewer_outputs_judge_fewer_insertions(one):
    assert one.measure(one.images()[:2]).summary()["discs"]["4"] == DISCS_AN_INSERTION[4.0]


def test_without_flat_places_there_is_no_figure():
    figures = PlanePoint(noise_hu=[(float("nan"), float("nan"))]).summary()
    assert np.isnan(figures["noise_left"]) and np.isnan(figures["frequency_left"]) and figures["contrast"] == {}


def test_air_has_no_room():
    with pytest.raises(BioAttError, match="no room for discs of 4, 6, 10 mm"):
        insert_discs(np.full((64, 64), -1000.0), 1.0, np.random.default_rng(0))


def test_a_narrow_place_takes_no_large_disc_but_the_needed_ones():
    image = np.zeros((128, 128))
    image[50:70, 4:124] = 80.0
    generator = np.random.default_rng(0)
    rounds = [insert_discs(image, 1.0, generator, turn) for turn in range(len(CONTRASTS_HU))]
    assert {disc.lesion.diameter_mm for discs in rounds for disc in discs} == {4.0, 6.0, 10.0}
