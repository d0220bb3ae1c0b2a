"""The wheel, as `make dist` builds it, works from any folder with what it requires and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scripts.app.demo import write_phantom
from scripts.dicom import read_volume, select_series

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "deploy" / "release"))
slow = pytest.mark.slow


def test_version_stands_the_same_in_every_place(bundle_root):
    metadata = json.loads((bundle_root / "configs" / "metadata.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert {metadata["version"], project["version"], cited[1]} == {metadata["version"]}
    assert f"## {metadata['version']}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_every_folder_of_code_is_a_package_of_the_wheel(bundle_root):
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {file.parent.relative_to(bundle_root).parts for file in bundle_root.rglob("*.py")}
    assert {".".join(("bioatt", *parts)) for parts in folders} <= set(packages)


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder of sdist and wheel; the wheel is built from what the sdist holds."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], check=True)
    return folder


@pytest.fixture(scope="module")
def environment(dist, tmp_path_factory):
    """Folder of the programs of an environment that holds the wheel, and of this one what the wheel requires."""
    from clean_environment import make_environment

    (wheel,) = dist.glob("*.whl")
    return make_environment(wheel, tmp_path_factory.mktemp("environment")).parent


def run(command, folder):
    """What a program prints that is started in `folder` and knows nothing of this process's paths."""
    known = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    known |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], cwd=folder, env=known, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def bundle_files(bundle_root):
    """What the bundle is made of; its licence goes where wheels have licences."""
    return {
        f"bioatt/{file.relative_to(bundle_root).as_posix()}"
        for file in bundle_root.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.name != "LICENSE"
    }


@slow
def test_the_wheel_holds_the_whole_bundle_weights_included(bundle_root, dist):
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
        weights = archive.read("bioatt/models/model.pt")
    assert held == bundle_files(bundle_root)
    assert weights == (bundle_root / "models" / "model.pt").read_bytes()
    assert len(licences) == 1


@slow
def test_the_sdist_holds_what_a_build_needs_and_no_tests(dist):
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "CHANGELOG.md"} <= names
    assert not [name for name in names if name.startswith(("tests", "deploy", "studies"))]


@slow
def test_every_module_can_be_imported_with_what_the_wheel_requires(environment, tmp_path):
    code = (
        "import importlib, pkgutil, bioatt\n"
        "from bioatt.scripts.app.entry import bundle_module\n"
        "scripts = bundle_module('errors') and importlib.import_module('scripts')\n"
        "names = [one.name for one in pkgutil.walk_packages(scripts.__path__, 'scripts.')]\n"
        "[importlib.import_module(name) for name in names]\n"
        "print(len(names), scripts.__file__)\n"
    )
    count, place = run([environment / "python", "-c", code], tmp_path).splitlines()[-1].split(" ", 1)
    assert int(count) > 100
    assert Path(place).is_relative_to(environment.parent)


@slow
def test_demo_runs_from_another_folder(environment, tmp_path):
    told = run([environment / "bioatt", "demo", "made"], tmp_path)
    psnr_db = {name: float(value) for name, value in re.findall(r"^(low dose|standard) +(\S+)", told, re.MULTILINE)}
    assert psnr_db["standard"] > psnr_db["low dose"] + 2
    assert len(list((tmp_path / "made" / "denoised").iterdir())) == 6


@slow
def test_python_function_and_command_give_the_pixels_of_this_code(environment, tmp_path):
    import bioatt

    write_phantom(tmp_path / "series", dose_fraction=0.25)
    wanted = read_volume(select_series(bioatt.denoise(tmp_path / "series", tmp_path / "wanted")))
    code = "import bioatt; print(bioatt.__file__, bioatt.denoise('series', 'by_python'))"
    place, made = run([environment / "python", "-c", code], tmp_path).split()
    assert Path(place).is_relative_to(environment.parent) and made == "by_python"
    run([environment / "bioatt", "denoise", "series", "by_command", "--quiet"], tmp_path)
    for name in ("by_python", "by_command"):
        assert np.array_equal(read_volume(select_series(tmp_path / name)), wanted)
