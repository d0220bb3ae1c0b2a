"""A list of series: each done once, one bad series or dead worker stops none, a killed run goes on."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from made_studies import as_nifti, save_with_recipe
from phantom import write_ct_series
from scripts import cohort
from scripts.app.command_line import main
from scripts.benchmark.workflows import default_network
from scripts.cohort import Places, denoise_jobs, read_list, run, work
from scripts.errors import BioAttError
from scripts.volumes import load_volume

OPTIONS = ("--prior", "uniform", "--quiet")
BUNDLE = Path(cohort.__file__).parents[2]


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


def command(study, weights, *words, listed="list.txt"):
    places = ["--cohort", str(study / listed), str(study / "out"), "--weights", str(weights)]
    return ["denoise", *places, *OPTIONS, *words]


def start(words):
    """`bioatt` in a process of its own, and a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.app.command_line", *words],
        cwd=BUNDLE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job would ignore it
    )


def results(study):
    return {path.name for path in (study / "out").iterdir() if path.is_dir()}


def table(study):
    with open(study / "out" / "cohort.csv", newline="") as file:
        return {row["output"]: row for row in csv.DictReader(file)}


def wait_for(found, process=None):
    """What `found` returns, as soon as it is something."""
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline and (process is None or process.poll() is None):
        if one := found():
            return one
        time.sleep(0.02)
    raise AssertionError(f"waited in vain: {process and process.communicate()[0]}")


def test_a_bad_series_is_told_at_the_end_and_stops_no_other(study, weights, here, capsys):
    assert main(command(study, weights, "--scheduler", here)) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "3 of 4 series done (0 of them before), 1 failed"
    assert told[-3].startswith(f"failed  {study / 'missing'}: input") and "does not exist" in told[-3]
    assert results(study) == {"series1", "series2", "volume"}
    assert len(load_volume(study / "out" / "series2").series.slice_names) == 3


def test_the_table_has_a_row_for_each_series_in_the_list_s_order(study, weights, here):
    main(command(study, weights, "--scheduler", here))
    rows = table(study)
    assert list(rows) == ["series1", "missing", "volume", "series2"]
    assert [row["state"] for row in rows.values()] == ["done", "failed", "done", "done"]
    assert [row["slices"] for row in rows.values()] == ["3", "", "3", "3"]
    assert rows["volume"]["input"] == str(study / "volume.nii.gz")
    assert "does not exist" in rows["missing"]["message"]
    assert all(float(row["seconds"]) >= 0 for row in rows.values())


def test_what_is_warned_of_is_told_with_its_series(study, weights, here, capsys):
    main(command(study, weights, "--scheduler", here, "--anchor-mm", "1"))
    warned = [line for line in capsys.readouterr().err.splitlines() if "coarser than what an" in line]
    sources = [study / name for name in ("series1", "volume.nii.gz", "series2")]
    assert sorted(line.partition(": pixels")[0] for line in warned) == sorted(
        f"WARNING scripts.cohort.run: {source}" for source in sources
    )


def test_series_of_one_folder_are_named_in_a_column(study, weights, here, capsys):
    write_ct_series(study / "study" / "a", slices=2, seed=1)
    write_ct_series(study / "study" / "b", slices=3, seed=2, modify=lambda image, _: setattr(image, "SeriesNumber", 7))
    lines = ["input,output,series", "study,three,3", "study,seven,7", "study,nine,9", "study,none,"]
    (study / "list.csv").write_text("\n".join(lines))
    assert main(command(study, weights, "--scheduler", here, listed="list.csv")) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "2 of 4 series done (0 of them before), 2 failed"
    assert "study, series 9: " in told[-4] and "no CT series 9" in told[-4] and "holds 2 CT series" in told[-3]
    counts = [len(load_volume(study / "out" / name).series.slice_names) for name in ("three", "seven")]
    assert counts == [2, 3]


def test_results_are_those_of_single_runs(study, weights, here):
    main(command(study, weights, "--scheduler", here))
    for source, result in (("series2", "series2"), ("volume.nii.gz", "volume")):
        words = ["denoise", str(study / source), str(study / "single" / result), "--weights", str(weights), *OPTIONS]
        assert main(words) == 0
    for result in ("series2", "volume/volume.nii.gz"):
        together, single = (load_volume(study / place / result).hu for place in ("out", "single"))
        assert (together == single).all()


