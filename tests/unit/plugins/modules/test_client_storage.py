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
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import client_storage
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import ladder, registered, tree

Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def place(tmp_path: Path) -> None:
    """What the edge's role made before."""
    (tmp_path / "root" / "clients").mkdir(parents=True)
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
