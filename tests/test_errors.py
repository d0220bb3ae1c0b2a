"""BioAttError is found again however deep other libraries wrap it."""

from __future__ import annotations

import pytest
import torch
from phantom import write_ct_series
from scripts.app.command_line import main
from scripts.errors import BioAttError, find_bioatt_error


def caught(function):
    """The exception that `function` raises."""
    with pytest.raises(Exception) as info:
        function()
    return info.value


def test_finds_the_error_itself():
    error = BioAttError("no file")
    assert find_bioatt_error(error) is error


def test_finds_it_through_explicit_causes():
    ours = BioAttError("no file")

    def wrap_twice():
        try:
            try:
                raise ours
            except BioAttError as error:
                raise RuntimeError("component failed") from error
        except RuntimeError as error:
            raise ValueError("config failed") from error

    assert find_bioatt_error(caught(wrap_twice)) is ours


def test_finds_it_through_an_implicit_context():
    ours = BioAttError("no file")

    def raise_while_handling():
        try:
            raise ours
        except BioAttError:
            raise RuntimeError("and then this")  # noqa: B904

    error = caught(raise_while_handling)
    assert error.__cause__ is None
    assert find_bioatt_error(error) is ours


def test_outermost_of_several_is_told():
    inner, outer = BioAttError("inner"), BioAttError("outer")
    outer.__cause__ = inner
    wrapped = RuntimeError()
    wrapped.__cause__ = outer
    assert find_bioatt_error(wrapped) is outer


def test_cause_goes_before_context():
    error, cause, context = RuntimeError(), BioAttError("cause"), BioAttError("context")
    error.__cause__, error.__context__ = cause, context
    assert find_bioatt_error(error) is cause


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_cycle_ends(link):
    first, second = RuntimeError("first"), RuntimeError("second")
    setattr(first, link, second)
    setattr(second, link, first)
    assert find_bioatt_error(first) is None


def test_error_behind_a_joint_of_two_is_found_in_a_long_chain():
    ours = BioAttError("deep")
    error: Exception = ours
    for i in range(5000):
        outer = RuntimeError(i)
        outer.__cause__ = error
        error = outer
    assert find_bioatt_error(error) is ours


def test_a_full_gpu_is_one_line_wherever_it_happens():
    outer = RuntimeError("Failed to instantiate")
    outer.__cause__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
    told = str(find_bioatt_error(outer))
    assert "is full (CUDA out of memory)" in told and "--batch-size 1" in told and "--device cpu" in told


@pytest.mark.parametrize("error", [None, ValueError("other"), KeyboardInterrupt()])
def test_none_where_there_is_none(error):
    assert find_bioatt_error(error) is None


def test_a_path_that_the_system_refuses_is_one_line(tmp_path, capsys):
    source = write_ct_series(tmp_path / "in", slices=1)
    for places in ((source, tmp_path / ("n" * 300)), (tmp_path / ("n" * 300), tmp_path / "out")):
        assert main(["denoise", *map(str, places)]) == 2
        assert "cannot be used: File name too long; check the path" in capsys.readouterr().err
