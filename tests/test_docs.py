"""The documents: generated pages are up to date, links lead somewhere, commands are those of the programs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from meaning import page_meaning, picture_meaning

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "bundle"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "tests").glob("*.md")),
    *sorted(BUNDLE.rglob("*.md")),
]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code_lines(text):
    """Lines of code blocks, indented or fenced, with lines that end in a backslash joined."""
    text = re.sub(r"\\\n\s*", " ", text)
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^(?: {4}|\t)(.*)$", text, re.MULTILINE)
    return [line.strip() for block in [*fenced, *indented] for line in block.splitlines()]


def inline_code(text):
    """Code within a sentence, its line breaks as blanks."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    outside = re.sub(r"^(?: {4}|\t).*$", "", outside, flags=re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", outside)]


def words(line):
    """The words of a command line; none where it is not one."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def after(line, program):
    """Words behind `program`, or None."""
    names = [Path(word).name for word in words(line)]
    return words(line)[names.index(program) + 1 :] if program in names else None


def anchors(text):
    """Anchors of the headings, as GitHub makes them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


def link_faults(page, text):
    """Relative links that lead nowhere."""
    outside = re.sub(r"^(?: {4}|\t).*$|`[^`]*`", "", text, flags=re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", outside):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists():
            yield f"{link}: no such file"
        elif anchor and anchor not in anchors(target.read_text()):
            yield f"{link}: no such heading"


def bioatt_faults(arguments, whole):
    """What the parser has against the words behind `bioatt`; a mention in a sentence needs no arguments."""
    from scripts.app.command_line import build_parser

    parser = build_parser()
    (commands,) = [one.choices for one in parser._actions if one.dest == "command"]
    if not arguments or arguments[0] in ("--help", "COMMAND"):
        return []
    if arguments[0] not in commands:
        return [f"no command {arguments[0]}"]
    known = {option for action in commands[arguments[0]]._actions for option in action.option_strings}
    unknown = {word.split("=")[0] for word in arguments if word.startswith("--")} - known
    if unknown or not whole or "--help" in arguments:
        return [f"no option {one}" for one in sorted(unknown)]
    try:
        parser.parse_args(arguments)
    except SystemExit:
        return ["the parser refuses it"]
    return []


def make_faults(arguments):
    """Targets that the Makefile does not have."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    return [f"no target {word}" for word in arguments if "=" not in word and word not in targets]


def monai_faults(arguments):
    """Config files, run ids and overrides that are not there; `arguments` stand behind `monai.bundle`."""
    from scripts.errors import BioAttError
    from scripts.workflow import RUN_OPTIONS, _config_files, _options, check_overrides

    options = _options(arguments)
    named = _config_files(options.get("config_file", "[]"))
    files = [next((root / name for root in (ROOT, BUNDLE) if (root / name).is_file()), None) for name in named]
    if not files or None in files:
        return [f"config files {named}"]
    if arguments[0] != "run":
        places = [options[key] for key in ("ckpt_file", "meta_file") if key in options]
        return [f"no file {place}" for place in places if not (BUNDLE / place).is_file()]
    keys = {key for file in files for key in json.loads(file.read_text())}
    run_ids = [word for word in arguments[1:2] if not word.startswith("--")]
    faults = [f"no key {one}" for one in run_ids if one not in keys]
    try:
        check_overrides(options.keys() - RUN_OPTIONS, files)
    except BioAttError as error:
        faults.append(str(error))
    return faults


def command_faults(text):
    """Faults of every command in a document, and how many commands there are."""
    faults, count = [], 0
    for whole, lines in ((True, code_lines(text)), (False, inline_code(text))):
        for line in lines:
            found = []
            if whole and line.startswith("make ") or not whole and re.match(r"make [a-z-]+\b", line):
                found = make_faults(words(line)[1:])
            elif (rest := after(line, "monai.bundle")) and "--config_file" in rest:
                found = monai_faults(rest)
            elif words(line)[:1] == ["bioatt"] or (whole and "bioatt" in words(line)):
                found = bioatt_faults(after(line, "bioatt"), whole)
            elif module := re.search(r"python -m (scripts\.[\w.]+)", line):
                place = BUNDLE.joinpath(*module[1].split("."))
                found = [] if place.with_suffix(".py").is_file() or place.is_dir() else [f"no module {module[1]}"]
            else:
                continue
            count += 1
            faults += [f"{line}: {fault}" for fault in found]
    return faults, count


@every_page
def test_relative_links_lead_somewhere(page):
    assert list(link_faults(page, page.read_text())) == []


@every_page
def test_commands_are_those_of_the_programs(page):
    assert command_faults(page.read_text())[0] == []


def test_the_commands_are_found():
    least = {"README.md": 4, "docs/training.md": 10, "CONTRIBUTING.md": 5, "bundle/docs/README.md": 6}
    for name, number in least.items():
        assert command_faults((ROOT / name).read_text())[1] >= number, name


@pytest.mark.parametrize(
    "text",
    [
        "    bioatt denoise SERIES",
        "    bioatt denoise SERIES OUT --sharpen",
        "```bash\nbioatt blur SERIES OUT\n```",
        "see `bioatt blur`",
        "see `bioatt denoise\n--sharpen`",
        "    torchrun --no-python bioatt denoise --cohort LIST",
        "    make coffee",
        "see `make coffee`",
        "    python -m monai.bundle run inference --config_file configs/none.json",
        "    python -m monai.bundle run brewing --config_file configs/inference.json",
        "    python -m monai.bundle run inference --config_file bundle/configs/inference.json --priors uniform",
        "    python -m monai.bundle run \"['configs/train.json','configs/none.json']\" --config_file configs/none.json",
        "    python -m monai.bundle ckpt_export --config_file configs/inference.json --ckpt_file models/none.pt",
        "    python -m scripts.none",
    ],
)
def test_a_wrong_command_is_noticed(text):
    assert command_faults(text)[0]


@pytest.mark.parametrize("text", ["[a](none.md)", "[a](README.md#none)", "![a](docs/none.png)", "[a](#none)"])
def test_a_dead_link_is_noticed(text):
    assert list(link_faults(ROOT / "README.md", text))


def test_the_reference_is_up_to_date():
    import make_reference

    for name, page in make_reference.PAGES.items():
        there = (ROOT / "docs" / "reference" / name).read_text()
        assert page_meaning(there) == page_meaning(page()), f"{name} is old: make reference"


@pytest.mark.parametrize("name", ["inference.json", "train.json"])
def test_every_setting_is_explained(name):
    from make_reference import _settings, meaning

    config = json.loads((BUNDLE / "configs" / name).read_text())
    unexplained = [key for key, _ in _settings(config) if not meaning(name, config, key)]
    assert unexplained == [], "say what they mean in the docstring of the argument they go to, or in KEYS"


@pytest.mark.parametrize(("name", "what"), [("inference.json", "slices"), ("train.json", "patches")])
def test_a_key_is_explained_as_its_config_uses_it(name, what):
    import make_reference

    page = make_reference.configs_page()
    section = page[page.index(f"## {name}") :]
    (row,) = re.findall(r"^\| `batch_size` .*$", section[: section.index("\n## ", 1)], re.MULTILINE)
    assert row.endswith(f"| {make_reference.KEYS_OF[name]['batch_size']} |") and what in row


def test_words_of_keys_that_no_config_has_are_noticed():
    from make_reference import KEYS_OF

    for name, words in KEYS_OF.items():
        assert words.keys() <= json.loads((BUNDLE / "configs" / name).read_text()).keys()


def test_the_picture_of_the_rooms_is_up_to_date():
    import make_rooms

    there = (ROOT / "docs" / "rooms.svg").read_text()
    assert picture_meaning(there) == picture_meaning(make_rooms.draw()), "rooms.svg is old: make reference"


def test_pages_are_compared_by_what_they_say():
    page = "# A\n\nOne two\nthree.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n"
    same = "# A\n\nOne\ntwo three.\n\n| a | b |\n|---|---|\n| 3 | 4 |\n| 1 | 2 |\n"
    assert page_meaning(page) == page_meaning(same)
    assert page_meaning(page) != page_meaning(page.replace("| 4", "| 5"))
    assert page_meaning(page) != page_meaning(page.replace("two", "too"))
    drawn = '<svg><text x="1">hu</text><path d="M1"><title>a imports hu</title></path></svg>'
    assert picture_meaning(drawn) == picture_meaning(drawn.replace("M1", "M2")) == ["a imports hu", "hu"]
    assert picture_meaning(drawn) != picture_meaning(drawn.replace("hu</t", "HU</t"))


def test_the_picture_leaves_out_only_what_a_way_over_another_room_says():
    from make_rooms import arrows

    graph = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "top": {"c"}}
    assert arrows(graph, ["a", "b", "c"]) == [("b", "a"), ("c", "b")]


def test_the_picture_tells_floor_and_rooms_apart():
    from make_rooms import tiers

    graph = {"hu": set(), "networks": {"hu"}, "volumes": {"networks"}, "workflow": {"volumes"}}
    rooms = ["hu", "networks", "volumes", "workflow"]
    assert tiers(graph, rooms) == (["hu"], [["networks"], ["volumes"], ["workflow"]])
