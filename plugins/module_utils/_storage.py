# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directories of clients: what is wanted, what is there, and the difference."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import ensure_directory
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change

_ACL_XATTR = "system.posix_acl_default"
_ACL_VERSION = 2
_NO_ID = 0xFFFFFFFF


@dataclass(frozen=True)
class Directory:
    """One directory.

    Args:
        path: Absolute path.
        mode: Permission bits.
        uid: Owner.
        gid: Group.
        reader: uid that a default ACL lets read and write every file made in it, under any umask; None: no ACL.
        trusted: The directory above it below which a client may have planted links; None: none but root writes there.
    """

    path: str
    mode: int
    uid: int
    gid: int
    reader: int | None = None
    trusted: str | None = None

    def shown(self) -> dict[str, Any]:
        """As the diff shows it."""
        shown: dict[str, Any] = {"mode": f"{self.mode:04o}", "uid": self.uid, "gid": self.gid}
        return shown if self.reader is None else shown | {"default_acl_reader": self.reader}


def plan_directories(
    wanted: Iterable[tuple[str | None, Directory]], actual: Mapping[str, Mapping[str, Any] | None]
) -> list[Change]:
    """Compare wanted directories, each with its client's id (None: the platform's), with what read_directory() saw."""
    changes = []
    for client_id, directory in wanted:
        before = actual.get(directory.path)
        if before != directory.shown():
            changes.append(
                Change(
                    action="create" if before is None else "update",
                    kind="directory",
                    name=directory.path,
                    before=before,
                    after=directory.shown(),
                    client_id=client_id,
                    payload=directory,
                )
            )
    return changes


def read_directory(directory: Directory) -> dict[str, Any] | None:
    """What stands at a directory's path, in the form of Directory.shown(); None when nothing does."""
    try:
        status = os.lstat(directory.path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    shown: dict[str, Any] = {"mode": f"{stat.S_IMODE(status.st_mode):04o}", "uid": status.st_uid, "gid": status.st_gid}
    if not stat.S_ISDIR(status.st_mode):
        shown["type"] = "not a directory"
    elif directory.reader is not None:
        try:
            acl = os.getxattr(directory.path, _ACL_XATTR, follow_symlinks=False)
        except OSError:
            acl = b""
        if acl == default_acl(directory.reader):
            shown["default_acl_reader"] = directory.reader
    return shown


def default_acl(reader: int) -> bytes:
    """A default ACL in the kernel's own form: the owner and `reader` may write, the group may read, others nothing.

    The form (version, then tag, permissions, id of each entry in order of the tags) is that of Linux's
    include/uapi/linux/posix_acl_xattr.h.
    """
    entries = (
        (0x01, 7, _NO_ID),  # ACL_USER_OBJ
        (0x02, 7, reader),  # ACL_USER
        (0x04, 5, _NO_ID),  # ACL_GROUP_OBJ
        (0x10, 7, _NO_ID),  # ACL_MASK
        (0x20, 0, _NO_ID),  # ACL_OTHER
    )
    return struct.pack("<I", _ACL_VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def apply_directory(directory: Directory) -> None:
    """Make a directory as it is wanted."""
    attributes = {} if directory.reader is None else {_ACL_XATTR: default_acl(directory.reader)}
    ensure_directory(directory.path, directory.mode, directory.uid, directory.gid, directory.trusted, attributes)
