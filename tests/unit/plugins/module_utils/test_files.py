# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole files, directories that no planted link diverts, and the lock. Owners need root."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import multiprocessing
import os
import random
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _files
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import (
    atomic_write,
    ensure_directory,
    is_half_written,
    locked,
    names_in,
    read_text,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import Killed, Saboteur


def modes(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("text", ["", "a\n", "a\r\nb\r\n", "\N{SNOWMAN}"])
def test_text_is_read_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(text.encode())
    assert read_text(str(path)) == text


def test_what_is_not_there_has_no_text(tmp_path: Path) -> None:
    assert read_text(str(tmp_path / "none")) is None
    assert read_text(str(tmp_path / "none" / "below")) is None


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"ab\xff")
    with pytest.raises(TenancyError, match=rf"{path} is not UTF-8 text \(byte 2\)"):
        read_text(str(path))


def test_a_process_that_ended_has_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_args: object, **_options: object) -> None:
        raise ProcessLookupError(errno.ESRCH, "No such process")

    monkeypatch.setattr("builtins.open", gone)
    assert read_text("/proc/1/cgroup") is None


def test_the_names_in_a_directory_are_sorted_and_none_without_one(tmp_path: Path) -> None:
    for name in ("b", ".c", "a"):
        (tmp_path / name).touch()
    assert names_in(str(tmp_path)) == [".c", "a", "b"]
    assert names_in(str(tmp_path / "none")) == names_in(str(tmp_path / "a")) == []


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("there", [True, False], ids=["replaced", "new"])
@pytest.mark.parametrize("staged", [True, False], ids=["staged elsewhere", "staged beside"])
def test_a_file_is_written_as_a_whole_with_mode_and_owner(tmp_path: Path, there: bool, staged: bool) -> None:
    """Needs root."""
    path, staging = tmp_path / "watched" / "file", tmp_path / "staging"
    path.parent.mkdir()
    staging.mkdir()
    if there:
        path.write_bytes(b"old")
        path.chmod(0o777)
    atomic_write(str(path), b"new", 0o640, 1, 2, str(staging) if staged else None)
    assert path.read_bytes() == b"new"
    assert modes(path) == (0o640, 1, 2)
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    assert list(staging.iterdir()) == []


def test_a_watched_directory_never_holds_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched, staging = tmp_path / "watched", tmp_path / "staging"
    watched.mkdir()
    staging.mkdir()
    seen = []
    real_fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(os.listdir(watched)), real_fsync(fd)))
    atomic_write(str(watched / "file"), b"new", staging_dir=str(staging))
    assert seen == [[], ["file"]]


def test_a_reader_of_the_old_file_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        atomic_write(str(path), b"new")
        assert reader.read() == b"old"


def test_a_link_in_the_place_of_the_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_bytes(b"mine")
    path.symlink_to(victim)
    atomic_write(str(path), b"new")
    assert victim.read_bytes() == b"mine"
    assert not path.is_symlink()


class FailingWrite:
    """A file whose write fails after some bytes, as on a full disk."""

    def __init__(self, real: object, error: BaseException) -> None:
        self.real, self.error = real, error

    def __enter__(self) -> FailingWrite:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.real.close()  # type: ignore[attr-defined]

    def write(self, data: bytes) -> None:
        self.real.write(data[:1])  # type: ignore[attr-defined]
        raise self.error

    def flush(self) -> None:
        raise AssertionError("nothing is flushed after a failed write")


FULL, BROKEN = OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error")
ERRORS = {"full disk": FULL, "broken disk": BROKEN, "interrupted": KeyboardInterrupt()}
STEPS = ("write", "fchmod", "fchown", "fsync", "replace", "fsync of the directory")


def break_step(monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise error

    if step == "write":
        real_open = os.fdopen
        monkeypatch.setattr(os, "fdopen", lambda fd, mode: FailingWrite(real_open(fd, mode), error))
    elif step == "fsync of the directory":
        monkeypatch.setattr(_files, "sync_directory", fail)
    else:
        monkeypatch.setattr(os, step, fail)


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("there", [True, False], ids=["replaced", "new"])
def test_whatever_fails_the_file_is_old_or_new_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException, there: bool
) -> None:
    path, staging = tmp_path / "dir" / "file", tmp_path / "staging"
    path.parent.mkdir()
    staging.mkdir()
    if there:
        path.write_bytes(b"old content")
    with monkeypatch.context() as patched:
        break_step(patched, step, error)
        with pytest.raises(type(error)):
            atomic_write(str(path), b"new content", 0o600, 0, 0, str(staging))
    renamed = step == "fsync of the directory"
    assert path.exists() == (there or renamed)
    if path.exists():
        assert path.read_bytes() == (b"new content" if renamed else b"old content")
    assert list(staging.iterdir()) == []
    assert {entry.name for entry in path.parent.iterdir()} <= {"file"}


