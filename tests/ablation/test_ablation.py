"""A small matrix, trained for real: the table, what is shared, going on after an interruption, mixed matrices."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from made_studies import write_patients
from scripts.ablation import run as ablation
from scripts.ablation.report import MEASURES, summarise, verdict
from scripts.ablation.run import Matrix, Run, plan, read_matrix, swap_priors
from scripts.app.command_line import main
from scripts.errors import BioAttError
from scripts.networks import weights_sha256
from scripts.priors import SliceKey
from scripts.training.pairs import CachedPair
from scripts.training.studies import pseudonym_of
from scripts.workflow import check_overrides

SMALL = [
    *("views=60", "network_def#widths=[4,6]", "patch_shape=[32,32]", "batch_size=4", "steps_per_epoch=10"),
    *("bf16=false", "train#trainer#max_epochs=2", "val_interval=2", "metrics=[\"psnr\",\"ssim\",\"rmse\"]"),
]  # fmt: skip


ATTENTION = {"redcnn": "none", "channel": "channel", "spatial": "spatial"}
ARMS = {name: {"network_def#attention": kind, "prior": "uniform"} for name, kind in ATTENTION.items()}
ARMS |= {f"bioatt / {prior}": {"network_def#attention": "prior", "prior": prior} for prior in ("uniform", "random:0")}


def words(dataset, out, *more, arms=("redcnn", "bioatt / uniform", "bioatt / random:0"), seeds=2):
    study = {"arms": {name: ARMS[name] for name in arms}, "baselines": [arms[0]], "settings": {}}
    file = dataset.parent / f"{'_'.join(arms).replace('/', '')}.json"
    file.write_text(json.dumps(study))
    return ["ablate", str(dataset), str(out), "--study", str(file), "--seeds", str(seeds), "--leave-out", "A", *more]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_patients(tmp_path_factory.mktemp("dataset"), "ABC", 2)


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """The output of a finished matrix: 2 networks, one with 2 priors, 2 seeds."""
    out = tmp_path_factory.mktemp("ablation") / "out"
    assert main(words(dataset, out, "--set", *SMALL)) == 0
    return out


def test_a_comparison_leaves_the_bundles_own_weights_alone(finished, bundle_root):
    for line in (bundle_root / "models" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert weights_sha256(bundle_root / "models" / name) == digest, name


def test_the_table_has_every_arm_and_the_low_dose(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["planned_runs"] == summary["finished_runs"] == 6
    found = [(row["arm"], row["test_prior"]) for row in summary["rows"]]
    assert found[0] == ("low dose", "right")
    assert set(found[1:]) == {("redcnn", "right")} | {
        (f"bioatt / {prior}", test) for prior in ("uniform", "random:0") for test in ablation.TEST_PRIORS
    }
    page = (finished / "README.md").read_text()
    assert "6 of 6 planned runs are in" in page and "| bioatt / random:0 | other region |" in page
    assert (finished / "README.png").read_bytes().startswith(b"\x89PNG")


def test_figures_are_means_over_seeds_and_differences_are_paired(finished):
    rows = {(r["arm"], r["test_prior"]): r for r in json.loads((finished / "summary.json").read_text())["rows"]}
    records = [json.loads(path.read_text()) for path in (finished / "runs").glob("*.json")]
    patient = records[0]["left_out"]
    by_hand = {
        name: np.mean([one["figures"]["right"][patient]["denoised"]["psnr_db"] for one in records if test(one)])
        for name, test in {
            "redcnn": lambda one: one["arm"] == "redcnn",
            "bioatt / uniform": lambda one: one["arm"] == "bioatt / uniform",
        }.items()
    }
    for name, value in by_hand.items():
        assert rows[(name, "right")]["psnr_db"]["mean"] == pytest.approx(value)
    assert rows[("redcnn", "right")]["differences"] == {}
    difference = rows[("bioatt / uniform", "right")]["differences"]["redcnn"]["psnr_db"]
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
        return run(run_id, *rest)

    monkeypatch.setattr(ablation, "run_workflow", stop_at_third)
    few = words(dataset, tmp_path / "out", "--set", *SMALL, arms=("redcnn", "spatial", "channel"), seeds=1)
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


def test_a_finished_run_tells_what_made_it(finished):
    records = [json.loads(path.read_text()) for path in sorted((finished / "runs").glob("*.json"))]
    named = {path.name.rsplit("_", 1)[0] for path in (finished / "runs").glob("*.json")}
    assert f"bioatt_uniform_{records[0]['left_out']}_seed1" in named
    for record in records:
        assert record["prior"]["digest"] and record["shared_settings"]["views"] == 60
        assert set(record["configs"]) == {"train.json", "evaluate.json"} and "torch" in record["versions"]
    by_arm = {record["arm"]: record["prior"]["name"] for record in records}
    assert by_arm["bioatt / random:0"] == "random:0" and by_arm["bioatt / uniform"] == "uniform"


def test_a_plan_has_every_arm_seed_and_patient():
    matrix = Matrix(arms=ARMS, baselines=["redcnn"], settings={})
    runs = plan(matrix, 2, ["P-1", "P-2"])
    assert len(runs) == 2 * 2 * len(ARMS) and {run.arm for run in runs[: len(ARMS)]} == set(ARMS)
    assert {run.has_prior for run in runs if run.arm == "redcnn"} == {False}


@pytest.mark.parametrize(("arms", "seeds"), [({}, 1), (ARMS, 0)])
def test_a_matrix_of_nothing_is_refused(arms, seeds):
    with pytest.raises(BioAttError, match="needs"):
        plan(Matrix(arms=arms, baselines=[], settings={}), seeds, ["P-1"])


def test_an_unknown_study_lists_the_known_ones(tmp_path):
    with pytest.raises(BioAttError, match="no study none; the bundle has .*priors"):
        read_matrix("none", {})
    odd = '{"arms": ["a"], "baselines": [], "settings": {}}'
    missing = '{"arms": {"a": {}}, "baselines": [], "settings": {}, "configs": ["none.json"]}'
    for text in ("[", "[]", '{"arms": {}}', '{"settings": {}, "colour": 1}', odd, missing):
        (tmp_path / "own.json").write_text(text)
        with pytest.raises(BioAttError, match="own.json is not a study"):
            read_matrix(str(tmp_path / "own.json"), {})


def test_the_study_of_priors_has_the_planned_arms_and_fits_the_configs(bundle_root):
    matrix = read_matrix("priors", {"views": 30})
    arms = {arm: dict(settings) for arm, settings in matrix.arms.items()}
    kinds = {settings["network_def#attention"] for settings in arms.values()}
    assert kinds == {"none", "channel", "spatial", "prior"}
    for wanted in ("uniform", "random:0", "compact"):
        assert any(settings["prior"] == wanted for settings in arms.values()), wanted
    assert any(settings.get("prior_form") == "dense" for settings in arms.values())
    assert any(settings.get("prior_temperature", 1) > 1 for settings in arms.values())
    assert set(matrix.baselines) < set(arms) and matrix.settings["views"] == 30
    for settings in (matrix.settings, *arms.values()):
        check_overrides(settings, [str(bundle_root / "configs" / "train.json")])


def test_the_study_of_the_paper_trains_its_recipe_with_a_patient_left_out(dataset, tmp_path, bundle_root):
    small = {"views": 60, "network_def#channels": 4, "patch_shape": [32, 32], "steps_per_epoch": 1}
    small |= {"train#trainer#max_epochs": 1, "slices_per_patient": 1, "validation_slices_per_patient": 1}
    matrix = read_matrix("paper", small)
    assert {arm["network_def#attention"] for arm in matrix.arms.values()} == {"none", "channel", "spatial", "prior"}
    assert {arm["prior"] for arm in matrix.arms.values()} == {"biomedclip", "uniform", "random:0"}
    for settings in (matrix.settings, *matrix.arms.values()):
        check_overrides(settings, [str(bundle_root / "configs" / name) for name in matrix.files])
    some = {name: matrix.arms[name] for name in ("RED-CNN", "BioAtt: uniform")}  # the others need a model hub
    matrix = dataclasses.replace(matrix, arms=some)
    ablation.run_ablation(str(dataset), tmp_path, matrix, seeds=1, left_out=["B"])
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*.json")]
    assert {record["arm"] for record in records} == set(some)
    for record in records:
        assert set(record["configs"]) == {"train.json", "paper.json", "evaluate.json"}
        assert list(record["figures"]["right"]) == [pseudonym_of("B")]


def test_settings_name_the_folder_and_the_patient_left_out(dataset, tmp_path, monkeypatch):
    seen = []

    def note(run_id, configs, overrides):
        seen.append(overrides)
        raise BioAttError("enough")

    monkeypatch.setattr(ablation, "run_workflow", note)
    matrix = Matrix(arms={"a": {"prior": "table:{out}/x/{left_out}.csv"}}, baselines=["a"], settings={"views": 9})
    with pytest.raises(BioAttError, match="enough"):
        ablation.run_ablation(str(dataset), tmp_path, matrix, seeds=1, left_out=["B"])
    assert seen[0]["prior"] == f"table:{tmp_path}/x/{pseudonym_of('B')}.csv" and seen[0]["views"] == 9
    assert seen[0]["test_patients"] == [pseudonym_of("B")]


def test_other_configs_stop_new_runs_but_not_the_page(dataset, finished, tmp_path, monkeypatch, capsys):
    kept = tmp_path / "out" / "runs"
    kept.mkdir(parents=True)
    for path in (finished / "runs").glob("*.json"):
        record = json.loads(path.read_text())
        record["configs"]["train.json"] = "0" * 64
        (kept / path.name).write_text(json.dumps(record))
    monkeypatch.setattr(ablation, "run_workflow", lambda *_: pytest.fail("a run was begun"))
    assert main(words(dataset, tmp_path / "out", "--set", *SMALL)) == 0
    assert main(words(dataset, tmp_path / "out", "--set", *SMALL, seeds=3)) == 2
    assert "holds runs with other configs" in capsys.readouterr().err.splitlines()[-1]


def record(arm, seed, left_out, psnr, test_prior="right"):
    """A finished run with one PSNR and its low dose's, 30 dB."""
    figures = {image: dict.fromkeys(MEASURES, value) for image, value in (("denoised", psnr), ("low", 30.0))}
    return {"arm": arm, "seed": seed, "left_out": left_out, "figures": {test_prior: {left_out: figures}}}


