"""The tutorial's commands work in their order, and its pictures are those that the commands make."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts.app.command_line import main

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "tutorial.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in TEXT.splitlines() if line.startswith("    ")]
#: Name of a picture in docs/tutorial to the file that a command of the tutorial makes.
PICTURES = {
    "demo.png": "demo/demo.png",
    "attention1.png": "explained/attention1.png",
    "priors.png": "explained/priors.png",
}
#: Made by make, which the tests run on their own.
NOT_RUN = {"make setup"}


def test_every_command_ends_well_and_makes_the_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line, comments=True) for line in COMMANDS if line not in NOT_RUN]
    assert len(commands) >= 4
    for words in commands:
        assert words[0] == "bioatt", words
        assert main(words[1:]) == 0, words
    for name, made in PICTURES.items():
        ours, theirs = (
            np.asarray(Image.open(one).convert("L"), float) for one in (tmp_path / made, DOCS / "tutorial" / name)
        )
        assert ours.shape == theirs.shape and np.abs(ours - theirs).mean() < 3, name
    for name in re.findall(r"`([\w/]+\.(?:html|json|png|nii\.gz))`", TEXT):
        assert (tmp_path / name).is_file(), name


def test_the_pictures_shown_are_those_and_small():
    shown = re.findall(r"!\[[^\]]+\]\(tutorial/([^)]+)\)", TEXT)
    assert sorted(shown) == sorted(PICTURES) == sorted(path.name for path in (DOCS / "tutorial").iterdir())
    assert all((DOCS / "tutorial" / name).stat().st_size < 150_000 for name in shown)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", TEXT))
def test_links_lead_somewhere(link):
    assert (DOCS / link).exists()