# ---------------------------------------------------------------- writers that were killed

CALLS = ("listdir", "open", "close", "unlink", "fstat", "fchown", "fchmod", "fsync", "replace")


def write_and_die(path: str, staging: str | None, at: int) -> None:
    """Write in a process of its own, which ends at its system call number `at`; exits with 0 when there is none."""
    patch = pytest.MonkeyPatch()
    saboteur = Saboteur(patch, CALLS, at, Killed(), True)
    with contextlib.suppress(Killed):
        atomic_write(path, b"new content", 0o600, 0, 0, staging)
    os._exit(saboteur.count >= at)


@pytest.mark.parametrize("staged", [True, False], ids=["staged elsewhere", "staged beside"])
@pytest.mark.parametrize("next_one", ["file", "another"])
def test_what_a_writer_killed_at_any_system_call_left_is_gone_after_the_next_write(
    tmp_path: Path, staged: bool, next_one: str
) -> None:
    fork = multiprocessing.get_context("fork")
    left = 0
    for at in itertools.count(1):
        path, staging = tmp_path / str(at) / "file", tmp_path / f"{at}-staging"
        path.parent.mkdir()
        staging.mkdir()
        path.write_bytes(b"old content")
        where = str(staging) if staged else None
        writer = fork.Process(target=write_and_die, args=(str(path), where, at))
        writer.start()
        writer.join()
        if writer.exitcode == 0:
            break
        assert path.read_bytes() in (b"old content", b"new content")
        left += any(is_half_written(name) for name in [*os.listdir(path.parent), *os.listdir(staging)])
        after = path.parent / next_one
        atomic_write(str(after), b"after", staging_dir=where)
        assert after.read_bytes() == b"after"
        assert set(os.listdir(path.parent)) == {"file", next_one}
        assert os.listdir(staging) == []
    # Without them nothing was tested.
    assert left >= 5


