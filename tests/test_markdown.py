"""Tables in Markdown."""

from __future__ import annotations

from scripts.markdown import table


def test_a_table_has_a_line_for_head_rule_and_each_row():
    text = table(("name", "", "n"), [("a", 1.5, 2), ("b", "-", 3)])
    assert text.splitlines() == ["| name |  | n |", "|---|---|---|", "| a | 1.5 | 2 |", "| b | - | 3 |"]
    assert table(("name",), []) == "| name |\n|---|"
