# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removed and restored folders, whatever a client planted in them and wherever root was stopped. Needs root."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import is_half_written, walk_folders
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._storage import Erase, default_acl
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import client_storage
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import Killed, Saboteur, ladder, registered, tree

Run = Callable[..., dict[str, Any]]

OLD, OTHER = 61001, 61002
NAME = "acme-20260131T120000"
CALLS = ("mkdir", "open", "fsync", "rename", "rmdir", "unlink", "chown", "fchown", "fchmod", "setxattr", "replace")
ACL = "system.posix_acl_default"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The place of a client's folder, with what the edge's role made before."""
    (tmp_path / "root" / "clients").mkdir(parents=True)
    (tmp_path / "root" / "multi_tenancy").mkdir()
    (tmp_path / "log" / "clients").mkdir(parents=True)
    return tmp_path / "root" / "clients" / "acme"


@pytest.fixture
def kept(tmp_path: Path, home: Path) -> Path:
    """The place of its folder when it is removed."""
    return tmp_path / "root" / "multi_tenancy" / "removed" / NAME


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """What lies outside of the client's folder and must never be touched."""
    outside = tmp_path / "victim"
    (outside / "folder").mkdir(parents=True, mode=0o750)
    (outside / "file").write_text("not yours", encoding="utf-8")
    # Of the very uid that is handed over: a link to it must not be followed all the more.
    (outside / "own").write_text("of the old uid", encoding="utf-8")
    os.chown(outside / "own", OLD, OLD)
    os.chown(outside / "folder", OLD, OLD)
    return outside


@pytest.fixture
def absent(config: dict[str, Any]) -> dict[str, Any]:
    """A client on its way out."""
    [client] = registered(config, {"client_id": "acme"})
    return client | {"state": "absent", "removal": "keep", "removed_at": "2026-01-31T12:00:00+00:00"}


def plant(folder: Path, victim: Path) -> None:
    """All that a client can make in its data, as its own uid."""
    site = folder / "data" / "site"
    site.mkdir(parents=True)
    (folder / "secrets").mkdir(mode=0o700)
    (folder / "secrets" / "key").write_text("root's", encoding="utf-8")
    (site / "page").write_text("page", encoding="utf-8")
    (site / "to-folder").symlink_to(victim / "folder")
    (site / "to-file").symlink_to(victim / "own")
    (site / "to-root").symlink_to("/")
    (site / "to-itself").symlink_to("to-itself")
    (site / "hanging").symlink_to("/nonexistent/x")
    (site / "hard").hardlink_to(victim / "file")
    os.mkfifo(site / "fifo")
    os.mknod(site / "sock", stat.S_IFSOCK | 0o600)
    (site / "a" / "b" / "c").mkdir(parents=True)
    (site / "a" / "b" / "c" / "-rf *\n").write_text("x", encoding="utf-8")
    (site / "a" / os.fsdecode(b"\xff\xfe")).write_text("x", encoding="utf-8")
    for path in (folder / "data").rglob("*"):
        if path.name not in ("hard", "key"):
            os.chown(path, OLD, OLD, follow_symlinks=False)
    (site / "of-another").write_text("x", encoding="utf-8")
    os.chown(site / "of-another", OTHER, OTHER)
    (site / "of-root").write_text("x", encoding="utf-8")
    os.chown(folder, 0, OLD)
    folder.chmod(0o750)


