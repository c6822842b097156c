# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file edge: whole files, written so that a reader or a power cut never meets half of one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError


def read_text(path: str) -> str | None:
    """The text of a file, or None when it does not exist."""
    try:
        # Line ends stay as they are, so that what is written back differs only where it is meant to.
        with open(path, encoding="utf-8", newline="") as handle:
            return handle.read()
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        # The last is what files of /proc say when their process has just ended.
        return None
    except UnicodeDecodeError as exc:
        raise TenancyError(f"{path} is not UTF-8 text (byte {exc.start}); restore it from a copy.") from exc


# How the system says that nothing stands at a path; the last for a link to itself.
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def names_in(path: str) -> list[str]:
    """The names in a directory, sorted; none when there is no directory."""
    try:
        return sorted(os.listdir(path))
    except OSError as exc:
        if exc.errno in NOT_THERE:
            return []
        raise


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# How the names of half-written files end.
_HALF_WRITTEN = ".agency_stack.tmp"


def is_half_written(name: str) -> bool:
    """Whether a file of this name is one that atomic_write() has not finished."""
    return name.startswith(".") and name.endswith(_HALF_WRITTEN)


def atomic_write(
    path: str,
    data: bytes,
    mode: int = 0o640,
    uid: int | None = None,
    gid: int | None = None,
    staging_dir: str | None = None,
) -> None:
    """Replace a file as a whole: temporary file, fsync, rename, fsync of the directory.

    What earlier writers, killed in the midst of it, left in the place of the temporary file is removed.

    Args:
        path: The file.
        data: Its whole content.
        mode: Its permission bits, set before any byte of the content is written.
        uid: Its owner; None leaves the process's own.
        gid: Its group; None leaves the process's own.
        staging_dir: Where the temporary file is made, on the same file system; the file's own directory when None.
            Directories that Traefik watches need another one: a temporary file inside delays its reload by 2 s.
    """
    directory, name = os.path.split(path)
    _remove_half_written(staging_dir or directory)
    fd, temporary = _half_written(staging_dir or directory, name)
    try:
        with os.fdopen(fd, "wb") as handle:
            if uid is not None or gid is not None:
                os.fchown(fd, -1 if uid is None else uid, -1 if gid is None else gid)
            os.fchmod(fd, mode)
            handle.write(data)
            handle.flush()
            os.fsync(fd)
            # While the file is open, and so locked.
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_directory(directory)


def _half_written(directory: str, name: str) -> tuple[int, str]:
    """A new temporary file: (descriptor, path).

    It is locked as long as its writer lives, so that it can be told from one whose writer was killed. Each has a name
    of its own: writers of one file do not wait for each other, and nobody can put something in its place beforehand.
    """
    while True:
        fd, path = tempfile.mkstemp(_HALF_WRITTEN, f".{name}.", directory)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                return fd, path
        # Another writer took it for a dead one's before it was locked.
        os.close(fd)


def _remove_half_written(directory: str) -> None:
    """Remove the temporary files whose writers were killed; what cannot be removed hinders nobody."""
    with contextlib.suppress(OSError):
        for name in filter(is_half_written, os.listdir(directory)):
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                # Whatever a client may have put there is opened without effect, and no link is followed.
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(path)
                finally:
                    os.close(fd)


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def ensure_directory(
    path: str,
    mode: int,
    uid: int = 0,
    gid: int = 0,
    attributes: Mapping[str, bytes] | None = None,
) -> None:
    """Make a directory in an existing one that nobody but root can write, or give it this owner and mode.

    A symbolic link or a file in its place is refused: root never follows what somebody else may have planted.

    Args:
        path: The directory.
        mode: Its permission bits.
        uid: Its owner.
        gid: Its group.
        attributes: Extended attributes to set.
    """
    above, name = os.path.split(path)
    with contextlib.ExitStack() as opened:
        parent = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        try:
            fd = os.open(name, _FOLDER, dir_fd=parent)
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENOTDIR):
                raise TenancyError(f"{path} must be a directory and is something else; move it away.") from exc
            raise
        opened.callback(os.close, fd)
        status = os.fstat(fd)
        if (status.st_uid, status.st_gid) != (uid, gid):
            os.fchown(fd, uid, gid)
        if stat.S_IMODE(status.st_mode) != mode:
            os.fchmod(fd, mode)
        for attribute, value in (attributes or {}).items():
            os.setxattr(fd, attribute, value)


def walk_folders(path: str) -> Iterator[tuple[int, str | None]]:
    """Walk a folder with all below it, on open folders, never over a link, and however deep somebody nested them.

    os.fwalk() and shutil.rmtree() call themselves and keep a file open for each level: a client that nests a thousand
    folders would stop them.

    Yields:
        (descriptor, None) on coming into a folder, and (descriptor, name) on being back in it from its folder `name`.
    """

    def below(folder: int) -> list[str]:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]

    above: list[tuple[str, list[str], os.stat_result]] = []
    fd = os.open(path, _FOLDER)
    try:
        yield fd, None
        todo = below(fd)
        while todo or above:
            if todo:
                name = todo.pop()
                above.append((name, todo, os.fstat(fd)))
                inner = os.open(name, _FOLDER, dir_fd=fd)
                os.close(fd)
                fd = inner
                yield fd, None
                todo = below(fd)
            else:
                name, todo, status = above.pop()
                outer = os.open("..", _FOLDER, dir_fd=fd)
                os.close(fd)
                fd = outer
                if not os.path.samestat(os.fstat(fd), status):
                    raise TenancyError(f"Folders in {path} were moved meanwhile; run again when nothing uses them.")
                yield fd, name
    finally:
        os.close(fd)


@contextlib.contextmanager
def locked(path: str, timeout: float = 60.0) -> Iterator[None]:
    """Hold an exclusive lock on a lock file; say who holds it when it cannot be had.

    Args:
        path: The lock file; made when missing, never removed (removing it would let two holders in).
        timeout: Seconds to wait.

    Raises:
        TenancyError: The lock is still held by another process after the time.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(fd, 200, 0).decode(errors="replace").strip() or "an unknown process"
                    raise TenancyError(
                        f"{path} is held by {holder} and was not released within {timeout:g} s; "
                        "wait for that run to end and run again."
                    ) from None
                time.sleep(0.05)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} since {time.strftime('%H:%M:%S')}".encode(), 0)
        yield
    finally:
        os.close(fd)
