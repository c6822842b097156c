# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories: what differs is found, and a second plan finds nothing. Owners and ACLs need root."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._storage import (
    Directory,
    apply_directory,
    default_acl,
    plan_directories,
    read_directory,
)

WANTED = {"mode": "2750", "uid": 7, "gid": 8}

# What is there -> action and what the diff shows as before.
ACTUAL: dict[str, tuple[Any, str | None]] = {
    "nothing": (None, "create"),
    "as wanted": (WANTED, None),
    "other mode": (WANTED | {"mode": "0755"}, "update"),
    "other owner": (WANTED | {"uid": 0}, "update"),
    "other group": (WANTED | {"gid": 0}, "update"),
    "no directory": (WANTED | {"type": "not a directory"}, "update"),
}


@pytest.mark.parametrize(("actual", "action"), ACTUAL.values(), ids=ACTUAL)
def test_a_directory_is_compared(actual: Any, action: str | None) -> None:
    directory = Directory("/x", 0o2750, 7, 8)
    changes = plan_directories([("acme", directory)], {"/x": actual})
    assert [(c.action, c.name, c.before, c.after, c.client_id) for c in changes] == (
        [] if action is None else [(action, "/x", actual, WANTED, "acme")]
    )


@pytest.mark.parametrize("reader", [None, 7], ids=["without ACL", "with ACL"])
def test_what_was_made_is_what_is_read(tmp_path: Path, reader: int | None) -> None:
    """Needs root."""
    directory = Directory(str(tmp_path / "dir"), 0o2750, 7, 8, reader)
    assert read_directory(directory) is None
    for dummy in range(2):
        apply_directory(directory)
        assert read_directory(directory) == directory.shown()


def test_a_lost_acl_is_seen_and_given_back(tmp_path: Path) -> None:
    """Needs root."""
    directory = Directory(str(tmp_path / "dir"), 0o2750, 7, 8, 7)
    apply_directory(directory)
    os.removexattr(directory.path, "system.posix_acl_default")
    assert read_directory(directory) == WANTED
    apply_directory(directory)
    assert read_directory(directory) == WANTED | {"default_acl_reader": 7}


def test_the_acl_lets_the_reader_read_what_others_drop_under_any_umask(tmp_path: Path) -> None:
    """Needs root; runs a reader as another user."""
    for parent in (tmp_path, *tmp_path.parents[:-1]):
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o001)
    reader, stranger = 61234, 61235
    directory = Directory(str(tmp_path / "dir"), 0o2755, 0, 0, reader)
    apply_directory(directory)
    old = os.umask(0o077)
    try:
        Path(directory.path, "page").write_text("hello", encoding="utf-8")
    finally:
        os.umask(old)

    def read_as(uid: int) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["cat", f"{directory.path}/page"], user=uid, group=uid, extra_groups=[], capture_output=True, check=False
        )

    assert read_as(reader).stdout == b"hello"
    assert b"Permission denied" in read_as(stranger).stderr


def test_the_acl_is_in_the_kernels_form(tmp_path: Path) -> None:
    """Needs root."""
    directory = Directory(str(tmp_path / "dir"), 0o755, 0, 0, 1900000001)
    apply_directory(directory)
    assert os.getxattr(directory.path, "system.posix_acl_default") == default_acl(1900000001)


def test_a_link_is_read_as_no_directory_and_never_followed(tmp_path: Path) -> None:
    """Needs root."""
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    (tmp_path / "dir").symlink_to(victim)
    directory = Directory(str(tmp_path / "dir"), 0o777, 7, 8, 7)
    seen = read_directory(directory)
    assert seen is not None
    assert seen["type"] == "not a directory"
    [change] = plan_directories([("acme", directory)], {directory.path: seen})
    with pytest.raises(TenancyError, match="must be a directory"):
        apply_directory(change.payload)
    assert (victim.stat().st_mode & 0o777, victim.stat().st_uid) == (0o700, 0)
    assert "system.posix_acl_default" not in os.listxattr(victim)


def test_a_link_that_appears_after_it_was_read_is_not_followed(tmp_path: Path) -> None:
    """Needs root."""
    site, victim = tmp_path / "site", tmp_path / "victim"
    victim.mkdir(mode=0o700)
    directory = Directory(str(site), 0o2750, 7, 8, 7)
    [change] = plan_directories([("acme", directory)], {directory.path: read_directory(directory)})
    site.symlink_to(victim)
    with pytest.raises(TenancyError, match="must be a directory"):
        apply_directory(change.payload)
    assert (victim.stat().st_mode & 0o777, victim.stat().st_uid, os.listxattr(victim)) == (0o700, 0, [])