def test_network_and_prior_are_loaded_once_by_a_worker(study, weights, here, monkeypatch):
    from scripts import networks, priors

    work._kept.cache_clear()
    calls = []
    for module, name in ((networks, "load_weights"), (priors, "make_prior")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, real=real, name=name, **k: calls.append(name) or real(*a, **k))
    main(command(study, weights, "--scheduler", here))
    assert sorted(calls) == ["load_weights", "make_prior"]


def test_weights_that_cannot_be_loaded_end_it_at_once(study, here, capsys):
    assert main(command(study, study / "none.pt", "--scheduler", here)) == 2
    assert "none.pt" in capsys.readouterr().err
    assert results(study) == set()


def test_a_worker_with_another_version_ends_it(study, weights, here, monkeypatch, capsys):
    monkeypatch.setattr(run, "bundle_version", lambda: "9.9.9")
    assert main(command(study, weights, "--scheduler", here)) == 2
    assert "the command 9.9.9; install the same" in capsys.readouterr().err


def test_resume_leaves_out_what_is_finished_and_tries_failures_again(study, weights, here, capsys):
    words = command(study, weights, "--scheduler", here)
    assert main(words) == 1
    first = table(study)
    stamps = {name: (study / "out" / name).stat().st_mtime_ns for name in results(study)}
    write_ct_series(study / "missing", slices=2, seed=3)
    assert main(words) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 of 4 series done (3 of them before), 0 failed"
    assert {name: (study / "out" / name).stat().st_mtime_ns for name in stamps} == stamps
    again = table(study)
    assert again["missing"]["state"] == "done"
    assert again["series1"] == first["series1"] | {"state": "done before"}


