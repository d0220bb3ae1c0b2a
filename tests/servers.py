"""What the tests of the DICOM node and of a PACS share: Orthanc, waiting, and comparing what came back."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pydicom

#: Elements of a derived image that say when it was made.
TIMES = {"InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime", "SeriesDate", "SeriesTime",
         "ContributionDateTime", "TimezoneOffsetFromUTC"}  # fmt: skip


class Pacs:
    """Orthanc with a folder of its own, spoken to from this machine only.

    Args:
        folder: for its data and configuration; made.
    """

    def __init__(self, folder):
        self.http, self.dicom = free_port(), free_port()
        folder.mkdir()
        caller = {"AET": "BIOATT", "Host": "127.0.0.1", "Port": 104, "AllowGet": True}
        settings = {
            "StorageDirectory": str(folder / "data"),
            "IndexDirectory": str(folder / "data"),
            "HttpPort": self.http,
            "DicomPort": self.dicom,
            "DicomAet": "PACS",
            "RemoteAccessAllowed": False,
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "DicomCheckModalityHost": True,
            "DicomModalities": {"bioatt": caller},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.process = subprocess.Popen(
            ["Orthanc", folder / "orthanc.json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def wait(self):
        """Wait until it answers."""
        for _ in range(300):
            try:
                return self.ask("system")
            except OSError:
                assert self.process.poll() is None, "Orthanc ended"
                time.sleep(0.2)
        raise TimeoutError("Orthanc does not answer")

    def ask(self, path):
        """Answer of its REST interface."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/{path}", timeout=30) as answer:
            content = answer.read()
        return content if path.endswith("/file") else json.loads(content)

    def send(self, folder):
        """C-STORE all files of a folder."""
        self._call("storescu", [], ["+sd", "+r", folder])

    def get(self, series_instance_uid, study_instance_uid, folder):
        """C-GET a series into a folder."""
        folder.mkdir()
        keys = [f"SeriesInstanceUID={series_instance_uid}", f"StudyInstanceUID={study_instance_uid}"]
        keys = [word for key in ["QueryRetrieveLevel=SERIES", *keys] for word in ("-k", key)]
        self._call("getscu", ["-S", *keys, "-od", folder], [])

    def _call(self, program, options, files):
        place = ["-aet", "BIOATT", "-aec", "PACS", "127.0.0.1", str(self.dicom)]
        subprocess.run([dcmtk(program), *options, *place, *files], check=True, capture_output=True, timeout=120)


def dcmtk(program):
    """Path of a program of DCMTK, None without; pynetdicom has others of these names in this environment."""
    ours = Path(sys.executable).parent
    return shutil.which(program, path=os.pathsep.join(place for place in os.get_exec_path() if Path(place) != ours))


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def paths(pacs, kind):
    return [f"{kind}/{one}" for one in pacs.ask(kind)]


def main_tag(resource, keyword):
    return resource["MainDicomTags"].get(keyword)


def until(condition, seconds=240.0):
    """Wait until `condition()` is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same_images(one, other):
    """Same UIDs and bytes, but for the time at which they were made."""
    for a, b in zip(sorted(one.iterdir()), sorted(other.iterdir()), strict=True):
        a, b = pydicom.dcmread(a), pydicom.dcmread(b)
        for image in (a, b):
            for element in list(image.iterall()):
                if element.keyword in TIMES:
                    element.value = None
        assert a == b and a.PixelData == b.PixelData
