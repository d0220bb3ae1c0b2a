"""`bioatt explain`: maps that lie where the slice lies, and the results of other priors, measured and drawn."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import torch
from dicom_cases import MARK, marked
from made_studies import save_network, save_with_recipe
from phantom import write_ct_series
from PIL import Image
from scripts.app.command_line import main
from scripts.networks import BioAtt
from scripts.report.explain import map_to_image
from scripts.volumes import load_volume, radiological_slices
from scripts.workflow import open_workflow

pytestmark = pytest.mark.filterwarnings("ignore:.*Invalid value for VR")
BLOCKS = ("attention0", "attention1", "attention2")
INDEX = 2


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / MARK
    return write_ct_series(folder, shape=(70, 90), spacing=(3.0, 3.0), slices=4, noise_sd=20.0, modify=marked)


def explain(source, target, weights, *words):
    index = () if "--slice" in words else ("--slice", str(INDEX))
    return main(["explain", str(source), str(target), "--weights", str(weights), *index, *words])


@pytest.fixture(scope="module")
def folder(series, weights, tmp_path_factory):
    target = tmp_path_factory.mktemp("explained") / "out"
    assert explain(series, target, weights, "--other", "lungs") == 0
    return target


@pytest.fixture(scope="module")
def record(folder):
    return json.loads((folder / "explain.json").read_text())


def image_of(folder, name):
    return nibabel.load(folder / f"{name}.nii.gz")


def test_everything_is_there_and_nothing_of_the_patient(folder, series):
    pictures = {f"{block}.png" for block in BLOCKS} | {"priors.png"}
    names = ("input", "denoised", "difference_uniform", "difference_other")
    images = {f"{name}.nii.gz" for name in (*BLOCKS, *(f"{block}_weighted" for block in BLOCKS), *names)}
    assert {path.name for path in folder.iterdir()} == pictures | images | {"explain.json"}
    for path in folder.iterdir():
        assert MARK.encode() not in path.read_bytes() and str(series).encode() not in path.read_bytes()
    for name in pictures:
        assert np.asarray(Image.open(folder / name).convert("L")).std() > 10


def test_priors_and_names_are_those_of_the_slice(record, series, tmp_path):
    assert main(["priors", str(series), str(tmp_path / "p.csv")]) == 0
    rows = [line.split(",")[-11:] for line in (tmp_path / "p.csv").read_text().splitlines()[1:]]
    right = dict(zip(rows[0], map(float, rows[1 + INDEX]), strict=True))
    assert record["priors"]["right"] == pytest.approx(right, abs=1e-5)
    assert record["priors"]["uniform"] == pytest.approx(dict.fromkeys(right, 1 / 11))
    assert record["priors"]["other"] == {word: float(word == "lungs") for word in right}
    assert record["sop_instance_uid"] == load_volume(series).series.slice_names[INDEX]


def test_the_result_is_that_of_denoise_and_the_figures_are_of_the_files(folder, record, series, weights, tmp_path):
    words = ["--weights", str(weights), "--quiet"]
    assert main(["denoise", str(series), str(tmp_path / "right"), *words]) == 0
    assert main(["denoise", str(series), str(tmp_path / "uniform"), *words, "--prior", "uniform"]) == 0
    right, uniform = (radiological_slices(tmp_path / name)[INDEX] for name in ("right", "uniform"))
    ours = image_of(folder, "denoised").get_fdata()[..., 0]
    change = image_of(folder, "difference_uniform").get_fdata()[..., 0]
    assert np.abs(ours - right).max() < 0.52 and np.abs(ours + change - uniform).max() < 0.52  # files hold whole HU
    for name in ("uniform", "other"):
        change, figures = image_of(folder, f"difference_{name}").get_fdata(), record["figures"][name]
        assert figures["rms_hu"] == pytest.approx(np.sqrt((change**2).mean()), rel=1e-4) and figures["rms_hu"] > 0.01
        assert figures["max_hu"] == pytest.approx(np.abs(change).max(), rel=1e-4)
    assert record["figures"]["right"]["rms_hu"] == 0.0


def test_the_maps_are_those_of_the_network(folder, record, series, weights):
    given = {"dataset_dir": str(series), "output_dir": str(folder) + "2", "weights": str(weights)}
    network = open_workflow("inference", ["inference.json"], given).parser.get_parsed_content("network")
    image = torch.from_numpy((radiological_slices(series)[INDEX] + 500) / 500)[None, None]
    prior = torch.tensor([list(record["priors"]["right"].values())])
    with torch.inference_mode():
        expected = network.attention_maps(image, prior)
    for block in BLOCKS:
        maps = image_of(folder, block).get_fdata()[:, :, 0]
        np.testing.assert_allclose(maps, expected[block][0].permute(1, 2, 0), atol=1e-4)
        total = image_of(folder, f"{block}_weighted").get_fdata()[..., 0]
        np.testing.assert_allclose(total, maps @ np.array(list(record["priors"]["right"].values())), atol=1e-4)


def test_slice_and_maps_lie_where_the_series_lies(folder, series):
    """The corners of each map, in mm, are those of the slice but for what was padded at its right and lower side."""
    whole, affine = load_volume(series), image_of(folder, "input").affine
    assert nibabel.aff2axcodes(affine) == ("P", "L", "S")
    point = affine @ [10, 20, 0, 1]
    column, row, index, _ = np.rint(np.linalg.solve(whole.affine, point)).astype(int)
    assert image_of(folder, "input").get_fdata()[10, 20, 0] == pytest.approx(whole.hu[column, row, index], abs=1e-3)
    assert index == INDEX
    for block, step in zip(BLOCKS, (2, 4, 8), strict=True):
        image = image_of(folder, block)
        first = image.affine @ [-0.5, -0.5, 0, 1]
        np.testing.assert_allclose(first, affine @ [-0.5, -0.5, 0, 1], atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(image.affine[:3, :2], axis=0), [3.0 * step] * 2, rtol=1e-6)
        assert image.shape == (-(-70 // 8) * 8 // step, -(-90 // 8) * 8 // step, 1, 11)


def test_the_margin_of_unpadded_convolutions_is_counted():
    np.testing.assert_allclose(map_to_image((1, 6)) @ [0, 0, 0, 1], [6, 6, 0, 1])
    np.testing.assert_allclose(map_to_image((4, 0)) @ [1, 0, 0, 1], [5.5, 1.5, 0, 1])


def test_the_papers_network_and_nifti_work_too(tmp_path, capsys):
    from made_studies import as_nifti

    save_network(tmp_path / "w.pt", channels=32)
    source = as_nifti(write_ct_series(tmp_path / "in", slices=2), tmp_path / "a.nii", axes=(2, 0, 1))
    words = ("--prior", "random:1", "--slice", "1")
    assert explain(source, tmp_path / "out", tmp_path / "w.pt", *words) == 0
    assert image_of(tmp_path / "out", "attention5").shape == (48 - 20, 64 - 20, 1, 11)
    record = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert record["other"] == min(record["priors"]["right"], key=record["priors"]["right"].get)
    out = capsys.readouterr().out
    assert f"{record['figures']['other']['rms_hu']:.2f}" in out and f"all on {record['other']}" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--slice", "4"), "there is no slice 4: the series has slices 0 to 3"),
        (("--slice", "-1"), "there is no slice -1"),
        (("--other", "hand"), "there is no descriptor 'hand'; choose one of skull"),
    ],
)
def test_what_is_not_there_is_refused_and_nothing_written(series, weights, tmp_path, capsys, words, message):
    assert explain(series, tmp_path / "out", weights, "--prior", "uniform", *words) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_existing_folder_is_refused_or_replaced_whole(series, weights, tmp_path, capsys, no_figures):
    assert explain(series, tmp_path / "out", weights, "--prior", "uniform") == 0
    assert explain(series, tmp_path / "out", weights, "--prior", "uniform") == 2
    assert "exists; name another one" in capsys.readouterr().err
    assert explain(series, tmp_path / "out", weights, "--prior", "uniform", "--overwrite") == 0
    (tmp_path / "out" / "old.txt").write_text("old")
    assert explain(series, tmp_path / "out", weights, "--prior", "uniform", "--overwrite") == 2
    assert (tmp_path / "out" / "old.txt").exists()


@pytest.mark.parametrize("attention", ["none", "channel", "spatial"])
def test_a_network_without_prior_attention_says_so(series, tmp_path, capsys, attention):
    save_with_recipe(BioAtt(channels=4, attention=attention), tmp_path / "w.pt")
    assert explain(series, tmp_path / "out", tmp_path / "w.pt", "--prior", "uniform") == 2
    assert "no prior attention to explain" in capsys.readouterr().err
