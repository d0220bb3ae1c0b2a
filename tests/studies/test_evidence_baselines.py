"""Networks side by side: figures at every anchor, what each training was, limits and page, on one small series."""

import json

import pytest
from made_studies import save_default_network, save_network
from phantom import write_ct_series
from scripts.errors import BioAttError

from studies.evidence import baselines
from studies.evidence.baselines import BARE, Contestant, baseline, limits, measure_baselines
from studies.evidence.baselines_page import baselines_section, conclusion, summary
from studies.evidence.bench import Bench

STRENGTHS = {"standard": (1.1, 0.0), "high": (1.4, 0.0)}
CURVE = "epoch,iteration,psnr_db,low_psnr_db\n1,10,,\n2,20,31.5,30.0\n3,40,31.75,30.0\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("baselines")
    write_ct_series(root / "ct" / "A", shape=(160, 160), spacing=(2.2, 2.2), slices=3, noise_sd=12.0, seed=0)
    save_default_network(root / "ours.pt")
    (root / "theirs").mkdir()
    save_network(root / "theirs" / "r.pt", channels=8)
    (root / "theirs" / "curve.csv").write_text(CURVE)
    (root / "form.json").write_text(json.dumps({"network_def": {"_target_": "BioAtt", "channels": 8}}))
    return root


@pytest.fixture(scope="module")
def measured(files):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "TIMED_SHAPE", (64, 64))
        patch.setattr(baselines, "TIMES", 1)
        ours = Contestant(name="network", weights=files / "ours.pt")
        theirs = baseline(f"RED-CNN={files / 'theirs' / 'r.pt'}:{files / 'form.json'}")
        bench = Bench(files, files / "work", ["A"], slices=1)
        return json.loads(json.dumps(measure_baselines(bench, [ours, theirs], STRENGTHS)).replace("NaN", "null"))


def test_every_network_is_evaluated_bare_and_at_every_anchor(measured):
    assert {name: list(of) for name, of in measured["figures"].items() if name != "Gaussian"} == dict.fromkeys(
        ("network", "RED-CNN"), [BARE, *STRENGTHS]
    )
    kept = [of["A"]["contrast"]["10"] for of in measured["figures"]["RED-CNN"].values()]
    assert kept[1] > kept[0], "an anchor gives contrast back"
    assert all(record["seconds_a_slice"] > 0.0 for record in measured["networks"].values())
    assert measured["networks"]["RED-CNN"]["network"].startswith("BioAtt(")


def test_the_training_of_a_baseline_is_read_from_its_configs_and_curve(measured):
    assert measured["patches_a_step"] == {"RED-CNN": 32}
    assert measured["curves"]["RED-CNN"] == [
        {"steps": 20, "psnr_db": 31.5, "low_psnr_db": 30.0},
        {"steps": 40, "psnr_db": 31.75, "low_psnr_db": 30.0},
    ]


def test_the_limits_notice_more_error_and_less_contrast(measured):
    found = json.loads(json.dumps(measured["figures"]))
    for of in found["network"].values():
        of["A"]["error_hu2"] = dict.fromkeys(of["A"]["error_hu2"], 1e9)
        of["A"]["contrast"] = dict.fromkeys(of["A"]["contrast"], 0.0)
    lost = limits(found, "network", "RED-CNN")
    assert len(lost) == len(measured["limits"]) == 9 and not any(limit.kept for limit in lost)
    won = limits(found, "RED-CNN", "network")
    assert all(limit.kept for limit in won)


def test_the_page_begins_with_what_was_found(measured, tmp_path):
    page = baselines_section(measured, tmp_path)
    found = conclusion(measured)
    assert found.startswith("Anchored alike at standard, `network` has") and "RED-CNN saw 1,280 patches" in found
    kept = measured["figures"]["RED-CNN"]["standard"]["A"]
    assert f"RED-CNN {kept['noise_left']:.0%} (n = 1) and {kept['contrast']['4']:.0%} (n = 1)." in found
    assert (tmp_path / "baselines_plane.png").exists()
    error = measured["figures"]["RED-CNN"]["standard"]["A"]["error_hu2"]["body"]
    assert f" {error:.1f} |" in page and "+0.25 dB since step 20" in page
    assert "nan" not in page and summary(measured).startswith("At standard our error of the body is ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weights.pt", "expected NAME=WEIGHTS.pt:NETWORK.json"),
        ("r=missing.pt", "there is no missing.pt; `make baselines`"),
    ],
)
def test_a_baseline_that_is_spelt_wrong_or_missing_is_refused(text, message):
    with pytest.raises(BioAttError, match=message):
        baseline(text)