def test_differences_are_of_shared_runs_over_patients():
    records = [record("base", seed, patient, 31.0 + seed) for seed in range(2) for patient in "ABC"]
    gains = {"A": 0.1, "B": 0.2, "C": 0.3}
    records += [record("new", 0, patient, 31.0 + gain) for patient, gain in gains.items()]  # seed 1 is not in yet
    row = {one["arm"]: one for one in summarise(records, ["base"])["rows"]}["new"]
    difference = row["differences"]["base"]["psnr_db"]
    assert difference["mean"] == pytest.approx(0.2) and difference["patients"] == pytest.approx(gains)
    half = 4.302653 * 0.1 / 3**0.5  # Student's t, 2 degrees of freedom
    assert difference["interval_95"] == pytest.approx([0.2 - half, 0.2 + half])


def test_another_prior_at_test_is_compared_with_the_right_one():
    records = [record("a", 0, patient, 32.0) for patient in "ABC"]
    for one, loss in zip(records, (0.4, 0.5, 0.6), strict=True):
        worse = record("a", 0, one["left_out"], 32.0 - loss, "uniform")
        one["figures"] |= worse["figures"]
    rows = {(one["arm"], one["test_prior"]): one for one in summarise(records, [])["rows"]}
    assert rows[("a", "uniform")]["to_right"]["psnr_db"]["mean"] == pytest.approx(-0.5)
    assert rows[("a", "right")]["to_right"] == {} and rows[("low dose", "right")]["psnr_db"]["mean"] == 30.0


