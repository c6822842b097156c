# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The secrets of clients: one file each, made once, never shown."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import NOT_THERE, atomic_write
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError

# The client's containers read it through their group; nobody writes.
MODE = 0o440


@dataclass(frozen=True)
class Secret:
    """A file that containers of one client read.

    Args:
        client_id: Whose it is.
        path: Where it lies, in a folder that root alone can enter.
        gid: The client's group.
    """

    client_id: str
    path: str
    gid: int

    def shown(self) -> dict[str, Any]:
        """As the diff shows it."""
        return {"mode": f"{MODE:04o}", "uid": 0, "gid": self.gid}

    def apply(self) -> None:
        """Make up a value where there is none; one that the operator put there stays, and gets the owner and mode."""
        if not os.path.lexists(self.path):
            # As text on one line, which every program can read.
            atomic_write(self.path, secrets.token_urlsafe(32).encode(), MODE, 0, self.gid)
            return
        if not stat.S_ISREG(os.lstat(self.path).st_mode):
            raise TenancyError(f"{self.path} must be a file and is something else; move it away.")
        fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.fchown(fd, 0, self.gid)
            os.fchmod(fd, MODE)
        finally:
            os.close(fd)


def read_secret(path: str) -> dict[str, Any] | None:
    """What stands at a secret's path, in the form of Secret.shown(); None when nothing does."""
    try:
        status = os.lstat(path)
    except OSError as exc:
        if exc.errno in NOT_THERE:
            return None
        raise
    shown = {"mode": f"{stat.S_IMODE(status.st_mode):04o}", "uid": status.st_uid, "gid": status.st_gid}
    return shown if stat.S_ISREG(status.st_mode) else shown | {"type": "not a file"}


def plan_secrets(wanted: Iterable[Secret], actual: Mapping[str, Mapping[str, Any] | None]) -> list[Change]:
    """The secrets that are missing, or that their client could not read."""
    return [
        Change(
            "create" if actual.get(secret.path) is None else "update",
            "secret",
            secret.path,
            actual.get(secret.path),
            secret.shown(),
            secret.client_id,
            secret,
        )
        for secret in wanted
        if actual.get(secret.path) != secret.shown()
    ]