def make_deep(folder: Path, levels: int = 1500) -> None:
    """More levels than Python calls itself, than files can be open, and than a path has room for."""
    fd = os.open(folder, os.O_RDONLY)
    for dummy in range(levels):
        os.mkdir("deep-folder", dir_fd=fd)
        os.chown("deep-folder", OLD, OLD, dir_fd=fd)
        inner = os.open("deep-folder", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


@pytest.fixture
def deep(home: Path, kept: Path, victim: Path) -> Iterator[None]:
    """A client whose data is nested without end."""
    plant(home, victim)
    make_deep(home / "data" / "site")
    yield
    # pytest could not clean up after itself.
    for folder in (home, kept):
        if folder.exists():
            Erase(str(folder)).apply()


def moments(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> Iterator[int]:
    """Stop `run` at each of its system calls in turn; the caller prepares the next one and looks at each."""
    for at in itertools.count(1):
        with monkeypatch.context() as patch:
            saboteur = Saboteur(patch, CALLS, at, Killed(), True)
            with contextlib.suppress(Killed):
                run()
        if saboteur.count < at:
            return
        yield at


# ---------------------------------------------------------------- the first run


def test_a_new_client_stopped_at_any_step_is_whole_after_the_next_run(
    run_module: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
    back: dict[str, Any],
    home: Path,
) -> None:
    args = {"config": config, "clients": [back]}
    run_module(client_storage, **args)
    wanted = owners(tmp_path)
    page = (home / "data" / "site" / "index.html").read_text(encoding="utf-8")
    left = 0

    def again() -> None:
        Erase(str(home)).apply()
        Erase(str(tmp_path / "log" / "clients" / "acme")).apply()

    again()
    for dummy in moments(monkeypatch, lambda: run_module(client_storage, **args)):
        left += any(is_half_written(path.name) for path in home.rglob("*"))
        run_module(client_storage, **args)
        assert owners(tmp_path) == wanted
        assert (home / "data" / "site" / "index.html").read_text(encoding="utf-8") == page
        assert run_module(client_storage, **args)["changed"] is False
        again()
    # Of the page and of the configuration.
    assert left >= 6


# ---------------------------------------------------------------- removal


def test_a_folder_is_kept_as_it_is_where_root_alone_finds_it(
    run_module: Run,
    tmp_path: Path,
    engine: FakeEngine,
    config: dict[str, Any],
    absent: dict[str, Any],
    home: Path,
    kept: Path,
    victim: Path,
) -> None:
    plant(home, victim)
    log = tmp_path / "log" / "clients" / "acme"
    log.mkdir(mode=0o750)
    os.chown(log, 0, OLD)
    before, outside = tree(home), tree(victim)
    result = ladder(run_module, client_storage, tmp_path, engine, config=config, clients=[absent], state="absent")
    assert [(change["action"], change["kind"]) for change in result["changes"]] == [
        ("update", "client folder"),
        ("update", "client log folder"),
    ]
    assert (tree(kept), tree(victim)) == (before, outside)
    assert not home.exists()
    for folder in (kept.parent, log):
        assert (stat.S_IMODE(folder.stat().st_mode), folder.stat().st_uid, folder.stat().st_gid) == (0o700, 0, 0)


def test_a_purged_folder_is_gone_and_nothing_outside_is_touched(
    run_module: Run,
    tmp_path: Path,
    engine: FakeEngine,
    config: dict[str, Any],
    absent: dict[str, Any],
    home: Path,
    kept: Path,
    victim: Path,
) -> None:
    plant(home, victim)
    plant(tmp_path / "log" / "clients" / "acme", victim)
    outside = tree(victim)
    clients = [absent | {"removal": "purge"}]
    ladder(run_module, client_storage, tmp_path, engine, config=config, clients=clients, state="absent")
    assert tree(victim) == outside
    assert [list(folder.iterdir()) for folder in (home.parent, kept.parent, tmp_path / "log" / "clients")] == [[]] * 3


@pytest.mark.parametrize("removal", ["keep", "purge"])
def test_no_depth_stops_a_removal(
    run_module: Run, config: dict[str, Any], absent: dict[str, Any], home: Path, kept: Path, deep: None, removal: str
) -> None:
    result = run_module(client_storage, config=config, clients=[absent | {"removal": removal}], state="absent")
    assert not result.get("failed"), result["msg"]
    assert not home.exists()
    assert kept.exists() == (removal == "keep")


@pytest.mark.parametrize("removal", ["keep", "purge"])
def test_a_removal_stopped_at_any_step_is_finished_by_the_next_run(
    run_module: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
    absent: dict[str, Any],
    home: Path,
    kept: Path,
    victim: Path,
    removal: str,
) -> None:
    args = {"config": config, "clients": [absent | {"removal": removal}], "state": "absent"}
    plant(home, victim)
    contents, outside = tree(home), tree(victim)
    for dummy in moments(monkeypatch, lambda: run_module(client_storage, **args)):
        if removal == "keep":
            # Whole at one of the two places at every moment.
            assert [tree(folder) for folder in (home, kept) if folder.exists()] == [contents]
        result = run_module(client_storage, **args)
        assert not result.get("failed"), result["msg"]
        assert not home.exists()
        assert (tree(kept) if kept.exists() else None) == (contents if removal == "keep" else None)
        assert run_module(client_storage, **args)["changed"] is False
        assert tree(victim) == outside
        if kept.exists():
            os.rename(kept, home)
        else:
            plant(home, victim)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/", path), lambda path: path.write_text("x")])
def test_what_is_no_folder_is_told_and_left(
    run_module: Run, config: dict[str, Any], absent: dict[str, Any], home: Path, kept: Path, make: Callable[..., Any]
) -> None:
    make(home)
    result = run_module(client_storage, config=config, clients=[absent | {"removal": "purge"}], state="absent")
    assert result["msg"] == f"Client acme: {kept} must be a directory and is something else; move it away."
    assert os.path.lexists(kept)


@pytest.mark.parametrize("client_id", ["..", "../..", ".", "", "a/../b", "/etc", "*", "removed", "A", None, 7])
@pytest.mark.parametrize("state", ["present", "absent"])
def test_an_id_that_leaves_its_folder_touches_nothing(
    run_module: Run,
    tmp_path: Path,
    config: dict[str, Any],
    absent: dict[str, Any],
    home: Path,
    client_id: Any,
    state: str,
) -> None:
    before = tree(tmp_path)
    clients = [absent | {"removal": "purge", "client_id": client_id}]
    result = run_module(client_storage, config=config, clients=clients, state=state)
    assert result["failed"]
    assert "client_id" in result["msg"]
    assert tree(tmp_path) == before


@pytest.mark.parametrize("stamp", ["../../x", "/etc", "", "2026-01-31T12:00:00/../..", "\0\n"])
def test_no_time_of_removal_leads_elsewhere(
    run_module: Run, tmp_path: Path, config: dict[str, Any], absent: dict[str, Any], home: Path, stamp: str
) -> None:
    home.mkdir()
    run_module(client_storage, config=config, clients=[absent | {"removed_at": stamp}], state="absent")
    [found] = (tmp_path / "root" / "multi_tenancy" / "removed").iterdir()
    assert found.name.startswith("acme-")
    assert set(found.name[5:]) <= set("0123456789T")


# ---------------------------------------------------------------- restoring


def owners(folder: Path) -> dict[str, tuple[int, int]]:
    """Who owns what."""
    return {str(path.relative_to(folder)): (path.lstat().st_uid, path.lstat().st_gid) for path in folder.rglob("*")}


@pytest.fixture
def back(config: dict[str, Any]) -> dict[str, Any]:
    """The client that is there again, under another uid."""
    return registered(config, {"client_id": "before"}, {"client_id": "acme"})[0]


def test_exactly_the_files_of_the_old_uid_are_handed_over(
    run_module: Run,
    tmp_path: Path,
    engine: FakeEngine,
    config: dict[str, Any],
    back: dict[str, Any],
    home: Path,
    kept: Path,
    victim: Path,
) -> None:
    plant(kept, victim)
    before, outside = owners(kept), tree(victim)
    args = {"config": config, "clients": [back], "restore": {"acme": "latest"}}
    ladder(run_module, client_storage, tmp_path, engine, **args)
    new = (back["uid"], back["gid"])
    # What the client's layout says of its own folders comes on top.
    made = {"data": (0, new[1])} | dict.fromkeys(("multi_tenancy", "certs", "backups"), (0, 0))
    made["multi_tenancy/config.yaml"] = (0, 0)
    wanted = {name: new if owner == (OLD, OLD) else owner for name, owner in before.items()}
    assert owners(home) == wanted | made
    assert tree(victim) == outside
    assert not kept.exists()


def test_the_acls_of_the_old_uid_are_handed_over(
    run_module: Run, config: dict[str, Any], back: dict[str, Any], home: Path, kept: Path, victim: Path
) -> None:
    plant(kept, victim)
    inner = "data/site/a"
    os.setxattr(kept / inner, ACL, default_acl(OLD))
    os.setxattr(kept / inner / "b", ACL, default_acl(OTHER))
    (kept / inner / "dropped").write_text("by the operator", encoding="utf-8")
    run_module(client_storage, config=config, clients=[back], restore={"acme": NAME})
    assert os.getxattr(home / inner, ACL) == default_acl(back["uid"])
    assert os.getxattr(home / inner / "b", ACL) == default_acl(OTHER)
    access = os.getxattr(home / inner / "dropped", "system.posix_acl_access")
    assert back["uid"].to_bytes(4, "little") in access
    assert OLD.to_bytes(4, "little") not in access


def test_no_depth_stops_a_restoration(
    run_module: Run, config: dict[str, Any], absent: dict[str, Any], back: dict[str, Any], home: Path, deep: None
) -> None:
    run_module(client_storage, config=config, clients=[absent], state="absent")
    result = run_module(client_storage, config=config, clients=[back], restore={"acme": "latest"})
    assert not result.get("failed"), result["msg"]
    seen = [os.fstat(fd).st_uid for fd, left in walk_folders(str(home / "data" / "site")) if left is None]
    assert len(seen) > 1500
    assert set(seen) == {back["uid"]}


def test_a_restoration_stopped_at_any_step_is_finished_by_the_next_run(
    run_module: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
    back: dict[str, Any],
    home: Path,
    kept: Path,
    victim: Path,
) -> None:
    args = {"config": config, "clients": [back], "restore": {"acme": "latest"}}
    plant(kept, victim)
    os.setxattr(kept / "data" / "site", ACL, default_acl(OLD))
    outside = tree(victim)
    run_module(client_storage, **args)
    wanted = owners(home)

    def again() -> None:
        Erase(str(home)).apply()
        plant(kept, victim)
        os.setxattr(kept / "data" / "site", ACL, default_acl(OLD))

    again()
    for dummy in moments(monkeypatch, lambda: run_module(client_storage, **args)):
        assert home.exists() != kept.exists()
        result = run_module(client_storage, **args)
        assert not result.get("failed"), result["msg"]
        assert owners(home) == wanted
        assert os.getxattr(home / "data" / "site", ACL) == default_acl(back["uid"])
        assert tree(victim) == outside
        assert run_module(client_storage, **args)["changed"] is False
        again()


# Names of kept folders, what is asked for -> which one comes back.
CHOICES: dict[str, tuple[list[str], Any, str | None]] = {
    "the latest": (["acme-20250101T000000", "acme-20260101T000000"], "latest", "acme-20260101T000000"),
    "a named one": (["acme-20250101T000000", "acme-20260101T000000"], "acme-20250101T000000", "acme-20250101T000000"),
    "none there": ([], "latest", None),
    "unknown": (["acme-20250101T000000"], "acme-20240101T000000", None),
    "another client's": (["acme-20250101T000000", "b-20250101T000000"], "b-20250101T000000", None),
    "of a client whose id begins so": (["acme-2-20250101T000000"], "latest", None),
    "path": (["acme-20250101T000000"], "../removed/acme-20250101T000000", None),
    "absolute path": (["acme-20250101T000000"], "/etc", None),
    "empty": (["acme-20250101T000000"], "", None),
    "huge": (["acme-20250101T000000"], "x" * 100_000, None),
    "control characters": (["acme-20250101T000000"], "\0\n\x1b[2J", None),
    "no text": (["acme-20250101T000000"], ["latest"], None),
}


@pytest.mark.parametrize(("names", "wanted", "chosen"), CHOICES.values(), ids=CHOICES)
def test_what_cannot_be_restored_is_its_clients_failure_alone(
    run_module: Run,
    config: dict[str, Any],
    home: Path,
    kept: Path,
    names: list[str],
    wanted: Any,
    chosen: str | None,
) -> None:
    for name in names:
        (kept.parent / name).mkdir(parents=True)
        (kept.parent / name / name).touch()
        os.chown(kept.parent / name, 0, OLD)
    clients = registered(config, {"client_id": "acme"}, {"client_id": "b"})
    result = run_module(
        client_storage, config=config, clients=clients, restore={"acme": wanted, "nobody": "x"}, defer_failures=True
    )
    assert (home.parent / "b" / "data" / "site" / "index.html").exists()
    left = sorted(path.name for path in kept.parent.iterdir()) if kept.parent.exists() else []
    assert left == sorted(set(names) - {chosen})
    if chosen is None:
        [failure] = result["failures"]
        assert failure["client_id"] == "acme"
        assert failure["msg"].startswith("Client acme: There is no kept data ")
        assert failure["msg"].isprintable()
        assert len(failure["msg"]) < 300
        assert not home.exists()
    else:
        assert result["failures"] == []
        assert (home / chosen).exists()


def test_a_client_that_has_a_folder_keeps_it(
    run_module: Run, config: dict[str, Any], back: dict[str, Any], home: Path, kept: Path, victim: Path
) -> None:
    run_module(client_storage, config=config, clients=[back])
    (home / "data" / "site" / "own.html").touch()
    plant(kept, victim)
    before = tree(kept)
    assert run_module(client_storage, config=config, clients=[back], restore={"acme": "latest"})["changed"] is False
    assert tree(kept) == before


def test_a_client_that_was_begun_anew_by_a_run_in_between_is_told(
    run_module: Run, config: dict[str, Any], back: dict[str, Any], home: Path, kept: Path, victim: Path
) -> None:
    run_module(client_storage, config=config, clients=[back])
    again = {"config": config, "clients": [back], "restore": {"acme": "latest"}}
    assert run_module(client_storage, **again)["changed"] is False
    plant(kept, victim)
    before = tree(kept)
    result = run_module(client_storage, **again)
    assert result["failed"]
    assert f"{kept} was not brought back" in result["msg"]
    assert tree(kept) == before


def test_a_folder_of_roots_group_hands_nothing_over(
    run_module: Run, config: dict[str, Any], back: dict[str, Any], home: Path, kept: Path, victim: Path
) -> None:
    """As a copy made by hand has it: all that is root's would become the client's, its keys too."""
    plant(kept, victim)
    os.chown(kept, 0, 0)
    before = tree(kept)
    result = run_module(client_storage, config=config, clients=[back], restore={"acme": "latest"})
    assert "belongs to root's group" in result["msg"]
    assert tree(kept) == before
    assert not home.exists()
