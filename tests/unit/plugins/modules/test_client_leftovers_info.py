# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module client_leftovers_info on real folders and an engine in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import (
    client_leftovers_info,
    client_network,
    client_stack,
    client_storage,
)
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine, refusal
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import registered, tree

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def clients(run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Two clients with all that they have, and what lies beside them."""
    (tmp_path / "root" / "clients").mkdir(parents=True)
    (tmp_path / "log" / "clients" / "of-another-tool").mkdir(parents=True)
    dynamic = tmp_path / "root" / "multi_tenancy" / "traefik" / "dynamic"
    dynamic.mkdir(parents=True)
    made = registered(config, {"client_id": "acme"}, {"client_id": "b"})
    run_module(client_storage, config=config, clients=made)
    run_module(client_network, config=config, clients=made)
    run_module(client_stack, config=config, clients=made)
    for client in made:
        (dynamic / f"{client['client_id']}.yml").touch()
        engine.volume_labels[f"of-{client['client_id']}"] = {
            "agency_stack.platform": "mt",
            "agency_stack.client_id": client["client_id"],
        }
    # Of another platform, of no platform, and of an operator.
    engine.volume_labels["x"] = {"agency_stack.platform": "other", "agency_stack.client_id": "x"}
    engine.volume_labels["y"] = {"agency_stack.client_id": "y"}
    engine.volume_labels["z"] = None
    (dynamic / ".hidden.yml").touch()
    (tmp_path / "root" / "clients" / "notes").mkdir()
    (tmp_path / "root" / "clients" / "link").symlink_to("acme")
    (tmp_path / "root" / "clients" / "of-another-tool" / "multi_tenancy").mkdir(parents=True)
    engine.calls.clear()
    return made


def gone(client: dict[str, Any], removal: str = "keep") -> dict[str, Any]:
    return client | {"state": "absent", "removal": removal, "removed_at": "2026-01-31T12:00:00+00:00"}


ALL = ["container", "network", "volume", "route", "folder", "log folder"]


@pytest.mark.parametrize("check", [True, False])
def test_everything_of_a_client_on_its_way_out_is_found_in_one_list_of_each_kind(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], clients: list[Any], check: bool
) -> None:
    before = tree(tmp_path), engine.snapshot()
    result = run_module(client_leftovers_info, check=check, config=config, clients=[gone(clients[0]), clients[1]])
    assert [(left["client_id"], left["kind"]) for left in result["leftovers"]] == [("acme", kind) for kind in ALL]
    assert result["leftovers"][0]["msg"].startswith("Client acme: container mt-acme.site is still there;")
    assert result["changed"] is False
    assert sorted(call[0] for call in engine.calls) == ["containers", "networks", "volumes"]
    assert (tree(tmp_path), engine.snapshot()) == before


def test_everything_of_an_unknown_client_is_found(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[Any]
) -> None:
    result = run_module(client_leftovers_info, config=config, clients=[clients[0]])
    assert [(left["client_id"], left["kind"]) for left in result["leftovers"]] == [("b", kind) for kind in ALL]
    assert (
        run_module(client_leftovers_info, config=config, clients=[clients[0]], client_ids=["acme"])["leftovers"] == []
    )


def test_clients_that_stay_leave_nothing(run_module: Run, config: dict[str, Any], clients: list[Any]) -> None:
    clients[1]["state"] = "suspended"
    assert run_module(client_leftovers_info, config=config, clients=clients)["leftovers"] == []


@pytest.mark.parametrize("removal", ["keep", "purge"])
def test_after_a_removal_nothing_is_left(
    run_module: Run,
    tmp_path: Path,
    engine: FakeEngine,
    config: dict[str, Any],
    clients: list[Any],
    removal: str,
) -> None:
    """Also of containers that an interrupted run, or an earlier catalog, made."""
    leaving = gone(clients[0], removal)
    [made] = [container for container in engine.containers_by_id.values() if container["Name"] == "mt-acme.site"]
    for name, service in (("mt-acme.site.next", "site"), ("mt-acme.gone", "gone"), ("any-name", "")):
        labels = made["Config"]["Labels"] | {"agency_stack.service": service}
        engine.create_container_from_config(made["Config"] | {"Labels": labels}, name)
    run_module(client_stack, config=config, clients=[leaving])
    assert engine.names() == ["mt-b.site"]
    run_module(client_network, config=config, clients=[leaving], state="absent")
    run_module(client_storage, config=config, clients=[leaving], state="absent")
    (tmp_path / "root" / "multi_tenancy" / "traefik" / "dynamic" / "acme.yml").unlink()
    del engine.volume_labels["of-acme"]
    assert (tmp_path / "log" / "clients" / "acme").exists() == (removal == "keep")
    for known in ([leaving, clients[1]], [clients[1]]):
        assert run_module(client_leftovers_info, config=config, clients=known)["leftovers"] == []


def test_a_container_and_a_network_of_any_name_are_found_by_their_labels(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[Any]
) -> None:
    engine.rename("mt-b.site", "something-else")
    [network] = [network for network in engine.networks_by_id.values() if network["Name"] == "mt-b"]
    network["Name"] = "second"
    found = run_module(client_leftovers_info, config=config, clients=[clients[0]])["leftovers"]
    assert [left["name"] for left in found][:2] == ["something-else", "second"]


def test_on_a_bare_host_nothing_is_left(
    run_module: Run, config: dict[str, Any], engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_module(client_leftovers_info, config=config, clients=[])["leftovers"] == []

    def none(**_options: Any) -> None:
        raise docker.errors.DockerException("no socket")

    monkeypatch.setattr(docker, "APIClient", none)
    assert run_module(client_leftovers_info, check=True, config=config, clients=[])["leftovers"] == []
    refused = run_module(client_leftovers_info, config=config, clients=[])
    assert (refused["failed"], "No Docker engine answers" in refused["msg"]) == (True, True)


def test_an_engine_that_refuses_is_told(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], clients: list[Any]
) -> None:
    def fail(_number: int, name: str) -> None:
        if name == "volumes":
            raise refusal(500, "broken")

    engine.before_call = fail
    refused = run_module(client_leftovers_info, config=config, clients=clients)
    assert refused["msg"] == "Listing networks and volumes failed: broken."


def test_what_goes_away_meanwhile_is_not_left(
    run_module: Run, tmp_path: Path, config: dict[str, Any], clients: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [*listdir(path), "gone"])
    gone_client = gone(clients[0] | {"client_id": "gone"})
    assert run_module(client_leftovers_info, config=config, clients=[*clients, gone_client])["leftovers"] == []
