"""Tables of priors: written and read back exactly, looked up by name, refused with the line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scripts.errors import BioAttError
from scripts.priors import DESCRIPTORS, SliceKey, TablePrior, make_prior, write_prior_table

WORDS = ("liver", "spine")
HEAD = "file,slice_index,sop_instance_uid,liver,spine"


def find(path: Path, *keys: SliceKey) -> list[list[float]]:
    """Priors of `keys` from a two-word table, as numbers."""
    return TablePrior(path, descriptors=WORDS)(torch.zeros(len(keys), 4, 4), keys).tolist()


def write(tmp_path: Path, *lines: str) -> Path:
    """A table of these lines."""
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


class TestRoundTrip:
    """`write_prior_table` and `TablePrior`."""

    def test_float32_comes_back_exactly(self, tmp_path):
        source = make_prior("random:0")
        keys = [SliceKey(i, f"1.2.{i}", f"patient, a/slice {i}.dcm") for i in range(50)]
        prior = source(torch.zeros(50, 4, 4), keys)
        path = write_prior_table(tmp_path / "t.csv", zip(keys, prior, strict=True), source)
        table = make_prior(f"table:{path}")
        assert torch.equal(table(torch.zeros(50, 4, 4), keys), prior)
        assert torch.equal(table(torch.zeros(2, 4, 4), [keys[9], keys[3]]), prior[[9, 3]])

    def test_what_made_it_is_recorded(self, tmp_path):
        source = make_prior("random:5")
        row = (SliceKey(0, "1.2"), source(torch.zeros(1, 4, 4), [SliceKey(0)])[0])
        table = make_prior(f"table:{write_prior_table(tmp_path / 't.csv', [row], source)}")
        assert table.model == f"prior table t.csv ({source.model}; digest {source.digest})"

    @pytest.mark.parametrize("numbers", ["0.25;0.75", "0,25;0,75"])
    def test_semicolons_and_decimal_commas_are_read(self, tmp_path, numbers):
        table = write(tmp_path, HEAD.replace(",", ";"), f"a.dcm;0;1.2;{numbers}")
        assert find(table, SliceKey(0, "1.2")) == [[0.25, 0.75]]

    def test_digest_follows_the_content(self, tmp_path):
        one = TablePrior(write(tmp_path, HEAD, "a,0,1.2,0.5,0.5"), descriptors=WORDS).digest
        assert one == TablePrior(write(tmp_path, HEAD, "a,0,1.2,0.5,0.5"), descriptors=WORDS).digest
        assert one != TablePrior(write(tmp_path, HEAD, "a,0,1.2,0.4,0.6"), descriptors=WORDS).digest

    def test_a_failing_write_leaves_the_old_table_and_nothing_else(self, tmp_path):
        path = write(tmp_path, "old")
        good = (SliceKey(0), torch.full((11,), 1 / 11))
        with pytest.raises(BioAttError, match="slice 1 .*must sum to 1, got 11"):
            write_prior_table(path, [good, (SliceKey(1), torch.ones(11))], make_prior("uniform"))
        assert path.read_text() == "old\n"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_prior_of_another_length_is_not_written(self, tmp_path):
        with pytest.raises(BioAttError, match="2 numbers for 11 descriptors"):
            write_prior_table(tmp_path / "t.csv", [(SliceKey(0), torch.tensor([0.5, 0.5]))], make_prior("uniform"))

    def test_a_place_that_is_missing_is_named(self, tmp_path):
        with pytest.raises(BioAttError, match="cannot be written"):
            write_prior_table(tmp_path / "no" / "t.csv", [], make_prior("uniform"))


class TestLookUp:
    """Which row a slice gets."""

    def test_uid_comes_before_file_name(self, tmp_path):
        path = write(tmp_path, HEAD, "a.dcm,0,1.1,0.2,0.8", "b.dcm,1,1.2,0.4,0.6")
        assert find(path, SliceKey(0, "1.2", "a.dcm"))[0] == pytest.approx([0.4, 0.6])

    def test_file_name_serves_where_one_side_has_no_uid(self, tmp_path):
        path = write(tmp_path, HEAD, "x/a.dcm,0,1.1,0.2,0.8", "x/b.dcm,1,,0.4,0.6")
        found = find(path, SliceKey(0, "", "/other/a.dcm"), SliceKey(7, "1.9", "b.dcm"))
        assert found == [pytest.approx([0.2, 0.8]), pytest.approx([0.4, 0.6])]

    def test_same_file_name_with_another_uid_is_another_slice(self, tmp_path):
        path = write(tmp_path, HEAD, "a.dcm,0,1.1,0.2,0.8")
        with pytest.raises(BioAttError, match=r"slice 0 \(SOPInstanceUID 1.9, file a.dcm\) is not in the prior table"):
            find(path, SliceKey(0, "1.9", "a.dcm"))

    def test_a_slice_that_is_missing_never_gets_a_neighbours_prior(self, tmp_path):
        path = write(tmp_path, HEAD, "a1.dcm,0,1.1,0.2,0.8", "a3.dcm,2,1.3,0.4,0.6")
        with pytest.raises(BioAttError, match=r"slice 1 .*a2.dcm\) is not in the prior table .*table.csv"):
            find(path, SliceKey(1, "1.2", "a2.dcm"))
        with pytest.raises(BioAttError, match="is not in the prior table"):
            find(path, SliceKey(0))

    def test_slices_of_a_volume_are_told_apart_by_index(self, tmp_path):
        path = write(tmp_path, HEAD, "v.nii.gz,0,,0.2,0.8", "v.nii.gz,1,,0.4,0.6", "one.nii,0,,0.3,0.7")
        assert find(path, SliceKey(1, "", "v.nii.gz"))[0] == pytest.approx([0.4, 0.6])
        for key in (SliceKey(2, "", "v.nii.gz"), SliceKey(1, "", "one.nii")):
            with pytest.raises(BioAttError, match="is not in the prior table"):
                find(path, key)

    def test_longer_path_tail_decides_between_equal_names(self, tmp_path):
        path = write(tmp_path, HEAD, "d/P1/low/1.dcm,0,,0.2,0.8", r"d\P2\low\1.dcm,0,,0.4,0.6")
        found = find(path, SliceKey(0, "", "/data/P2/low/1.dcm"), SliceKey(0, "", r"E:\P1\low\1.dcm"))
        assert found == [pytest.approx([0.4, 0.6]), pytest.approx([0.2, 0.8])]

    def test_equal_names_that_no_path_tells_apart_are_refused(self, tmp_path):
        path = write(tmp_path, HEAD, "P1/1.dcm,0,,0.2,0.8", "P2/1.dcm,0,,0.4,0.6")
        with pytest.raises(BioAttError, match="could be any of the lines 2, 3"):
            find(path, SliceKey(0, "", "elsewhere/1.dcm"))

    def test_equal_names_with_equal_priors_do_no_harm(self, tmp_path):
        path = write(tmp_path, HEAD, "P1/1.dcm,0,,0.25,0.75", "P2/1.dcm,0,,0.25,0.75")
        assert find(path, SliceKey(0, "", "1.dcm")) == [[0.25, 0.75]]

    def test_the_authors_form_is_read_by_file_name(self, tmp_path):
        path = write(tmp_path, "File_Path,spine,liver", "/drive/L067/L067.0001.IMA,0.25,0.75")
        assert find(path, SliceKey(44, "", r"C:\mayo\L067.0001.IMA")) == [[0.75, 0.25]]

    def test_columns_may_have_any_order(self, tmp_path):
        path = write(tmp_path, "spine,file,liver,sop_instance_uid,slice_index", "0.25,a.dcm,0.75,1.1,0")
        assert find(path, SliceKey(0, "1.1")) == [[0.75, 0.25]]


class TestRefused:
    """Malformed tables, each with the line."""

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("a,0,,0.5,x", "line 3: spine is 'x', not a number"),
            ("a,0,,0.5,", "line 3: spine is '', not a number"),
            ("a,0,,1.5,-0.5", "line 3: a prior must be finite and not negative"),
            ("a,0,,nan,0.5", "line 3: a prior must be finite"),
            ("a,0,,0.5,0.502", "line 3: a prior must sum to 1, got 1.002"),
            ("a,0,,0.5", "line 3: 4 columns where 5 are named"),
            ("a,first,,0.5,0.5", "line 3: slice_index is 'first'"),
            ("b,1,1.1,0.4,0.6", "line 3: SOPInstanceUID 1.1 has another prior in line 2"),
        ],
    )
    def test_row_is_named_by_its_line(self, tmp_path, row, message):
        with pytest.raises(BioAttError, match=message):
            find(write(tmp_path, HEAD, "ok,0,1.1,0.5,0.5", row), SliceKey(0))

    def test_line_numbers_count_comments(self, tmp_path):
        with pytest.raises(BioAttError, match="line 4: spine is 'x'"):
            find(write(tmp_path, "# model", "", HEAD, "a,0,,0.5,x"), SliceKey(0))

    def test_sum_within_a_thousandth_is_taken(self, tmp_path):
        path = write(tmp_path, HEAD, "a,0,,0.5,0.5009")
        assert find(path, SliceKey(0, "", "a"))[0] == pytest.approx([0.5, 0.5009])

    @pytest.mark.parametrize(
        ("head", "message"),
        [
            ("file,slice_index,liver,spine,x", "columns sop_instance_uid are missing"),
            ("file,slice_index,sop_instance_uid,liver,skull", r"2 descriptors \(liver, skull\), asked for are 2"),
            ("file,slice_index,sop_instance_uid,liver,liver", r"2 descriptors \(liver, liver\)"),
        ],
    )
    def test_other_columns_are_refused(self, tmp_path, head, message):
        with pytest.raises(BioAttError, match=message):
            find(write(tmp_path, head, "a,0,,0.5,0.5"), SliceKey(0))

    def test_table_of_two_words_does_not_serve_eleven(self, tmp_path):
        with pytest.raises(BioAttError, match="about 2 descriptors .*asked for are 11"):
            make_prior(f"table:{write(tmp_path, HEAD, 'a,0,,0.5,0.5')}", descriptors=DESCRIPTORS)

    def test_empty_missing_and_binary_files_are_refused(self, tmp_path):
        with pytest.raises(BioAttError, match="holds no rows"):
            find(write(tmp_path, HEAD), SliceKey(0))
        with pytest.raises(BioAttError, match="cannot be read: No such file"):
            find(tmp_path / "no.csv", SliceKey(0))
        (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(BioAttError, match="no UTF-8 text"):
            find(tmp_path / "b.csv", SliceKey(0))
