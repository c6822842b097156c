# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directories of clients: what is wanted, what is there, and the difference."""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import (
    NOT_THERE,
    ensure_directory,
    names_in,
    sync_directory,
    walk_folders,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import shown
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError

_ACL_XATTR = "system.posix_acl_default"
_ACL_XATTRS = ("system.posix_acl_access", _ACL_XATTR)
_ACL_VERSION = 2
_ACL_USER = 0x02
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
    """

    path: str
    mode: int
    uid: int
    gid: int
    reader: int | None = None

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
    except OSError as exc:
        if exc.errno in NOT_THERE:
            return None
        raise
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


def read_places(paths: Iterable[str]) -> dict[str, dict[str, Any] | None]:
    """What read_directory() sees at each of these paths."""
    return {path: read_directory(Directory(path, 0, 0, 0)) for path in paths}


def kept_folders(layout: Layout) -> dict[str, int]:
    """The group of each folder of a removed client, by name."""
    found = read_places(map(layout.removed, names_in(layout.removed(""))))
    return {os.path.basename(path): seen["gid"] for path, seen in found.items() if seen is not None}


def default_acl(reader: int) -> bytes:
    """A default ACL in the kernel's own form: the owner and `reader` may write, the group may read, others nothing.

    The form (version, then tag, permissions, id of each entry in order of the tags) is that of Linux's
    include/uapi/linux/posix_acl_xattr.h.
    """
    entries = (
        (0x01, 7, _NO_ID),  # ACL_USER_OBJ
        (_ACL_USER, 7, reader),
        (0x04, 5, _NO_ID),  # ACL_GROUP_OBJ
        (0x10, 7, _NO_ID),  # ACL_MASK
        (0x20, 0, _NO_ID),  # ACL_OTHER
    )
    return struct.pack("<I", _ACL_VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def apply_directory(directory: Directory) -> None:
    """Make a directory as it is wanted."""
    attributes = {} if directory.reader is None else {_ACL_XATTR: default_acl(directory.reader)}
    ensure_directory(directory.path, directory.mode, directory.uid, directory.gid, attributes)


def places(client: Mapping[str, Any], layout: Layout) -> tuple[str, str, str]:
    """A client's folder, where it is kept once the client is removed, and the folder of its logs."""
    client_id = client["client_id"]
    return layout.client(client_id), layout.removed(removed_name(client)), layout.client_log(client_id)


def plan_removal(
    clients: Iterable[Mapping[str, Any]], actual: Mapping[str, Mapping[str, Any] | None], layout: Layout
) -> list[Change]:
    """What becomes of the folders of absent clients.

    Args:
        clients: Registry entries; `removal` says whether the data is kept, `removed_at` names the kept folder, so that
            an interrupted removal goes on to the same place.
        actual: What read_places() saw at the places() of each client.
        layout: Where everything lies.
    """
    changes = []
    for client in clients:
        client_id = client["client_id"]
        folder, kept, log = places(client, layout)
        keep = client.get("removal", "keep") == "keep"
        if actual[folder] is not None:
            after = {"kept in": kept} if keep else None
            changes.append(_fate("client folder", folder, after, client_id, Move(folder, kept)))
        if not keep and (actual[folder] or actual[kept]) is not None:
            # Moved away first, so that the name is free at once however long the deletion takes.
            changes.append(_fate("removed data", kept, None, client_id, Erase(kept)))
        closed = closed_log(log)
        if actual[log] is not None and not keep:
            changes.append(_fate("client log folder", log, None, client_id, Erase(log)))
        elif actual[log] not in (None, closed.shown()):
            changes.append(_fate("client log folder", log, closed.shown(), client_id, closed))
    return changes


def closed_log(path: str) -> Directory:
    """The log folder of a removed client: kept, but root's alone, since the uid may be given to another client."""
    return Directory(path, 0o700, 0, 0)


