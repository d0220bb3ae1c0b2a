"""Makes an environment that holds a wheel and what it requires, and nothing else of this one.

    python deploy/release/clean_environment.py dist/bioatt-0.7.0-py3-none-any.whl runs/clean

The wheel is installed; the packages that it requires, and those that they require, are links to the ones installed
here: no gigabytes are fetched or copied, and a package that the wheel forgets to name is missing, as for a user.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from collections import deque
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement


def main() -> None:
    """Make the environment."""
    parser = argparse.ArgumentParser(description="Make an environment of a wheel and what it requires.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path, help="made anew")
    options = parser.parse_args()
    make_environment(options.wheel, options.folder)


def make_environment(wheel: Path, folder: Path) -> Path:
    """Make the environment in `folder`, which is replaced, and return its Python.

    Raises:
        PackageNotFoundError: something that the wheel requires is not installed here.
        CalledProcessError: it is, in a version that the wheel refuses.
    """
    venv.create(folder, clear=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (installed,) = Distribution.discover(name="bioatt", path=[str(site)])
    for one in closure(installed):
        link(one, site)
    subprocess.run([*pip, "check"], check=True)
    return python


def closure(root: Distribution) -> list[Distribution]:
    """What `root` requires, and what that requires, each once, as installed here."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = deque([(root, "")])
    while waiting:
        one, extra = waiting.popleft()
        for text in one.requires or []:
            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
                continue
            package = found.setdefault(wanted.name.lower().replace("_", "-"), distribution(wanted.name))
            for further in ("", *wanted.extras):
                if (wanted.name, further) not in seen:
                    seen.add((wanted.name, further))
                    waiting.append((package, further))
    return list(found.values())


def link(package: Distribution, site: Path) -> None:
    """Link each top-level folder and file of an installed package into `site`."""
    for name in {file.parts[0] for file in package.files or [] if file.parts[0] != ".."}:
        place = site / name
        if not place.exists() and name != "__pycache__":
            place.symlink_to(Path(str(package.locate_file(name))))


if __name__ == "__main__":
    main()
