"""Several processes at the files of a series: the same HU and the same derived series, and nothing left running."""

from __future__ import annotations

import logging
import os
import pickle

import numpy as np
import pytest
from dicom_cases import PROVENANCE, SYNTAXES
from phantom import write_ct_series
from pydicom import dcmread
from scripts.dicom import DerivedRules, FileProcesses, processes, read_volume, select_series, write_derived_series
from scripts.dicom.child import Child
from scripts.errors import BioAttError


@pytest.fixture
def two(monkeypatch):
    """Two processes, whatever the number of files; those that were started."""
    started, begin = [], Child.__init__
    monkeypatch.setattr(processes, "FILES_EACH", 1)
    monkeypatch.setattr(Child, "__init__", lambda self, *given: started.append(self) or begin(self, *given))
    return FileProcesses(2), started


def running(started):
    return [one for one in started if one._process.poll() is None]


def test_a_process_more_for_every_forty_files_within_the_limit():
    assert [FileProcesses(4).count(files) for files in (1, 79, 80, 120, 1000)] == [0, 0, 2, 3, 4]
    assert FileProcesses(64).count(10000) == processes.MOST
    assert FileProcesses(1).count(1000) == 0 and FileProcesses(1, isolated=True).count(3) == 1


@pytest.mark.parametrize(
    "kind", [{}, {"slope": 0.7}, {"transfer_syntax": SYNTAXES[-1], "signed": True, "padding": -2000}]
)
def test_hu_and_files_are_the_same_bit_by_bit(tmp_path, two, kind):
    series = select_series(write_ct_series(tmp_path / "in", slices=5, reversed_order=True, **kind))
    several, started = two
    told, rules = [], DerivedRules(stable_uids=True)
    with several:
        volume = read_volume(series, told.append, several)
        np.testing.assert_array_equal(volume, read_volume(series))
        assert told == [1] * 5
        write_derived_series(series, volume + 0.4, tmp_path / "there", PROVENANCE, rules=rules, processes=several)
        assert len(started) == 2 == len(running(started)), "what has read goes on to write"
    assert running(started) == []
    write_derived_series(series, volume + 0.4, tmp_path / "here", PROVENANCE, rules=rules)
    here, there = (sorted((tmp_path / name).iterdir()) for name in ("here", "there"))
    assert [one.name for one in here] == [one.name for one in there] and len(here) == 5
    times = {"SeriesTime", "ContentTime", "InstanceCreationTime", "ContributingEquipmentSequence"}
    for one, other in zip(map(dcmread, here), map(dcmread, there), strict=True):
        assert [element.tag for element in one] == [element.tag for element in other]
        assert all(element == other[element.tag] for element in one if element.keyword not in times)


def test_elements_of_the_first_image_are_those_of_all(tmp_path, two):
    def modify(dataset, i):
        dataset.FrameOfReferenceUID = f"1.2.{i + 1}"

    series = select_series(write_ct_series(tmp_path / "in", slices=4, modify=modify))
    assert "FrameOfReferenceUID" in series.unified
    for name, several in ("here", None), ("there", two[0]):
        write_derived_series(series, read_volume(series), tmp_path / name, PROVENANCE, processes=several)
        assert {dcmread(one).FrameOfReferenceUID for one in (tmp_path / name).iterdir()} == {"1.2.1"}


def test_what_is_odd_is_told_once_for_all(tmp_path, two, caplog):
    def modify(dataset, i):
        dataset.HighBit = 3
        if i == 2:
            dataset.PixelData = bytes(len(dataset.PixelData))

    series = select_series(write_ct_series(tmp_path / "in", slices=4, modify=modify))
    caplog.set_level(logging.WARNING)
    read_volume(series)
    here = [record.getMessage() for record in caplog.records]
    caplog.clear()
    read_volume(series, processes=two[0])
    assert [record.getMessage() for record in caplog.records] == here and len(here) == 2
    assert "1 slices hold one value" in here[0] and "4 files: HighBit 3" in here[1]


def test_a_file_that_is_refused_ends_all(tmp_path, two):
    series = select_series(write_ct_series(tmp_path / "in", slices=6))
    several, started = two
    series.files[3].write_bytes(series.files[3].read_bytes()[:-100])
    with pytest.raises(BioAttError, match=f"{series.files[3].name}: PixelData is cut short"):
        read_volume(series, processes=several)
    assert started and running(started) == []
    os.unlink(series.files[0])
    with pytest.raises(BioAttError, match="0001.dcm cannot be read"):
        write_derived_series(series, np.zeros(series.shape), tmp_path / "out", PROVENANCE, processes=several)
    assert running(started) == [] and not (tmp_path / "out").exists()


def test_who_stops_to_ask_leaves_nothing_running(tmp_path, two):
    series = select_series(write_ct_series(tmp_path / "in", slices=6))
    several, started = two
    requests = [(file, (file, {0: i}, series.shape[1:], False)) for i, file in enumerate(series.files)]
    records = several.each("hu", requests, len(requests))
    next(records)
    records.close()
    assert running(started) == []


def test_a_process_that_was_killed_while_it_waited_is_replaced(tmp_path):
    series = write_ct_series(tmp_path / "series", slices=2)
    with FileProcesses(isolated=True) as processes:
        first = read_volume(select_series(series), None, processes)
        (child,) = processes._children
        child._process.kill()
        child._process.wait()
        np.testing.assert_array_equal(read_volume(select_series(series), None, processes), first)


def test_settings_can_be_sent_to_another_process():
    sent = pickle.loads(pickle.dumps(FileProcesses(3, isolated=True, seconds=5.0)))
    assert (sent.limit, sent.isolated, sent._settings) == (3, True, FileProcesses(seconds=5.0)._settings)