def plan_adoption(client: Mapping[str, Any], wanted: str, kept: Mapping[str, int], layout: Layout) -> Change:
    """How a client gets the kept folder of an earlier one of its name back.

    Args:
        client: Its registry entry.
        wanted: Name of the kept folder, or `latest`.
        kept: The group of each kept folder, by name; a client's folder belongs to the client's group, whose number its
            uid had too.
        layout: Where everything lies.

    Raises:
        TenancyError: There is none.
    """
    client_id = client["client_id"]
    own = sorted(name for name in kept if re.fullmatch(re.escape(client_id) + r"-[0-9]{8}T[0-9]{6}", name))
    if not own or wanted not in ("latest", *own):
        raise TenancyError(
            f"There is no kept data {shown(wanted)} of this client; there is {', '.join(own) or 'none'}."
        )
    name = own[-1] if wanted == "latest" else wanted
    source, target = layout.removed(name), layout.client(client_id)
    old = kept[name]
    if old == 0:
        raise TenancyError(
            f"{source} belongs to root's group, so it does not tell which files in it are the client's; "
            "give it their group (chgrp) and run again."
        )
    adopt = Adopt(source, target, (old, old), (client["uid"], client["gid"]))
    return Change("create", "client folder", target, None, {"from": source}, client_id, adopt)


def removed_name(client: Mapping[str, Any]) -> str:
    """The name of a removed client's kept folder: its id and when it was removed, such as acme-20260131T120000."""
    stamp = re.sub(r"[^0-9T]", "", str(client.get("removed_at", ""))[:19])
    return f"{client['client_id']}-{stamp}"


@dataclass(frozen=True)
class Move:
    """A folder that gets another name on the same file system."""

    source: str
    target: str

    def apply(self) -> None:
        """Rename it; one step, so that it is whole at one of the two places at every moment."""
        parent = os.path.dirname(self.target)
        if not os.path.isdir(parent):
            # removed/ is made by the first removal; the parent of clients' folders has a mode of its own.
            ensure_directory(parent, 0o700)
        os.rename(self.source, self.target)
        sync_directory(os.path.dirname(self.target))
        sync_directory(os.path.dirname(self.source))


@dataclass(frozen=True)
class Erase:
    """A folder that is deleted with all that is in it."""

    path: str

    def apply(self) -> None:
        """Delete it, never over a link that a client planted; run again after an interruption it goes on."""
        if not stat.S_ISDIR(os.lstat(self.path).st_mode):
            raise TenancyError(f"{self.path} must be a directory and is something else; move it away.")
        for fd, emptied in walk_folders(self.path):
            if emptied is not None:
                os.rmdir(emptied, dir_fd=fd)
                continue
            with os.scandir(fd) as entries:
                files = [entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]
            for name in files:
                os.unlink(name, dir_fd=fd)
        os.rmdir(self.path)


@dataclass(frozen=True)
class Adopt:
    """A removed client's folder that becomes a client's again.

    Args:
        source: Where it is kept.
        target: The client's folder.
        old: Earlier uid and gid.
        new: Present uid and gid.
    """

    source: str
    target: str
    old: tuple[int, int]
    new: tuple[int, int]

    def apply(self) -> None:
        """Hand its files over to the new uid, then move it; run again after an interruption it goes on."""
        hand_over(self.source, self.old, self.new)
        Move(self.source, self.target).apply()


def hand_over(folder: str, old: tuple[int, int], new: tuple[int, int]) -> None:
    """Give what belongs to one uid and gid in a folder to others, as do its ACLs; the folder itself stays as it is."""
    for fd, back_from in walk_folders(folder):
        for name in os.listdir(fd) if back_from is None else ():
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            uid = new[0] if status.st_uid == old[0] else -1
            gid = new[1] if status.st_gid == old[1] else -1
            if (uid, gid) != (-1, -1):
                os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
            _hand_over_acls(f"/proc/self/fd/{fd}/{name}", old[0], new[0])


def _hand_over_acls(path: str, old: int, new: int) -> None:
    """Let the new uid do what the ACLs of one file let the old one do, which another client may get."""
    for attribute in _ACL_XATTRS:
        try:
            acl = os.getxattr(path, attribute, follow_symlinks=False)
        except OSError:
            continue  # has none, or is of a kind that cannot have one
        entries = struct.iter_unpack("<HHI", acl[4:])
        given = [(tag, bits, new if (tag, who) == (_ACL_USER, old) else who) for tag, bits, who in entries]
        after = acl[:4] + b"".join(struct.pack("<HHI", *entry) for entry in given)
        if after != acl:
            os.setxattr(path, attribute, after, follow_symlinks=False)


def _fate(kind: str, path: str, after: Any, client_id: str, payload: Any) -> Change:
    return Change("update" if after else "delete", kind, path, {"path": path}, after, client_id, payload)
