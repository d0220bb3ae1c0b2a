"""Ask a MONAI Label server for a denoised volume; run in 3D Slicer's Python console, it shows the result there too.

Slicer's own MONAI Label module asks for results as labels of 8 bits, which hold no HU; this asks for HU. It needs
nothing but Python. In Slicer::

    exec(open("deploy/label/client.py").read())
    show_denoised("http://127.0.0.1:8000", "case")
"""

import json
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

MODEL = "ct_low_dose_denoising_bioatt"


def fetch_denoised(
    server: str, image: str, target: Path, strength: str = "standard", timeout_s: float = 3600.0
) -> Path:
    """Let the server denoise and write the result to `target`, as its suffix says (``.nii.gz`` or ``.nrrd``).

    Args:
        server: its address, e.g. ``http://127.0.0.1:8000``.
        image: identifier in the server's studies, or the path of a DICOM folder or NIfTI file on the server's machine.
        target: file of the result, int16 HU on the image's grid.
        strength: low, standard or high.
        timeout_s: how long to wait.

    Raises:
        urllib.error.HTTPError: 500 where the bundle refuses the image; the server's log has the reason in one line.
    """
    suffix = ".nii.gz" if target.name.endswith(".nii.gz") else target.suffix
    params = {"result_extension": suffix, "result_dtype": "int16", "strength": strength}
    query = urllib.parse.urlencode({"image": image, "output": "image"})
    form = urllib.parse.urlencode({"params": json.dumps(params)}).encode()
    with urllib.request.urlopen(f"{server}/infer/{MODEL}?{query}", form, timeout=timeout_s) as answer:
        target.write_bytes(answer.read())
    return target


def show_denoised(server: str, image: str, strength: str = "standard") -> None:
    """Show the denoised volume in 3D Slicer, beside what is loaded already."""
    import slicer

    with tempfile.TemporaryDirectory() as folder:
        result = fetch_denoised(server, image, Path(folder) / "denoised.nrrd", strength)
        slicer.util.loadVolume(str(result), {"name": f"{Path(image).name} denoised"})
