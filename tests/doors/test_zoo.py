"""The bundle meets the rules of MONAI's model zoo: names, files, metadata, properties, network in and out, exports."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from made_studies import write_patients
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, onnx_export, verify_metadata, verify_net_in_out
from scripts.hu import hu_to_network
from scripts.networks import load_weights
from scripts.networks.export import load_exported

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "release"))

NAME = "ct_low_dose_denoising_bioatt"
PERSONAL_PATH = re.compile(rb"/home/\w|/Users/\w|/root/|/mnt/|[A-Z]:\\\\?Users")
NECESSARY = ["LICENSE", "configs/metadata.json"]
PREFERRED = ["configs/inference.json", "models/model.pt"]
CARD_SECTIONS = [
    "# Model Overview",
    "## Data",
    "## Training configuration",
    "### Input",
    "### Output",
    "## Performance",
    "## MONAI Bundle Commands",
    "## Limitations",
    "# References",
    "# License",
]


def files_of(bundle):
    """The bundle's files; Python's caches are not part of it."""
    return sorted(path for path in bundle.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def read(bundle, name="metadata.json"):
    return json.loads((bundle / "configs" / name).read_text())


def network_of(bundle, config="inference.json"):
    """The network that a config describes, untrained."""
    parser = ConfigParser({"bundle_root": str(bundle)})
    parser.update(ConfigParser.load_config_file(bundle / "configs" / config))
    parser["bundle_root"] = str(bundle)
    return parser.get_parsed_content("network_def").eval()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working directory that is not the bundle's: the zoo runs from its own root."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def verified(bundle_root):
    """What the zoo gives to the verify and export commands."""
    return {
        "net_id": "network_def",
        "meta_file": str(bundle_root / "configs" / "metadata.json"),
        "config_file": str(bundle_root / "configs" / "inference.json"),
        "bundle_root": str(bundle_root),
    }


# Files


@pytest.mark.parametrize("file", [*NECESSARY, *PREFERRED, "docs/README.md", "docs/data_license.txt"])
def test_a_necessary_or_preferred_file_is_there(bundle_root, file):
    assert (bundle_root / file).stat().st_size > 0


def test_nothing_made_by_a_run_is_left(bundle_root):
    for file in files_of(bundle_root):
        place = file.relative_to(bundle_root)
        assert not place.name.startswith("."), place
        assert place.name == "py.typed" or place.parts[0] in {
            *("LICENSE", "__init__.py", "__main__.py"),
            *("configs", "docs", "models", "scripts"),
        }, place
        assert file.suffix not in {".ts", ".onnx", ".ipynb", ".pyc", ".zip", ".dcm", ".gz", ".log"}, place
    assert not list(bundle_root.glob("large_files.*"))


def test_no_file_holds_a_personal_path(bundle_root):
    binary = {".pt", ".safetensors"}
    found = [file for file in files_of(bundle_root) if file.suffix not in binary]
    assert len(found) > 50
    assert [file for file in found if PERSONAL_PATH.search(file.read_bytes())] == []
    assert PERSONAL_PATH.search(b'"dataset_dir": "/home/someone/data"')


def test_text_files_end_in_one_newline_and_no_line_in_blanks(bundle_root):
    for file in files_of(bundle_root):
        if file.parent.name != "prior" and file.suffix in {".py", ".json", ".md", ".txt", ".conf"}:
            text = file.read_text(encoding="utf-8")
            assert text == "" or (text.endswith("\n") and not text.endswith("\n\n")), file
            assert "\r" not in text and not re.search(r"[ \t]\n", text), file


# Metadata


def test_the_name_is_the_folders_name_in_the_zoo(bundle_root):
    assert read(bundle_root)["name"] == NAME
    assert not {"detection", "deepedit", "deepgrow", "classification"} & set(NAME.split("_")), "MONAI Label reads names"


def test_the_version_is_the_newest_of_the_changelog(bundle_root):
    metadata = read(bundle_root)
    versions = [tuple(int(part) for part in version.split(".")) for version in metadata["changelog"]]
    assert all(len(version) == 3 for version in versions)
    assert versions == sorted(versions, reverse=True)
    assert metadata["version"] == next(iter(metadata["changelog"]))
    assert all(len(text) > 10 for text in metadata["changelog"].values())


@pytest.mark.parametrize(
    "key", ["authors", "copyright", "data_source", "intended_use", "references", "task", "description", "eval_metrics"]
)
def test_a_field_that_readers_ask_for_is_filled(bundle_root, key):
    assert len(str(read(bundle_root)[key])) > 15


def test_every_data_source_has_its_licence(bundle_root):
    licence = (bundle_root / "docs" / "data_license.txt").read_text()
    listed = read(bundle_root)["data_source"].split(": ", 1)[1].split("; licences")[0]
    named = re.split(r", | and ", re.sub(r" of The Cancer Imaging Archive \(\S+\)", "", listed))
    entries = {entry.split(" (")[0].split("\n")[0]: entry for entry in licence.split("\n\n")[1:]}
    trained = {
        name for name, entry in entries.items() if not re.search(r"^    (Both h|H)eld out\.", entry, re.MULTILINE)
    }
    found = {name: next((title for title in entries if name in title), None) for name in named}
    assert set(found.values()) == trained
    for name, title in found.items():
        assert re.search(r"CC BY \d\.\d|MIT|courtesy", entries[title]), name
        assert re.search(r"https://", entries[title]), name


def test_packages_that_the_code_imports_are_required_in_tested_versions(bundle_root):
    metadata = read(bundle_root)
    declared = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
        **metadata["required_packages_version"],
    }
    tested = dict(
        line.split("==")
        for line in (bundle_root.parent / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    assert {name: tested.get(name) for name in declared} == declared
    imported = {
        name.split(".")[0]
        for file in bundle_root.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if not node.level
            else []
        )
    }
    distributions = importlib.metadata.packages_distributions()
    # Used where a user has installed them, else named in an error; the wheel requires those of the node and of cohorts.
    extras = {"SimpleITK", "onnxruntime", "onnxscript", "ldctbench", "bm3d", "pynetdicom", "dask", "distributed"}
    foreign = imported - set(sys.stdlib_module_names) - extras
    missing = {name for name in foreign if not set(distributions.get(name, [name])) & set(declared)}
    assert missing == set()


@pytest.mark.data
def test_metadata_is_valid_for_monai_against_the_schema_it_names(bundle_root, data_dir, tmp_path, monkeypatch):
    import urllib.request

    def refuse(*words, **options):
        raise AssertionError("the schema was downloaded, not taken from the file")

    monkeypatch.setattr(urllib.request, "urlretrieve", refuse)
    file = bundle_root / "configs" / "metadata.json"
    schema = tmp_path / "schema.json"
    shutil.copy(data_dir / "schemas" / read(bundle_root)["schema"].rsplit("/", 1)[1], schema)
    verify_metadata(meta_file=str(file), filepath=str(schema))
    broken = read(bundle_root)
    del broken["network_data_format"]["outputs"]
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "broken.json"), filepath=str(schema))


# Properties


@pytest.mark.parametrize(
    ("configs", "kind", "run_id"),
    [
        ("inference.json", "inference", "inference"),
        ("train.json", "train", "training"),
        ("train.json,paper.json", "train", "training"),
        ("train.json,resume.json", "train", "training"),
        ("train.json,shipped.json,network_redcnn32.json", "train", "training"),
        ("train.json,evaluate.json", "train", "evaluation"),  # the zoo checks an override of train.json as training
    ],
)
def test_no_property_is_missing_or_misnamed(bundle_root, elsewhere, configs, kind, run_id):
    paper = "paper" in configs  # whose split is within each patient
    data = write_patients(elsewhere / "data", "ABC", slices=5 if paper else 1)
    if "shipped" in configs:
        (data / "ct").mkdir()
        (data / "ct_patients").mkdir()
        for name, folder in zip("ABC", ("ct", "ct", "ct_patients"), strict=True):
            (data / name).rename(data / folder / name)
    overrides = {"dataset_dir": str(data), "output_dir": str(elsewhere / "out"), "prior": "uniform"}
    if kind == "train":
        overrides |= {"views": 30}
        if not paper:
            overrides |= {"train_patients": ["A"], "validation_patients": ["B"], "test_patients": ["C"]}
    else:
        overrides["dataset_dir"] = str(data / "A")
    workflow = ConfigWorkflow(
        [str(bundle_root / "configs" / name) for name in configs.split(",")],
        meta_file=str(bundle_root / "configs" / "metadata.json"),
        logging_file=str(bundle_root / "configs" / "logging.conf"),
        workflow_type=kind,
        run_id=run_id,
        bundle_root=str(bundle_root),
        **overrides,
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_configs_have_the_keys_that_the_zoo_asks_for(bundle_root):
    parser = ConfigParser(read(bundle_root, "train.json"))
    for key in (
        *("bundle_root", "device", "dataset_dir", "output_dir", "network_def", "val_interval"),
        *("train#trainer", "train#trainer#max_epochs", "train#dataset", "train#dataset#data", "train#handlers"),
        *("train#dataloader", "train#inferer", "validate#preprocessing", "validate#postprocessing"),
        *("validate#evaluator", "validate#handlers", "validate#dataset", "validate#dataset#data", "validate#inferer"),
    ):
        assert key in parser, key
    (validation,) = [one for one in parser["train#handlers"] if one["_target_"] == "ValidationHandler"]
    assert validation["interval"] == "@val_interval"
    inference = read(bundle_root, "inference.json")
    assert {"bundle_root", "device", "dataset_dir", "output_dir", "network_def", "inferer"} <= inference.keys()


def test_configs_name_no_folder_of_a_machine_and_no_weights_but_the_bundles(bundle_root):
    for file in sorted((bundle_root / "configs").glob("*.json")):
        config = json.loads(file.read_text())
        assert config.get("bundle_root", ".") == ".", file.name
        assert config.get("dataset_dir", "") == "", file.name
        assert "weights" not in config or config["weights"].startswith("$@bundle_root + '/models/"), file.name


# Network and weights


@pytest.mark.parametrize("side", [1, 45, 64])
def test_network_takes_and_gives_what_the_metadata_says(verified, elsewhere, side):
    verify_net_in_out(**verified, device="cpu", any=side)


def test_the_check_of_the_network_can_fail(verified, elsewhere):
    with pytest.raises(ValueError, match="output channel number"):
        verify_net_in_out(**verified, device="cpu", **{"_meta_#network_data_format#outputs#pred#num_channels": 2})


def test_every_weights_file_loads_strictly_into_the_network_of_its_config(bundle_root):
    files = sorted((bundle_root / "models").glob("*.pt"))
    configs = {"model.pt": "inference.json"}
    for file in files:
        state = torch.load(file, weights_only=True)
        assert all(isinstance(value, torch.Tensor) for value in state.values()), file.name
        network = network_of(bundle_root, configs.get(file.name, f"network_{file.stem}.json"))
        network.load_state_dict(state, strict=True)
    assert "model.pt" in [file.name for file in files]


def test_monai_exports_the_weights_as_torchscript(bundle_root, verified, elsewhere):
    ckpt_export(filepath=str(elsewhere / "model.ts"), ckpt_file=str(bundle_root / "models" / "model.pt"), **verified)
    extra = {"metadata.json": "", "inference.json": ""}
    exported = torch.jit.load(elsewhere / "model.ts", _extra_files=extra)
    assert json.loads(extra["metadata.json"])["version"] == read(bundle_root)["version"]
    assert json.loads(extra["inference.json"]) == read(bundle_root, "inference.json")
    network = load_weights(network_of(bundle_root), bundle_root / "models" / "model.pt")
    for image, prior in examples((33, 40), (64, 64)):
        with torch.inference_mode():
            torch.testing.assert_close(exported(image, prior), network(image, prior), atol=1e-4, rtol=0)
            torch.testing.assert_close(exported(image), network(image), atol=1e-4, rtol=0)


def test_monai_exports_the_weights_as_onnx(bundle_root, verified, elsewhere):
    side = 64
    onnx_export(
        filepath=str(elsewhere / "model.onnx"),
        ckpt_file=str(bundle_root / "models" / "model.pt"),
        input_shape=[1, 1, side, side],
        **verified,
    )
    import onnxruntime

    session = onnxruntime.InferenceSession(elsewhere / "model.onnx", providers=["CPUExecutionProvider"])
    network = load_weights(network_of(bundle_root), bundle_root / "models" / "model.pt")
    ((image, _),) = examples((side, side))
    (got,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(got), network(image), atol=1e-4, rtol=0)


def test_our_own_export_takes_the_prior_that_monais_leaves_out(bundle_root, elsewhere):
    from scripts.app.command_line import main

    assert main(["export", "model.onnx"]) == 0
    run = load_exported("model.onnx")
    network = load_weights(network_of(bundle_root), bundle_root / "models" / "model.pt")
    ((image, prior),) = examples((40, 33))
    with torch.inference_mode():
        torch.testing.assert_close(run(image, prior), network(image, prior), atol=1e-4, rtol=0)
        assert (network(image, prior) - network(image)).abs().max() > 1e-3


def examples(*shapes):
    """Noisy soft tissue (1, 1, H, W) in network range and a prior (1, 11) far from uniform, for each shape."""
    for shape in shapes:
        generator = torch.Generator().manual_seed(sum(shape))
        image = hu_to_network(40 + 30 * torch.randn(1, 1, *shape, generator=generator))
        yield image, torch.rand(1, 11, generator=generator).mul(6).softmax(dim=1)


# Model card


def test_the_model_card_has_the_zoos_sections_in_order(bundle_root):
    lines = (bundle_root / "docs" / "README.md").read_text().splitlines()
    headings = [line for line in lines if line.startswith("#")]
    assert [heading for heading in headings if heading in CARD_SECTIONS] == CARD_SECTIONS
    assert headings[0] == CARD_SECTIONS[0]


def test_the_model_card_shows_every_command_of_the_zoo(bundle_root):
    card = (bundle_root / "docs" / "README.md").read_text()
    for config in ("train.json", "multi_gpu_train.json", "evaluate.json", "inference.json"):
        assert re.search(rf"monai\.bundle run .*{re.escape(config)}", card), config
    assert "ckpt_export" in card and "not for diagnosis" in card


def test_the_model_card_counts_the_networks_parameters(bundle_root):
    count = sum(parameter.numel() for parameter in network_of(bundle_root).parameters())
    assert f"{count:,} parameters" in (bundle_root / "docs" / "README.md").read_text()


# What `make zoo` makes


@pytest.fixture(scope="module")
def made(bundle_root, tmp_path_factory):
    """The folder of `make zoo`; its large files are fetched from the bundle itself."""
    from make_zoo import make_zoo

    folder = tmp_path_factory.mktemp("made")
    make_zoo(bundle_root, folder, bundle_root.as_uri())
    return folder


def data_of(folder):
    """Bytes of each file by its path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_of(folder)}


