"""A small matrix, trained for real: the table, what is shared, going on after an interruption, mixed matrices."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scripts import ablation
from scripts.ablation import Arm, plan, swap_priors
from scripts.command_line import main
from scripts.data.pairs import CachedPair
from scripts.errors import BioAttError
from scripts.priors import SliceKey
from studies import write_patients

SMALL = [
    *("views=60", "network_def#widths=[4,6]", "patch_shape=[32,32]", "patches_per_slice=4", "num_workers=0"),
    *("bf16=false", "train#trainer#max_epochs=2", "val_interval=2", "metrics=[\"psnr\",\"ssim\",\"rmse\"]"),
]  # fmt: skip


def words(dataset, out, *more, networks="redcnn,bioatt", priors="uniform,random:0", seeds=2):
    matrix = ["--networks", networks, "--priors", priors, "--seeds", str(seeds)]
    return ["ablate", str(dataset), str(out), *matrix, "--leave-out", "A", *more]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_patients(tmp_path_factory.mktemp("dataset"), "ABC", 2)


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """The output of a finished matrix: 2 networks, one with 2 priors, 2 seeds."""
    out = tmp_path_factory.mktemp("ablation") / "out"
    assert main(words(dataset, out, "--set", *SMALL)) == 0
    return out


def test_the_table_has_every_arm_and_the_low_dose(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["planned_runs"] == summary["finished_runs"] == 6
    found = [(row["arm"], row["test_prior"]) for row in summary["rows"]]
    assert found[0] == ("low dose", "")
    assert set(found[1:]) == {("redcnn", "right")} | {
        (f"bioatt / {prior}", test) for prior in ("uniform", "random:0") for test in ablation.TEST_PRIORS
    }
    page = (finished / "README.md").read_text()
    assert "6 of 6 planned runs are in" in page and "| bioatt / random:0 | other patient |" in page
    assert (finished / "differences.png").read_bytes().startswith(b"\x89PNG")


def test_figures_are_means_over_seeds_and_differences_are_paired(finished):
    rows = {(r["arm"], r["test_prior"]): r for r in json.loads((finished / "summary.json").read_text())["rows"]}
    records = [json.loads(path.read_text()) for path in (finished / "runs").glob("*.json")]
    patient = records[0]["left_out"]
    by_hand = {
        name: np.mean([one["figures"]["right"][patient]["denoised"]["psnr_db"] for one in records if test(one)])
        for name, test in {
            "redcnn": lambda one: one["network"] == "redcnn",
            "bioatt / uniform": lambda one: one["network"] == "bioatt" and one["prior"] == "uniform",
        }.items()
    }
    for name, value in by_hand.items():
        assert rows[(name, "right")]["psnr_db"]["mean"] == pytest.approx(value)
    difference = rows[("bioatt / uniform", "right")]["psnr_db"]["difference"]
    assert difference["mean"] == pytest.approx(by_hand["bioatt / uniform"] - by_hand["redcnn"])
    assert difference["n"] == 1 and difference["interval_95"] is None


def test_all_arms_share_data_and_the_patient_left_out_only_tests(finished):
    splits = [json.loads(path.read_text()) for path in (finished / "work").glob("*/split.json")]
    assert len(splits) == 6 and all(split == splits[0] for split in splits)
    test = set(splits[0]["test"])
    assert len(test) == 1 and not test & (set(splits[0]["train"]) | set(splits[0]["validate"]))
    low = {
        one["figures"]["right"][patient]["low"]["psnr_db"]
        for one in (json.loads(path.read_text()) for path in (finished / "runs").glob("*.json"))
        for patient in test
        if one["seed"] == 0
    }
    assert len(low) == 1, "the same seed, the same low dose for all networks"


def test_a_finished_matrix_trains_nothing_again(dataset, finished, monkeypatch):
    monkeypatch.setattr(ablation, "run_workflow", lambda *_: pytest.fail("a finished run was done again"))
    before = {path: path.read_bytes() for path in (finished / "runs").glob("*.json")}
    assert main(words(dataset, finished, "--set", *SMALL)) == 0
    assert before == {path: path.read_bytes() for path in (finished / "runs").glob("*.json")}


def test_an_interrupted_matrix_goes_on_with_what_is_missing(dataset, tmp_path, monkeypatch):
    started, run = [], ablation.run_workflow

    def stop_at_third(run_id, *rest):
        started.append(run_id)
        if started.count("training") == 3:
            raise KeyboardInterrupt
        run(run_id, *rest)

    monkeypatch.setattr(ablation, "run_workflow", stop_at_third)
    few = words(dataset, tmp_path / "out", "--set", *SMALL, networks="redcnn,spatial,channel", seeds=1)
    assert main(few) == 130
    assert len(list((tmp_path / "out" / "runs").glob("*.json"))) == 2
    assert main(few) == 0
    assert started.count("training") == 4
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["finished_runs"] == 3


def test_another_budget_is_not_mixed_in(dataset, finished, capsys):
    other = [one if "max_epochs" not in one else "train#trainer#max_epochs=3" for one in SMALL]
    assert main(words(dataset, finished, "--set", *other)) == 2
    assert "holds runs with other settings" in capsys.readouterr().err.splitlines()[-1]


def test_a_damaged_record_is_named(dataset, finished, capsys):
    path = sorted((finished / "runs").glob("*.json"))[0]
    kept = path.read_text()
    path.write_text(kept[: len(kept) // 2])
    try:
        assert main(words(dataset, finished, "--set", *SMALL)) == 2
        assert f"run {path} cannot be read" in capsys.readouterr().err.splitlines()[-1]
    finally:
        path.write_text(kept)


def test_priors_matter_only_to_prior_attention():
    arms = plan(["redcnn", "bioatt"], ["compact", "uniform"], 2, ["P-1", "P-2"])
    assert len(arms) == 2 * 2 * (1 + 2)
    assert {arm.prior for arm in arms if arm.network == "redcnn"} == {"uniform"}
    assert {arm.name for arm in arms} == {"redcnn", "bioatt / compact", "bioatt / uniform"}


@pytest.mark.parametrize(
    ("networks", "priors", "seeds", "message"),
    [
        (["unet"], ["uniform"], 1, "unet is unknown"),
        (["redcnn"], [], 1, "needs"),
        (["redcnn"], ["uniform"], 0, "needs"),
    ],
)
def test_a_matrix_of_nothing_is_refused(networks, priors, seeds, message):
    with pytest.raises(BioAttError, match=message):
        plan(networks, priors, seeds, ["P-1"])


def item(patient, region, number, prior):
    pair = CachedPair(
        path=Path("none.npz"),
        priors=np.array([prior], dtype=np.float32),
        patient=patient,
        key=SliceKey(number, f"1.2.{number}"),
        uid=f"1.2.{number}",
        region=region,
    )
    return {"pair": pair, "patient": patient, "region": region, "uid": pair.uid}


def test_swapped_priors_come_from_another_patient_and_region():
    pairs = [item("P-1", "chest", i, [1.0, 0.0]) for i in range(5)]
    others = [
        item("P-1", "head", 10, [0.5, 0.5]),
        item("P-2", "chest", 11, [0.9, 0.1]),
        item("P-2", "head", 12, [0.0, 1.0]),
    ]
    swapped = swap_priors(pairs, others)
    assert all(one["pair"].priors.tolist() == [[0.0, 1.0]] for one in swapped)
    assert [dataclasses.replace(one["pair"], priors=None) for one in swapped] == [
        dataclasses.replace(one["pair"], priors=None) for one in pairs
    ]
    only_chest = swap_priors(pairs, others[1:2])
    assert np.allclose(only_chest[0]["pair"].priors, [[0.9, 0.1]])
    with pytest.raises(BioAttError, match="no other patient"):
        swap_priors(pairs, others[:1])


def test_an_arm_is_told_by_network_and_prior():
    assert Arm(network="spatial", prior="uniform", seed=0, left_out="P-1").name == "spatial"
