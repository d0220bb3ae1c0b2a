"""Pages that commands write, by templates, and their tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def render(template: Path, **values: Any) -> str:
    """The page that a Jinja template makes of `values`; words in HTML (``*.html``) are escaped.

    Raises:
        jinja2.UndefinedError: the template names a value that is not there.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(template.parent, encoding="utf-8"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template(template.name).render(values)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown with a head; rows are as long as it is."""
    first, *others = (f"| {' | '.join(map(str, line))} |" for line in (head, *rows))
    return "\n".join([first, "|---" * len(head) + "|", *others])