@pytest.mark.parametrize(
    ("hook", "options", "kinds"),
    [
        ("check_added_large_files", ["--maxkb=1024", "--enforce-all"], ""),
        ("pretty_format_json", ["--no-sort-keys", "--indent=4"], ".json"),
        ("check_yaml", [], ".yml"),
        ("check_docstring_first", [], ".py"),
        ("check_case_conflict", [], ""),
        ("detect_private_key", [], ""),
        ("mixed_line_ending", [], ""),
        ("end_of_file_fixer", [], ""),
        ("trailing_whitespace_fixer", [], ""),
    ],
)
def test_the_zoos_hooks_find_nothing_in_what_is_made_for_it(made, monkeypatch, capsys, hook, options, kinds):
    monkeypatch.chdir(made / "models")
    subprocess.run(["git", "init", "--quiet"], check=True)
    files = [str(file) for file in files_of(made / "models" / NAME) if file.suffix == kinds or not kinds]
    assert files and importlib.import_module(f"pre_commit_hooks.{hook}").main([*options, *files]) == 0, (
        capsys.readouterr()
    )


def test_the_hook_of_large_files_would_find_the_weights(made, bundle_root, monkeypatch, tmp_path, capsys):
    from pre_commit_hooks.check_added_large_files import main

    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    shutil.copy(bundle_root / "models" / "model.pt", "model.pt")
    assert main(["--maxkb=1024", "--enforce-all", "model.pt"]) == 1
    shutil.copy(made / "hub" / NAME / ".gitattributes", ".gitattributes")
    assert main(["--maxkb=1024", "--enforce-all", "model.pt"]) == 0  # git-lfs takes it


