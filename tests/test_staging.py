"""A result folder is either the old one or the new one, whole; nothing else stays behind."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys

import pytest
from scripts import staging
from scripts.errors import BioAttError
from scripts.staging import check_output_folder, staged_file, staged_folder


def contents(folder):
    """Relative path -> bytes of every file, and None for every folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def old(tmp_path):
    """An existing result folder with a file in it."""
    folder = tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "old.txt").write_text("old")
    return folder


def test_new_folder_appears_whole(tmp_path):
    target = tmp_path / "out"
    with staged_folder(target) as staging:
        assert staging.is_dir() and not list(staging.iterdir())
        assert staging.parent == tmp_path
        (staging / "a.txt").write_text("a")
        (staging / "sub").mkdir()
        (staging / "sub" / "b.txt").write_text("b")
        assert not target.exists()
    assert contents(tmp_path) == {"out": None, "out/a.txt": b"a", "out/sub": None, "out/sub/b.txt": b"b"}


def test_missing_parents_are_made(tmp_path):
    with staged_folder(str(tmp_path / "x" / "y" / "out")) as staging:
        (staging / "a.txt").write_text("a")
    assert (tmp_path / "x" / "y" / "out" / "a.txt").read_text() == "a"


def test_relative_target_lands_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with staged_folder("out") as staging:
        (staging / "a.txt").write_text("a")
    assert contents(tmp_path) == {"out": None, "out/a.txt": b"a"}


@pytest.mark.parametrize("error", [ValueError("bad"), BioAttError("ours"), KeyboardInterrupt()])
def test_error_leaves_nothing_and_passes_through(tmp_path, error):
    with pytest.raises(type(error)) as info, staged_folder(tmp_path / "out") as staging:
        (staging / "half.txt").write_text("half")
        raise error
    assert info.value is error
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_error_while_overwriting_leaves_the_old_folder(old, error):
    before = contents(old.parent)
    with pytest.raises(type(error)), staged_folder(old, overwrite=True) as staging:
        (staging / "half.txt").write_text("half")
        raise error
    assert contents(old.parent) == before


def test_overwrite_replaces_whole_and_only_at_the_end(old):
    before = contents(old)
    with staged_folder(old, overwrite=True) as staging:
        (staging / "new.txt").write_text("new")
        assert contents(old) == before
    assert contents(old.parent) == {"out": None, "out/new.txt": b"new"}


@pytest.mark.parametrize("can_exchange", [True, False])
def test_two_folders_change_places(old, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(staging, "_exchange", lambda *_: False)
    with staged_folder(old, overwrite=True) as new:
        (new / "new.txt").write_text("new")
    assert contents(old.parent) == {"out": None, "out/new.txt": b"new"}


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_on_linux_there_is_no_moment_without_a_folder(old, monkeypatch):
    rename = lambda *_: pytest.fail("one step, not two")  # noqa: E731
    with staged_folder(old, overwrite=True) as new:
        (new / "new.txt").write_text("new")
        monkeypatch.setattr(os, "rename", rename)
    assert contents(old.parent) == {"out": None, "out/new.txt": b"new"}


def test_a_folder_that_another_run_made_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(BioAttError, match="out exists"), staged_folder(tmp_path / "out") as new:
        (new / "mine.txt").write_text("mine")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs.txt").write_text("theirs")
    assert contents(tmp_path) == {"out": None, "out/theirs.txt": b"theirs"}


def test_overwrite_without_an_old_folder_is_a_new_folder(tmp_path):
    with staged_folder(tmp_path / "out", overwrite=True) as staging:
        (staging / "new.txt").write_text("new")
    assert contents(tmp_path) == {"out": None, "out/new.txt": b"new"}


def test_existing_folder_is_refused_with_the_remedy(old):
    before = contents(old.parent)
    with pytest.raises(BioAttError, match=r"out exists; .*--overwrite"), staged_folder(old):
        pytest.fail("the block must not run")
    assert contents(old.parent) == before


def test_file_as_target_is_refused_even_with_overwrite(tmp_path):
    target = tmp_path / "out"
    target.write_text("precious")
    with pytest.raises(BioAttError, match="is not a folder"), staged_folder(target, overwrite=True):
        pytest.fail("the block must not run")
    assert target.read_text() == "precious"


@pytest.mark.parametrize("dangling", [False, True])
def test_symlink_as_target_is_refused(tmp_path, dangling):
    real = tmp_path / "real"
    if not dangling:
        real.mkdir()
    (tmp_path / "out").symlink_to(real)
    with pytest.raises(BioAttError, match="is not a folder"), staged_folder(tmp_path / "out", overwrite=True):
        pytest.fail("the block must not run")
    assert (tmp_path / "out").is_symlink()


def test_place_without_permission_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(BioAttError, match="no permission to write"), staged_folder(tmp_path / "a" / "out"):
        pytest.fail("the block must not run")
    assert contents(tmp_path) == {}


def test_place_that_cannot_be_made_is_told_as_one_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    os.chmod(tmp_path / "file", 0o777)  # a file that may be written and run is still no folder
    with pytest.raises(BioAttError, match="cannot be created"), staged_folder(tmp_path / "file" / "out"):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permission_follows_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        with staged_folder(tmp_path / "out"):
            pass
        assert os.umask(mask) == mask, "the umask itself must stay"
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("overwrite", [False, True])
def test_full_disk_is_told_and_leaves_what_was_there(tmp_path, old, overwrite):
    before = contents(tmp_path)
    target = old if overwrite else tmp_path / "fresh"
    with (
        pytest.raises(BioAttError, match=os.strerror(errno.ENOSPC)) as info,
        staged_folder(target, overwrite) as staging,
    ):
        (staging / "half.txt").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert info.value.__cause__.errno == errno.ENOSPC
    assert contents(tmp_path) == before


def test_what_a_library_makes_of_a_full_disk_is_told_in_the_system_s_words(tmp_path):
    def full():
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OSError("With tag (7FE0,0010) got exception: [Errno 28]\nTraceback") from error

    with pytest.raises(BioAttError) as told, staged_folder(tmp_path / "new"):
        full()
    assert str(told.value).endswith(f"failed: {os.strerror(errno.ENOSPC)}; nothing was written there")


@pytest.mark.parametrize("failing_move", [0, 1])
def test_failed_move_puts_the_old_folder_back(old, monkeypatch, failing_move):
    before = contents(old.parent)
    rename, moves = os.rename, []

    def fail_once(source, destination):
        moves.append(source)
        if len(moves) - 1 == failing_move:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        rename(source, destination)

    monkeypatch.setattr(staging, "_exchange", lambda *_: False)  # as on a file system that cannot
    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(BioAttError, match=os.strerror(errno.EACCES)), staged_folder(old, overwrite=True) as new:
        (new / "new.txt").write_text("new")
    assert contents(old.parent) == before


def test_overwriting_works_where_no_rename_replaces_a_folder(old, monkeypatch):
    """Windows renames onto no folder, not even an empty one."""
    rename = os.rename

    def of_windows(source, destination):
        if os.path.exists(destination):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        rename(source, destination)

    monkeypatch.setattr(staging, "_exchange", lambda *_: False)
    monkeypatch.setattr(os, "rename", of_windows)
    with staged_folder(old, overwrite=True) as new:
        (new / "new.txt").write_text("new")
    assert contents(old.parent) == {"out": None, "out/new.txt": b"new"}


def test_two_writers_of_one_file_do_not_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 7)  # two hosts may have the same; two threads have
    with staged_file(tmp_path / "a.json") as one, staged_file(tmp_path / "a.json") as other:
        one.write_text("one")
        other.write_text("other")
    assert contents(tmp_path) == {"a.json": b"one"}, "the one that ended last, whole"