def test_the_file_of_a_living_writer_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second writer of the same file comes while the first one is in the midst of it."""
    path = tmp_path / "file"
    real_fsync = os.fsync
    seen: list[list[str]] = []

    def meanwhile(fd: int) -> None:
        if not seen:
            seen.append(os.listdir(tmp_path))
            atomic_write(str(path), b"second")
            assert path.read_bytes() == b"second"
            seen.append(sorted(os.listdir(tmp_path)))
        real_fsync(fd)

    monkeypatch.setattr(os, "fsync", meanwhile)
    atomic_write(str(path), b"first")
    [half] = seen[0]
    assert is_half_written(half)
    assert seen[1] == [half, "file"]
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("still_there", [True, False], ids=["during the removal", "after the removal"])
def test_a_file_that_is_taken_for_a_dead_writers_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, still_there: bool
) -> None:
    path = tmp_path / "file"
    real_flock, real_unlink = fcntl.flock, os.unlink
    taken: list[str] = []

    def flock(fd: int, operation: int) -> None:
        if taken:
            real_flock(fd, operation)
            return
        [name] = os.listdir(tmp_path)
        taken.append(name)
        if still_there:
            with (tmp_path / name).open("rb") as other:
                real_flock(other, fcntl.LOCK_EX)
                try:
                    real_flock(fd, operation)
                finally:
                    real_unlink(tmp_path / name)
        else:
            real_unlink(tmp_path / name)
            real_flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    atomic_write(str(path), b"new")
    assert is_half_written(taken[0])
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


# What lies in the place of temporary files -> whether it stays.
IN_THE_WAY: dict[str, tuple[Callable[[Path, Path], object], bool]] = {
    "link": (lambda path, victim: path.symlink_to(victim), True),
    "folder": (lambda path, _victim: path.mkdir(), True),
    "socket": (lambda path, _victim: os.mknod(path, stat.S_IFSOCK | 0o600), True),
    # They lose that name and nothing else.
    "hard link": (lambda path, victim: path.hardlink_to(victim), False),
    "FIFO": (lambda path, _victim: os.mkfifo(path), False),
}


@pytest.mark.parametrize(("make", "stays"), IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_what_somebody_put_in_the_place_of_temporary_files_hinders_nobody(
    tmp_path: Path, make: Callable[[Path, Path], object], stays: bool
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "dir" / "file"
    victim.write_bytes(b"mine")
    path.parent.mkdir()
    planted = path.parent / ".file.abc.agency_stack.tmp"
    make(planted, victim)
    atomic_write(str(path), b"new")
    assert (path.read_bytes(), victim.read_bytes()) == (b"new", b"mine")
    assert os.path.lexists(planted) == stays


NAMES = {
    ".file.x1_.agency_stack.tmp": True,
    ".agency_stack.tmp": True,
    "file.agency_stack.tmp": False,
    ".config.yaml.20260131": False,
    ".file.tmp": False,
    ".agency_stack": False,
    "file": False,
}


@pytest.mark.parametrize(("name", "half"), NAMES.items())
def test_half_written_files_are_known_by_their_names_and_no_others_are_touched(
    tmp_path: Path, name: str, half: bool
) -> None:
    assert is_half_written(name) == half
    (tmp_path / name).write_bytes(b"")
    atomic_write(str(tmp_path / "other"), b"new")
    assert (tmp_path / name).exists() == (not half)


def write_for_ever(path: str, number: int) -> None:
    """Exits with 1 when a write fails."""
    for count in itertools.count():
        atomic_write(path, f"{number} {count} ".encode() + b"x" * 20_000 + b".")


def test_writers_of_one_file_that_are_killed_at_random_moments_hinder_no_other(tmp_path: Path) -> None:
    """Real processes, real SIGKILL."""
    path = tmp_path / "file"
    chance = random.Random(20260131)
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write_for_ever, args=(str(path), number)) for number in range(3)]
    for writer in writers:
        writer.start()
    left = 0
    for number in range(600 if os.environ.get("TENANCY_FULL") else 60):
        time.sleep(chance.uniform(0.003, 0.02))
        victim = writers.pop(0)
        assert victim.exitcode is None
        victim.kill()
        victim.join()
        left = max(left, sum(map(is_half_written, os.listdir(tmp_path))))
        writers.append(fork.Process(target=write_for_ever, args=(str(path), number)))
        writers[-1].start()
        if path.exists():
            text = path.read_text(encoding="utf-8")
            assert (text[-2:], len(text) > 20_000) == ("x.", True)
    for writer in writers:
        assert writer.exitcode is None
        writer.kill()
        writer.join()
    assert left > 0
    atomic_write(str(tmp_path / "other"), b"new")
    assert set(os.listdir(tmp_path)) == {"file", "other"}


# ---------------------------------------------------------------- directories


def test_a_directory_is_made_and_mended(tmp_path: Path) -> None:
    """Needs root."""
    path = tmp_path / "dir"
    ensure_directory(str(path), 0o2750, 1, 2)
    assert modes(path) == (0o2750, 1, 2)
    (path / "kept").touch()
    ensure_directory(str(path), 0o700)
    assert modes(path) == (0o700, 0, 0)
    assert (path / "kept").exists()


def plant_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def plant_dangling_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim / "not there")


def plant_file(path: Path, _victim: Path) -> None:
    path.write_bytes(b"")


def plant_fifo(path: Path, _victim: Path) -> None:
    os.mkfifo(path)


PLANTED = {"link": plant_link, "dangling link": plant_dangling_link, "file": plant_file, "FIFO": plant_fifo}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_what_was_planted_is_refused_and_never_followed(tmp_path: Path, plant: Callable[[Path, Path], None]) -> None:
    """Needs root."""
    victim, path = tmp_path / "victim", tmp_path / "data" / "site"
    victim.mkdir(mode=0o711)
    path.parent.mkdir()
    plant(path, victim)
    with pytest.raises(TenancyError, match=f"{path} must be a directory and is something else"):
        ensure_directory(str(path), 0o777, 1, 1, attributes={"user.x": b"1"})
    assert modes(victim) == (0o711, 0, 0)
    assert list(victim.iterdir()) == []


def test_a_link_above_is_the_operators_own(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    ensure_directory(str(tmp_path / "root" / "dir"), 0o700)
    assert (tmp_path / "real" / "dir").is_dir()


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    for dummy in range(3):
        ensure_directory(str(tmp_path / "a" / "b" / "c"), 0o700)
        with pytest.raises(FileNotFoundError):
            ensure_directory(str(tmp_path / "none" / "c"), 0o700)
        (tmp_path / "a" / "link").symlink_to(tmp_path)
        with pytest.raises(TenancyError):
            ensure_directory(str(tmp_path / "a" / "link"), 0o700)
        (tmp_path / "a" / "link").unlink()
    assert len(os.listdir("/proc/self/fd")) == before


# ---------------------------------------------------------------- the lock


def test_a_lock_that_is_held_names_its_holder_and_the_cure(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with locked(path), pytest.raises(TenancyError) as refused, locked(path, timeout=0.1):
        pytest.fail("two holders")
    assert f"{path} is held by process {os.getpid()} since " in str(refused.value)
    assert "run again" in str(refused.value)


def test_a_lock_is_free_again_also_after_a_failure(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with pytest.raises(ZeroDivisionError), locked(path):
        raise ZeroDivisionError
    with locked(path, timeout=0):
        assert os.path.exists(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_who_waits_gets_the_lock_when_it_is_released(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    order: list[str] = []
    held = threading.Event()

    def hold() -> None:
        with locked(path):
            held.set()
            time.sleep(0.1)
            order.append("first")

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(5)
    with locked(path, timeout=5):
        order.append("second")
    holder.join()
    assert order == ["first", "second"]