def test_the_zoo_fetches_what_its_folder_leaves_out(made, bundle_root):
    from monai.apps.utils import download_url

    folder = made / "models" / NAME
    listed = ConfigParser.load_config_file(folder / "large_files.yml")["large_files"]
    left_out = data_of(bundle_root).keys() - data_of(folder).keys()
    assert (
        {one["path"] for one in listed} == left_out == {"models/model.pt", "models/prior/open_clip_model.safetensors"}
    )
    for one in listed:
        target = made / "fetched" / one.pop("path")
        download_url(
            **one, filepath=target, progress=False, fuzzy=True
        )  # as the zoo's ci/utils.py does; checks the hash
        assert target.read_bytes() == (bundle_root / target.relative_to(made / "fetched")).read_bytes()


def test_json_says_the_same_in_the_zoos_form(made, bundle_root):
    files = data_of(made / "hub" / NAME)
    for path, data in data_of(bundle_root).items():
        assert files[path] == data or path.endswith(".json") and json.loads(files[path]) == json.loads(data), path


def test_the_hubs_readme_begins_with_its_card(made, bundle_root):
    folder = made / "hub" / NAME
    _, card, text = (folder / "README.md").read_text().split("---\n", 2)
    assert text == (bundle_root / "docs" / "README.md").read_text()
    (made / "card.yml").write_text(card)
    card = ConfigParser.load_config_file(made / "card.yml")
    assert card == {"tags": ["monai", "medical"], "library_name": "monai", "license": "apache-2.0"}
    assert (folder / ".gitattributes").read_text().startswith("*.pt filter=lfs")
    assert data_of(folder).keys() - data_of(bundle_root).keys() == {"README.md", ".gitattributes"}


