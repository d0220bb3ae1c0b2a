"""The report of a run: its sections and figures, nothing about the patient, nothing fetched, all or nothing."""

from __future__ import annotations

import base64
import io
import logging
import re
from html import unescape
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from dicom_cases import MARK, marked
from made_studies import as_nifti, save_network, save_with_recipe
from phantom import write_ct_series
from PIL import Image
from scripts.app.command_line import main
from scripts.dicom import select_series
from scripts.dose.image_noise import flat_regions
from scripts.errors import BioAttError
from scripts.evaluation.measures import MEASURED_SLICES, SliceSamples, measure_samples
from scripts.evaluation.texture import noise_power_spectrum
from scripts.networks import BioAtt, BioAttUNet
from scripts.report import pictures
from scripts.report.handler import warning_without_names
from scripts.report.page import noise_words
from scripts.volumes import load_volume, radiological_slices
from scripts.workflow import report_file

pytestmark = pytest.mark.filterwarnings("ignore:.*Invalid value for VR")
HEADINGS = ["Slices", "Noise", "HU", "Prior along the patient", "Attention in slice", "Warnings", "What made it"]


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A series with flat soft tissue in it, its patient and study full of marks, also in the folder's name."""
    folder = tmp_path_factory.mktemp("study") / MARK
    return write_ct_series(
        folder, shape=(160, 160), spacing=(2.0, 2.0), slices=12, noise_sd=20.0, modify=marked, name=MARK + "{}.dcm"
    )


def denoise(source, target, weights, *words):
    return main(["denoise", str(source), str(target), "--weights", str(weights), "--quiet", "--report", *words])


@pytest.fixture(scope="module")
def made(series, weights, tmp_path_factory):
    """Folder with ``out`` and ``out.html``."""
    folder = tmp_path_factory.mktemp("result")
    assert denoise(series, folder / "out", weights) == 0
    return folder


