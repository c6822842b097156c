# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client's folder goes to the shared instance and back without losing a file, wherever it is interrupted."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _shared_folder
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._shared_folder import (
    SharedFolder,
    plan_shared_folders,
)

UID, OWN, SHARED = 1900000001, 1900000001, 1900000009

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files are given to others")


@pytest.fixture
def folder(tmp_path: Path) -> SharedFolder:
    (tmp_path / "data").mkdir()
    (tmp_path / "shared").mkdir()
    own, shared = str(tmp_path / "data" / "site"), str(tmp_path / "shared" / "acme")
    return SharedFolder("acme", own, shared, to_shared=True, uid=UID, own_gid=OWN, shared_gid=SHARED)


def fill(path: str, gid: int) -> None:
    os.mkdir(path)
    os.mkdir(f"{path}/inner")
    for name in ("index.html", "inner/page.html"):
        Path(path, name).write_text(name)
        os.chown(f"{path}/{name}", UID, gid)
        os.chmod(f"{path}/{name}", 0o600)
    os.symlink("index.html", f"{path}/link")
    os.symlink("/etc/hostname", f"{path}/out")
    os.mkfifo(f"{path}/pipe")
    for name in ("", "/inner"):
        os.chown(path + name, UID, gid)
        os.chmod(path + name, 0o2700)


def files(path: str) -> dict[str, str]:
    return {p.name: p.read_text() for p in Path(path).rglob("*") if p.is_file() and not p.is_symlink()}


CONTENT = {"index.html": "index.html", "page.html": "inner/page.html"}


def test_to_the_shared_instance_and_back(folder: SharedFolder) -> None:
    fill(folder.own, OWN)
    hostname = os.stat("/etc/hostname")
    folder.apply()
    assert folder.settled()
    assert os.readlink(folder.own) == folder.shared
    assert files(folder.shared) == CONTENT
    page = os.stat(f"{folder.shared}/inner/page.html")
    assert (page.st_uid, page.st_gid, stat.S_IMODE(page.st_mode)) == (UID, SHARED, 0o640)
    inner = os.stat(f"{folder.shared}/inner")
    assert (inner.st_gid, stat.S_IMODE(inner.st_mode)) == (SHARED, 0o2750)
    now = os.stat("/etc/hostname")
    assert (now.st_uid, now.st_gid, now.st_mode) == (hostname.st_uid, hostname.st_gid, hostname.st_mode)

    back = replace(folder, to_shared=False)
    assert back.waits()
    assert not back.settled()
    back.apply()
    assert back.settled()
    assert not os.path.lexists(folder.shared)
    assert files(folder.own) == CONTENT
    assert os.stat(f"{folder.own}/inner/page.html").st_gid == OWN


def test_nothing_yet(folder: SharedFolder) -> None:
    os.mkdir(folder.shared)
    folder.apply()
    assert folder.settled()
    assert os.path.realpath(folder.own) == folder.shared


def test_an_open_folder_goes_on_being_served(folder: SharedFolder) -> None:
    """As a container that has it mounted."""
    fill(folder.own, OWN)
    held = os.open(folder.own, os.O_RDONLY | os.O_DIRECTORY)
    try:
        folder.apply()
        assert "index.html" in os.listdir(held)
    finally:
        os.close(held)


@pytest.mark.parametrize("empty", ["own", "shared"])
def test_an_empty_folder_is_no_conflict(folder: SharedFolder, empty: str) -> None:
    full = folder.shared if empty == "own" else folder.own
    fill(full, OWN)
    os.mkdir(getattr(folder, empty))
    folder.apply()
    assert folder.settled()
    assert files(folder.shared) == CONTENT


def test_files_at_both_places_are_left_alone(folder: SharedFolder) -> None:
    fill(folder.own, OWN)
    fill(folder.shared, SHARED)
    for to_shared in (True, False):
        with pytest.raises(TenancyError, match="There are files in"):
            replace(folder, to_shared=to_shared).apply()
        assert files(folder.own) == files(folder.shared) == CONTENT


def test_what_is_no_link_of_ours_stays(folder: SharedFolder) -> None:
    fill(folder.shared, SHARED)
    os.symlink("/etc", folder.own)
    with pytest.raises(TenancyError, match="must be a link to"):
        folder.apply()
    assert os.readlink(folder.own) == "/etc"


STEPS = ["rename", "symlink", "unlink", "chown", "fchmod"]


@pytest.mark.parametrize("to_shared", [True, False])
@pytest.mark.parametrize("call", STEPS)
def test_an_interrupted_move_goes_on(
    folder: SharedFolder, call: str, to_shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = replace(folder, to_shared=to_shared)
    if to_shared:
        fill(folder.own, OWN)
    else:
        fill(folder.shared, SHARED)
        os.symlink(folder.shared, folder.own)
    real = getattr(os, call)
    hits = []

    def killed(*args: object, **kwargs: object) -> None:
        hits.append(call)
        if len(hits) == 1:
            real(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_shared_folder.os, call, killed)
        if (call, to_shared) in {("symlink", False), ("unlink", True), ("fchmod", False)}:
            folder.apply()
            assert not hits
        else:
            with pytest.raises(KeyboardInterrupt):
                folder.apply()
    folder.apply()
    assert folder.settled()
    assert files(folder.shared if to_shared else folder.own) == CONTENT


def test_the_plan_names_what_moves(folder: SharedFolder) -> None:
    [change] = plan_shared_folders([(folder, False), (replace(folder, client_id="other"), True)])
    assert (change.action, change.kind, change.name, change.client_id) == ("update", "data folder", folder.own, "acme")
    assert (change.before, change.after) == ({"path": folder.own}, {"path": folder.shared})
    [change] = plan_shared_folders([(replace(folder, to_shared=False), False)])
    assert (change.before, change.after) == ({"path": folder.shared}, {"path": folder.own})


def copied(folder: SharedFolder) -> SharedFolder:
    """A folder as it is once its client's data was copied into a volume: the earlier link waits in data.gone."""
    fill(folder.own, OWN)
    folder.apply()
    home = Path(folder.own).parent.parent
    (home / "data").rename(home / "data.gone")
    (home / "data").mkdir()
    back = replace(folder, to_shared=False)
    fill(back.own, OWN)
    return back


def test_what_was_copied_elsewhere_stays_with_the_shared_instance_until_it_is_taken_away(folder: SharedFolder) -> None:
    back = copied(folder)
    assert (back.superseded(), back.settled(), back.waits()) == (True, True, False)
    os.unlink(back.left)
    assert (back.superseded(), back.settled()) == (False, False)


@pytest.mark.parametrize("killed_after", ["nothing", "rename", "unlink"])
def test_a_client_is_shared_again_before_its_earlier_folder_was_taken_away(
    folder: SharedFolder, monkeypatch: pytest.MonkeyPatch, killed_after: str
) -> None:
    back = copied(folder)
    Path(back.own, "index.html").write_text("later")
    again = replace(back, to_shared=True)
    assert not again.settled()
    if killed_after != "nothing":
        function = getattr(os, killed_after)

        def killed(*args: str) -> None:
            function(*args)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, killed_after, killed)
            again.apply()
    again.apply()
    assert (again.settled(), again.superseded()) == (True, False)
    assert Path(again.shared, "index.html").read_text() == "later"
