# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the folder of one service of a client lies: with the client, or with the instance that clients share."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import sync_directory, walk_folders
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._storage import Directory

# The folder beside a client's data with what counts no more and is, perhaps, still served.
GONE = "data.gone"


@dataclass(frozen=True)
class SharedFolder:
    """A folder that one side serves and the other one is led to.

    The shared instance mounts the folder of all its clients as a whole, so a shared client's files lie in there, and a
    link leads to them from the client's own data. Moving is a rename on one file system: a container that has the
    folder mounted goes on serving it wherever it is named.

    Args:
        client_id: Whose it is.
        own: Its path in the client's data, whose parent nobody but root may change.
        shared: Its path with the shared instance, likewise.
        to_shared: Which of the two shall be the folder.
        uid: The client's.
        own_gid: The client's group.
        shared_gid: The group of the shared instance, through which it reads.
    """

    client_id: str
    own: str
    shared: str
    to_shared: bool
    uid: int
    own_gid: int
    shared_gid: int

    def directory(self) -> Directory:
        """The folder as the shared instance needs it: its group reads, and the client writes under any umask."""
        return Directory(self.shared, 0o2750, self.uid, self.shared_gid, reader=self.uid)

    @property
    def left(self) -> str:
        """The link of an earlier level, which stays where its data was once that was copied into a volume."""
        return os.path.join(os.path.dirname(os.path.dirname(self.own)), GONE, os.path.basename(self.own))

    def superseded(self) -> bool:
        """Whether what lies with the shared instance was copied elsewhere, and only waits to be served no more."""
        return _leads(self.left, self.shared) and not _leads(self.own, self.shared)

    def settled(self) -> bool:
        """Whether nothing has to be moved."""
        if self.to_shared:
            return _is_folder(self.shared) and _leads(self.own, self.shared)
        return not os.path.islink(self.own) and (self.superseded() or not os.path.lexists(self.shared))

    def waits(self) -> bool:
        """Whether the client's own container can use the link until the shared instance is done with the folder."""
        return not self.to_shared and _is_folder(self.shared) and _leads(self.own, self.shared)

    def apply(self) -> None:
        """Move the folder and its group; run again after an interruption it goes on.

        Raises:
            TenancyError: There are files at both folders, or something else is in the way.
        """
        if self.to_shared:
            if self.superseded():
                # It is to be shared again before that was taken away.
                if _is_folder(self.shared):
                    os.rename(self.shared, set_aside(self.left))
                os.unlink(self.left)
            if _is_folder(self.own):
                self._move(self.own, self.shared, self.own_gid, self.shared_gid)
            if not _leads(self.own, self.shared):
                if os.path.lexists(self.own):
                    raise TenancyError(
                        f"{self.own} must be a link to {self.shared} and is something else; move it away."
                    )
                os.symlink(self.shared, self.own)
                sync_directory(os.path.dirname(self.own))
            return
        if _leads(self.own, self.shared):
            os.unlink(self.own)
        if _is_folder(self.shared):
            self._move(self.shared, self.own, self.shared_gid, self.own_gid)

    def copies(self, data: str) -> tuple[str, str]:
        """What of it is copied where, beside the link to it, when its client's data is copied to a folder."""
        return self.shared, os.path.join(data, os.path.basename(self.own))

    def copied(self, data: str) -> None:
        """Give the copy to the client's own group."""
        _hand_over(self.copies(data)[1], self.shared_gid, self.own_gid, readable=False)

    def _move(self, source: str, target: str, old_gid: int, new_gid: int) -> None:
        if _is_folder(target):
            # An empty folder is no reason to stop; whichever side has files is the one that counts.
            for empty, stays in ((target, source), (source, target)):
                with contextlib.suppress(OSError):
                    os.rmdir(empty)
                    if stays == target:
                        return
                    break
            else:
                raise TenancyError(f"There are files in {source} and in {target}; leave one of the two and run again.")
        _hand_over(source, old_gid, new_gid, readable=self.to_shared)
        os.rename(source, target)
        sync_directory(os.path.dirname(target))
        sync_directory(os.path.dirname(source))


def set_aside(path: str) -> str:
    """A name that is free, beside a path."""
    folder, name = os.path.split(path)
    numbered = (os.path.join(folder, f".{name}.{number}") for number in itertools.count(1))
    return next(free for free in numbered if not os.path.lexists(free))


def plan_shared_folders(folders: Iterable[tuple[SharedFolder, bool]]) -> list[Change]:
    """The moves that are due.

    Args:
        folders: Each with whether it is settled.
    """
    changes = []
    for folder, settled in folders:
        if not settled:
            source, target = (folder.own, folder.shared) if folder.to_shared else (folder.shared, folder.own)
            before, after = {"path": source}, {"path": target}
            changes.append(Change("update", "data folder", folder.own, before, after, folder.client_id, folder))
    return changes


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _leads(link: str, target: str) -> bool:
    try:
        return os.readlink(link) == target
    except OSError:
        return False


def _hand_over(path: str, old_gid: int, new_gid: int, readable: bool) -> None:
    """Give what belongs to one group to another one, never over a link; let it read, where it is to serve the files."""

    def hand_over(name: str, fd: int) -> None:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if status.st_gid == old_gid:
            os.chown(name, -1, new_gid, dir_fd=fd, follow_symlinks=False)
        mode = stat.S_IMODE(status.st_mode)
        wanted = mode | (0o050 if stat.S_ISDIR(status.st_mode) else 0o040)
        if readable and mode != wanted and (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
            # Opened, so that a link that takes its folder meanwhile is not followed.
            opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
            try:
                os.fchmod(opened, wanted)
            finally:
                os.close(opened)

    for fd, back_from in walk_folders(path):
        for name in os.listdir(fd) if back_from is None else ():
            # What a client removes meanwhile is gone, which is fine.
            with contextlib.suppress(FileNotFoundError):
                hand_over(name, fd)
    os.chown(path, -1, new_gid, follow_symlinks=False)
