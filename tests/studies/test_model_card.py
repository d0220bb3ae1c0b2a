"""The model card, metadata.json and the evidence pages say what the committed result files say."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from meaning import page_meaning
from scipy.ndimage import gaussian_filter
from scripts.errors import BioAttError
from scripts.evaluation.lesions import Lesion, contrast_recovery
from scripts.networks import weights_sha256
from scripts.strengths import DEFAULT, STRENGTHS

from studies.evidence.baselines_page import summary
from studies.evidence.bench import HELD_OUT
from studies.evidence.detection_page import counted, undecided_line
from studies.evidence.pages import CONCLUSIONS, PAGES, write_pages
from studies.model_card import eval_metrics, fill, limits_list, priors_sections, readme_sections, sections
from studies.prior_study.models import models_page
from studies.prior_study.page import headline, write_page
from studies.prior_study.runs import read_study

EVIDENCE = Path(__file__).parents[2] / "docs" / "evidence"
RESULTS = EVIDENCE / "results"


def result(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_the_card_names_the_shipped_weights_and_the_figures_that_are_there(bundle_root):
    card = (bundle_root / "docs" / "README.md").read_text()
    assert page_meaning(fill(card, sections(RESULTS))) == page_meaning(card)


def test_metadata_has_the_figures_of_the_evidence(bundle_root):
    metadata = json.loads((bundle_root / "configs" / "metadata.json").read_text())
    assert metadata["eval_metrics"] == eval_metrics(result("quality"))


@pytest.mark.parametrize("part", [name for page, names in PAGES.items() if page != "baselines.md" for name in names])
def test_every_part_was_measured_on_the_shipped_weights(bundle_root, part):
    shipped = weights_sha256(bundle_root / "models" / "model.pt")
    assert result(part)["network"]["weights_sha256"] == shipped


def test_the_pages_are_what_the_command_makes_of_the_results(tmp_path):
    shutil.copytree(RESULTS, tmp_path / "results", ignore=shutil.ignore_patterns("*.png"))
    for page in write_pages(tmp_path / "results"):
        assert page_meaning(page.read_text()) == page_meaning((EVIDENCE / page.name).read_text()), page.name


def test_every_picture_of_the_pages_is_there():
    for page in PAGES:
        names = [part.split(")")[0].partition("#")[0] for part in (EVIDENCE / page).read_text().split("](")[1:]]
        for name in names:
            assert (EVIDENCE / name).exists(), name


def test_results_of_different_weights_make_no_page(tmp_path):
    shutil.copytree(RESULTS, tmp_path / "results", ignore=shutil.ignore_patterns("*.png"))
    other = result("doses")
    other["network"]["weights_sha256"] = "0" * 64
    (tmp_path / "results" / "doses.json").write_text(json.dumps(other))
    with pytest.raises(BioAttError, match="of different weights .*doses 0000000000000000"):
        write_pages(tmp_path / "results")
    (tmp_path / "results" / "doses.json").unlink()
    with pytest.raises(BioAttError, match="measure it with `make evidence`, or --parts doses"):
        write_pages(tmp_path / "results")


def test_a_broken_limit_is_named_with_what_was_measured():
    broken = {"name": "x", "value": 0.5, "comparison": "<", "bound": 0.2, "unit": "HU", "kept": False}
    text = limits_list({"a": {"limits": [broken, {**broken, "kept": True}]}, "b": {}})
    assert text == "Of 2 limits 1 are kept. Not kept:\n\n- x: 0.500 HU, required < 0.2"


def test_the_readme_says_what_the_plane_says(bundle_root):
    text = (bundle_root.parent / "README.md").read_text()
    assert fill(text, readme_sections(RESULTS)) == text
    plane = result("plane")
    assert plane["dose_fraction"] == 0.25 and len(plane["patients"]) == 6
    left = {
        strength: [one["frequency_left"] for one in of.values() if one["frequency_left"] is not None]
        for strength, of in plane["figures"]["network"].items()
    }
    assert sum(left["standard"]) < sum(left["low"]) < len(left["low"]), "coarser, less so at low"


def test_readme_and_card_say_of_redcnn_what_was_measured(bundle_root):
    baselines = result("baselines")
    assert {one["network"].partition("(")[0] for one in baselines["networks"].values()} == {"BioAttUNet", "BioAtt"}
    assert len(baselines["limits"]) == 72, "six patients, bare and three anchors, body, edges and contrast"
    shipped = weights_sha256(bundle_root / "models" / "model.pt")
    assert baselines["network"]["weights_sha256"] == shipped == baselines["networks"]["network"]["weights_sha256"]
    for page in (bundle_root / "docs" / "README.md", bundle_root.parent / "README.md"):
        assert summary(baselines) in page.read_text() and "RED-CNN of full width" in page.read_text()


def test_every_page_begins_with_what_was_found():
    parts = {name: result(name) for names in PAGES.values() for name in names}
    for page, conclude in CONCLUSIONS.items():
        text = (EVIDENCE / page).read_text()
        assert page_meaning(text.split("\n\n")[1]) == page_meaning(conclude(parts)), page


def test_the_page_of_priors_is_what_the_command_makes_of_the_records(tmp_path):
    write_page(RESULTS / "priors", read_study(), tmp_path / "priors.md")
    assert page_meaning((tmp_path / "priors.md").read_text()) == page_meaning((EVIDENCE / "priors.md").read_text())
    ours, theirs = (json.loads((folder / "priors.json").read_text()) for folder in (tmp_path, EVIDENCE))
    assert ours["finished_runs"] == theirs["finished_runs"] == len(list((RESULTS / "priors").glob("*.json")))
    assert headline(theirs) in (EVIDENCE / "priors.md").read_text().split("\n\n")[1]


def test_the_page_of_the_prior_models_is_what_is_made_of_their_figures():
    records = json.loads((EVIDENCE / "prior_models.json").read_text())
    assert page_meaning(models_page(records)) == page_meaning((EVIDENCE / "prior_models.md").read_text())


def test_docs_say_of_priors_what_was_found(bundle_root):
    text = (bundle_root.parent / "docs" / "priors.md").read_text()
    assert fill(text, priors_sections(RESULTS)) == text


def test_at_most_one_verdict_in_ten_is_undecided_and_the_page_names_what_is_beyond():
    detection = result("detection")
    by_patient = counted(*(of["doses"] for of in detection["patients"]["patients"].values()))
    for counts in (counted(detection["uniform"]["doses"]), counted(detection["patients"]["pooled"]["doses"])):
        assert all(10 * of["undecided"] <= of.total() for of in counts.values())
    beyond = {name for name, of in by_patient.items() if 10 * of["undecided"] > of.total()}
    assert "network, standard" not in beyond
    told = undecided_line(detection["patients"])
    assert told in (EVIDENCE / "texture.md").read_text() and all(name in told for name in beyond)


def words(text):
    """A page's words with one space between them, to be searched whatever its line breaks."""
    return " ".join(text.split())


