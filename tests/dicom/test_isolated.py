"""A series read in a process of its own: the same HU, and one line where a decoder crashes, hangs or eats memory."""

from __future__ import annotations

import itertools
import logging
import os
import re
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import numpy as np
import pydicom
import pytest
from dicom_cases import PROVENANCE, SYNTAXES, write_enhanced_ct
from distributed import LocalCluster
from phantom import write_ct_series
from scripts.app.command_line import main
from scripts.dicom import FileProcesses, child, read_volume, select_series, write_derived_series
from scripts.errors import BioAttError
from scripts.volumes import SeriesReader, load_volume
from scripts.workflow import run_workflow, runs_in_label

#: A pixel decoder's place in the child; each line stands for what a C library does to its process.
CRASHES = {
    "crash": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "abort": "import os; os.abort()",
    "hang": "import time; time.sleep(60)",
    "memory": "import numpy; numpy.ones(1 << 40, numpy.uint8)",
}


def read_volume_isolated(series, progress=None, **limits):
    """The volume, decoded in a process of its own."""
    return read_volume(series, progress, FileProcesses(isolated=True, **limits))


@pytest.fixture
def decoder(tmp_path, monkeypatch):
    """Let the child do something else at the file 0002.dcm than to decode it."""

    def replaced(what):
        monkeypatch.setattr(
            child,
            "_PROGRAM",
            "import importlib, pickle, sys; path, module = pickle.load(sys.stdin.buffer); sys.path[:] = path\n"
            "pixels = importlib.import_module(module.rpartition('.')[0] + '.pixels'); decode = pixels._decode\n"
            "def broken(dataset, path, *more):\n"
            "    if path.name == '0002.dcm':\n"
            f"        {what}\n"
            "    return decode(dataset, path, *more)\n"
            "pixels._decode = broken\n"
            "importlib.import_module(module).serve(pickle.load(sys.stdin.buffer))",
        )

    return replaced


@pytest.fixture
def crash(tmp_path, decoder, monkeypatch):
    """What `CRASHES` names; for one that hangs, so much time goes by at once that nobody has to wait."""

    def begin(what):
        hangs = tmp_path / "hangs"
        decoder(f"open({str(hangs)!r}, 'w').close(); {CRASHES[what]}" if what == "hang" else CRASHES[what])
        passed = itertools.count(0, 1000)  # seconds at each look, from then on
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + (next(passed) if hangs.exists() else 0.0))
        monkeypatch.setattr(child, "time", clock)

    return begin


def children():
    """Processes whose parent is this one."""
    found = []
    if not os.path.isdir("/proc"):  # macOS has none
        return found
    for stat in os.scandir("/proc"):
        if stat.name.isdecimal():
            try:
                with open(f"/proc/{stat.name}/stat") as file:
                    found += [stat.name] if int(file.read().rpartition(")")[2].split()[1]) == os.getpid() else []
            except OSError:
                continue
    return found


@pytest.mark.parametrize("syntax", [SYNTAXES[0], SYNTAXES[-1]], ids=lambda syntax: syntax.name)
def test_the_volume_is_the_same_bit_by_bit(tmp_path, syntax):
    series = select_series(write_ct_series(tmp_path / "in", slices=4, slope=0.7, transfer_syntax=syntax))
    told = []
    volume = read_volume_isolated(series, told.append)
    np.testing.assert_array_equal(volume, read_volume(series))
    assert volume.dtype == np.float32 and told == [1, 1, 1, 1]


def test_frames_of_an_enhanced_image_come_too(tmp_path):
    file, _ = write_enhanced_ct(tmp_path / "in", slices=3)
    series = select_series(file)
    np.testing.assert_array_equal(read_volume_isolated(series), read_volume(series))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("crash", "killed by SIGSEGV"),
        ("abort", "killed by SIGABRT"),
        ("hang", "it took too long"),
        ("memory", "it ran out of memory"),
    ],
)
def test_the_file_that_ended_the_decoder_is_named_and_we_go_on(tmp_path, crash, what, words):
    series = select_series(write_ct_series(tmp_path / "in", slices=4))
    crash(what)
    before = children()
    with pytest.raises(BioAttError, match=f"0002.dcm ended the process that decoded it: {words}.*leave it out"):
        read_volume_isolated(series, seconds=60.0)
    assert children() == before, "nothing is left running"