def test_the_archive_is_the_same_each_time(made, bundle_root, tmp_path):
    from make_zoo import make_zoo

    *_, archive = make_zoo(bundle_root, tmp_path)
    assert archive.read_bytes() == (made / archive.name).read_bytes()
    assert archive.name == f"{NAME}_v{read(bundle_root)['version']}.zip"


@pytest.mark.slow
def test_the_bundle_loads_and_runs_as_monai_downloads_it(made, bundle_root, tmp_path):
    from phantom import write_ct_series
    from scripts.app.command_line import main
    from scripts.dicom import read_volume, select_series

    def python(*words):
        known = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=known, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    (archive,) = made.glob("*.zip")
    python("-m", "monai.bundle", "download", "--name", NAME, "--url", archive.as_uri(), "--bundle_dir", "got")
    assert data_of(tmp_path / "got" / NAME) == {
        path: data for path, data in data_of(made / "hub" / NAME).items() if path not in ("README.md", ".gitattributes")
    }
    card = (bundle_root / "docs" / "README.md").read_text()
    cell = re.search(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)[1].replace("DIR", "got")
    (tmp_path / "load.py").write_text(f"{cell}\nimport torch\ntorch.save(network.state_dict(), 'loaded.pt')\n")
    python("load.py")
    loaded = torch.load(tmp_path / "loaded.pt", weights_only=True)
    weights = torch.load(bundle_root / "models" / "model.pt", weights_only=True)
    assert loaded.keys() == weights.keys() and all(torch.equal(loaded[key], weights[key]) for key in weights)

    series = write_ct_series(tmp_path / "series", spacing=(1.0, 1.0), slices=2, noise_sd=30.0)
    root = tmp_path / "got" / NAME
    config = ["--config_file", root / "configs" / "inference.json", "--bundle_root", root]
    places = ["--dataset_dir", "series", "--output_dir", "by_monai"]
    python("-m", "monai.bundle", "run", "inference", *map(str, config), *places)
    assert main(["denoise", str(series), str(tmp_path / "by_command"), "--quiet"]) == 0
    by_monai, by_command = (read_volume(select_series(tmp_path / name)) for name in ("by_monai", "by_command"))
    assert (by_monai == by_command).all()
