"""Imports in the bundle's code go only downwards, are relative, and load nothing heavy before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from import_graph import (
    FILES,
    ROOMS,
    SCRIPTS,
    module_of,
    modules_imported,
    outside_functions,
    parse,
    relative_imports,
    room_of,
)

STUDIES = SCRIPTS.parents[1] / "studies"
HEAVY = {"open_clip", "transformers", "matplotlib", "highdicom", "skimage"}
#: Functions that macOS has not, or that raise there.
LINUX_ALONE = {"confstr", "sched_getaffinity", "CDLL", "posix_fadvise", "memfd_create", "pidfd_open", "prctl"}
every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SCRIPTS)))


def absolute_imports(nodes):
    """Names of the packages imported absolutely, by a statement or by importlib with a literal name."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
            yield from (str(one.value).split(".")[0] for one in node.args[:1] if isinstance(one, ast.Constant))


def faults(tree, file):
    """Everything about the imports of `file` that the rules forbid."""
    room = room_of(file)
    for imported, line in relative_imports(tree, file):
        if imported not in ROOMS:
            yield f"line {line}: {room} imports {imported}, which is no room"
        elif ROOMS.index(imported) > ROOMS.index(room):
            yield f"line {line}: {room} imports {imported}, which is above it"
    for name in absolute_imports(ast.walk(tree)):
        if name in {"scripts", "bioatt"} and file.name != "command_line.py":
            yield f"{name} is imported absolutely"
    for name in absolute_imports(outside_functions(tree)):
        if name in HEAVY | {"scripts", "bioatt"}:
            yield f"{name} is imported as soon as the module is"


def test_every_file_stands_in_a_room():
    assert {room_of(file) for file in FILES} == set(ROOMS)


def test_no_module_imports_itself_over_others():
    """Rooms have no circle, since they import downwards; neither have the modules of a room."""
    below = {module_of(file): set(modules_imported(parse(file), file)) for file in FILES}
    while free := {module for module, imported in below.items() if not imported & below.keys()}:
        below = {module: imported for module, imported in below.items() if module not in free}
    assert below == {}


@pytest.mark.parametrize("file", sorted(STUDIES.rglob("*.py")), ids=lambda file: str(file.relative_to(STUDIES)))
def test_studies_stand_on_the_bundle(file):
    assert set(absolute_imports(outside_functions(parse(file)))) & (HEAVY | {"bioatt"}) == set()


def test_no_test_imports_another():
    tests = [*Path(__file__).parent.rglob("*.py"), *(SCRIPTS.parents[1] / "docs").glob("*.py")]
    imported = {file.name: set(absolute_imports(ast.walk(parse(file)))) for file in tests}
    names = {file.stem for file in tests if file.stem.startswith("test_")}
    assert {name: found & names for name, found in imported.items() if found & names} == {}
    assert len(names) > 50 and "meaning" in imported["test_docs.py"]


def asked_at_import(tree):
    """What of `LINUX_ALONE` a module asks for as soon as it is imported, decorators included."""
    nodes = list(outside_functions(tree))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            nodes += [node for one in function.decorator_list for node in ast.walk(one)]
    called = {ast.unparse(node.func).split(".")[-1] for node in nodes if isinstance(node, ast.Call)}
    return called & LINUX_ALONE


def test_code_and_tests_can_be_imported_where_linux_is_not():
    tests = Path(__file__).parent.rglob("*.py")
    assert {file.name: asked_at_import(parse(file)) for file in [*FILES, *tests] if asked_at_import(parse(file))} == {}
    assert asked_at_import(ast.parse("@skipif(os.confstr('CS_GNU_LIBC_VERSION'))\ndef test(): pass")) == {"confstr"}
    assert asked_at_import(ast.parse("cores = len(os.sched_getaffinity(0))")) == {"sched_getaffinity"}
    assert asked_at_import(ast.parse("def f():\n    os.confstr('x')")) == set()


@every_file
def test_imports_go_downwards_are_relative_and_light(file):
    assert list(faults(parse(file), file)) == []


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("hu.py", "from .staging import staged_folder"),
        ("errors.py", "from .errors_more import x"),
        ("app/demo.py", "from ..commands import x"),
        ("hu.py", "from . import networks"),
        ("networks/attention.py", "from ..priors import DESCRIPTORS"),
        ("networks/attention.py", "from .. import workflow"),
        ("dose/simulate.py", "def f():\n    from ..volumes.reader import SeriesReader"),
        ("inference/inferers.py", "from ..workflow import check_overrides"),
        ("workflow.py", "from .app.demo import run_demo"),
        ("inference/inferers.py", "import scripts.hu"),
        ("app/demo.py", "from bioatt.scripts.hu import hu_to_network"),
        ("app/demo.py", "import importlib\ndef f():\n    importlib.import_module('scripts.hu')"),
        ("command_line.py", "import scripts.app.commands.demo"),
        ("evaluation/figures.py", "import matplotlib.pyplot as plt"),
        ("priors/clip.py", "try:\n    import open_clip\nexcept ImportError:\n    pass"),
        ("priors/clip.py", "class A:\n    from transformers import logging"),
    ],
)
def test_the_rules_notice(place, line):
    assert list(faults(ast.parse(line), SCRIPTS / place))


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("networks/attention.py", "from ..errors import BioAttError\nfrom .redcnn import BioAtt"),
        ("inference/inferers.py", "from ..volumes.reader import slice_keys_from_meta\nfrom .. import hu"),
        ("app/demo.py", "from .commands.demo import run"),
        ("dose/geometry.py", "def f():\n    from skimage.transform import radon"),
        ("command_line.py", "import importlib\ndef f():\n    importlib.import_module('scripts.app.commands.demo')"),
    ],
)
def test_the_rules_allow(place, line):
    assert list(faults(ast.parse(line), SCRIPTS / place)) == []


def test_command_line_and_its_help_load_nothing_heavy(bundle_root):
    code = (
        "import sys, scripts.app.command_line as c; c.build_parser().format_help();"
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=bundle_root, capture_output=True, text=True, timeout=120, check=True
    )
    loaded = set(ast.literal_eval(done.stdout))
    assert "argparse" in loaded
    assert loaded & (HEAVY | {"torch", "monai", "numpy", "scipy", "pydicom", "nibabel"}) == set()
