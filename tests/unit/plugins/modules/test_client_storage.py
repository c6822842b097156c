# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module client_storage on real directories. Owners need root."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    empty_document,
    plan_registry,
    shared_allocations,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import client_storage
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import ladder, registered, tree

Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def place(tmp_path: Path) -> None:
    """What the edge's role made before."""
    for name in ("clients", "multi_tenancy"):
        (tmp_path / "root" / name).mkdir(parents=True)
    (tmp_path / "log" / "clients").mkdir(parents=True)


@pytest.fixture
def clients(config: dict[str, Any]) -> list[dict[str, Any]]:
    return registered(config, {"client_id": "acme", "domain": "acme.example"}, {"client_id": "b"})


def test_directories_are_made_and_kept(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    ladder(run_module, client_storage, tmp_path, engine, config=config, clients=clients)
    home = tmp_path / "root" / "clients" / "acme"
    page = home / "data" / "site" / "index.html"
    assert "acme.example is ready" in page.read_text(encoding="utf-8")
    seen = {
        path: (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid, path.stat().st_gid) for path in home.rglob("*")
    }
    uid = clients[0]["uid"]
    assert seen[home / "data" / "site"] == (0o2750, uid, uid)
    assert seen[page] == (0o640, uid, uid)
    assert seen[home / "secrets"] == seen[home / "certs"] == (0o700, 0, 0)
    assert seen[home / "data"] == (0o750, 0, uid)
    assert "client acme" in (home / "multi_tenancy" / "config.yaml").read_text(encoding="utf-8")


def test_data_is_never_changed_afterwards(
    run_module: Run, tmp_path: Path, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    run_module(client_storage, config=config, clients=clients)
    site = tmp_path / "root" / "clients" / "acme" / "data" / "site"
    (site / "index.html").unlink()
    (site / "mine").write_text("mine", encoding="utf-8")
    clients[0]["domain"] = "new.example"
    result = run_module(client_storage, config=config, clients=clients)
    assert [(change["action"], change["kind"]) for change in result["changes"]] == [("update", "client configuration")]
    assert sorted(path.name for path in site.iterdir()) == ["mine"]


def test_lost_modes_are_given_back(
    run_module: Run, tmp_path: Path, config: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    run_module(client_storage, config=config, clients=clients)
    secrets = tmp_path / "root" / "clients" / "acme" / "secrets"
    secrets.chmod(0o777)
    os.chown(secrets, 1, 1)
    [change] = run_module(client_storage, config=config, clients=clients)["changes"]
    assert (change["action"], change["name"]) == ("update", str(secrets))
    assert (stat.S_IMODE(secrets.stat().st_mode), secrets.stat().st_uid) == (0o700, 0)


def plant_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def plant_file(path: Path, _victim: Path) -> None:
    path.write_text("x", encoding="utf-8")


def plant_fifo(path: Path, _victim: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("where", ["", "data", "data/site", "certs"])
@pytest.mark.parametrize("plant", [plant_link, plant_file, plant_fifo])
def test_what_stands_in_the_way_is_told_never_followed_and_stops_its_client_alone(
    run_module: Run,
    tmp_path: Path,
    config: dict[str, Any],
    clients: list[dict[str, Any]],
    plant: Callable[[Path, Path], None],
    where: str,
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("x", encoding="utf-8")
    planted = tmp_path / "root" / "clients" / "acme" / where
    planted.parent.mkdir(parents=True, exist_ok=True)
    plant(planted, victim)
    before = tree(victim), victim.lstat()
    result = run_module(client_storage, config=config, clients=clients, defer_failures=True)
    [failure] = result["failures"]
    assert failure["client_id"] == "acme"
    assert "must be a directory and is something else; move it away" in failure["msg"]
    assert (tree(victim), victim.lstat()) == before
    assert (tmp_path / "root" / "clients" / "b" / "data" / "site" / "index.html").exists()


# ---------------------------------------------------------------- levels


class Levels:
    """A registry with two clients whose level changes, and the arguments that follow from it."""

    def __init__(self, config: dict[str, Any], level: str) -> None:
        self.config = config
        self.document = empty_document()
        self.become(*({"client_id": name, "isolation_level": level} for name in ("acme", "b")))

    def become(self, *edit: dict[str, Any]) -> None:
        self.document = plan_registry(self.document, edit, self.config)[0]

    @property
    def args(self) -> dict[str, Any]:
        shared = shared_allocations(self.document)
        return {"config": self.config, "clients": self.document["clients"], "shared": shared}


def owners(path: Path) -> tuple[int, int, int]:
    """Mode, owner and group."""
    status = path.lstat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def test_what_clients_share_lies_in_one_folder_and_is_led_to(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any]
) -> None:
    levels = Levels(config, "soft")
    result = ladder(run_module, client_storage, tmp_path, engine, **levels.args)
    assert result["unsettled"] == []
    shared, home = tmp_path / "root" / "multi_tenancy" / "shared", tmp_path / "root" / "clients" / "acme"
    uid, gid = levels.document["clients"][0]["uid"], levels.document["shared"][0]["gid"]
    assert owners(shared) == owners(shared / "site") == (0o711, 0, 0)
    assert owners(shared / "site" / "acme") == (0o2750, uid, gid)
    assert owners(shared / "site" / "acme" / "index.html") == (0o640, uid, gid)
    assert os.readlink(home / "data" / "site") == str(shared / "site" / "acme")
    assert "acme.localhost is ready" in (home / "data" / "site" / "index.html").read_text(encoding="utf-8")
    # Another one changes nothing of those that are there.
    before = tree(shared / "site" / "acme")
    levels.become({"client_id": "c", "isolation_level": "soft"})
    more = run_module(client_storage, **levels.args)
    assert {change["client_id"] for change in more["changes"]} == {"c"}
    assert tree(shared / "site" / "acme") == before


@pytest.mark.parametrize("level", ["medium", "hard"])
def test_data_follows_the_level_to_and_fro(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], level: str
) -> None:
    levels = Levels(config, level)
    run_module(client_storage, **levels.args)
    own = tmp_path / "root" / "clients" / "acme" / "data" / "site"
    shared = tmp_path / "root" / "multi_tenancy" / "shared" / "site" / "acme"
    (own / "mine").write_text("mine", encoding="utf-8")
    inode = own.stat().st_ino
    levels.become({"client_id": "acme", "isolation_level": "soft"})
    ladder(run_module, client_storage, tmp_path, engine, **levels.args)
    assert (os.readlink(own), shared.stat().st_ino) == (str(shared), inode)
    assert (own / "mine").read_text(encoding="utf-8") == "mine"
    # The way back waits until the routes lead to the client's own instance, and has nothing else to do then.
    levels.become({"client_id": "acme", "isolation_level": level})
    waiting = run_module(client_storage, **levels.args, settle=False)
    assert waiting["unsettled"] == ["acme"]
    assert "data folder" not in {change["kind"] for change in waiting["changes"]}
    assert (own.is_symlink(), (own / "mine").read_text(encoding="utf-8")) == (True, "mine")
    assert run_module(client_storage, **levels.args, settle=False)["changed"] is False
    result = ladder(run_module, client_storage, tmp_path, engine, **levels.args)
    assert result["unsettled"] == []
    uid = levels.document["clients"][0]["uid"]
    assert (own.is_symlink(), own.stat().st_ino, owners(own)) == (False, inode, (0o2750, uid, uid))
    assert not os.path.lexists(shared)
    assert sorted(path.name for path in own.iterdir()) == ["index.html", "mine"]


@pytest.mark.parametrize(("fate", "kept"), [("keep", True), ("purge", False)])
def test_what_a_shared_instance_served_goes_with_its_client(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], fate: str, kept: bool
) -> None:
    levels = Levels(config, "soft")
    run_module(client_storage, **levels.args)
    levels.become({"client_id": "acme", "state": "absent", "data": fate})
    args = levels.args | {"clients": levels.document["clients"][:1]}
    ladder(run_module, client_storage, tmp_path, engine, **args, state="absent")
    base = tmp_path / "root" / "multi_tenancy"
    assert [path.name for path in (base / "shared" / "site").iterdir()] == ["b"]
    assert not os.path.lexists(tmp_path / "root" / "clients" / "acme")
    pages = list(base.glob("removed/acme-*/data/site/index.html"))
    assert len(pages) == kept
    assert not any(page.parent.is_symlink() for page in pages)


def test_two_folders_with_files_are_told_and_left(run_module: Run, tmp_path: Path, config: dict[str, Any]) -> None:
    levels = Levels(config, "soft")
    own = tmp_path / "root" / "clients" / "acme" / "data" / "site"
    shared = tmp_path / "root" / "multi_tenancy" / "shared" / "site" / "acme"
    for folder in (own, shared):
        folder.mkdir(parents=True)
        (folder / "file").write_text("x", encoding="utf-8")
    result = run_module(client_storage, **levels.args, defer_failures=True)
    [failure] = result["failures"]
    assert failure["msg"] == (
        f"Client acme: There are files in {own} and in {shared}; leave one of the two and run again."
    )
    assert [path.name for folder in (own, shared) for path in folder.iterdir()] == ["file", "file"]
    assert (tmp_path / "root" / "clients" / "b" / "data" / "site").is_symlink()


def test_a_hard_client_s_own_traefik_finds_its_files(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any]
) -> None:
    levels = Levels(config, "hard")
    ladder(run_module, client_storage, tmp_path, engine, **levels.args)
    client = levels.document["clients"][0]
    home = tmp_path / "root" / "clients" / "acme" / "traefik"
    gid = client["gid"]
    assert owners(home) == owners(home / "dynamic") == (0o750, 0, gid)
    for name in ("traefik.yml", "dynamic/platform.yml"):
        assert owners(home / name) == (0o640, 0, gid)
    assert "10.217.0.1" in (home / "traefik.yml").read_text(encoding="utf-8")
    # Nothing but what Traefik is to read lies where it watches.
    assert [path.name for path in (home / "dynamic").iterdir()] == ["platform.yml"]
    (home / "dynamic" / "platform.yml").write_bytes(b"\xff")
    [change] = run_module(client_storage, **levels.args)["changes"]
    assert (change["action"], change["kind"], change["name"]) == (
        "update",
        "own edge",
        str(home / "dynamic" / "platform.yml"),
    )


@pytest.mark.parametrize("level", ["soft", "medium"])
def test_the_files_of_its_own_traefik_go_when_no_route_leads_there(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], level: str
) -> None:
    levels = Levels(config, "hard")
    run_module(client_storage, **levels.args)
    home = tmp_path / "root" / "clients" / "acme" / "traefik"
    # Where the key is.
    (home / "dynamic" / "routes.yml").write_text("PRIVATE KEY", encoding="utf-8")
    levels.become({"client_id": "acme", "isolation_level": level})
    waiting = run_module(client_storage, **levels.args, settle=False)
    assert (waiting["unsettled"], home.exists()) == (["acme"], True)
    result = ladder(run_module, client_storage, tmp_path, engine, **levels.args)
    assert (result["unsettled"], os.path.lexists(home)) == ([], False)
    assert [(change["action"], change["name"]) for change in result["changes"]] == [("delete", str(home))]
    assert (tmp_path / "root" / "clients" / "b" / "traefik" / "traefik.yml").exists()


