"""Pages by templates, and tables in Markdown."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError
from scripts.pages import render, table


def test_a_page_in_html_is_escaped_and_one_in_markdown_is_not(tmp_path):
    for name, shown in (("page.html", "a &lt; b\n"), ("page.md.jinja", "a < b\n")):
        (tmp_path / name).write_text("{{ words }}\n")
        assert render(tmp_path / name, words="a < b") == shown


def test_a_value_that_is_not_there_is_no_empty_place(tmp_path):
    (tmp_path / "page.html").write_text("{{ words }}")
    with pytest.raises(UndefinedError, match="words"):
        render(tmp_path / "page.html")


def test_a_table_has_a_line_for_head_rule_and_each_row():
    text = table(("name", "", "n"), [("a", 1.5, 2), ("b", "-", 3)])
    assert text.splitlines() == ["| name |  | n |", "|---|---|---|", "| a | 1.5 | 2 |", "| b | - | 3 |"]
    assert table(("name",), []) == "| name |\n|---|"
