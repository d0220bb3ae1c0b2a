"""BioAtt as a module of mercure: each CT series of MERCURE_IN_DIR is denoised into MERCURE_OUT_DIR.

MERCURE_IN_DIR holds files ``SERIES_UID#NAME.dcm`` of one or several series, and task.json, whose ``process.settings``
may have keys of configs/inference.json, such as ``strength``, and ``rules`` as docs/node.md describes them.
mercure names a file by the header that it received, so a file that cannot be read any more is a slice lost from the
series of its name, and from no other. MERCURE_OUT_DIR exists; it gets the images of all derived series, and
result.json.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bioatt.scripts.app.entry import BUNDLE_ROOT

if str(BUNDLE_ROOT) not in sys.path:  # the configs import the bundle's code as `scripts`; one name for it
    sys.path.insert(0, str(BUNDLE_ROOT))

logger = logging.getLogger("bioatt.mercure")


def main() -> int:
    """Denoise what is there; 0 done, 1 some series failed, 2 folders or task.json cannot be used."""
    from scripts.errors import exit_code
    from scripts.workflow import quiet_libraries

    quiet_libraries()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    return exit_code(_run)


def _run() -> int:
    from scripts.workflow import RepeatedInference

    source, target = _folder("MERCURE_IN_DIR"), _folder("MERCURE_OUT_DIR")
    settings, rules = read_task(source / "task.json")
    inference = RepeatedInference()  # loads the network once for all series of the same settings
    told = [
        denoise_series(inference, source, uid, files, target, settings, rules)
        for uid, files in series_of(source).items()
    ]
    result = {"series": told, "__mercure_notification": notification(told)}
    (target / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(result["__mercure_notification"]["text"])
    return int(any(one["state"] == "failed" for one in told))


def read_task(file: Path) -> tuple[dict[str, Any], list[Any]]:
    """Settings and rules of the module, of ``process.settings``; without them those of `bioatt denoise`.

    Raises:
        BioAttError: unreadable, or a setting or rule that cannot be used.
    """
    from scripts.app.node.rules import check_settings, make_rules, read_rules
    from scripts.errors import BioAttError

    try:
        process = json.loads(file.read_text(encoding="utf-8")).get("process") or {}
        settings = dict(process.get("settings") or {})
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise BioAttError(f"{file.name} cannot be read ({type(error).__name__}); expected process.settings") from error
    rules = settings.pop("rules", None)
    check_settings(settings, file.name)
    return settings, read_rules(None) if rules is None else make_rules(rules, file.name)


def series_of(folder: Path) -> dict[str, list[Path]]:
    """The files of each series, by the UID before # in their names.

    Raises:
        BioAttError: there are none, or an image that no name puts into a series.
    """
    from pydicom.misc import is_dicom
    from scripts.app.node.storage import is_uid
    from scripts.errors import BioAttError

    found: dict[str, list[Path]] = {}
    for file in sorted(one for one in folder.rglob("*") if one.is_file()):
        uid, hash_sign, _ = file.name.partition("#")
        is_named = bool(hash_sign) and is_uid(uid) and file.parent == folder  # UIDs become settings, which can be code
        if is_named and file.suffix == ".dcm":
            found.setdefault(uid, []).append(file)
        elif file.suffix == ".dcm" or is_dicom(file):  # others are mercure's notes
            raise BioAttError("MERCURE_IN_DIR holds an image whose name is not SERIES_UID#NAME.dcm; take it out")
    if not found:
        raise BioAttError("MERCURE_IN_DIR holds no SERIES_UID#NAME.dcm; start the module by a rule of mercure")
    return found


def denoise_series(
    inference: Any,
    source: Path,
    uid: str,
    files: Sequence[Path],
    target: Path,
    settings: Mapping[str, Any],
    rules: Sequence[Any],
) -> dict[str, Any]:
    """Denoise one series, or leave it out; what became of it, without values of the patient's."""
    from scripts.app.node.rules import choose
    from scripts.errors import find_bioatt_error

    try:
        choice = choose(files, rules)
        if choice.settings is None:
            return {"series": uid, "state": "left out", "why": choice.why}
        figures = _denoise(inference, uid, files, target, {**settings, **choice.settings})
        return {"series": uid, "state": "denoised", **figures}
    except Exception as error:
        ours = find_bioatt_error(error)
        if ours is None:
            logger.exception("series %s: unexpected error", uid)
        return {"series": uid, "state": "failed", "why": str(ours or f"unexpected {type(error).__name__}")}


def notification(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The notice that mercure raises: always with the text, asked for where something failed or was out of scope."""
    done = [one for one in told if one["state"] == "denoised"]
    lines = [f"BioAtt: {len(done)} of {len(told)} series denoised. Not for diagnosis."]
    for one in told:
        if one["state"] == "denoised":
            before, after = (one["noise_sd_hu"] or {}).get("before"), (one["noise_sd_hu"] or {}).get("after")
            noise = f", noise {before:.1f} HU before, {after:.1f} HU after" if one["noise_sd_hu"] else ""
            scope = "".join(f"; outside what it was trained on: {what}" for what in one["outside_scope"])
            lines.append(f"{one['series']}: {one['slices']} slices{noise}{scope}")
        else:
            lines.append(f"{one['series']}: {one['state']}, {one['why']}")
    odd = any(one["state"] == "failed" or one.get("outside_scope") for one in told)
    return {"text": "\n".join(lines), "requested": odd}


def _denoise(
    inference: Any, uid: str, files: Sequence[Path], target: Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Run the inference workflow on these files alone, and put its images into `target` when all are made."""
    from scripts.errors import BioAttError, find_bioatt_error

    own = Path(tempfile.mkdtemp(prefix=".bioatt-", dir=target))
    try:
        alone = own / uid
        alone.mkdir()
        for file in files:
            _check_series(file, uid)
            (alone / file.name).symlink_to(file.absolute())
        inference.load({**settings, "stable_uids": True, "progress": False, "summary": False})
        figures = inference.run({"dataset_dir": str(alone), "output_dir": str(own / "made")})
        made = sorted((own / "made").glob("*.dcm"))
        derived = _series_uid(made[0])
        for file in made:
            os.rename(file, target / f"{derived}#{file.name}")
    except Exception as error:
        if (ours := find_bioatt_error(error)) is None:
            raise
        raise BioAttError(str(ours).replace(str(alone), str(files[0].parent))) from error
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return {"derived_series": derived, **figures}


def _check_series(file: Path, uid: str) -> None:
    """Refuse an image that says of itself another series than its name; one that cannot be read says none.

    Raises:
        BioAttError: it does, or it is damaged.
    """
    from scripts.dicom.headers import CutError, label, open_dicom
    from scripts.errors import BioAttError

    with suppress(CutError):  # the workflow refuses it as lost
        header = open_dicom(file, specific_tags=["SOPClassUID", "SeriesInstanceUID"], stop_before_pixels=True)
        if header is not None and label(header, "SeriesInstanceUID", file) != uid:
            raise BioAttError(f"{file} says another SeriesInstanceUID than its name; send the series again")


def _series_uid(file: Path) -> str:
    import pydicom

    return str(pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID)


def _folder(name: str) -> Path:
    """A folder that the environment names.

    Raises:
        BioAttError: it does not, or there is none.
    """
    from scripts.errors import BioAttError

    folder = os.environ.get(name, "")
    if not folder or not Path(folder).is_dir():
        raise BioAttError(f"{name} names no folder ({folder or 'it is empty'}); mercure sets it")
    return Path(folder)


if __name__ == "__main__":
    raise SystemExit(main())