def test_the_verdict_is_undecided_where_the_interval_holds_zero():
    cases = {(0.1, 0.2): "better", (-0.2, -0.1): "worse", (-0.1, 0.2): "undecided"}
    assert {interval: verdict(interval) for interval in cases} == cases
    assert verdict(None) == "undecided"


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
    nowhere = ("spine", "lymph nodes")  # words that vote for no region
    swapped = swap_priors(pairs, others, nowhere)
    assert all(one["pair"].priors.tolist() == [[0.0, 1.0]] for one in swapped)
    assert [dataclasses.replace(one["pair"], priors=None) for one in swapped] == [
        dataclasses.replace(one["pair"], priors=None) for one in pairs
    ]
    only_chest = swap_priors(pairs, others[1:2], nowhere)
    assert np.allclose(only_chest[0]["pair"].priors, [[0.9, 0.1]])
    with pytest.raises(BioAttError, match="no other patient"):
        swap_priors(pairs, others[:1], nowhere)


def test_the_region_of_a_prior_counts_before_the_studys():
    pairs = [item("P-1", "chest", 0, [0.1, 0.9])]  # a slice of the liver in a study of the chest
    others = [item("P-2", "chest", 1, [0.2, 0.8]), item("P-2", "chest", 2, [0.7, 0.3])]
    swapped = swap_priors(pairs, others, ("lungs", "liver"))
    assert np.allclose(swapped[0]["pair"].priors, [[0.7, 0.3]])


def test_dense_priors_are_swapped_whole():
    dense = np.stack([np.full((4, 4), 0.9), np.full((4, 4), 0.1)]).astype(np.float32)
    pairs, others = [item("P-1", "chest", 0, dense)], [item("P-2", "abdomen", 1, dense[::-1])]
    assert np.array_equal(swap_priors(pairs, others, ("lungs", "liver"))[0]["pair"].priors, dense[None, ::-1])


def test_only_prior_attention_looks_at_a_prior():
    settings = {"network_def#attention": "spatial", "prior": "uniform"}
    assert not Run(arm="spatial", settings=settings, seed=0, left_out="P-1").has_prior
    assert Run(arm="default", settings={}, seed=0, left_out="P-1").has_prior