def test_memory_of_the_child_is_limited_and_ours_is_not(tmp_path, decoder):
    series = select_series(write_ct_series(tmp_path / "in", slices=4))
    decoder("import numpy; numpy.ones(900 << 20, numpy.uint8)")
    assert read_volume_isolated(series, memory_bytes=4 << 30).shape == series.shape
    with pytest.raises(BioAttError, match=r"0002.dcm .* ran out of memory, within 700 MiB"):
        read_volume_isolated(series, memory_bytes=700 << 20)
    assert np.ones(900 << 20, np.uint8).all()


def test_a_child_that_does_not_start_blames_no_file(tmp_path, monkeypatch):
    series = select_series(write_ct_series(tmp_path / "in", slices=2))
    monkeypatch.setattr(child, "_PROGRAM", "raise SystemExit(3)")
    with pytest.raises(BioAttError, match=r"cannot start \(exit code 3\)"):
        read_volume_isolated(series)


def test_what_is_refused_here_is_refused_there_in_the_same_words(tmp_path):
    series = select_series(write_ct_series(tmp_path / "in", slices=3))
    content = series.files[1].read_bytes()
    series.files[1].write_bytes(content[:-100])
    with pytest.raises(BioAttError) as ours:
        read_volume(series)
    with pytest.raises(BioAttError, match=re.escape(str(ours.value))):
        read_volume_isolated(series)


def test_errors_of_ours_come_with_their_traceback(tmp_path, decoder):
    series = select_series(write_ct_series(tmp_path / "in", slices=3))
    decoder("return 1 / 0")
    with pytest.raises(RuntimeError, match="(?s)in a process of its own failed:.*ZeroDivisionError"):
        read_volume_isolated(series)


def test_what_the_child_logs_is_logged_here(tmp_path, decoder, caplog):
    series = select_series(write_ct_series(tmp_path / "in", slices=3))
    decoder("import logging; logging.getLogger(pixels.__name__).warning('%s: %d odd', path, 3)")
    read_volume_isolated(series)
    assert [(one.levelno, one.getMessage()) for one in caplog.records if "odd" in one.getMessage()] == [
        (logging.WARNING, f"{series.files[1]}: 3 odd")
    ]


def test_what_a_decoder_prints_is_not_taken_for_slices(tmp_path, decoder):
    series = select_series(write_ct_series(tmp_path / "in", slices=3))
    decoder("import os; os.write(1, b'S' * 5000)")
    np.testing.assert_array_equal(read_volume_isolated(series), read_volume(series))


