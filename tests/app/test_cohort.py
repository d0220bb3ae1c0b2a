"""A list of series: shared by processes, each done once, one bad series stops none, a killed run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from made_studies import as_nifti, save_with_recipe
from scripts import cohort
from scripts.app.command_line import main
from scripts.benchmark.workflows import default_network
from scripts.cohort import STATE_FOLDER, read_list
from scripts.dicom.phantom import write_ct_series
from scripts.errors import BioAttError
from scripts.volumes import load_volume

OPTIONS = ("--prior", "uniform", "--quiet")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "w.pt"
    return save_with_recipe(default_network(), file)


@pytest.fixture
def study(tmp_path):
    """Two DICOM series, a NIfTI file and an input that does not exist, with a list of them."""
    for seed in (1, 2):
        write_ct_series(tmp_path / f"series{seed}", slices=3, seed=seed)
    as_nifti(tmp_path / "series1", tmp_path / "volume.nii.gz")
    (tmp_path / "list.txt").write_text("series1\n\n# lost on the way\nmissing\nvolume.nii.gz\nseries2\n")
    return tmp_path


def command(study, weights, *words):
    return [
        "denoise",
        "--cohort",
        str(study / "list.txt"),
        str(study / "out"),
        "--weights",
        str(weights),
        *OPTIONS,
        *words,
    ]


def start(study, weights, *words, rank=0, world_size=1):
    """`bioatt denoise --cohort` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.app.command_line", *command(study, weights, *words)],
        cwd=os.path.dirname(os.path.dirname(cohort.__file__)),
        env=os.environ | {"RANK": str(rank), "WORLD_SIZE": str(world_size), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def results(study):
    return {path.name for path in (study / "out").iterdir() if not path.name.startswith(".")}


def test_a_bad_series_is_told_at_the_end_and_stops_no_other(study, weights, capsys):
    assert main(command(study, weights)) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "3 of 4 series done (0 of them before), 1 failed"
    assert told[-2].startswith(f"failed  {study / 'missing'}: input") and "does not exist" in told[-2]
    assert results(study) == {"series1", "series2", "volume"}
    assert len(load_volume(study / "out" / "series2").sop_instance_uids) == 3


def test_series_of_one_folder_are_named_in_a_column(study, weights, capsys):
    write_ct_series(study / "study" / "a", slices=2, seed=1)
    write_ct_series(study / "study" / "b", slices=3, seed=2, modify=lambda image, _: setattr(image, "SeriesNumber", 7))
    lines = ["input,output,series", "study,three,3", "study,seven,7", "study,nine,9", "study,none,"]
    (study / "list.csv").write_text("\n".join(lines))
    words = ["denoise", "--cohort", str(study / "list.csv"), str(study / "out"), "--weights", str(weights), *OPTIONS]
    assert main(words) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "2 of 4 series done (0 of them before), 2 failed"
    assert "study, series 9: " in told[-3] and "no CT series 9" in told[-3] and "holds 2 CT series" in told[-2]
    counts = [len(load_volume(study / "out" / name).sop_instance_uids) for name in ("three", "seven")]
    assert counts == [2, 3]


def test_results_are_those_of_single_runs(study, weights):
    main(command(study, weights))
    for source, result in (("series2", "series2"), ("volume.nii.gz", "volume")):
        words = ["denoise", str(study / source), str(study / "single" / result), "--weights", str(weights), *OPTIONS]
        assert main(words) == 0
    for result in ("series2", "volume/volume.nii.gz"):
        together, single = (load_volume(study / place / result).hu for place in ("out", "single"))
        assert (together == single).all()


def test_network_and_prior_are_loaded_once(study, weights, monkeypatch):
    from scripts import networks, priors

    calls = []
    for module, name in ((networks, "load_weights"), (priors, "make_prior")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, real=real, name=name, **k: calls.append(name) or real(*a, **k))
    main(command(study, weights))
    assert sorted(calls) == ["load_weights", "make_prior"]


def test_resume_leaves_out_what_is_finished_and_tries_failures_again(study, weights, capsys):
    assert main(command(study, weights)) == 1
    stamps = {name: (study / "out" / name).stat().st_mtime_ns for name in results(study)}
    write_ct_series(study / "missing", slices=2, seed=3)
    assert main(command(study, weights)) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert main(command(study, weights, "--resume")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 of 4 series done (3 of them before), 0 failed"
    assert {name: (study / "out" / name).stat().st_mtime_ns for name in stamps} == stamps


def test_two_processes_share_a_list_and_do_each_series_once(study, weights):
    for seed in range(3, 9):
        write_ct_series(study / f"series{seed}", slices=3, seed=seed)
        with open(study / "list.txt", "a") as file:
            file.write(f"series{seed}\n")
    running = [start(study, weights, rank=rank, world_size=2) for rank in range(2)]
    told = [one.communicate(timeout=300)[0] for one in running]
    assert [one.returncode for one in running] == [1, 1]
    assert results(study) == {"volume", *(f"series{seed}" for seed in range(1, 9))}
    for text in told:  # both wait for the end and tell of it all
        assert "9 of 10 series done" in text and text.count("failed  ") == 1
    done = [text.count("per slice)") for text in told]  # summaries of the workflow
    assert sum(done) == 9, told


def test_results_of_a_process_that_loaded_faster_are_no_old_results(study, weights, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(cohort, "LOADED_AT", time.time() - 60)
    old = study / "out" / "series1"
    old.mkdir(parents=True)
    assert main(command(study, weights)) == 1 and "3 of 4 series done (1 of them before)" in capsys.readouterr().out
    os.utime(old, (time.time() - 120,) * 2)
    assert main(command(study, weights)) == 2 and "go on with --resume" in capsys.readouterr().err


def test_a_killed_run_leaves_nothing_half_and_goes_on(study, weights):
    write_ct_series(study / "series2", slices=40, seed=2)
    (study / "list.txt").write_text("series1\nseries2\n")
    running = start(study, weights)
    deadline = time.monotonic() + 240
    while not list((study / "out").glob(f"{STATE_FOLDER}/series2.lock")) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert results(study) == {"series1"}
    (study / "out" / ".series2.partial-left").mkdir()  # as one that is killed while it writes
    stamp = (study / "out" / "series1").stat().st_mtime_ns
    write_ct_series(study / "series2", slices=3, seed=2, name="{:04d}.dcm")
    for file in sorted((study / "series2").iterdir())[3:]:
        file.unlink()
    assert main(command(study, weights, "--resume")) == 0
    assert results(study) == {"series1", "series2"}
    assert (study / "out" / "series1").stat().st_mtime_ns == stamp
    assert not (study / "out" / ".series2.partial-left").exists()


def test_a_csv_names_the_results(study, weights, capsys):
    (study / "list.csv").write_text("input,output\nseries1,a/first\nvolume.nii.gz,b\n")
    words = command(study, weights)
    words[2] = str(study / "list.csv")
    assert main(words) == 0
    assert (study / "out" / "a" / "first" / "0001.dcm").is_file() and (study / "out" / "b" / "volume.nii.gz").is_file()


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("list.txt", "", "names no series"),
        ("list.txt", "a/scan\nb/scan.nii.gz\n", "would have their results at one place"),
        ("list.csv", "input,output\na,x\nb,x/y\n", "would have their results at one place"),
        ("list.csv", "input,output\na,../x\n", "wanted a folder in"),
        ("list.csv", "input,output\na,\n", "wanted a folder in"),
        ("list.csv", "path\na\n", "must have the columns input and output"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(tmp_path, name, text, what):
    (tmp_path / name).write_text(text)
    with pytest.raises(BioAttError, match=what):
        read_list(tmp_path / name, tmp_path / "out")


def test_columns_may_be_parted_by_semicolons(tmp_path):
    (tmp_path / "list.csv").write_text("input;output;series\na/scan;x;2\n")
    (job,) = read_list(tmp_path / "list.csv", tmp_path / "out")
    assert (job.source.name, job.target.name, job.series) == ("scan", "x", "2")


def test_what_is_left_of_a_result_is_found_by_its_name_not_by_a_pattern(tmp_path):
    (tmp_path / "list.csv").write_text("input,output\na,A[1]\nb,A1\n")
    first, other = read_list(tmp_path / "list.csv", tmp_path / "out")
    (tmp_path / "out" / ".bioatt").mkdir(parents=True, exist_ok=True)
    own, live = (job.target.parent / f".{job.target.name}.partial-x" for job in (first, other))
    own.mkdir()
    live.mkdir()
    cohort._do(first, lambda job: None)
    assert live.exists() and not own.exists()


def test_a_list_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(BioAttError, match="cannot be read"):
        read_list(tmp_path / "none.txt", tmp_path / "out")


def test_overwrite_and_a_lone_resume_are_refused(study, weights, capsys):
    assert main(command(study, weights, "--overwrite")) == 2
    assert "not overwritten" in capsys.readouterr().err
    assert main(["denoise", str(study / "series1"), str(study / "out"), "--resume"]) == 2
    assert "together with --cohort" in capsys.readouterr().err
