# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client may plant in its data, through all that root does with it: nobody else's files change. Needs root."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import client_storage
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import registered

Run = Callable[..., dict[str, Any]]
Seen = dict[str, tuple[Any, ...]]

ACL = "system.posix_acl_default"


def seen(folder: Path) -> Seen:
    """Everything below a folder, itself included: kind, mode, owner, device, ACL, and content or target."""
    found: Seen = {}
    for above, inner, names, fd in os.fwalk(folder):
        for name in (*inner, *names, *(["."] if above == str(folder) else [])):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            content: Any = None
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(name, dir_fd=fd)
            elif stat.S_ISREG(status.st_mode):
                with open(name, "rb", opener=lambda path, flags, fd=fd: os.open(path, flags, dir_fd=fd)) as handle:
                    content = handle.read()
            path = f"/proc/self/fd/{fd}/{name}"
            attributes = os.listxattr(path, follow_symlinks=False) if not stat.S_ISLNK(status.st_mode) else []
            found[os.path.relpath(os.path.join(above, name), folder)] = (
                stat.filemode(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_rdev,
                {key: os.getxattr(path, key, follow_symlinks=False) for key in attributes},
                content,
            )
    return found


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the host with a file in it, as root keeps it."""
    outside = tmp_path / "host"
    outside.mkdir(mode=0o750)
    (outside / "shadow").write_text("root's own", encoding="utf-8")
    (outside / "shadow").chmod(0o600)
    # A program that would be another user's with more rights, if it were handed over.
    (outside / "program").write_text("#!/bin/sh\n", encoding="utf-8")
    (outside / "program").chmod(0o4755)
    return outside


# What is planted -> how, given its place, and a folder that is somebody else's.
PLANTED: dict[str, Callable[[Path, Path], None]] = {
    "link to a folder": lambda place, other: place.symlink_to(other),
    "link to a file": lambda place, other: place.symlink_to(other / "shadow"),
    "link to everything": lambda place, other: place.symlink_to("/"),
    "link to a device": lambda place, other: place.symlink_to("/dev/zero"),
    "link to itself": lambda place, other: place.symlink_to(place.name),
    "hard link": lambda place, other: place.hardlink_to(other / "shadow"),
    "hard link to a program": lambda place, other: place.hardlink_to(other / "program"),
    "pipe": lambda place, other: os.mkfifo(place),
    "socket": lambda place, other: os.mknod(place, stat.S_IFSOCK | 0o777),
    "character device": lambda place, other: os.mknod(place, stat.S_IFCHR | 0o600, os.makedev(1, 5)),
    "block device": lambda place, other: os.mknod(place, stat.S_IFBLK | 0o600, os.makedev(7, 99)),
    # Longer than any path may be; test_storage_life.py goes deeper than files can be open.
    "deep folders": lambda place, other: make_deep(place),
}
SHARED = ("hard link", "hard link to a program")


def make_deep(place: Path) -> None:
    """Three hundred folders in each other, with a link at the bottom."""
    fd = os.open(place.parent, os.O_RDONLY)
    for dummy in range(300):
        os.mkdir(place.name, dir_fd=fd)
        inner = os.open(place.name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.symlink("/", "bottom", dir_fd=fd)
    os.close(fd)


class Scene:
    """Two clients with folders, and what is not theirs.

    Args:
        run: Runs the module.
        config: The settings.
        tmp_path: Where all lies.
        victim: A folder of the host.
    """

    def __init__(self, run: Run, config: dict[str, Any], tmp_path: Path, victim: Path) -> None:
        self.run_module, self.config, self.victim = run, config, victim
        self.root = tmp_path / "root"
        (self.root / "multi_tenancy").mkdir(parents=True)
        (self.root / "clients").mkdir()
        (self.root / "clients").chmod(0o711)
        (tmp_path / "log" / "clients").mkdir(parents=True)
        self.acme, self.other = registered(config, {"client_id": "acme"}, {"client_id": "other"})
        self.run(self.acme, self.other)
        self.home = self.root / "clients" / "acme"
        self.site = self.home / "data" / "site"
        self.own(self.site / "mine", lambda place: place.write_text("mine", encoding="utf-8"))

    def run(self, *clients: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Run the module for these clients; it must succeed."""
        result = self.run_module(client_storage, config=self.config, clients=list(clients), **options)
        assert not result.get("failed"), result["msg"]
        return result

    def own(self, place: Path, make: Callable[[Path], Any]) -> None:
        """Make something, as the client's own where it is new."""
        make(place)
        if place.lstat().st_nlink == 1 or place.is_dir():
            for above, inner, names, fd in os.fwalk(place) if place.is_dir() and not place.is_symlink() else ():
                assert above
                for name in (*inner, *names):
                    os.chown(name, self.acme["uid"], self.acme["gid"], dir_fd=fd, follow_symlinks=False)
            os.chown(place, self.acme["uid"], self.acme["gid"], follow_symlinks=False)

    def outside(self) -> tuple[Any, ...]:
        """All that is not the client's."""
        folder = self.root / "clients"
        return (
            seen(self.victim),
            seen(folder / "other"),
            (stat.filemode(folder.stat().st_mode), folder.stat().st_uid, folder.stat().st_gid),
            os.lstat("/")[:6],
            os.stat("/dev/zero").st_uid,
        )

    def kept(self) -> list[Path]:
        """The folders of removed clients."""
        folder = self.root / "multi_tenancy" / "removed"
        return sorted(folder.iterdir()) if folder.exists() else []

    def leaving(self, fate: str) -> dict[str, Any]:
        """The client on its way out."""
        return self.acme | {"state": "absent", "removal": fate, "removed_at": "2026-01-31T12:00:00+00:00"}


@pytest.fixture
def scene(run_module: Run, config: dict[str, Any], tmp_path: Path, victim: Path) -> Scene:
    return Scene(run_module, config, tmp_path, victim)


@pytest.fixture(params=PLANTED, ids=str)
def planted(scene: Scene, request: pytest.FixtureRequest) -> str:
    """Something planted in the client's data, and which kind of thing."""
    scene.own(scene.site / "planted", lambda place: PLANTED[request.param](place, scene.victim))
    return str(request.param)


def test_converge_leaves_it_alone(scene: Scene, planted: str) -> None:
    before, outside = seen(scene.home), scene.outside()
    # Its folder has lost owner and mode, and gets them back.
    os.chown(scene.site, 0, 0)
    scene.site.chmod(0o700)
    assert scene.run(scene.acme, scene.other)["changed"]
    assert (seen(scene.home), scene.outside()) == (before, outside)
    assert not scene.run(scene.acme, scene.other)["changed"]


def test_removal_that_keeps_the_data_keeps_it_as_it_is(scene: Scene, planted: str) -> None:
    before, outside = seen(scene.home), scene.outside()
    scene.run(scene.leaving("keep"), state="absent")
    [kept] = scene.kept()
    assert (seen(kept), scene.outside()) == (before, outside)
    assert not scene.home.exists()


def test_removal_that_deletes_the_data_deletes_it_alone(scene: Scene, planted: str) -> None:
    outside = scene.outside()
    scene.run(scene.leaving("purge"), state="absent")
    assert scene.outside() == outside
    assert (scene.home.exists(), scene.kept()) == (False, [])


def test_adoption_hands_over_what_was_the_clients_and_nothing_else(scene: Scene, planted: str) -> None:
    before, outside = seen(scene.home / "data" / "site"), scene.outside()
    scene.run(scene.leaving("keep"), state="absent")
    old, new = scene.acme["uid"], scene.acme["uid"] + 100
    scene.acme |= {"uid": new, "gid": new}
    scene.run(scene.acme, restore={"acme": "latest"})
    after = seen(scene.site)
    assert scene.outside() == outside
    assert after.keys() == before.keys()
    for name, (kind, uid, gid, device, dummy, content) in before.items():
        theirs = name == "planted" and planted in SHARED
        assert (uid == old) != theirs, name
        assert after[name][:4] == (kind, *((uid, gid) if theirs else (new, new)), device), name
        assert after[name][5] == content


@pytest.mark.parametrize("planted", [kind for kind in PLANTED if kind != "deep folders"])
@pytest.mark.parametrize("place", ["data/site", "data"])
def test_converge_refuses_it_in_the_place_of_a_folder(scene: Scene, planted: str, place: str) -> None:
    folder = scene.home / place
    shutil.rmtree(folder)
    PLANTED[planted](folder, scene.victim)
    outside, there = scene.outside(), (os.lstat(folder)[:6], folder.is_symlink() and os.readlink(folder))
    result = scene.run(scene.acme, scene.other, defer_failures=True)
    [failure] = result["failures"]
    assert failure["client_id"] == "acme"
    assert "must be a directory and is something else" in failure["msg"]
    assert (os.lstat(folder)[:6], folder.is_symlink() and os.readlink(folder)) == there
    assert scene.outside() == outside