@pytest.fixture(scope="module")
def told(bundle_root):
    """README and model card, as words."""
    return {
        "readme": words((bundle_root.parent / "README.md").read_text()),
        "card": words((bundle_root / "docs" / "README.md").read_text()),
        "anchoring": words((bundle_root.parent / "docs" / "anchoring.md").read_text()),
    }


def test_the_card_says_of_the_data_what_the_recipe_records(bundle_root, told):
    scope = json.loads((bundle_root / "models" / "model.json").read_text())["scope"]
    (thin, thick), (low, high), noise = (scope[key] for key in ("slice_thickness_mm", "kvp", "noise_sd_hu"))
    ranges = (
        f"{low:.0f} to {high:.0f} kV, {thin:.1f} to {thick:g} mm; low doses with {noise[0]:.0f} to {noise[1]:.0f} HU"
    )
    assert ranges in told["card"] and all(region in told["card"] for region in scope["regions"])
    assert (
        set(scope["noise_sd_hu_by_kernel"]) == {"soft", "medium", "sharp"} and "soft to sharp kernels" in told["card"]
    )
    for page in ("readme", "card"):
        assert f"Trained on {scope['patients']} patients, donors and phantoms" in told[page]
    assert "20 patients, two body donors and two phantoms" in told["card"] and scope["patients"] == 20 + 2 + 2


