"""`bioatt --version` and `bioatt info`."""

from __future__ import annotations

import hashlib
import json
import runpy
import sys
from unittest.mock import patch

import pytest
import torch
from scripts.app.command_line import main
from scripts.device import find_precision


def _device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_version_is_that_of_the_metadata(bundle_root, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    known = json.loads((bundle_root / "configs" / "metadata.json").read_text())["version"]
    assert end.value.code == 0 and capsys.readouterr().out.strip() == f"bioatt {known}"


def test_the_module_is_the_command(capsys):
    """``python -m bioatt``, in this process."""
    with patch.object(sys, "argv", ["bioatt", "--version"]), pytest.raises(SystemExit, match="0"):
        runpy.run_module("bioatt", run_name="__main__", alter_sys=False)
    assert capsys.readouterr().out.startswith("bioatt ")


def test_info_tells_weights_and_device(bundle_root, capsys):
    assert main(["info", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["weights_sha256"] == hashlib.sha256((bundle_root / "models" / "model.pt").read_bytes()).hexdigest()
    assert torch.__version__.startswith(told["packages"]["torch"])  # of a build for one device: 2.0.0+cpu
    assert told["device"] == str(_device()) and told["precision"] == find_precision("auto", _device())


def test_info_is_a_line_each_for_people(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert (
        f"torch {torch.__version__.partition('+')[0]}" in text
        and f"precision       {find_precision('auto', _device())}\n" in text
    )
