"""Makes the folders and the archive that MONAI's model zoo and the MONAI space on the model hub take.

    python deploy/release/make_zoo.py bundle dist/zoo --weights-url https://...

::

    OUT/models/NAME/         for a pull request to the zoo: large files are named by large_files.yml, not in it
    OUT/hub/NAME/            for the hub: the whole bundle, with the README and .gitattributes of a hub
    OUT/NAME_vVERSION.zip    the whole bundle, as `monai.bundle download` fetches it

JSON is written as the zoo's own check (pretty-format-json) wants it; the bundle's own files stay as people write them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

LARGEST = 1024 * 1024  # bytes; the zoo's hook check-added-large-files says 1024 KB
_HUB = "https://huggingface.co/MONAI/{name}/resolve/{version}"
_FRONT = "---\ntags:\n- monai\n- medical\nlibrary_name: monai\nlicense: apache-2.0\n---\n"
_LARGE_BY_GIT = "*.{} filter=lfs diff=lfs merge=lfs -text\n"
_SAME_TIME = (1980, 1, 1, 0, 0, 0)  # of everything in the archive: the same files give the same bytes


def main() -> None:
    """Make them, and print where they are."""
    parser = argparse.ArgumentParser(description="Make what MONAI's model zoo and model hub take.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("output", type=Path, help="made anew")
    parser.add_argument(
        "--weights-url",
        help="where the large files are, by their paths in the bundle (default: the hub, at the tag VERSION)",
    )
    options = parser.parse_args()
    shutil.rmtree(options.output, ignore_errors=True)
    print(*make_zoo(options.bundle, options.output, options.weights_url), sep="\n")


def make_zoo(bundle: Path, output: Path, weights_url: str | None = None) -> list[Path]:
    """Make all three in `output` and return their paths."""
    files = bundle_files(bundle)
    metadata = json.loads(files["configs/metadata.json"])
    name, version = metadata["name"], metadata["version"]
    large = {path: data for path, data in files.items() if len(data) > LARGEST}
    url = weights_url or _HUB.format(name=name, version=version)
    small = {path: data for path, data in files.items() if path not in large}
    zoo = write_files(output / "models" / name, small | {"large_files.yml": large_files(large, url)})
    kinds = sorted({Path(path).suffix[1:] for path in large})
    hub_files = {
        "README.md": _FRONT.encode() + files["docs/README.md"],
        ".gitattributes": "".join(map(_LARGE_BY_GIT.format, kinds)).encode(),
    }
    hub = write_files(output / "hub" / name, files | hub_files)
    return [zoo, hub, write_archive(output / f"{name}_v{version}.zip", name, files)]


def bundle_files(bundle: Path) -> dict[str, bytes]:
    """The bundle's files by their paths in it, JSON in the zoo's form; Python's caches are left out."""
    paths = sorted(path for path in bundle.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    found = {path.relative_to(bundle).as_posix(): path.read_bytes() for path in paths}
    return {path: pretty(data) if path.endswith(".json") else data for path, data in found.items()}


def pretty(data: bytes) -> bytes:
    """JSON as pretty-format-json writes it with the zoo's options: four blanks, keys as they are, ASCII."""
    return (json.dumps(json.loads(data), indent=4) + "\n").encode()


def large_files(files: Mapping[str, bytes], url: str) -> bytes:
    """The zoo's large_files.yml: where each file is fetched, and its sha256."""
    lines = ["large_files:"]
    for path, data in files.items():
        lines += [
            f'- path: "{path}"',
            f'  url: "{url.rstrip("/")}/{path}"',
            f'  hash_val: "{hashlib.sha256(data).hexdigest()}"',
            '  hash_type: "sha256"',
        ]
    return ("\n".join(lines) + "\n").encode()


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files into `folder`."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def write_archive(file: Path, name: str, files: Mapping[str, bytes]) -> Path:
    """Write the files below a folder `name` into a zip."""
    with zipfile.ZipFile(file, "w") as archive:
        for path, data in files.items():
            entry = zipfile.ZipInfo(f"{name}/{path}", _SAME_TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return file


if __name__ == "__main__":
    main()
