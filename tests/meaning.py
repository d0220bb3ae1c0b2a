"""What a generated page says, whatever the order of its rows and the breaks of its lines."""

from __future__ import annotations

import re
from xml.etree import ElementTree


def page_meaning(markdown):
    """Heading to what stands under it: paragraphs and rows of tables as words, in no order."""
    heading, found = "", {}
    for block in re.split(r"\n\s*\n|\n(?=[|#])", markdown):
        if (words := tuple(block.split())) and not set(block) <= set("|- "):
            heading = words if words[0].startswith("#") else heading
            found.setdefault(heading, set()).add(words)
    return found


def picture_meaning(svg):
    """The words of an SVG, in no order: those that are shown, and those that are told of its parts."""
    return sorted(text for one in ElementTree.fromstring(svg).iter() if (text := (one.text or "").strip()))
