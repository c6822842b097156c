# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets are made up once, kept, and readable for one client alone. Owners need root."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError, as_diff
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._secrets import (
    Secret,
    plan_secrets,
    read_secret,
)

GID = 70001


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    return Secret("acme", str(tmp_path / "db.pw"), GID)


def due(secret: Secret) -> list[str]:
    """The actions that are planned for a secret."""
    return [change.action for change in plan_secrets([secret], {secret.path: read_secret(secret.path)})]


def test_a_secret_is_made_once(secret: Secret, tmp_path: Path) -> None:
    assert due(secret) == ["create"]
    secret.apply()
    assert due(secret) == []
    status = os.lstat(secret.path)
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o440, 0, GID)
    value = Path(secret.path).read_bytes()
    assert len(value) >= 32
    assert value.isascii()
    assert len(value.split()) == 1
    secret.apply()
    assert Path(secret.path).read_bytes() == value
    other = Secret("b", str(tmp_path / "other"), GID)
    other.apply()
    assert Path(other.path).read_bytes() != value


SPOILED: dict[str, Callable[[str], None]] = {
    "mode": lambda path: os.chmod(path, 0o644),
    "owner": lambda path: os.chown(path, 1, -1),
    "group": lambda path: os.chown(path, -1, 1),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_what_the_operator_put_there_stays_and_gets_owner_and_mode(
    secret: Secret, spoil: Callable[[str], None]
) -> None:
    Path(secret.path).write_bytes(b"mine\n")
    secret.apply()
    assert due(secret) == []
    spoil(secret.path)
    assert due(secret) == ["update"]
    secret.apply()
    assert due(secret) == []
    assert Path(secret.path).read_bytes() == b"mine\n"


PLANTED: dict[str, Callable[[Path, Path], object]] = {
    "link": lambda path, victim: path.symlink_to(victim),
    "link to nothing": lambda path, victim: path.symlink_to(victim.with_name("nothing")),
    "folder": lambda path, _victim: path.mkdir(),
    "fifo": lambda path, _victim: os.mkfifo(path),
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_what_is_no_file_is_refused_and_not_followed(
    secret: Secret, tmp_path: Path, plant: Callable[[Path, Path], object]
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"x")
    before = victim.lstat()
    plant(Path(secret.path), victim)
    found = os.lstat(secret.path)
    assert due(secret) == ["update"]
    with pytest.raises(TenancyError, match=r"db\.pw must be a file and is something else; move it away"):
        secret.apply()
    assert (victim.lstat(), os.lstat(secret.path)) == (before, found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db.pw", "victim"]


def test_no_diff_shows_a_value(secret: Secret) -> None:
    Path(secret.path).write_bytes(b"topsecret")
    changes = plan_secrets([secret], {secret.path: read_secret(secret.path)})
    assert [change.action for change in changes] == ["update"]
    assert "topsecret" not in str(as_diff(changes))
    secret.apply()
    assert plan_secrets([secret], {secret.path: read_secret(secret.path)}) == []
