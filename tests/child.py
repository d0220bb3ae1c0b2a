"""Code in a process of its own, with a limit on its memory."""

from __future__ import annotations

import subprocess
import sys

#: Reads the DICOM series that the first argument names, and prints `read` or the error.
READ = (
    "try:\n    read_volume(select_series(sys.argv[1])); print('read')\nexcept BioAttError as error:\n    print(error)"
)


def in_a_child(code, *arguments, megabytes=1500):
    """Run code with a limit on memory; return what it printed last."""
    head = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({megabytes} << 20, {megabytes} << 20))\n"
        "from scripts.dicom import *\nfrom scripts.errors import BioAttError\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", head + code, *map(str, arguments)], capture_output=True, text=True, timeout=600,
        env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.stdout.strip() or done.stderr.strip()
