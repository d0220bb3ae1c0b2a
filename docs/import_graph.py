"""The import graph of the bundle's code, for the layer test and the picture of the rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "bundle" / "scripts"
#: From the floor up; a room imports those before it. Nothing else stands in bundle/scripts.
ROOMS = [
    *("__init__", "errors", "hu", "staging", "strengths", "provenance", "ownership", "device", "progress"),
    *("former_keys", "pages"),
    *("networks", "priors", "dose", "dicom", "volumes", "evaluation", "inference", "training", "report"),
    *("data", "inferers"),  # names of 0.3.2, for the configs of users
    *("workflow", "cohort", "ablation", "benchmark", "app"),
]
FILES = sorted(SCRIPTS.rglob("*.py"))


def parse(file: Path) -> ast.Module:
    """Syntax tree of a file."""
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def room_of(file: Path) -> str:
    """First part of the path: a room, which may be a single module."""
    return file.relative_to(SCRIPTS).parts[0].removesuffix(".py")


def relative_imports(tree: ast.AST, file: Path) -> Iterator[tuple[str, int]]:
    """Rooms that `file` imports relatively, with line numbers."""
    folders = file.relative_to(SCRIPTS).parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            up = node.level - 1
            assert up <= len(folders), f"{file.name}:{node.lineno} leaves the package"
            base = (*folders[: len(folders) - up], *(node.module or "").split("."))
            path = [part for part in base if part]
            for alias in node.names:
                name = (path or [alias.name])[0]
                yield name if name in ROOMS or name.islower() else "__init__", node.lineno


def module_of(file: Path) -> str:
    """Dotted name of a file below scripts; a package by its own name."""
    return ".".join(file.relative_to(SCRIPTS).with_suffix("").parts).removesuffix(".__init__")


def modules_imported(tree: ast.AST, file: Path) -> Iterator[str]:
    """Modules that `file` imports relatively when it is imported itself, by `module_of`."""
    names = {module_of(one) for one in FILES}
    folders = file.relative_to(SCRIPTS).parts[:-1]
    for node in outside_functions(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*folders[: len(folders) - node.level + 1], *(node.module or "").split(".")]
            module = ".".join(part for part in base if part)
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                yield inner if inner in names else module or "__init__"


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run on import."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from outside_functions(child)