def test_threads_may_read_at_the_same_time(tmp_path):
    several = [select_series(write_ct_series(tmp_path / str(seed), slices=3, seed=seed)) for seed in range(3)]
    found = {}
    threads = [
        threading.Thread(target=lambda i=i, one=one: found.update({i: read_volume_isolated(one)}))
        for i, one in enumerate(several)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, one in enumerate(several):
        np.testing.assert_array_equal(found[i], read_volume(one))


PADDED = {"signed": True, "padding": -2000, "slices": 3}


@pytest.mark.parametrize("kind", [PADDED, {**PADDED, "slope": 2.0}, {"slices": 3}])
def test_a_derived_series_is_the_same_where_padding_is_decoded_apart(tmp_path, kind):
    series = select_series(write_ct_series(tmp_path / "in", **kind, transfer_syntax=SYNTAXES[-1]))
    volume = read_volume(series) + 1.0
    for name, isolated_too in ("here", False), ("there", True):
        write_derived_series(
            series, volume, tmp_path / name, PROVENANCE, processes=FileProcesses(isolated=isolated_too)
        )
    here, there = (read_volume(select_series(tmp_path / name)) for name in ("here", "there"))
    np.testing.assert_array_equal(there, here)
    assert ("padding" in kind) == bool((here < -1900).any())


def test_frames_of_an_enhanced_image_keep_their_padding(tmp_path):
    padded = {**PADDED, "modify": lambda image: image.add_new("PixelPaddingValue", "SS", -2000)}
    series = select_series(write_enhanced_ct(tmp_path / "in", **padded)[0])
    volume = read_volume(series)
    write_derived_series(series, volume + 1.0, tmp_path / "out", PROVENANCE, processes=FileProcesses(isolated=True))
    kept = read_volume(select_series(tmp_path / "out")) == volume
    np.testing.assert_array_equal(kept, volume == -3024)
    assert kept.any() and not kept.all()


def test_slices_with_and_without_padding_come_to_their_places(tmp_path):
    def modify(dataset, i):
        if i in (0, 2):
            del dataset.PixelPaddingValue

    series = select_series(write_ct_series(tmp_path / "in", **PADDED | {"slices": 5}, modify=modify))
    volume = read_volume(series) + 1.0
    write_derived_series(series, volume, tmp_path / "out", PROVENANCE, processes=FileProcesses(isolated=True))
    change = read_volume(select_series(tmp_path / "out")) - (volume - 1.0)
    assert [float(one[0, 0]) for one in change] == [1.0, 0.0, 1.0, 0.0, 0.0] and (change[:, 24, 32] == 1.0).all()


@pytest.mark.parametrize("what", ["crash", "hang"])
def test_a_decoder_that_crashes_while_padding_is_written_leaves_us_and_no_folder(tmp_path, crash, what):
    series = select_series(write_ct_series(tmp_path / "in", **PADDED))
    volume = read_volume(series)
    crash(what)
    processes = FileProcesses(isolated=True, seconds=60.0)
    before = children()
    with pytest.raises(BioAttError, match="0002.dcm ended the process that decoded it"):
        write_derived_series(series, volume, tmp_path / "out", PROVENANCE, processes=processes)
    assert children() == before and not (tmp_path / "out").exists()


def test_a_second_copy_in_another_encoding_is_decoded_apart(tmp_path, decoder):
    folder = write_ct_series(tmp_path / "in", slices=3)
    content = pydicom.dcmread(folder / "0002.dcm")
    content.compress(SYNTAXES[-1], generate_instance_uid=False)
    content.save_as(folder / "copy.dcm")
    assert len(select_series(folder).files) == 3
    decoder(CRASHES["crash"])
    with pytest.raises(BioAttError, match="ended the process that decoded it: killed by SIGSEGV"):
        select_series(folder)


@pytest.mark.parametrize("switch", [True, False])
def test_results_are_written_as_they_are_read(tmp_path, weights, monkeypatch, switch):
    source = write_ct_series(tmp_path / "in", **PADDED)
    asked, seen = [], child.Child.do
    monkeypatch.setattr(child.Child, "do", lambda *given: asked.append((given[1], given[3].name)) or seen(*given))
    overrides = {"dataset_dir": str(source), "output_dir": str(tmp_path / "out"), "weights": str(weights)}
    run_workflow(
        "inference", ["inference.json"], overrides | {"prior": "uniform", "progress": False, "isolated": switch}
    )
    expected = [(job, f"000{number}.dcm") for job in ("hu", "stored") for number in (1, 2, 3)]
    assert asked == (expected if switch else [])


def test_reader_and_volume_take_the_switch(tmp_path, decoder):
    source = write_ct_series(tmp_path / "in", slices=3)
    expected = load_volume(source)
    np.testing.assert_array_equal(load_volume(source, processes=FileProcesses(isolated=True)).hu, expected.hu)
    decoder(CRASHES["abort"])
    with pytest.raises(BioAttError, match="0002.dcm ended the process"):
        SeriesReader(processes=FileProcesses(isolated=True)).read(source)
    np.testing.assert_array_equal(SeriesReader().read(source).hu, expected.hu)


def test_a_cohort_goes_on_behind_a_file_that_crashes_a_decoder(tmp_path, weights, decoder, capfd):
    for slices, name in ((3, "a"), (1, "b")):
        write_ct_series(tmp_path / name, slices=slices)
    (tmp_path / "list.txt").write_text("a\nb\n")
    decoder(CRASHES["crash"])
    words = ["--cohort", "--weights", str(weights), "--prior", "uniform", "--quiet"]
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as here:
        words += ["--scheduler", here.scheduler_address]
        assert main(["denoise", str(tmp_path / "list.txt"), str(tmp_path / "out"), *words]) == 1
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["b", "cohort.csv"]
    assert re.search("failed .*a: .*0002.dcm ended the process that decoded it", capfd.readouterr().out)


def test_label_is_known_by_its_module(monkeypatch):
    assert not runs_in_label()
    monkeypatch.setitem(sys.modules, "monailabel", ModuleType("monailabel"))
    assert runs_in_label()