@pytest.fixture(scope="module")
def page(made):
    return (made / "out.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def markup(page):
    """The page without the bytes of its pictures, whose letters may spell anything."""
    return re.sub(r"(data:image/png;base64,)[A-Za-z0-9+/=]+", r"\1", page)


@pytest.fixture(scope="module")
def samples(series, made):
    """The samples of the run, from what stands on disk."""
    before, after = radiological_slices(series), radiological_slices(made / "out")
    taken = SliceSamples(as_volume(before))
    taken.take_after(as_volume(after))
    return taken


def as_volume(volume):
    """(1, 1, H, W, slices) in HU."""
    stack = np.stack([volume[i] for i in range(len(volume))], axis=-1)
    return torch.from_numpy(stack)[None, None]


def text_of(page):
    """Words of a page without its tags, one space between them."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<(style|svg).*?</\1>", " ", page, flags=re.S))).split())


def test_all_sections_stand_in_their_order(page):
    places = [page.index(f"{heading}") for heading in (f"<h2>{one}" for one in HEADINGS)]
    assert places == sorted(places)
    assert page.count("Research software, not a medical device: not for diagnosis.") == 2


def test_the_summary_tells_what_was_used(page, weights):
    from scripts.networks import weights_sha256

    words = text_of(page)
    for part in (
        "Slices 12",
        "Strength standard",
        weights_sha256(weights),
        "not BiomedCLIP",
        f"torch {version('torch')}",
    ):
        assert part in words
    assert re.search(r"\d+\.\d s, \d+\.\d\d s a slice", words)


def test_the_figures_are_those_of_the_functions_on_the_files(page, samples):
    words, measures = text_of(page), measure_samples(samples, (2.0, 2.0))
    assert len(measures["noise_pairs"]) == MEASURED_SLICES
    before, after = np.median(measures["noise_pairs"], axis=0)
    told = [float(x) for x in re.search(r"([\d.]+) → ([\d.]+) HU", words).groups()]
    assert told == pytest.approx([before, after], abs=0.11)  # files hold whole HU
    for tissue, one in measures["tissues"].items():
        row = re.search(rf"\b{tissue} ([\d,]+) ([−\d.]+) ([−\d.]+) ([+−][\d.]+)", words).groups()
        numbers = [float(x.replace(",", "").replace("−", "-")) for x in row]
        expected = [one["pixels"], one["before_hu"], one["after_hu"], one["bias_hu"]]
        assert numbers[0] == expected[0] and numbers[1:] == pytest.approx(expected[1:], abs=0.11)
    assert f"{measures['nps']['regions']} regions of {measures['nps']['side_pixels']} × " in words
    spreads = [float(x) for x in re.findall(r"(?:before|after), SD ([\d.]+) HU", page)]
    assert spreads == pytest.approx([measures["nps"][one]["sd_hu"] for one in ("before", "after")], abs=0.11)


def test_the_priors_are_those_of_the_table(page, series, tmp_path):
    assert main(["priors", str(series), str(tmp_path / "p.csv")]) == 0
    rows = [line.split(",")[-11:] for line in (tmp_path / "p.csv").read_text().splitlines()[1:]]
    words, priors = rows[0], np.array(rows[1:], dtype=float)
    shown = int(re.search(r"Attention in slice (\d+)", page).group(1))
    for word, value in zip(words, priors[shown], strict=True):
        captions = re.findall(rf'<figcaption>{word} <span class="share">([\d.]+)%', page)
        assert [float(one) for one in captions] == pytest.approx([100 * value] * 3, abs=0.06)
    assert all(f">{word}</text>" in page for word in words)  # in the plot's legend


def test_pictures_are_whole_and_show_something(page):
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"', page)
    assert len(pictures) == page.count("<img")
    names = [alt for _, alt in pictures]
    assert (
        sum(one.endswith((": before", "SD before")) for one in names) == 4
        and sum("attention map" in one for one in names) == 3 * 12
    )
    for content, alt in pictures:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("L"))
        assert pixels.std() > 1 or alt.endswith("SD after"), alt  # these weights were never trained
    assert page.count("<svg") == page.count("</svg>") == 3


def test_a_slice_is_shown_in_its_window(page, series):
    index = int(re.search(r'alt="Slice (\d+), [^"]*: before"', page).group(1))
    content = re.search(r'<img src="data:image/png;base64,([^"]+)" alt="[^"]*: before"', page).group(1)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    expected = ((radiological_slices(series)[index] + 160) / 400).clip(0, 1) * 255
    assert np.abs(pixels - expected).max() <= 0.51


def test_nothing_is_fetched_and_nothing_runs(markup):
    assert not re.search(r"<(script|link|iframe|object|embed|base)\b|@import|\bon\w+=", markup)
    assert {one[:11] for one in re.findall(r'(?:src|href)="([^"#]+)"', markup)} == {"data:image/"}
    assert not re.search(r"url\((?!#)", markup)
    assert set(re.findall(r"https?://[\w./]+", markup)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_the_page_tells_nothing_of_patient_study_or_paths(markup, made, series):
    for word in (MARK, "19010203", "099Y", "20200102", "Phantom", str(made), str(series.parent)):
        assert word not in markup
    assert select_series(series).series_instance_uid in markup


def test_warnings_are_told_without_paths_and_only_those_of_the_run(series, weights, tmp_path):
    def modify(dataset, i):
        dataset.PixelPaddingValue, dataset.LossyImageCompression = 1024, "01"  # 0 HU, which tissue has

    source = write_ct_series(tmp_path / f"{MARK} 1", slices=3, modify=modify)
    logging.getLogger("scripts.dicom").warning("before the run")
    assert denoise(source, tmp_path / f"{MARK} 2", weights, "--prior", "uniform") == 0
    logging.getLogger("scripts.dicom").warning("after the run")
    page = (tmp_path / f"{MARK} 2.html").read_text()
    told = page[page.index("Warnings of the run") : page.index("What made it")]
    assert "lossy compressed" in told and "before the" not in told and "after the" not in told and MARK not in page


def test_structure_in_the_difference_is_called_lost_detail(page):
    section = re.sub(r"<[^>]+>", "", page[page.index("<h2>Slices") : page.index("<h2>Noise")])
    assert "The difference, after minus before, should look like noise, at strong edges too." in section
    assert "A structure in it" in section and "means that detail was lost" in section
    assert "sharpen" not in page and "can be wanted" not in page


def test_file_names_are_left_out_of_messages():
    names = {"data/Doe Jane", "data/Doe Jane/1 Doe.dcm", "1 Doe.dcm"}
    message = "data/Doe Jane/1 Doe.dcm: bad; 1 Doe.dcm; data/Doe Jane/other.dcm: bad"
    assert warning_without_names(record("%s", message), names) == "(path): bad; (path); (path) bad"


def record(message, *given):
    return logging.LogRecord("scripts", logging.WARNING, "", 0, message, given, None)


def test_a_folder_named_like_a_word_leaves_the_words_of_a_warning():
    names = {"in", "out", "in/1.dcm", "1.dcm", "8"}
    warning = record("%s: outside in %d slices, %s", Path("in"), 8, "the inside of in/1.dcm within out")
    assert warning_without_names(warning, names) == "(path): outside in 8 slices, the inside of (path) within (path)"
    assert warning_without_names(record("in/1.dcm is in, 100% lost"), names) == "(path) is in, 100% lost"
    assert warning_without_names(record("%s", "Doe's inside"), {"Doe", "in"}) == "(path)'s inside"


def test_the_folder_stays_dicom_alone_and_reads_as_a_series(made, series):
    assert {path.suffix for path in (made / "out").iterdir()} == {".dcm"}
    assert sorted(path.name for path in made.iterdir()) == ["out", "out.html"]
    np.testing.assert_allclose(load_volume(made / "out").affine, load_volume(series).affine)


def test_without_the_option_there_is_no_report_and_the_same_result(series, made, weights, tmp_path):
    assert main(["denoise", str(series), str(tmp_path / "out"), "--weights", str(weights), "--quiet"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    np.testing.assert_array_equal(load_volume(tmp_path / "out").hu, load_volume(made / "out").hu)


def test_a_folder_of_nifti_has_one_page(series, weights, tmp_path):
    (tmp_path / "in").mkdir()
    for name, axes in ((f"{MARK}.nii.gz", (0, 1, 2)), ("b.nii", (2, 0, 1))):
        as_nifti(series, tmp_path / "in" / name, axes=axes)
    assert denoise(tmp_path / "in", tmp_path / "out", weights, "--prior", "random:1") == 0
    assert len(list((tmp_path / "out").iterdir())) == 4
    page = (tmp_path / "out.html").read_text()
    assert page.count("<h2>Slices</h2>") == 2 and "NIfTI volume 2, 12 slices" in page and MARK not in page
    assert "Slices 24" in text_of(page) and "in 2 volumes" in page


@pytest.mark.parametrize(
    ("attention", "sentence"),
    [("none", "no attention"), ("channel", "a weight for each channel"), ("spatial", "weighted sum")],
)
def test_networks_without_prior_attention_say_so(weights, tmp_path, attention, sentence):
    save_with_recipe(BioAtt(channels=4, attention=attention), tmp_path / "w.pt")
    source = write_ct_series(tmp_path / "in", slices=1)
    from scripts.workflow import run_workflow

    given = {"dataset_dir": str(source), "output_dir": str(tmp_path / "out"), "weights": str(tmp_path / "w.pt")}
    run_workflow("inference", ["inference.json"], {**given, "prior": "uniform", "report": True})
    page = (tmp_path / "out.html").read_text()
    assert sentence in page
    assert page.count('alt="attention map"') == (2 if attention == "spatial" else 0)
    assert "pixels of 6 x 5 mm are not square" in page


def test_the_papers_network_has_two_blocks(tmp_path):
    save_network(tmp_path / "w.pt", channels=32)
    source = write_ct_series(tmp_path / "in", slices=2)
    assert denoise(source, tmp_path / "out", tmp_path / "w.pt", "--prior", "uniform") == 0
    page = (tmp_path / "out.html").read_text()
    assert "Block 2 of 2" in page and page.count('alt="attention map"') == 24


def test_an_existing_report_is_refused_or_replaced(weights, tmp_path, capsys):
    source = write_ct_series(tmp_path / "in", slices=1)
    (tmp_path / "out.html").write_text("mine")
    assert denoise(source, tmp_path / "out", weights, "--prior", "uniform") == 2
    assert "out.html exists" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert denoise(source, tmp_path / "out", weights, "--prior", "uniform", "--overwrite") == 2
    assert "what BioAtt did not write" in capsys.readouterr().err and (tmp_path / "out.html").read_text() == "mine"
    (tmp_path / "out.html").write_text("<title>CT denoising report</title>")  # as one that is there from before
    assert denoise(source, tmp_path / "out", weights, "--prior", "uniform", "--overwrite") == 0
    assert "<html" in (tmp_path / "out.html").read_text() and f"{tmp_path}/out.html" in capsys.readouterr().out


def test_a_report_beside_a_mount_in_a_closed_folder_is_refused_at_once(tmp_path, monkeypatch):
    from scripts.workflow import check_inference

    source = write_ct_series(tmp_path / "series", slices=2)
    out = tmp_path / "closed" / "out"
    out.mkdir(parents=True)
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != out.parent)
    check_inference(str(source), str(out))
    with pytest.raises(
        BioAttError, match=f"name a folder within the output folder instead, such as {out / 'denoised'}"
    ):
        check_inference(str(source), str(out), report_file=f"{out}.html")
    check_inference(str(source), str(out / "denoised"), report_file=f"{out / 'denoised'}.html")


@pytest.mark.parametrize("form", ["dicom", "nifti"])
def test_folders_above_result_and_report_are_made(weights, tmp_path, form):
    source = write_ct_series(tmp_path / "in", slices=1)
    if form == "nifti":
        source = as_nifti(source, tmp_path / "in" / "a.nii")
    assert denoise(source, tmp_path / "a" / "b" / "out", weights, "--prior", "uniform") == 0
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["out", "out.html"]


@pytest.mark.parametrize("form", ["dicom", "nifti"])
def test_a_report_that_fails_leaves_nothing(weights, tmp_path, capsys, monkeypatch, form):
    source = write_ct_series(tmp_path / "in", slices=1)
    if form == "nifti":
        source = as_nifti(source, tmp_path / "in" / "a.nii")
    from scripts.report import handler

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(handler, "page", full_disk)
    assert denoise(source, tmp_path / "out", weights, "--prior", "uniform") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(("given", "file"), [(True, "a/out.html"), (False, "")])
def test_the_report_goes_beside_the_folder(given, file):
    assert report_file(given, "a/out/") == file


def test_samples_are_copies_of_evenly_spaced_slices():
    volume = torch.rand(1, 1, 8, 9, 40)
    volume[0, 0, 0, 0] = float("nan")
    volume[0, 0, 1, 0] = -5500.0
    samples = SliceSamples(volume)
    kept = samples.before_hu.copy()
    volume.zero_()
    np.testing.assert_array_equal(samples.before_hu, kept)
    assert len(samples.indices) == MEASURED_SLICES and set(np.diff(samples.indices)) <= {3, 4}
    assert samples.before_hu[:, :2, 0].max() == -1024.0 and np.isfinite(samples.before_hu).all()
    assert SliceSamples(torch.rand(1, 1, 8, 9, 2)).indices == [0, 1]


def test_noise_is_told_as_the_median_over_slices():
    assert noise_words([(20.0, 10.0), (30.0, 12.0), (22.0, 11.0)]) == ("22.0 → 11.0 HU", "−50%, SD in flat soft tissue")
    assert noise_words([])[0] == "not measured"


def test_flat_regions_lie_apart_in_soft_tissue():
    image = np.full((200, 200), -1000.0, np.float32)
    image[20:150, 30:170] = 50.0 + np.random.default_rng(0).normal(0, 15, (130, 140))
    image[60:70, 60:70] = 900.0
    regions = flat_regions(image, 24)
    assert len(regions) == 4
    for place in regions:
        part = image[place]
        assert part.shape == (24, 24) and -100 < part.min() and part.max() < 200
    for i, one in enumerate(regions):
        for other in regions[:i]:
            assert max(abs(rows.start - others.start) for rows, others in zip(one, other, strict=True)) >= 24
    assert flat_regions(np.full((200, 200), -1000.0, np.float32), 24) == []


def test_the_spectrum_of_white_noise_has_its_variance():
    noise = np.random.default_rng(0).normal(40.0, 10.0, (1, 1, 128, 128, 2)).astype(np.float32)
    samples = SliceSamples(torch.from_numpy(noise))
    samples.take_after(torch.from_numpy(40 + (noise - 40) / 2))
    nps = measure_samples(samples, (1.0, 1.0))["nps"]
    assert nps["before"]["sd_hu"] == pytest.approx(10.0, rel=0.03)
    assert nps["after"]["sd_hu"] == pytest.approx(nps["before"]["sd_hu"] / 2, rel=1e-4)
    assert nps["before"].keys() == noise_power_spectrum(noise[..., :32, :32, 0], 1.0).keys()


@pytest.mark.parametrize(
    "build", [lambda: BioAttUNet(widths=(8, 16)), lambda: BioAtt(channels=4)], ids=["fast", "paper"]
)
def test_maps_lie_where_the_image_is(build):
    """A bright spot draws the maps of each block at its own place."""
    torch.manual_seed(0)
    network = build()
    image = torch.zeros(1, 1, 46, 58)
    with torch.inference_mode():
        plain = network.attention_maps(image)
        image[..., 28:32, 36:40] = 5.0
        spotted = network.attention_maps(image)
    for name, grid in network.attention_grids().items():
        change = (pictures.on_image(spotted[name][0] - plain[name][0], grid, (46, 58))).abs().sum(0)
        assert change.shape == (46, 58)
        weight = change.nan_to_num() / change.nan_to_num().sum()
        row = float((weight.sum(1) * torch.arange(46)).sum())
        column = float((weight.sum(0) * torch.arange(58)).sum())
        assert abs(row - 29.5) < 2.5 and abs(column - 37.5) < 2.5, name
