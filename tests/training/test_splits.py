"""Splits: nobody in two parts, the same again tomorrow, and the paper's under its own name."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest
from scripts.errors import BioAttError
from scripts.training import make_split
from scripts.training.layouts import PARTS
from scripts.training.studies import Collection, pseudonym_of


def collection(names="ABCDEFGHIJ", parts=None):
    """A data set of patients without images."""
    folders = {pseudonym_of(name): name for name in names}
    entries = {one: SimpleNamespace(part=(parts or {}).get(name, "")) for one, name in folders.items()}
    studies = tuple(SimpleNamespace(patient=one, entry=entry) for one, entry in entries.items())
    return Collection(source="DATA", studies=studies, refused=(), folders=folders)


def names_of(split, studies):
    return {part: [studies.folders[one] for one in split.parts[part]] for part in PARTS}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("count", "sizes"), [(10, (6, 2, 2)), (5, (3, 1, 1)), (3, (1, 1, 1)), (2, (1, 1, 0))])
def test_every_patient_is_in_one_part_only(tmp_path, seed, count, sizes):
    studies = collection("ABCDEFGHIJ"[:count])
    split = make_split(studies, file=tmp_path / "split.json", seed=seed)
    assert tuple(len(split.parts[part]) for part in PARTS) == sizes
    everyone = [one for part in PARTS for one in split.parts[part]]
    assert sorted(everyone) == sorted(studies.patients)
    assert split.slices("train", 7) == range(7)


def test_the_draw_hangs_on_the_seed_and_the_fractions(tmp_path):
    studies = collection()

    def draw(name, **arguments):
        return make_split(studies, file=tmp_path / name, **arguments).parts

    assert draw("a", seed=3) == draw("b", seed=3) != draw("c", seed=4)
    assert [len(draw("d", fractions=(0.8, 0.2, 0.0))[part]) for part in PARTS] == [8, 2, 0]


def test_the_file_is_kept_used_again_and_holds_pseudonyms_only(tmp_path, caplog):
    file = tmp_path / "new" / "split.json"
    first = make_split(collection(["L067", "L096", "L109"]), file=file, seed=1)
    text = file.read_text()
    assert "L067" not in text and json.loads(text) == {part: list(first.parts[part]) for part in PARTS}
    with caplog.at_level(logging.WARNING):
        again = make_split(collection(["L067", "L096", "L109", "L333"]), file=file, seed=2)
    assert again.parts == first.parts and file.read_text() == text
    assert f"not used: {pseudonym_of('L333')}" in caplog.text
    with pytest.raises(BioAttError, match=f"names {pseudonym_of('L109')}, not found in DATA; bring the data back"):
        make_split(collection(["L067", "L096"]), file=file)


@pytest.mark.parametrize("text", ["{", "[]", '{"train": ["P-1"]}', '{"train": [1], "validate": [], "test": []}'])
def test_a_broken_file_is_an_error_and_stays(tmp_path, text):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(BioAttError, match="split file .*split.json .*name another split_file"):
        make_split(collection(), file=tmp_path / "split.json")
    assert (tmp_path / "split.json").read_text() == text


def test_named_patients_override_the_file_and_leave_it_alone(tmp_path, caplog):
    studies, file = collection("ABCD"), tmp_path / "split.json"
    make_split(studies, file=file, seed=1)
    text = file.read_text()
    split = make_split(studies, file=file, validation_patients=["B"], test_patients=[pseudonym_of("D")])
    assert names_of(split, studies) == {"train": ["A", "C"], "validate": ["B"], "test": ["D"]}
    assert file.read_text() == text and "another split" in caplog.text
    twice = make_split(studies, file=file, train_patients=["A", "A", "C"], validation_patients=["B"])
    assert names_of(twice, studies) == {"train": ["A", "A", "C"], "validate": ["B"], "test": []}


def test_a_patient_named_in_two_parts_by_two_names_is_refused(tmp_path):
    with pytest.raises(BioAttError, match="patients B are in validation_patients and test_patients"):
        make_split(collection(), file=tmp_path / "s.json", validation_patients=["B"], test_patients=[pseudonym_of("B")])
    assert not (tmp_path / "s.json").exists()


def test_a_file_with_a_patient_in_two_parts_is_refused(tmp_path):
    one = pseudonym_of("A")
    (tmp_path / "s.json").write_text(json.dumps({"train": [one], "validate": [one], "test": []}))
    with pytest.raises(BioAttError, match="patients A are in train_patients and validation_patients"):
        make_split(collection(), file=tmp_path / "s.json")


def test_a_datalist_keeps_its_own_split(tmp_path):
    studies = collection("ABCD", parts={"A": "train", "B": "train", "C": "validate", "D": "test"})
    split = make_split(studies, file=tmp_path / "split.json")
    assert names_of(split, studies) == {"train": ["A", "B"], "validate": ["C"], "test": ["D"]}


def test_an_empty_part_is_an_error_but_the_test_falls_back(tmp_path, caplog):
    split = make_split(collection("AB"), file=tmp_path / "split.json")
    assert split.patients("test") == split.parts["validate"] and "those that validated are taken" in caplog.text
    alone = make_split(collection("A"), file=tmp_path / "alone.json")
    with pytest.raises(BioAttError, match="no patient is left to validate on; name some in validation_patients"):
        alone.patients("validate")
    with pytest.raises(BioAttError, match="no patient is left to validate on"):
        make_split(collection("A"), file=tmp_path / "needed.json", needed=["train", "validate"])
    assert not (tmp_path / "needed.json").exists()


def test_the_paper_splits_within_each_patient_by_slice_order(tmp_path, caplog):
    studies = collection("AB")
    split = make_split(studies, file=tmp_path / "split.json", split="within_patient")
    assert all(split.patients(part) == tuple(studies.patients) for part in PARTS)
    assert [split.slices(part, 100) for part in PARTS] == [range(64), range(64, 80), range(80, 100)]
    assert [i for part in PARTS for i in split.slices(part, 7)] == list(range(7))
    assert "say nothing about new patients" in caplog.text
    assert not (tmp_path / "split.json").exists()
    with pytest.raises(BioAttError, match="within_patient takes all patients"):
        make_split(studies, file=tmp_path / "split.json", split="within_patient", test_patients=["A"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "slices"}, "split is 'slices'; use patient, or within_patient"),
        ({"fractions": (0.5, 0.5)}, "give three shares"),
        ({"fractions": (1.5, -0.5, 0.0)}, "give three shares"),
        ({"fractions": (0.0, 0.5, 0.5)}, "give three shares"),
        ({"fractions": (0.8, 0.8, 0.8)}, "give three shares"),
        ({"train_patients": ["Z"]}, "patients Z are not in DATA; it has A, B"),
    ],
)
def test_bad_settings_are_refused(tmp_path, arguments, message):
    with pytest.raises(BioAttError, match=message):
        make_split(collection(), file=tmp_path / "split.json", **arguments)