def test_nothing_left_to_do_starts_nothing(study, weights, here, monkeypatch, capsys):
    (study / "list.txt").write_text("series1\n")
    main(command(study, weights, "--scheduler", here))
    monkeypatch.setattr(run, "_connected", None)
    assert main(command(study, weights, "--resume")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 1 series done (1 of them before), 0 failed"


def test_what_fails_by_chance_is_tried_again_but_not_for_ever(study, weights, here, monkeypatch, capsys):
    from scripts import workflow

    real, begun = workflow.RepeatedInference.run, []

    def unsure(self, places):
        begun.append(Path(places["dataset_dir"]).name)
        if begun[-1] == "series2" or begun.count("series1") == 1 and begun[-1] == "series1":
            raise ZeroDivisionError("of chance")
        return real(self, places)

    monkeypatch.setattr(workflow.RepeatedInference, "run", unsure)
    assert main(command(study, weights, "--scheduler", here, "--tries", "2")) == 1
    told, logged = capsys.readouterr()
    assert [begun.count(name) for name in ("series1", "series2", "missing")] == [2, 2, 1]  # a refusal is no chance
    assert f"failed  {study / 'series2'}: unexpected ZeroDivisionError" in told
    assert table(study)["series1"]["state"] == "done"
    assert "of chance" in logged and "Traceback" in logged


def test_a_worker_that_is_killed_costs_the_time_of_its_series_alone(study, weights, monkeypatch):
    """Two real processes; one kills itself by SIGKILL in the middle of writing: all is done, as by a single run."""
    kill = f"""
import os, pathlib, signal, threading, time
out, killed = pathlib.Path({str(study / "out")!r}), pathlib.Path({str(study / "killed")!r})
def end():
    while not [*out.glob(".series1.partial-*"), *out.glob("series1")]:
        time.sleep(0.001)
    killed.touch()
    os.kill(os.getpid(), signal.SIGKILL)
if not killed.exists():
    threading.Thread(target=end).start()
"""
    write_ct_series(study / "series1", slices=40, seed=1)
    (study / "list.csv").write_text("input,output\nseries1,series1\n" + "".join(f"series2,{n}\n" for n in "abc"))
    monkeypatch.setattr(run, "_task", _tasks_that_run(run._task, "series1", kill))
    jobs = read_list(study / "list.csv", study / "out")
    places = Places(processes=2, threads=torch.get_num_threads())  # the order of sums hangs on it
    told = denoise_jobs(jobs, ["inference.json"], _settings(weights), places)
    ended = sorted((job.target.name, one["state"]) for job, one in told)
    assert (study / "killed").exists()
    assert ended == [(name, "done") for name in ("a", "b", "c", "series1")]
    assert results(study) == {"series1", "a", "b", "c"}  # and no partial folder
    assert len(load_volume(study / "out" / "series1").series.slice_names) == 40
    words = ["denoise", str(study / "series2"), str(study / "single"), "--weights", str(weights), *OPTIONS]
    assert main(words) == 0
    assert (load_volume(study / "out" / "a").hu == load_volume(study / "single").hu).all()


@pytest.mark.slow
def test_a_series_that_kills_each_worker_is_given_up_and_stops_no_other(study, weights, monkeypatch):
    """As one that needs more memory than a worker has: the others are done, and the reason is told."""
    (study / "list.txt").write_text("series1\nseries2\n")
    deadly = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(run, "_task", _tasks_that_run(run._task, "series1", deadly))
    jobs = read_list(study / "list.txt", study / "out")
    places = Places(processes=1, tries=2)
    ended = {job.source.name: told for job, told in denoise_jobs(jobs, ["inference.json"], _settings(weights), places)}
    assert ended["series1"]["state"] == "failed" and "2 workers died at it" in ended["series1"]["why"]
    assert ended["series2"]["state"] == "done"


def _settings(weights):
    return {"weights": str(weights), "prior": "uniform"}


def _tasks_that_run(task, name, code):
    """Tasks of which those of one series run `code` first."""

    def made(request):
        denoise = task(request)
        is_it = request["source"].endswith(name)

        def tried():
            if is_it:
                exec(code, {})
            return denoise()

        return tried

    return made


def test_what_a_worker_made_before_it_died_is_taken_as_done(study, weights, here):
    (study / "list.txt").write_text("series1\n")
    (job,) = read_list(study / "list.txt", study / "out")
    places = Places(scheduler=here)
    for _ in range(2):  # as begun again by the scheduler
        ((_, told),) = denoise_jobs([job], ["inference.json"], _settings(weights), places)
        assert told["state"] == "done"
    assert "slices" not in told


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_or_stopped_leaves_whole_results_and_goes_on(study, weights, here, how):
    rows = [f"series1,{number}\n" for number in range(40)]
    (study / "list.csv").write_text("input,output\n" + "".join(rows))
    running = start(command(study, weights, listed="list.csv"))
    wait_for(lambda: (study / "out" / "0").exists(), running)
    os.killpg(running.pid, how)  # SIGINT as Ctrl-C sends it, to all processes of the terminal
    told = running.communicate(timeout=240)[0]
    if how == signal.SIGINT:
        assert running.returncode == 130 and "nothing half-written is left" in told
        assert not list((study / "out").glob(".*"))
    whole = {name for name in results(study) if not name.startswith(".")}
    assert 0 < len(whole) < 40
    assert all(len(load_volume(study / "out" / name).series.slice_names) == 3 for name in whole)
    stamps = {name: (study / "out" / name).stat().st_mtime_ns for name in whole}
    (study / "list.csv").write_text("input,output\n" + "".join(rows[: len(whole) + 1]))
    assert main(command(study, weights, "--scheduler", here, "--resume", listed="list.csv")) == 0
    assert {name: (study / "out" / name).stat().st_mtime_ns for name in whole} == stamps
    assert results(study) == whole | {str(len(whole))}


@pytest.fixture
def site(tmp_path):
    """A site's cluster, by Dask's own commands: a scheduler and two workers, one of which has a GPU by resource."""
    logs = open(tmp_path / "dask.log", "w")
    team = []

    def begin(*words):
        team.append(
            subprocess.Popen(
                [sys.executable, "-m", "dask", *words], stdout=logs, stderr=logs, cwd=tmp_path, start_new_session=True
            )
        )

    file = tmp_path / "scheduler.json"
    begin("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    wait_for(file.is_file, team[0])
    for name, words in (("plain", ()), ("with-gpu", ("--resources", "GPU=1"))):
        begin("worker", "--scheduler-file", str(file), "--nthreads", "1", "--name", name, "--no-dashboard", *words)
    yield file, tmp_path / "dask.log"
    for one in team:
        os.killpg(one.pid, signal.SIGTERM)
    for one in team:
        one.communicate(timeout=60)
    logs.close()


def test_workers_of_a_site_take_what_they_have_the_resources_for_and_log_no_path(study, weights, site):
    file, log = site
    os.rename(study / "series1", study / "Doe^Jane")
    (study / "list.txt").write_text("Doe^Jane\nseries2\nmissing\n")
    jobs = read_list(study / "list.txt", study / "out")
    places = Places(scheduler=str(file), resources={"GPU": 1})
    ended = {job.source.name: told for job, told in denoise_jobs(jobs, ["inference.json"], _settings(weights), places)}
    assert (ended["Doe^Jane"]["why"], ended["series2"]["why"]) == ("", "")
    assert "does not exist" in ended["missing"]["why"]
    assert {told["worker"] for told in ended.values()} == {"with-gpu"}
    written = log.read_text()
    assert "Register worker" in written and "Doe^Jane" not in written and "series2" not in written


def test_a_scheduler_that_does_not_answer_is_told(study, weights, monkeypatch, capsys):
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        assert main(command(study, weights, "--scheduler", "tcp://127.0.0.1:9")) == 2
        assert "no Dask scheduler answers at tcp://127.0.0.1:9" in capsys.readouterr().err
        assert main(command(study, weights, "--scheduler", "nonsense://x")) == 2
        assert "no Dask scheduler answers at nonsense://x" in capsys.readouterr().err
        assert main(command(study, weights, "--scheduler", "gone.json")) == 2
        assert "at gone.json (missing port" in capsys.readouterr().err
        (study / "other.json").write_text("{}")
        assert main(command(study, weights, "--scheduler", str(study / "other.json"))) == 2
        assert "other.json ('address')" in capsys.readouterr().err


def test_a_cluster_of_this_machine_has_no_dashboard_and_talks_in_tls(study):
    from distributed import Client

    job = read_list(study / "list.txt", study / "out")[0]
    with run._connected(Places(processes=1), [job]) as client:
        address = client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        assert all(one.startswith("tls://127.0.0.1:") for one in client.nthreads())
        assert client.dashboard_link is None or _answer(client.dashboard_link) == 404
        with pytest.raises((OSError, ValueError, TypeError, RuntimeError)):  # without its certificate
            Client(address, timeout=5, set_as_default=False)


@pytest.mark.parametrize(
    ("place", "name", "told"),
    [
        (run.socket, "create_connection", "ports of 127.0.0.1, which cannot be used here (no loopback)"),
        (run.multiprocessing.context.BaseContext, "Lock", "tmpfs at /dev/shm"),
    ],
)
def test_a_machine_that_cannot_start_processes_is_told_at_once(study, weights, monkeypatch, capsys, place, name, told):
    def fail(*_, **__):
        raise OSError("no loopback")

    monkeypatch.setattr(place, name, fail)
    assert main(command(study, weights, "--processes", "2")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line and "one series at a time" in line


def test_processes_that_do_not_start_are_one_line(study, weights, monkeypatch, capsys):
    import distributed

    def fail(**_):
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(distributed, "LocalCluster", fail)
    assert main(command(study, weights)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "do not start (Nanny failed to start.)" in line


def _answer(link):
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(link, timeout=10) as answer:
            return answer.status
    except HTTPError as error:
        return error.code


def test_paths_of_settings_do_not_hang_on_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run._for_workers({"weights": "w.pt", "prior": "table:p.csv", "device": "cuda:0", "dataset_dir": "x"})
    assert (found["weights"], found["prior"]) == (str(tmp_path / "w.pt"), f"table:{tmp_path / 'p.csv'}")
    assert found["device"] == "cuda:0" and found["isolated"] and "dataset_dir" not in found
    assert run._for_workers({"prior": "hf-hub:a/b"})["prior"] == "hf-hub:a/b"


def test_a_csv_names_the_results(study, weights, here):
    (study / "list.csv").write_text("input,output\nseries1,a/first\nvolume.nii.gz,b\n")
    assert main(command(study, weights, "--scheduler", here, listed="list.csv")) == 0
    assert (study / "out" / "a" / "first" / "0001.dcm").is_file() and (study / "out" / "b" / "volume.nii.gz").is_file()


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("list.txt", "", "names no series"),
        ("list.txt", "a/scan\nb/scan.nii.gz\n", "would have their results at one place"),
        ("list.csv", "input,output\na,x\nb,x/y\n", "would have their results at one place"),
        ("list.csv", "input,output\na,x/y/z\nb,q\nc,x\n", "c and a would have their results at one place"),
        ("list.csv", "input,output\na,../x\n", "expected a folder in"),
        ("list.csv", "input,output\na,\n", "expected a folder in"),
        ("list.csv", "input,output\na,cohort.csv\n", "is the table's name"),
        ("list.csv", "path\na\n", "must have the columns input and output"),
        ("list.txt", "a\0b\n", "has a zero byte"),
        ("list.txt", "C:\\data\\a\n", "is a path of Windows"),
        ("list.csv", "", "must have the columns input and output"),
        ("list.csv", "input,output\n/data/Doe, J/s1,x\n", "row 2 has 3 columns, the first row 2; put a path with ','"),
        ("list.csv", 'input,output\na,"x\nb,y\n', "unexpected end of data"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(tmp_path, name, text, what):
    (tmp_path / name).write_text(text)
    with pytest.raises(BioAttError, match=what):
        read_list(tmp_path / name, tmp_path / "out")


def test_a_list_of_thousands_takes_no_longer_for_each(tmp_path):
    """Each name is looked up, not compared with all others."""
    (tmp_path / "list.csv").write_text("input,output\n" + "".join(f"a/{n},x{n % 9}/{n}\n" for n in range(20_000)))
    assert len(read_list(tmp_path / "list.csv", tmp_path / "out")) == 20_000


def test_columns_may_be_parted_by_semicolons(tmp_path):
    (tmp_path / "list.csv").write_text("input;output;series\na/scan;x;2\n")
    (job,) = read_list(tmp_path / "list.csv", tmp_path / "out")
    assert (job.source.name, job.target.name, job.series) == ("scan", "x", "2")


def test_paths_are_read_as_people_copy_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "odd\\name").mkdir()
    lines = ['"/data/a b/s1"', "~/s2", "/data/s3\u2028x", "odd\\name", "/data/x.ZIP"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    jobs = read_list(tmp_path / "list.txt", tmp_path / "out")
    home = str(tmp_path / "home" / "s2")
    sources = ["/data/a b/s1", home, "/data/s3\u2028x", str(tmp_path / "odd\\name"), "/data/x.ZIP"]
    assert [str(job.source) for job in jobs] == sources
    assert [job.target.name for job in jobs] == ["s1", "s2", "s3\u2028x", "odd\\name", "x"]


def test_cells_in_quotes_may_hold_commas(tmp_path):
    (tmp_path / "a.csv").write_text('input,output,series\n"/data/Doe, J/s1","x",3.0\nb,y,\n')
    first, second = read_list(tmp_path / "a.csv", tmp_path / "out")
    assert (str(first.source), first.series, second.series) == ("/data/Doe, J/s1", "3.0", "")


def test_what_is_left_of_a_result_is_found_by_its_name_not_by_a_pattern(tmp_path):
    (tmp_path / "list.csv").write_text("input,output\na,A[1]\nb,A1\n")
    first, other = read_list(tmp_path / "list.csv", tmp_path / "out")
    own, live = (job.target.parent / f".{job.target.name}.partial-x" for job in (first, other))
    own.mkdir(parents=True)
    live.mkdir()
    work.clear_leftovers(first.target)
    assert live.exists() and not own.exists()


def test_a_list_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(BioAttError, match="cannot be read"):
        read_list(tmp_path / "none.txt", tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--overwrite"], "not overwritten"),
        (["--processes", "2", "--scheduler", "tcp://x:1"], "give one of them"),
        (["--processes", "0"], "--processes 0: expected 1 or more"),
        (["--tries", "0"], "--tries 0: expected 1 or more"),
        (["--resource", "GPU=1"], "use it with --scheduler"),
        (["--scheduler", "tcp://x:1", "--resource", "GPU"], "expected NAME=N"),
    ],
)
def test_options_that_cannot_be_used_are_refused(study, weights, words, what, capsys):
    assert main(command(study, weights, *words)) == 2
    assert what in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--resume"], *(["--processes", n] for n in "02"), ["--scheduler", "x"], *(["--tries", n] for n in "02")]
)
def test_options_of_a_list_alone_are_refused(study, words, capsys):
    assert main(["denoise", str(study / "series1"), str(study / "out"), *words]) == 2
    assert "use it with --cohort" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "Input, Output\r\na , x\r\n,,\r\n\r\nb,y\r\n"),
        ("a.csv", "input;output;series\na;x;\n;;\nb;y;\n"),
        ("a.tsv", "input\toutput\na\tx\nb\ty\n"),
        ("a.csv", "\ufeffinput\toutput\na\tx\nb\ty\n"),
        ("a.csv", "input,output\ra,x\rb,y\r"),
        ("a.csv", "sep=;\r\ninput;output\r\na;x\r\nb;y\r\n"),
        ("a.csv", "input,output,\na,x,\nb,y,\n"),
        ("a.txt", "input;output\na;x\nb;y\n"),
    ],
)
def test_lists_as_spreadsheets_write_them_are_read(tmp_path, name, text):
    (tmp_path / name).write_text(text, newline="")
    jobs = read_list(tmp_path / name, tmp_path / "out")
    assert [(job.source.name, job.target.name, job.series) for job in jobs] == [("a", "x", ""), ("b", "y", "")]


def test_a_list_that_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("input,output\na,x\n", encoding="utf-16")
    with pytest.raises(BioAttError, match="is not text in UTF-8"):
        read_list(tmp_path / "a.csv", tmp_path / "out")
