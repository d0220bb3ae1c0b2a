"""The DICOM node beside Orthanc, which routes to it and receives from it, and storescu; kills lose nothing."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from phantom import write_ct_series
from scripts.dicom import select_series
from servers import Pacs, assert_same_images, dcmtk, free_port, main_tag, names, paths, until

pytestmark = [
    pytest.mark.pacs,
    pytest.mark.skipif(not all(map(dcmtk, ("Orthanc", "storescu"))), reason="needs Orthanc and DCMTK (make test-pacs)"),
]
BUNDLE = Path(__file__).parents[2] / "bundle"
TITLES = ("-aet", "PACS", "-aec", "BIOATT")
SERIES = {"shape": (64, 64), "spacing": (1.0, 1.0), "noise_sd": 40.0}
#: Sent on by Orthanc as soon as a series is there; what the node sends back is routed too, and must end there.
ROUTE = """
function OnStableSeries(series, tags, metadata)
  RestApiPost('/modalities/bioatt/store', DumpJson({Resources = {series}, Asynchronous = true}))
end
"""


def bioatt(*words, **options):
    """`bioatt` as a process, its numbers made on one thread, as in the tests."""
    program = "import sys; from scripts.app.command_line import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(BUNDLE), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", program, *map(str, words)], env=environment, **options)


def listens(port):
    """Whether somebody does."""
    place = ["127.0.0.1", str(port)]
    return subprocess.run([dcmtk("echoscu"), *TITLES, *place], capture_output=True).returncode == 0


class ServingNode:
    """`bioatt serve` with its queue in a folder; `start` may be called again after a kill."""

    def __init__(self, folder, pacs_port, *words):
        self.queue, self.log, self.port = folder / "queue", folder / "node.log", free_port()
        self.words = ["--port", self.port, "--send-to", f"PACS@127.0.0.1:{pacs_port}", "--queue", self.queue, *words]

    def start(self):
        with self.log.open("a") as log:
            self.process = bioatt("serve", *self.words, stdout=log, stderr=log)

    def wait(self):
        until(lambda: self.process.poll() is not None or listens(self.port), 180)
        assert self.process.poll() is None, self.log.read_text()

    def workers(self):
        """Processes of its own that denoise."""
        place = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = place.read_text().split() if place.exists() else []
        return [int(pid) for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0

    def is_empty(self):
        """Whether nothing is at work and nothing failed."""
        return not any(names(self.queue / one) for one in ("receiving", "waiting", "failed"))


def storescu(port, folder):
    """Send a folder; whether all was acknowledged and the association released."""
    words = [dcmtk("storescu"), "-nh", "-to", "30", "+sd", *TITLES, "127.0.0.1", str(port), folder]
    done = subprocess.run(words, capture_output=True, timeout=120)
    return done.returncode == 0


def held_series(pacs, folder):
    """Derived series that Orthanc holds, each written to a folder of its own, by the description of the source."""
    held = {}
    for resource in map(pacs.ask, paths(pacs, "series")):
        description = main_tag(resource, "SeriesDescription")
        if not description.endswith("BioAtt denoised"):
            continue
        uid = main_tag(resource, "SeriesInstanceUID")
        place = folder / uid
        place.mkdir(parents=True)
        for instance in resource["Instances"]:
            content = pacs.ask(f"instances/{instance}/file")
            (place / f"{instance}.dcm").write_bytes(content)
        held.setdefault(description.removesuffix(" BioAtt denoised"), []).append(place)
    return held


def in_order(folder, target):
    """The images of a folder by InstanceNumber, named as `bioatt denoise` names them."""
    target.mkdir(parents=True)
    for number, file in enumerate(select_series(folder).files, 1):
        shutil.copy(file, target / f"{number:04d}.dcm")
    return target


def assert_each_once_and_as_by_denoise(pacs, made, tmp_path):
    """Orthanc holds exactly one derived series of each in `made`, the same as `bioatt denoise` makes of it.

    With one thread, as the node of these tests has: the order of sums hangs on it, and now and then a rounded HU.
    """
    import torch

    held = held_series(pacs, tmp_path / "held")
    assert {name: len(places) for name, places in held.items()} == {folder.name: 1 for folder in made}
    from scripts.app.command_line import main

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for folder in made:
            ours = tmp_path / "ours" / folder.name
            assert main(["denoise", str(folder), str(ours), "--stable-uids", "--quiet"]) == 0
            assert_same_images(in_order(held[folder.name][0], tmp_path / "ordered" / folder.name), ours)
    finally:
        torch.set_num_threads(threads)


def make_series(root, count, slices=6):
    """Series of different sizes, each with its name as SeriesDescription."""
    made = []
    for number in range(count):
        name = f"S{number:02d}"

        def modify(header, i, name=name):
            header.SeriesDescription = name

        made.append(write_ct_series(root / name, seed=number, slices=slices + number % 3, modify=modify, **SERIES))
    return made


class RestartablePacs(Pacs):
    """Orthanc that knows the node, may route to it, and may be killed and started again."""

    def __init__(self, folder, node_port, route=False):
        super().__init__(folder)
        self.folder = folder
        self.process.kill()
        self.process.wait()
        settings = json.loads((folder / "orthanc.json").read_text())
        settings["DicomModalities"] = {"bioatt": {"AET": "BIOATT", "Host": "127.0.0.1", "Port": node_port}}
        settings["StableAge"] = 2
        if route:
            (folder / "route.lua").write_text(ROUTE)
            settings["LuaScripts"] = [str(folder / "route.lua")]
        settings["DicomAlwaysAllowStore"] = True
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.start()

    def start(self):
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(["Orthanc", self.folder / "orthanc.json"], stdout=log, stderr=log)


@pytest.fixture
def around(tmp_path):
    """A function that starts node and Orthanc; they end with the test."""
    began = []

    def start(*words, route=False):
        node = ServingNode(tmp_path, 0, *words)
        pacs = RestartablePacs(tmp_path / "orthanc", node.port, route)
        node.words[node.words.index("--send-to") + 1] = f"PACS@127.0.0.1:{pacs.dicom}"
        began.extend([node, pacs])
        node.start()
        pacs.wait()
        node.wait()
        return node, pacs

    yield start
    for one in began:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def test_orthanc_routes_to_the_node_and_gets_the_result_once(around, tmp_path):
    node, pacs = around("--quiet-time", "1", route=True)
    made = make_series(tmp_path / "made", 2)
    for folder in made:
        pacs.send(folder)
    log = until(lambda: (text := node.log.read_text()).count("left out, BioAtt made it") >= 2 and text)
    until(node.is_empty)
    assert_each_once_and_as_by_denoise(pacs, made, tmp_path)
    assert "SECRET-ID-7" not in log and "Body" not in log
    status = bioatt("serve", "--queue", node.queue, "--status", stdout=subprocess.PIPE, text=True)
    said, _ = status.communicate(timeout=120)
    assert status.returncode == 0 and re.search(r"^node +running\n(?s:.)*^sent +2$", said, re.MULTILINE)
    node.stop()


def test_twenty_series_at_once_from_four_senders(around, tmp_path):
    node, pacs = around("--quiet-time", "2")
    made = make_series(tmp_path / "made", 20)
    began = time.monotonic()
    with ThreadPoolExecutor(4) as senders:
        assert all(senders.map(lambda folder: storescu(node.port, folder), made))
    sent = time.monotonic() - began
    until(lambda: len(names_sent(node)) == 20, 540)
    images = sum(len(names(folder)) for folder in made)
    print(f"\n20 series, {images} images of 64 x 64: received in {sent:.1f} s, all sent on after "
          f"{time.monotonic() - began:.1f} s")  # fmt: skip
    until(node.is_empty)
    assert_each_once_and_as_by_denoise(pacs, made, tmp_path)
    node.stop()


def names_sent(node):
    """Series in the node's book."""
    book = node.queue / "sent.jsonl"
    return {json.loads(line)["series"] for line in book.read_text().splitlines()} if book.exists() else set()