def test_secrets_are_made_and_never_told(run_module: Run, tmp_path: Path, engine: FakeEngine) -> None:
    services = {"db": {"image": "db:1", "secrets": ["db.pw"]}}
    levels = Levels(effective_config([("config.yaml", {"services": services, "client_services": ["db"]})]), "medium")
    result = ladder(run_module, client_storage, tmp_path, engine, **levels.args)
    secrets = {name: tmp_path / "root" / "clients" / name / "secrets" / "db.pw" for name in ("acme", "b")}
    values = {name: path.read_text(encoding="ascii") for name, path in secrets.items()}
    assert len(set(values.values())) == len(values)
    assert owners(secrets["acme"]) == (0o440, 0, levels.document["clients"][0]["gid"])
    assert not any(value in str(result) for value in values.values())
    # The level changes, the secret stays.
    levels.become({"client_id": "acme", "isolation_level": "hard"})
    run_module(client_storage, **levels.args)
    assert secrets["acme"].read_text(encoding="ascii") == values["acme"]
    victim = tmp_path / "victim"
    victim.write_text("x", encoding="utf-8")
    before = owners(victim)
    secrets["acme"].unlink()
    secrets["acme"].symlink_to(victim)
    [failure] = run_module(client_storage, **levels.args, defer_failures=True)["failures"]
    assert failure["msg"] == f"Client acme: {secrets['acme']} must be a file and is something else; move it away."
    assert owners(victim) == before
