"""The DICOM node: its queue, rules, receiver, sender and worker, on this machine's loopback."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess

import numpy as np
import pydicom
import pytest
from phantom import write_ct_series
from pydicom.pixels import get_decoder
from pydicom.uid import ImplicitVRLittleEndian, JPEGExtended12Bit
from pynetdicom import AE, evt
from scripts.app.node.node import Node, NodeOptions, Retries
from scripts.app.node.receiver import TRANSFER_SYNTAXES, Limits
from scripts.app.node.rules import Rule, choose, read_rules
from scripts.app.node.sender import Destination, send
from scripts.app.node.status import describe
from scripts.app.node.storage import Completeness, StorageQueue
from scripts.app.node.tls import Tls
from scripts.app.node.worker import Outcome, Worker, denoise
from scripts.errors import BioAttError
from scripts.workflow import RepeatedInference
from servers import assert_same_images, free_port, names, until

CT = "1.2.840.10008.5.1.4.1.1.2"
SMALL = {"shape": (32, 32), "spacing": (8.0, 8.0), "slices": 3}


# The queue


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def queue(tmp_path, clock):
    made = StorageQueue(tmp_path / "queue", clock=clock)
    made.open()
    yield made
    made.close()


def put(queue, series, instance, association=1, content=b"image"):
    file = queue.new_file()
    file.write_bytes(content)
    queue.store(file, series, instance, association)


def test_a_series_is_complete_after_the_quiet_time(queue, clock):
    put(queue, "1.2", "1.2.1")
    clock.now = 9.0
    put(queue, "1.2", "1.2.2")
    clock.now = 18.0
    when = Completeness(quiet_s=10.0)
    assert queue.take_complete(when) == []
    clock.now = 19.0
    assert queue.take_complete(when) == ["1.2"]
    assert names(queue.waiting / "1.2" / "source") == ["1.2.1.dcm", "1.2.2.dcm"]
    assert names(queue.waiting / "1.2") == ["source"] and names(queue.receiving) == []


def test_a_series_is_complete_at_release_by_option(queue, clock):
    when = Completeness(quiet_s=10.0, at_release=True)
    put(queue, "1.2", "1.2.1")
    put(queue, "1.3", "1.3.1", association=2)
    clock.now = 99.0
    assert queue.take_complete(when) == []
    queue.end_association(1, released=True)
    assert queue.take_complete(when) == ["1.2"]


def test_a_series_that_broke_off_waits_for_its_sender(queue, clock):
    put(queue, "1.2", "1.2.1")
    queue.end_association(1, released=False)
    clock.now = 60.0
    when = Completeness(quiet_s=10.0, patience_s=100.0)
    assert queue.take_complete(when) == []
    put(queue, "1.2", "1.2.2", association=2)
    queue.end_association(2, released=True)
    clock.now = 70.0
    assert queue.take_complete(when) == ["1.2"]
    assert names(queue.waiting / "1.2" / "source") == ["1.2.1.dcm", "1.2.2.dcm"]


def test_patience_ends_with_what_is_there(queue, clock):
    put(queue, "1.2", "1.2.1")
    queue.end_association(1, released=False)
    clock.now = 100.0
    queue.take_complete(Completeness(patience_s=100.0))
    assert names(queue.waiting) == ["1.2"] and names(queue.failed) == []


def test_a_restart_finds_what_was_received_and_what_was_open(queue, clock, tmp_path):
    put(queue, "1.2", "1.2.1")
    put(queue, "1.3", "1.3.1", association=2)
    queue.end_association(2, released=True)
    (queue.scratch / "half.dcm").write_bytes(b"half an im")
    queue.close()
    after = StorageQueue(tmp_path / "queue", clock=clock)
    after.open()
    clock.now = 10.0
    assert after.take_complete(Completeness(quiet_s=10.0, patience_s=100.0)) == ["1.3"]
    assert names(after.receiving) == ["1.2"] and names(after.scratch) == []
    after.close()


def test_a_series_that_waits_already_is_taken_once(queue, clock):
    when = Completeness(at_release=True)
    for association, instances in ((1, ["1"]), (2, ["1"]), (3, ["1", "2"])):
        for instance in instances:
            put(queue, "1.2", instance, association)
        queue.end_association(association, released=True)
        queue.take_complete(when)
        queue.jobs()[0].note(begun=1)
    assert names(queue.receiving) == ["1.2"]  # the third differs: it waits for its turn
    queue.jobs()[0].finish(images=1)
    assert queue.take_complete(when) == ["1.2"]
    assert names(queue.waiting / "1.2" / "source") == ["1.dcm", "2.dcm"]


def test_what_comes_late_joins_a_series_that_waits(queue):
    when = Completeness(at_release=True)
    for association, instance in ((1, "1"), (2, "2")):
        put(queue, "1.2", instance, association)
        queue.end_association(association, released=True)
        assert [job.is_to_denoise for job in queue.jobs()] == [False] * (association - 1)  # more of it arrives
        assert queue.take_complete(when) == ["1.2"]
    assert names(queue.waiting / "1.2" / "source") == ["1.dcm", "2.dcm"] and queue.jobs()[0].is_to_denoise
    assert names(queue.receiving) == names(queue.scratch) == []


def test_an_image_that_comes_again_with_other_content_is_told(queue, caplog):
    put(queue, "1.2", "1.2.1")
    put(queue, "1.2", "1.2.1")
    assert caplog.text == ""
    put(queue, "1.2", "1.2.1", content=b"other")
    assert "series 1.2: 1.2.1 came again with other content" in caplog.text
    assert (queue.receiving / "1.2" / "source" / "1.2.1.dcm").read_bytes() == b"other"


@pytest.mark.parametrize("goes_on", [2, 3])
def test_what_broke_off_is_not_made_whole_by_a_parallel_association(queue, clock, tmp_path, goes_on):
    put(queue, "1.2", "1.2.1", association=1)
    put(queue, "1.2", "1.2.2", association=2)
    queue.end_association(1, released=False)
    if goes_on == 3:  # it is sent again
        put(queue, "1.2", "1.2.1", association=3)
    for association in {2, goes_on}:
        queue.end_association(association, released=True)
    assert (queue.receiving / "1.2" / ".open").exists() == (goes_on == 2)
    clock.now = 10.0
    assert bool(queue.take_complete(Completeness(at_release=True, patience_s=100.0))) == (goes_on == 3)


def test_a_clock_that_is_set_holds_nothing_and_gives_up_nothing(queue, clock):
    put(queue, "1.2", "1")
    clock.now = 100.0
    queue.take_complete(Completeness())
    (job,) = queue.jobs()
    job.note(next=1000.0)
    assert [job.is_due(now, 300.0) for now in (699.0, 701.0, 999.0, 1000.0)] == [True, False, False, True]


@pytest.mark.parametrize("uid", ["", "../../etc", "..", "1.2/3", "1" * 65, "1.2\n"])
def test_what_is_no_uid_goes_nowhere(queue, uid):
    for series, instance in ((uid, "1.2"), ("1.2", uid)):
        with pytest.raises(BioAttError, match="not a UID"):
            put(queue, series, instance)
    assert names(queue.receiving) == []


def test_two_failures_of_a_series_stand_beside_each_other(queue, clock):
    for content in (b"a", b"b"):
        put(queue, "1.2", "1", content=content)
        clock.now += 100.0
        queue.take_complete(Completeness())
        queue.jobs()[0].fail("damaged")
    assert names(queue.failed) == ["1.2", "1.2-2"]


def test_one_node_at_a_time_and_its_folder_is_private(queue):
    assert queue.root.stat().st_mode & 0o077 == 0
    with pytest.raises(BioAttError, match="a node runs on queue"):
        StorageQueue(queue.root).open()


# Rules


def write_rules(path, rules):
    path.write_text(json.dumps(rules))
    return path


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return write_ct_series(tmp_path_factory.mktemp("series") / "made", **SMALL)


@pytest.mark.parametrize(
    ("when", "fits"),
    [
        ({}, True),
        ({"ConvolutionKernel": "^b3"}, True),
        ({"ConvolutionKernel": "^B4"}, False),
        ({"SliceThickness": [1, 3]}, True),
        ({"SliceThickness": [None, 1]}, False),
        ({"SliceThickness": [1, None], "SeriesDescription": "lung"}, False),
        ({"PatientSex": [0, 1]}, False),
        ({"ImageType": r"PRIMARY\\AXIAL"}, True),
    ],
)
def test_a_rule_looks_at_the_header(series, tmp_path, when, fits):
    file = write_rules(tmp_path / "rules.json", [{"name": "one", "when": when, "settings": {"strength": "low"}}])
    choice = choose(series.iterdir(), read_rules(file))
    assert choice.settings == ({"strength": "low"} if fits else None)


def test_the_first_rule_that_fits_counts(series):
    rules = [
        Rule(name="not lungs", when={"SeriesDescription": "lung"}, denoise=False),
        Rule(name="body", when={"SeriesDescription": "body"}, denoise=False),
        Rule(),
    ]
    assert choose(series.iterdir(), rules).why == "rule body" and choose(series.iterdir(), rules).settings is None


def test_derived_images_localizers_and_other_modalities_are_left_out(tmp_path):
    for number, (keyword, value, why) in enumerate(
        [
            ("ImageType", ["DERIVED", "PRIMARY", "AXIAL"], "no rule fits: it is DERIVED"),
            ("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"], "no image but localizers"),
            ("ImageType", ["ORIGINAL", "PRIMARY", "SCOUT"], "no image but localizers"),
            ("Modality", "PT", "no CT"),
        ]
    ):
        folder = write_ct_series(
            tmp_path / str(number), modify=lambda header, i, k=keyword, v=value: setattr(header, k, v), **SMALL
        )
        choice = choose(folder.iterdir(), read_rules(None))
        assert choice.settings is None and choice.why == why
    assert choose((tmp_path / "0").iterdir(), [Rule(derived=True)]).settings == {}


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({}, "expected a list"),
        ([], "expected a list"),
        ([{"when": {"Kernel": "B"}}], "Kernel is no DICOM keyword"),
        ([{"when": {"SliceThickness": [1]}}], "expected a regular expression"),
        ([{"when": {"SliceThickness": [2, 0]}}], r"expected a regular expression, or .LOWEST, HIGHEST."),
        ([{"when": {"SeriesDescription": "("}}], "expected a regular expression"),
        ([{"what": 1}], "what"),
        ([{"denoise": "no"}], "denoise"),
        ([{"settings": {"strenght": 1}}], "strenght cannot be set"),
        ([{"settings": {"output_dir": "/"}}], "output_dir cannot be set"),
        ([{"settings": {"prior": "$print(1)"}}], "prior is code"),
        ([{"settings": {"network_def": {"_target_": "os.system"}}}], "network_def is code"),
        ([{"settings": {"prior_window_hu": ["@strength", 0]}}], "prior_window_hu is code"),
    ],
)
def test_a_wrong_rule_is_told(tmp_path, rules, told):
    with pytest.raises(BioAttError, match=told):
        read_rules(write_rules(tmp_path / "rules.json", rules))


def test_rules_as_an_editor_of_windows_saves_them_are_read(tmp_path):
    (tmp_path / "rules.json").write_text('[{"name": "one"}]', encoding="utf-8-sig")
    assert read_rules(tmp_path / "rules.json") == [Rule(name="one")]


def test_rules_that_cannot_be_read_are_told(tmp_path):
    with pytest.raises(BioAttError, match="cannot be read"):
        read_rules(tmp_path / "none.json")


# Receiver, sender and the whole node; the worker stands for itself below


class FakeWorker:
    """Does at once what `does(folder)` says; its default copies the source."""

    def __init__(self, does=None):
        self.does, self.folders, self.settings, self.checked = does or self.copy, [], [], []
        self.is_busy = False

    @staticmethod
    def copy(folder):
        shutil.copytree(folder / "source", folder / "result")
        return Outcome("done")

    def start(self, folder, settings):
        if folder is None:
            self.checked.append(settings)
        else:
            self.begin(folder, settings)

    def begin(self, folder, settings):
        self.folders.append(folder)
        self.settings.append(settings)
        self.is_busy = True

    def poll(self):
        self.is_busy = False
        return self.does(self.folders[-1])

    def stop(self):
        pass


class Receiver:
    """A PACS that keeps what it gets; `status` is its answer."""

    def __init__(self, status=0x0000, contexts=None, context=None):
        self.status, self.got, self.associations = status, [], 0
        node = AE(ae_title="PACS")
        node.add_supported_context(CT, contexts)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._accepted)]
        self.server = node.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=context)
        self.destination = Destination("PACS", "127.0.0.1", self.server.server_address[1])

    def _store(self, event):
        image = event.dataset
        image.file_meta = event.file_meta
        if self.status == 0x0000:
            self.got.append(image)
        return self.status

    def _accepted(self, event):
        self.associations += 1


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.server.shutdown()


class Running:
    """A node with a fake worker, its rounds done by `step`."""

    def __init__(self, folder, destination, **options):
        known = {
            "queue": folder,
            "destination": destination,
            "port": 0,
            "complete": Completeness(at_release=True),
            "limits": Limits(free_bytes=0),
            "retries": Retries(first_s=0.05, longest_s=0.05),
        }
        self.node = Node(NodeOptions(**known | options))
        self.node.worker = FakeWorker()
        self.node.start()

    def __getattr__(self, name):
        return getattr(self.node, name)

    def steps_until(self, condition):
        def look():
            self.node.step()
            return condition()

        return until(look)

    def end(self):
        self.node.stop()
        self.node.run()


@pytest.fixture
def node(tmp_path, receiver):
    made = Running(tmp_path / "queue", receiver.destination)
    yield made
    made.end()


def associate(port, calling="PACS", called="BIOATT", context=None):
    caller = AE(ae_title=calling)
    caller.add_requested_context("1.2.840.10008.1.1")
    caller.add_requested_context(CT)
    tls = {"tls_args": (context, "localhost")} if context else {}
    return caller.associate("127.0.0.1", port, ae_title=called, **tls)


def store(port, folder, release=True, **titles):
    """Send the files of a folder; the statuses."""
    association = associate(port, **titles)
    assert association.is_established
    statuses = [association.send_c_store(file).get("Status") for file in sorted(folder.iterdir())]
    association.release() if release else association.abort()
    return statuses


def test_a_series_goes_through_the_node(node, receiver, series):
    assert store(node.port, series) == [0x0000] * 3
    node.steps_until(lambda: not node.queue.jobs() and len(receiver.got) == 3)
    assert {image.SOPInstanceUID for image in receiver.got} == {
        pydicom.dcmread(file).SOPInstanceUID for file in series.iterdir()
    }
    (line,) = (node.queue.root / "sent.jsonl").read_text().splitlines()
    assert json.loads(line)["images"] == 3 and receiver.associations == 1
    folders = (node.queue.waiting, node.queue.receiving, node.queue.scratch, node.queue.failed)
    until(lambda: not any(map(names, folders)))


def test_what_is_acknowledged_lies_on_the_disk_as_it_came(node, series, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), real(descriptor)))
    (first, *_) = sorted(series.iterdir())
    association = associate(node.port)
    assert association.send_c_store(first).Status == 0x0000
    assert len(synced) >= 2  # the file, and the name in its folder
    (kept,) = node.queue.receiving.glob("*/source/*.dcm")
    assert pydicom.dcmread(kept) == pydicom.dcmread(first)
    association.release()


def test_echo_and_titles(node):
    association = associate(node.port)
    assert association.send_c_echo().Status == 0x0000
    association.release()
    assert associate(node.port, calling="STRANGER").is_rejected
    assert associate(node.port, called="OTHER").is_rejected


MR = "1.2.840.10008.5.1.4.1.1.4"


@pytest.mark.parametrize(
    ("titles", "proposed", "told"),
    [
        (("STRANGER", "BIOATT"), [(CT, None)], "'STRANGER' at 127.0.0.1 rejected: not among those that may call"),
        (("PACS", "OTHER"), [(CT, None)], "rejected: called 'OTHER', but this node is 'BIOATT'"),
        (("PACS", "BIOATT"), [(MR, None)], "'PACS' at 127.0.0.1 proposed MR Image Storage; expected CT images"),
        (("PACS", "BIOATT"), [(CT, JPEGExtended12Bit)], "proposed JPEG Extended (Process 2 and 4); expected CT in a"),
    ],
)
def test_the_log_tells_why_a_caller_is_not_served(node, caplog, titles, proposed, told):
    caller = AE(ae_title=titles[0])
    for one in proposed:
        caller.add_requested_context(*one)
    assert not caller.associate("127.0.0.1", node.port, ae_title=titles[1]).is_established
    until(lambda: told in caplog.text)


def test_an_association_for_ct_among_others_is_no_news(node, caplog):
    caller = AE(ae_title="PACS")
    for one in (CT, MR):
        caller.add_requested_context(one)
    caller.associate("127.0.0.1", node.port, ae_title="BIOATT").release()
    associate(node.port).release()
    assert "proposed" not in caplog.text and "rejected" not in caplog.text


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_what_is_accepted_can_be_decoded(syntax):
    assert not syntax.is_compressed or syntax.is_deflated or get_decoder(syntax).is_available


def test_a_full_disk_is_said_and_nothing_is_left(node, series, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert store(node.port, series) == [0xA700] * 3
    assert list(node.queue.scratch.iterdir()) == list(node.queue.receiving.glob("*/source/*.dcm")) == []
    assert store(node.port, series) == [0x0000] * 3


def test_a_series_that_a_full_disk_cut_short_waits_for_its_sender(node, series, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        free = iter([1 << 30, 0, 0])
        patch.setattr(node.queue, "free_bytes", lambda: next(free))
        assert store(node.port, series) == [0x0000, 0xA700, 0xA700]
    assert caplog.text.count("images were refused: less than 0 MB are free") == 1
    until(lambda: not node.receiver._peers)
    node.step()
    assert names(node.queue.waiting) == [] and len(names(node.queue.receiving)) == 1
    assert store(node.port, series) == [0x0000] * 3
    node.steps_until(lambda: node.worker.folders)


def test_a_disk_that_gives_no_folder_stops_no_other_series(node, receiver, series, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", full)
        assert store(node.port, series) == [0xA700] * 3
    node.step()
    write_ct_series(tmp_path / "other", seed=5, **SMALL)
    assert store(node.port, tmp_path / "other") == [0x0000] * 3
    node.steps_until(lambda: len(receiver.got) == 3 and not node.queue.jobs())


def test_a_disk_without_room_for_the_book_keeps_no_series_that_was_sent(node, receiver, series, caplog):
    (node.queue.root / "sent.jsonl").mkdir()
    store(node.port, series)
    node.steps_until(lambda: receiver.got and not node.queue.jobs())
    assert len(receiver.got) == 3 and "sent.jsonl cannot be written" in caplog.text


def test_a_disk_that_others_fill_uses_up_no_try(tmp_path, receiver, series, monkeypatch, caplog):
    node = Running(tmp_path / "queue", receiver.destination, limits=Limits(free_bytes=2 << 20))
    store(node.port, series)
    with monkeypatch.context() as patch:
        patch.setattr(node.queue, "free_bytes", lambda: 1000)
        node.steps_until(lambda: node.queue.jobs())
        for _ in range(5):
            node.step()
    assert node.worker.folders == [] and node.queue.jobs()[0].tries() == {}
    assert sum("series wait: less than" in record.getMessage() for record in caplog.records) == 1
    node.steps_until(lambda: len(receiver.got) == 3 and not node.queue.jobs())
    node.end()


def test_an_orderly_stop_does_not_count_as_a_try(tmp_path, receiver, series):
    for _ in range(4):
        node = Running(tmp_path / "queue", receiver.destination)
        if not node.queue.jobs():
            store(node.port, series)
        node.worker.poll = lambda: None
        node.steps_until(lambda node=node: node.worker.is_busy)
        assert node.queue.jobs()[0].tries()["begun"] == 1
        node.end()
    assert not names(tmp_path / "queue" / "failed")


def test_room_is_kept_on_the_disk(tmp_path, receiver, series):
    node = Running(tmp_path / "queue", receiver.destination, limits=Limits(free_bytes=1 << 62))
    assert store(node.port, series) == [0xA700] * 3
    node.end()


def test_an_object_that_is_too_large_ends_its_association(tmp_path, receiver, series):
    node = Running(tmp_path / "queue", receiver.destination, limits=Limits(free_bytes=0, object_bytes=1000))
    association = associate(node.port)
    assert association.send_c_store(min(series.iterdir())).get("Status", 0xA700) == 0xA700
    until(lambda: association.is_aborted)
    assert list(node.queue.receiving.iterdir()) == []
    node.end()


def test_associations_are_limited(tmp_path, receiver):
    node = Running(tmp_path / "queue", receiver.destination, limits=Limits(free_bytes=0, associations=2))
    held = [associate(node.port) for _ in range(2)]
    assert associate(node.port).is_rejected
    for one in held:
        one.release()
    node.end()


def test_callers_that_stop_within_a_pdu_do_not_keep_the_others_out(tmp_path, receiver):
    limits = Limits(free_bytes=0, associations=2, idle_s=0.5)
    node = Running(tmp_path / "queue", receiver.destination, limits=limits)
    held = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(2)]
    for one in held:
        one.sendall(b"\x01\0\0")  # half of the head of an A-ASSOCIATE-RQ
    association = until(lambda: (one := associate(node.port)).is_established and one)
    association.release()
    for one in held:
        assert one.recv(1) == b""
        one.close()
    node.end()


def test_a_pdu_of_any_length_is_not_kept_in_memory(node):
    with socket.create_connection(("127.0.0.1", node.port), timeout=60) as caller:
        caller.sendall(b"\x01\0" + (1 << 31).to_bytes(4, "big"))
        assert caller.recv(1) == b""
    association = associate(node.port)
    assert association.is_established
    association.release()


def test_an_image_that_says_something_else_is_refused(node, series, tmp_path):
    image = pydicom.dcmread(min(series.iterdir()))
    image.SeriesInstanceUID = "../../x"
    association = associate(node.port)
    assert association.send_c_store(image).Status == 0xC000
    association.release()
    assert list(node.queue.receiving.iterdir()) == list(node.queue.scratch.iterdir()) == []


def test_a_series_that_broke_off_is_not_taken_yet(node, series):
    store(node.port, series, release=False)
    until(lambda: not node.receiver._peers)
    node.step()
    assert names(node.queue.waiting) == [] and len(names(node.queue.receiving)) == 1
    store(node.port, series)
    node.steps_until(lambda: node.worker.folders)


def test_own_results_come_back_and_end(node, receiver, series, tmp_path, weights):
    own = tmp_path / "own"
    inference = RepeatedInference()
    inference.load({"weights": str(weights), "prior": "uniform", "stable_uids": True, "progress": False})
    inference.run({"dataset_dir": str(series), "output_dir": str(own)})
    store(node.port, own)
    node.steps_until(lambda: not names(node.queue.receiving) and not node.queue.jobs())
    assert node.worker.folders == [] and receiver.got == []


def test_settings_of_the_rule_go_before_those_of_the_node(tmp_path, receiver, series):
    options = {"rules": [Rule(settings={"strength": "low"})], "settings": {"strength": "high", "prior": "uniform"}}
    node = Running(tmp_path / "queue", receiver.destination, **options)
    store(node.port, series)
    node.steps_until(lambda: node.worker.settings)
    assert node.worker.settings == [{"strength": "low", "prior": "uniform"}]
    node.end()


def test_settings_that_cannot_be_used_end_the_node_before_a_series_fails(tmp_path, receiver, series):
    rules = [Rule(settings={"strength": "low"}), Rule(denoise=False), Rule(settings={"strength": "hgih"}), Rule()]
    node = Running(tmp_path / "queue", receiver.destination, rules=rules)
    assert store(node.port, series) == [0x0000] * 3
    node.worker.start = node.worker.begin
    node.worker.does = lambda _: denoise(RepeatedInference(), None, node.worker.settings[-1])
    with pytest.raises(BioAttError, match="strength is 'hgih'"):
        node.node.run()
    assert node.worker.settings == [{}, {"strength": "hgih"}]
    kept = [name for state in ("receiving", "waiting") for name in names(tmp_path / "queue" / state)]
    assert names(tmp_path / "queue" / "failed") == [] and len(kept) == 1


def test_a_worker_that_dies_is_tried_again_and_then_given_up(node, series):
    node.worker.does = lambda folder: Outcome("again", "the worker ended with code -9")
    store(node.port, series)
    node.steps_until(lambda: names(node.queue.failed))
    assert len(node.worker.folders) == 3
    (failed,) = node.queue.failed.iterdir()
    assert "begun 3 times: the worker ended with code -9" in json.loads((failed / "why.json").read_text())["why"]
    assert len(names(failed / "source")) == 3
    lines, well = describe(node.queue.root)
    assert not well and "node        running" in lines and any("ended with code -9" in line for line in lines)


def test_a_series_that_is_refused_fails_at_once(node, series):
    node.worker.does = lambda folder: Outcome("refused", "slices are missing")
    store(node.port, series)
    node.steps_until(lambda: names(node.queue.failed))
    assert len(node.worker.folders) == 1


def test_a_receiver_that_is_down_gets_it_later(tmp_path, series):
    gone = Receiver()
    gone.server.shutdown()
    node = Running(tmp_path / "queue", gone.destination)
    store(node.port, series)
    node.steps_until(lambda: node.queue.jobs() and node.queue.jobs()[0].tries().get("sends", 0) >= 2)
    assert "does not answer" in node.queue.jobs()[0].tries()["why"]
    node.end()
    back = Receiver()
    again = Running(tmp_path / "queue", back.destination)
    again.steps_until(lambda: not again.queue.jobs())
    assert len(back.got) == 3 and again.worker.folders == []  # sent from the disk, not denoised again
    again.end()
    back.server.shutdown()


def test_a_receiver_that_refuses_for_too_long_is_given_up(tmp_path, series):
    refusing = Receiver(status=0xA700)
    retries = Retries(first_s=0.05, longest_s=0.05, send_s=0.3)
    node = Running(tmp_path / "queue", refusing.destination, retries=retries)
    store(node.port, series)
    node.steps_until(lambda: names(node.queue.failed))
    (failed,) = node.queue.failed.iterdir()
    assert "status 0xA700" in json.loads((failed / "why.json").read_text())["why"]
    assert len(names(failed / "result")) == len(names(failed / "source")) == 3
    node.end()
    refusing.server.shutdown()


@pytest.mark.parametrize("status", [0x0111, 0xB000])
def test_an_image_that_the_receiver_holds_already_or_changes_is_delivered(series, status):
    holding = Receiver(status=status)
    send(sorted(series.iterdir()), holding.destination, "BIOATT")
    holding.server.shutdown()


@pytest.mark.parametrize(
    ("accepts", "callers", "told"),
    [
        (MR, [], "accepts no CT Image Storage; let it take them from BIOATT"),
        (CT, ["OTHER"], "rejects the association of BIOATT: Calling AE title not recognised"),
    ],
)
def test_why_a_receiver_takes_nothing_is_told(series, accepts, callers, told):
    other = AE(ae_title="PACS")
    other.add_supported_context(accepts)
    other.require_calling_aet = callers
    server = other.start_server(("127.0.0.1", 0), block=False)
    with pytest.raises(BioAttError, match=told):
        send(sorted(series.iterdir()), Destination("PACS", "127.0.0.1", server.server_address[1]), "BIOATT")
    server.shutdown()


@pytest.mark.parametrize(("host", "told"), [("127.0.0.1", "Connection refused"), ("a..b", "its name is not known")])
def test_why_a_receiver_cannot_be_reached_is_told(series, host, told):
    with pytest.raises(BioAttError, match=told):
        send(sorted(series.iterdir()), Destination("PACS", host, free_port()), "BIOATT")


def test_a_receiver_of_the_default_transfer_syntax_alone_gets_it(tmp_path, series):
    plain = Receiver(contexts=ImplicitVRLittleEndian)
    send(sorted(series.iterdir()), plain.destination, "BIOATT")
    assert len(plain.got) == 3
    np.testing.assert_array_equal(plain.got[0].pixel_array, pydicom.dcmread(min(series.iterdir())).pixel_array)
    plain.server.shutdown()


@pytest.mark.parametrize(
    "text",
    ["PACS", "PACS@host", "@h:1", " @h:1", "PACS@h:0", "PACS@h:70000", "A" * 17 + "@h:1", "P\u00c4CS@h:1", "P\nS@h:1"],
)
def test_a_wrong_destination_is_told(text):
    with pytest.raises(BioAttError, match="expected AE@HOST:PORT"):
        Destination.parse(text)


def test_no_value_of_the_patient_is_logged(node, receiver, series, caplog):
    caplog.set_level("DEBUG", logger="scripts")
    node.worker.does = lambda folder: Outcome("refused", "slices are missing")
    store(node.port, series)
    node.steps_until(lambda: names(node.queue.failed))
    header = pydicom.dcmread(min(series.iterdir()))
    assert "slices are missing" in caplog.text
    for keyword in ("PatientName", "PatientID", "AccessionNumber", "StudyDescription", "ReferringPhysicianName"):
        assert str(header[keyword].value) not in caplog.text


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, a certificate by it, and one by nobody."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)

    for name in ("ca", "stranger"):
        openssl(*f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name}".split(),
                *f"-keyout {name}.key -out {name}.pem".split())  # fmt: skip
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    openssl(*"req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=node -keyout node.key".split(),
            "-out", "node.csr")  # fmt: skip
    openssl(*"x509 -req -in node.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names".split(),
            "-out", "node.pem")  # fmt: skip
    return folder


def tls(folder, name="node"):
    return Tls(certificate=folder / f"{name}.pem", key=folder / f"{name}.key", authority=folder / "ca.pem")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates")
def test_tls_both_ways_and_no_caller_without_a_certificate(tmp_path, series, certificates, caplog):
    secure = Receiver(context=tls(certificates).context(server=True))
    node = Running(tmp_path / "queue", secure.destination, tls=tls(certificates), send_tls=True)
    assert store(node.port, series, context=tls(certificates).context(server=False)) == [0x0000] * 3
    node.steps_until(lambda: len(secure.got) == 3)
    assert not associate(node.port).is_established
    assert "the TLS handshake with a caller at 127.0.0.1 failed" in caplog.text
    stranger = associate(node.port, context=tls(certificates, "stranger").context(server=False))
    until(lambda: not stranger.is_established and "self-signed certificate" in caplog.text)
    node.end()
    secure.server.shutdown()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates")
def test_a_caller_that_says_nothing_does_not_keep_the_others_out(tmp_path, receiver, series, certificates, monkeypatch):
    monkeypatch.setattr("scripts.app.node.tls._HANDSHAKE_S", 0.2)
    node = Running(tmp_path / "queue", receiver.destination, tls=tls(certificates))
    with socket.create_connection(("127.0.0.1", node.port)):
        assert store(node.port, series, context=tls(certificates).context(server=False)) == [0x0000] * 3
    node.end()


def test_a_wrong_certificate_is_told(tmp_path):
    with pytest.raises(BioAttError, match="expected PEM files"):
        tls(tmp_path).context(server=True)


# The worker


def job_folder(place, source):
    shutil.copytree(source, place / "source")
    return place


@pytest.fixture
def settings(weights):
    return {"weights": str(weights), "prior": "uniform"}


def test_the_worker_gives_what_denoise_gives(tmp_path, series, settings):
    folder = job_folder(tmp_path / "job", series)
    (folder / "made").mkdir()  # of a worker that was killed
    worker = Worker(limit_s=600.0)
    worker.start(folder, settings)
    outcome = until(lambda: worker.poll(0.1), 300)
    assert outcome == Outcome("done") and not worker.is_busy
    worker.stop()
    from scripts.app.command_line import main

    words = ["--weights", settings["weights"], "--prior", "uniform", "--stable-uids", "--quiet"]
    assert main(["denoise", str(series), str(tmp_path / "ours"), *words]) == 0
    assert_same_images(folder / "result", tmp_path / "ours")
    assert names(folder) == ["result", "source"]


def test_a_worker_that_is_killed_or_too_slow_is_told(tmp_path, series, settings):
    folder = job_folder(tmp_path / "job", series)
    worker = Worker(limit_s=600.0)
    worker.start(folder, settings)
    os.kill(worker._process.pid, 9)
    outcome = until(lambda: worker.poll(0.1))
    assert outcome.kind == "again" and "-9" in outcome.why
    worker = Worker(limit_s=0.0)
    worker.start(folder, settings)
    assert "more than 0 s" in until(lambda: worker.poll(0.1)).why
    assert worker._process is None


def test_what_the_workflow_refuses_is_refused_and_a_full_disk_is_not(tmp_path, series, settings, caplog):
    folder = job_folder(tmp_path / "job", write_ct_series(tmp_path / "made", **SMALL | {"slices": 5}))
    (folder / "source" / "0002.dcm").unlink()
    inference = RepeatedInference()
    outcome = denoise(inference, folder, settings)
    assert outcome.kind == "refused" and "slices are missing" in outcome.why
    assert "terminating" not in caplog.text  # of Ignite, with the text of any error: it can hold values of a header

    def full(places):
        raise BioAttError("writing failed") from OSError(28, "No space left on device")

    inference.run = full
    assert denoise(inference, folder, settings) == Outcome("again", "writing failed")

    def odd(places):
        raise ValueError("Phäntom^Body")

    inference.run = odd
    assert denoise(inference, folder, settings) == Outcome("again", "unexpected ValueError")
    assert not (folder / "result").exists()


# The command


def serve(capsys, *words):
    from scripts.app.command_line import main

    handlers = logging.root.handlers[:]
    try:
        code = main(["serve", *map(str, words)])
    finally:
        logging.root.handlers[:] = handlers  # a node sets its own
    return code, capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--send-to is missing"),
        (["--send-to", "PACS"], "expected AE@HOST:PORT"),
        (["--send-to", "PACS@127.0.0.1:104", "--send-tls"], "--send-tls needs certificates"),
        (["--send-to", "PACS@127.0.0.1:104", "--set", "strenght=1"], "strenght cannot be set"),
        (["--send-to", "PACS@127.0.0.1:104", "--rules", "none.json"], "rules none.json cannot be read"),
        (["--send-to", "PACS@127.0.0.1:104", "--ae-title", "A" * 17], "AE title"),
        (["--send-to", "PACS@127.0.0.1:104", "--tls", "no", "no", "no"], "expected PEM files"),
        (["--send-to", "PACS@127.0.0.1:104", "--port", "70000"], "a port is 0 to 65535"),
        (["--status"], "is not the queue of a node"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(capsys, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    code, said = serve(capsys, "--port", 0, *words)
    assert code == 2 and said.err.startswith("error: ") and told in said.err


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        *((words, "a whole number from 1") for words in (["--tries", "0"], ["--max-associations", "x"])),
        *((["--min-free", value], "a number from 0, below 1e9") for value in ("-1", "inf", "x")),
        *((["--patience", value], "a number above 0 and below 1e9") for value in ("nan", "0", "x")),
    ],
)
def test_numbers_with_which_nothing_would_be_done_are_refused(capsys, words, wanted):
    with pytest.raises(SystemExit) as ended:
        serve(capsys, *words)
    assert ended.value.code == 2 and f"argument {words[0]}: expected {wanted}\n" in capsys.readouterr().err


def test_an_empty_address_is_not_all_addresses(capsys):
    with pytest.raises(SystemExit) as ended:
        serve(capsys, "--host", "")
    assert ended.value.code == 2 and "argument --host: is empty" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(capsys, tmp_path, node):
    words = ["--send-to", "PACS@127.0.0.1:104", "--queue", tmp_path / "other", "--port", node.port]
    code, said = serve(capsys, *words)
    assert code == 2 and f"cannot listen on 127.0.0.1:{node.port}" in said.err


def test_status_tells_what_failed_and_lets_it_wait_again(capsys, queue, clock):
    put(queue, "1.2", "1")
    clock.now = 100.0
    queue.take_complete(Completeness())
    queue.jobs()[0].fail("damaged")
    code, said = serve(capsys, "--status", "--queue", queue.root)
    assert code == 1 and "failed 1.2: damaged" in said.out and "node        running" in said.out
    code, said = serve(capsys, "--retry-failed", "--queue", queue.root)
    assert code == 0 and names(queue.waiting) == ["1.2"] and names(queue.failed) == []
    queue.close()
    code, said = serve(capsys, "--status", "--queue", queue.root)
    assert code == 1 and "node        not running" in said.out
    queue.open()