def test_check_alone_makes_nothing(tmp_path):
    assert check_output_folder(tmp_path / "a" / "out", overwrite=False) == tmp_path / "a" / "out"
    assert contents(tmp_path) == {}


# A folder that is there and empty


@pytest.fixture
def empty(tmp_path):
    (tmp_path / "out").mkdir(mode=0o750)
    return tmp_path / "out"


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_empty_folder_is_filled_and_stays_itself(empty, overwrite):
    before = empty.stat()
    with staged_folder(empty, overwrite) as new:
        (new / "a.txt").write_text("a")
        (new / "sub").mkdir()
        (new / "sub" / "b.txt").write_text("b")
        assert new.parent == empty and [entry.name[0] for entry in empty.iterdir()] == ["."]
        assert [entry.name for entry in empty.parent.iterdir()] == ["out"]
    assert contents(empty) == {"a.txt": b"a", "sub": None, "sub/b.txt": b"b"}
    assert (empty.stat().st_ino, empty.stat().st_mode) == (before.st_ino, before.st_mode)


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_an_error_leaves_it_empty(empty, error):
    with pytest.raises(type(error)), staged_folder(empty) as new:
        (new / "half.txt").write_text("half")
        raise error
    assert contents(empty) == {}


def test_a_move_that_fails_leaves_it_empty(empty, monkeypatch):
    rename = os.rename

    def fail_at_b(source, destination):
        if source.name == "b.txt" and destination.parent == empty:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, destination)

    monkeypatch.setattr(os, "rename", fail_at_b)
    with pytest.raises(BioAttError, match=os.strerror(errno.EIO)), staged_folder(empty) as new:
        for name in "abc":
            (new / f"{name}.txt").write_text(name)
    assert contents(empty) == {}


def test_what_a_killed_run_left_in_it_is_passed_over(empty):
    left = empty / ".partial-0123456789abcdef"
    left.mkdir()
    with staged_folder(empty) as new:
        (new / "a.txt").write_text("a")
    assert contents(empty) == {left.name: None, "a.txt": b"a"}
    with pytest.raises(BioAttError, match="exists"):
        check_output_folder(empty, overwrite=False)


def test_one_that_another_run_filled_meanwhile_is_left_alone(empty):
    with pytest.raises(BioAttError, match="out exists"), staged_folder(empty) as new:
        (new / "mine.txt").write_text("mine")
        (empty / "theirs.txt").write_text("theirs")
    assert contents(empty) == {"theirs.txt": b"theirs"}


def test_a_mount_point_in_a_read_only_folder_is_filled(tmp_path):
    (tmp_path / "parent" / "out").mkdir(parents=True)
    (tmp_path / "disk").mkdir()
    mounts = (
        "mount --bind disk parent/out && mount --bind parent parent && "
        "mount --rbind disk parent/out && mount -o remount,ro,bind parent"
    )
    inside = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*inside, mounts], cwd=tmp_path).returncode:
        pytest.skip("no mounts of its own for a process here")
    code = (
        "from scripts.staging import staged_folder\n"
        "with staged_folder('parent/out') as new: (new / 'a.txt').write_text('a')\n"
        "try: open('parent/beside', 'w')\n"
        "except OSError as error: print(error.strerror)\n"
    )
    paths = os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(staging.__file__))}
    words = [*inside, f'{mounts} && exec "$0" -c "$1"', sys.executable, code]
    done = subprocess.run(words, cwd=tmp_path, env=paths, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, os.strerror(errno.EROFS)), done.stderr
    assert contents(tmp_path / "disk") == {"a.txt": b"a"}


def test_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BioAttError, match="cannot be created: .*file is a file"):
        check_output_folder(tmp_path / "file" / "out", False)