def test_the_series_are_those_of_the_licences(bundle_root, told):
    text = (bundle_root / "docs" / "data_license.txt").read_text()
    counts = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
    found = re.findall(rf"^\S.*\((?:{'|'.join(counts)}) (?:series|heads)", text, flags=re.MULTILINE)
    series = sum(counts[one.rpartition("(")[2].split()[0]] for one in found)
    assert f"Training: {series - len(HELD_OUT)} series of 20 patients" in told["card"]
    assert all(name.partition("-1006")[0] in text for name in HELD_OUT)


def test_the_patients_held_out_are_those_measured(told):
    assert f"Held out: {', '.join(HELD_OUT)}" in told["card"] and "Six patients held out" in told["readme"]
    for part in ("plane", "quality"):
        assert set(result(part)["patients"]) == set(HELD_OUT), part
    assert {row["patient"] for row in result("doses")["rows"]} == set(HELD_OUT)
    assert set(result("detection")["patients"]["patients"]) == set(HELD_OUT)


def test_anchors_are_told_as_they_are(bundle_root, told):
    anchors = {name: anchor for name, (anchor, _) in STRENGTHS.items()}
    assert f"`anchor_mm`, {anchors[DEFAULT]:g} mm at the standard strength" in told["card"]
    metadata = json.loads((bundle_root / "configs" / "metadata.json").read_text())
    first, *middle, last = (f"{anchor:.1f}" for anchor in anchors.values())
    assert f"anchors of {', '.join([first, *middle])} and {last} mm" in metadata["changelog"]["0.7.0"]
    for part in ("plane", "baselines"):
        settings = result(part)["strengths" if part == "plane" else "settings"]
        assert {name: settings[name] for name in STRENGTHS} == {name: list(of) for name, of in STRENGTHS.items()}


@pytest.mark.parametrize(
    ("page", "anchor_mm", "text"),
    [
        (
            "card",
            STRENGTHS[DEFAULT][0],
            "leaves at {:g} mm {} of the contrast of a disc of 4 mm, {} of 6 mm, {} of 10 mm",
        ),
        ("anchoring", 1.0, "at {:g} mm, {} for a disc of 4 mm, {} for 6 mm and {} for 10 mm"),
    ],
)
def test_the_floor_is_what_the_gaussian_alone_leaves(told, page, anchor_mm, text):
    left, spacing_mm = [], 0.2
    for diameter in (4.0, 6.0, 10.0):
        profile = Lesion(diameter, (100, 100)).profile((201, 201), spacing_mm)
        left.append(contrast_recovery(gaussian_filter(profile, anchor_mm / spacing_mm), profile, 1.0))
    assert text.format(anchor_mm, *(f"{one:.0%}" for one in left)) in told[page]


def test_the_priors_of_the_shipped_weights_are_told_as_they_are(bundle_root, told):
    recipe = json.loads((bundle_root / "models" / "model.json").read_text())
    assert recipe["prior"] == "uniform" and recipe["network_def"]["prior_share"] == 0.2
    assert "the shipped weights use the uniform one" in told["readme"]
    assert "These weights use the uniform prior, and give any other a weight of 0.2" in told["card"]
    docs = words((bundle_root.parent / "docs" / "priors.md").read_text())
    assert "The shipped weights keep the uniform prior" in docs and "gives a prior a weight of 0.2" in docs


@pytest.mark.parametrize("page", [*PAGES, "priors.md", "prior_models.md", "performance.md"])
def test_the_conclusion_of_a_page_is_short(page):
    first = words((EVIDENCE / page).read_text().split("\n\n")[1])
    sentences = re.split(r"(?<=[.)]) (?=[A-Z])", first)
    assert len(sentences) <= 8 and len(first.split()) <= 170, f"{len(sentences)} sentences, {len(first.split())} words"
    assert re.search(r"\d", first)
