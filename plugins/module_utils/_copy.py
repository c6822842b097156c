# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of folders that belong to clients, from one file system to another."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Sequence

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import walk_folders
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Where the first of several names of a file leaves one that the others are linked to.
_LINKS = ".agency_stack.links"


class ChangedError(Exception):
    """Somebody changed a folder while it was copied."""


def copy_at_rest(sources: Sequence[str], copy: Callable[[], None]) -> str:
    """Copy folders in which nobody changes anything from the beginning to the end.

    Args:
        sources: The folders.
        copy: Copies them.

    Returns:
        What marks() says of them.

    Raises:
        ChangedError: Somebody did.
    """
    seen = marks(sources)
    try:
        copy()
    except (OSError, TenancyError) as exc:
        if marks(sources) != seen:
            raise ChangedError from exc
        raise
    if marks(sources) != seen:
        raise ChangedError
    return seen


def marks(folders: Iterable[str]) -> str:
    """What becomes another one whenever anything in one of these folders does, wherever they are named or mounted.

    Raises:
        ChangedError: Something does at this moment.
    """
    digest = hashlib.sha256()
    try:
        for folder in folders:
            # The time of change of the folder itself is another one when it gets another name.
            status = os.lstat(folder)
            digest.update(repr((status.st_ino, status.st_mtime_ns, status.st_mode)).encode())
            for fd, back_from in walk_folders(folder):
                for name in sorted(os.listdir(fd)) if back_from is None else ():
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    digest.update(repr((name, status.st_ino, status.st_ctime_ns, status.st_size)).encode())
    except (FileNotFoundError, NotADirectoryError, TenancyError) as exc:
        raise ChangedError from exc
    return digest.hexdigest()


def copy_tree(source: str, target: str, where: str) -> None:
    """Copy all that is in a folder, and what the folder itself is like, into an empty one.

    Owners, modes, times, ACLs and other extended attributes, hard links and holes are kept. It goes by open folders,
    never over a link, and however deep somebody nested them: cp and tar give up where a path gets too long.

    Args:
        source: The folder, which nobody changes meanwhile.
        target: The empty folder, which none but root can reach.
        where: What the copy has to fit in, for the message.
    """
    above: list[tuple[str, list[str], os.stat_result, os.stat_result]] = []
    with contextlib.ExitStack() as opened:
        fds: list[int] = []
        opened.callback(lambda: list(map(os.close, fds)))
        fds.append(os.open(source, _FOLDER))
        fds.append(os.open(target, _FOLDER))
        try:
            os.mkdir(_LINKS, 0o700, dir_fd=fds[1])
            fds.append(os.open(_LINKS, _FOLDER, dir_fd=fds[1]))
            todo = _copy_entries(fds[0], fds[1], fds[2])
            while todo or above:
                if todo:
                    name = todo.pop()
                    above.append((name, todo, os.fstat(fds[0]), os.fstat(fds[1])))
                    for at in (0, 1):
                        fds[at] = _moved(fds[at], name)
                    todo = _copy_entries(fds[0], fds[1], fds[2])
                else:
                    _copy_attributes(fds[0], fds[1], os.fstat(fds[0]))
                    name, todo, *statuses = above.pop()
                    for at in (0, 1):
                        fds[at] = _moved(fds[at], "..")
                        if not os.path.samestat(os.fstat(fds[at]), statuses[at]):
                            raise TenancyError(
                                f"Folders in {source} were moved meanwhile; run again when nothing does."
                            )
            for name in os.listdir(fds[2]):
                os.unlink(name, dir_fd=fds[2])
            os.rmdir(_LINKS, dir_fd=fds[1])
            _copy_attributes(fds[0], fds[1], os.fstat(fds[0]))
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise TenancyError(f"The data of the client does not fit into {where}.") from exc
            raise


def _moved(fd: int, name: str) -> int:
    inner = os.open(name, _FOLDER, dir_fd=fd)
    os.close(fd)
    return inner


def _copy_entries(source: int, target: int, links: int) -> list[str]:
    """Copy what is in a folder but for what is in its folders, and return the names of these."""
    folders = []
    for name in os.listdir(source):
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
            folders.append(name)
            continue
        first = f"{status.st_dev}-{status.st_ino}" if status.st_nlink > 1 else None
        if first is not None:
            with contextlib.suppress(FileNotFoundError):
                os.link(first, name, src_dir_fd=links, dst_dir_fd=target, follow_symlinks=False)
                continue
        if kind == stat.S_IFREG:
            _copy_file(source, target, name)
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
            os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
            os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target)
        if first is not None:
            os.link(name, first, src_dir_fd=target, dst_dir_fd=links, follow_symlinks=False)
    return folders


def _copy_file(source: int, target: int, name: str) -> None:
    with contextlib.ExitStack() as opened:
        fds = []
        for folder, flags in (
            (source, os.O_RDONLY | os.O_NONBLOCK),
            (target, os.O_WRONLY | os.O_CREAT | os.O_EXCL),
        ):
            fds.append(os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder))
            opened.callback(os.close, fds[-1])
        status = os.fstat(fds[0])
        at = 0
        while at < status.st_size:
            try:
                at = os.lseek(fds[0], at, os.SEEK_DATA)
            except OSError as exc:
                if exc.errno != errno.ENXIO:
                    raise
                # Nothing but a hole is left.
                break
            end = os.lseek(fds[0], at, os.SEEK_HOLE)
            os.lseek(fds[1], at, os.SEEK_SET)
            while at < end:
                sent = os.sendfile(fds[1], fds[0], at, end - at)
                if not sent:
                    raise TenancyError(f"A file ({name!a}) was made shorter meanwhile; run again when nothing uses it.")
                at += sent
        os.ftruncate(fds[1], status.st_size)
        _copy_attributes(fds[0], fds[1], status)


def _copy_attributes(source: int, target: int, status: os.stat_result) -> None:
    """Give a file or folder the owner, mode, extended attributes and times of another one."""
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