@pytest.mark.slow
def test_kills_of_node_worker_and_receiver_lose_nothing(around, tmp_path):
    node, pacs = around("--quiet-time", "2", "--patience", "600", "--tries", "100")
    made = make_series(tmp_path / "made", 20)
    kills = {"node": 0, "worker": 0, "receiver": 0}
    generator = random.Random(int(os.environ.get("BIOATT_KILL_SEED", "1")))
    over = threading.Event()

    def kill_at_random():
        until_s, order = time.monotonic() + 120, []
        while time.monotonic() < until_s:
            time.sleep(generator.uniform(3.0, 10.0))
            order = order or generator.sample(list(kills), 3)
            what = order.pop()
            if what == "worker":
                with suppress(OSError):  # it ended just now
                    for pid in node.workers():
                        os.kill(pid, signal.SIGKILL)
                        kills["worker"] += 1
                continue
            one = node if what == "node" else pacs
            one.process.kill()
            one.process.wait()
            kills[what] += 1
            time.sleep(generator.uniform(0.0, 2.0))
            one.start()
        over.set()

    def send_until_taken(folder):
        """As a PACS does: again until all is acknowledged."""
        count = 1
        while not storescu(node.port, folder):
            count += 1
            assert count < 600
            time.sleep(1.0)
        time.sleep(generator.uniform(0.0, 20.0))  # spread over the two minutes
        return count

    killer = threading.Thread(target=kill_at_random)
    killer.start()
    with ThreadPoolExecutor(4) as senders:
        counts = list(senders.map(send_until_taken, made))
    killer.join()
    assert over.is_set()
    began = time.monotonic()
    node.wait()
    pacs.wait()
    until(lambda: node.is_empty() or names(node.queue / "failed"), 420)
    waited = time.monotonic() - began
    print(f"\nkilled {kills}; {sum(counts)} sends of 20 series; all there {waited:.0f} s after the last kill")
    assert names(node.queue / "failed") == [] and all(kills.values())
    assert_each_once_and_as_by_denoise(pacs, made, tmp_path)
    node.stop()
