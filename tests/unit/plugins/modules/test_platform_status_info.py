# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module platform_status_info on a small platform with an engine in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import (
    client_network,
    client_registry,
    client_stack,
    edge_stack,
    platform_status_info,
    traefik_dynamic_config,
)
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import tree

Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def firewall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is said of the firewall's table."""
    said = {"state": "ok"}
    path = tmp_path / "root" / "multi_tenancy" / "firewall.nft"
    path.parent.mkdir(parents=True)
    path.write_text("table", encoding="utf-8")
    monkeypatch.setattr(platform_status_info, "table_state", lambda _table, _text: said["state"])
    monkeypatch.setattr(platform_status_info, "wanted_rules", lambda _config, _path, _clients: "table")
    return said


@pytest.fixture
def platform(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], firewall: dict[str, str]
) -> list[dict[str, Any]]:
    """A platform with two clients on which all is well."""
    clients = run_module(client_registry, config=config, clients=[{"client_id": "a"}, {"client_id": "b"}])["clients"]
    run_module(edge_stack, config=config)
    run_module(client_network, config=config, clients=clients)
    backends = run_module(client_stack, config=config, clients=clients)["backends"]
    for client_id, services in backends.items():
        servers = {
            f"{client_id}.{service}": {"loadBalancer": {"servers": [{"url": f"http://{address}:8080"}]}}
            for service, address in services.items()
        }
        path = tmp_path / "root" / "multi_tenancy" / "traefik" / "dynamic" / f"{client_id}.yml"
        path.write_text(json.dumps({"http": {"services": servers}}), encoding="utf-8")
    engine.settle()
    engine.calls.clear()
    found: list[dict[str, Any]] = clients
    return found


@pytest.mark.parametrize("check", [True, False])
def test_when_all_is_well_nothing_is_found_in_few_calls(
    run_module: Run,
    tmp_path: Path,
    engine: FakeEngine,
    config: dict[str, Any],
    platform: list[dict[str, Any]],
    check: bool,
) -> None:
    before = tree(tmp_path), engine.snapshot()
    result = run_module(platform_status_info, check=check, config=config)
    assert (result["changed"], result["findings"]) == (False, [])
    assert result["platform"] == {
        "engine": "20.10.24, installed by us",
        "edge": "running, healthy",
        "firewall": "ok",
        "clients": "2",
    }
    assert [call[0] for call in engine.calls] == ["info", "containers", "networks", "volumes"]
    assert (tree(tmp_path), engine.snapshot()) == before
    assert "a       medium  present  healthy  site      a.localhost\n" in result["report"]


PROBLEMS: dict[str, tuple[Callable[[FakeEngine, Path, dict[str, str]], object], str]] = {
    "client's container stopped": (
        lambda engine, _base, _firewall: engine.stop("mt-b.site"),
        "b: container mt-b.site is exited",
    ),
    "client's container gone": (
        lambda engine, _base, _firewall: engine.remove_container("mt-b.site", force=True),
        "b: container mt-b.site is missing",
    ),
    "edge stopped": (lambda engine, _base, _firewall: engine.stop("mt-edge"), "The edge does not run"),
    "edge gone": (
        lambda engine, _base, _firewall: engine.remove_container("mt-edge", force=True),
        "The edge does not run",
    ),
    "route gone": (
        lambda _engine, base, _firewall: (base / "traefik" / "dynamic" / "b.yml").unlink(),
        "b: the edge has no route to it",
    ),
    "firewall's file gone": (
        lambda _engine, base, _firewall: (base / "firewall.nft").unlink(),
        "The firewall table is missing: clients may reach each other",
    ),
    "firewall's file altered": (
        lambda _engine, base, _firewall: (base / "firewall.nft").write_text("tables"),
        "The firewall table is altered",
    ),
    "route to an address that nobody has": (
        lambda _engine, base, _firewall: (base / "traefik" / "dynamic" / "b.yml").write_text(
            (base / "traefik" / "dynamic" / "b.yml").read_text().replace("10.217.0.18", "10.217.0.19")
        ),
        "b: the edge leads 'site' to 10.217.0.19 instead of 10.217.0.18",
    ),
    "firewall flushed": (
        lambda _engine, _base, firewall: firewall.update(state="missing"),
        "The firewall table is missing",
    ),
}


@pytest.mark.parametrize(("harm", "finding"), PROBLEMS.values(), ids=PROBLEMS)
def test_one_problem_is_one_finding(
    run_module: Run,
    tmp_path: Path,
    engine: FakeEngine,
    config: dict[str, Any],
    platform: list[dict[str, Any]],
    firewall: dict[str, str],
    harm: Callable[[FakeEngine, Path, dict[str, str]], object],
    finding: str,
) -> None:
    harm(engine, tmp_path / "root" / "multi_tenancy", firewall)
    result = run_module(platform_status_info, config=config)
    [told] = result["findings"]
    assert told.startswith(finding)
    assert f"! {told}" in result["report"]


def test_what_belongs_to_nobody_is_found_and_left(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], platform: list[dict[str, Any]]
) -> None:
    (tmp_path / "root" / "multi_tenancy" / "clients.json").unlink()
    folder = tmp_path / "root" / "clients" / "a"
    (folder / "multi_tenancy").mkdir(parents=True)
    (folder / "multi_tenancy" / "config.yaml").touch()
    before = tree(tmp_path), engine.snapshot()
    result = run_module(platform_status_info, config=config)
    dynamic = tmp_path / "root" / "multi_tenancy" / "traefik" / "dynamic"
    nobody = "who is not in the registry"
    assert [finding.partition(" puts it away")[0] for finding in result["findings"]] == [
        f"Container mt-a.site belongs to client a, {nobody}; 'docker rm -f mt-a.site' removes it.",
        f"Network mt-a belongs to client a, {nobody}; 'docker network rm mt-a' removes it.",
        f"Route {dynamic}/a.yml belongs to client a, {nobody}; 'rm {dynamic}/a.yml' removes it.",
        f"Folder {folder} belongs to client a, {nobody}; "
        f"'mkdir -p -m 700 {tmp_path}/root/multi_tenancy/removed && "
        f"mv -nT {folder} {tmp_path}/root/multi_tenancy/removed/a-$(date -u +%Y%m%dT%H%M%S)'",
        f"Container mt-b.site belongs to client b, {nobody}; 'docker rm -f mt-b.site' removes it.",
        f"Network mt-b belongs to client b, {nobody}; 'docker network rm mt-b' removes it.",
        f"Route {dynamic}/b.yml belongs to client b, {nobody}; 'rm {dynamic}/b.yml' removes it.",
    ]
    assert "There are no clients." in result["report"]
    assert all(f"! {finding}" in result["report"] for finding in result["findings"])
    assert (tree(tmp_path), engine.snapshot()) == before


def test_a_removal_that_is_not_finished_is_told(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], platform: list[dict[str, Any]]
) -> None:
    run_module(client_registry, config=config, clients=[{"client_id": "b", "state": "absent"}])
    route = tmp_path / "root" / "multi_tenancy" / "traefik" / "dynamic" / "b.yml"
    assert run_module(platform_status_info, config=config)["findings"] == [
        "b: container mt-b.site is in no plan; a converge removes it.",
        "Client b: network mt-b is still there; the next run tries again, or 'docker network rm mt-b' removes it.",
        f"Client b: route {route} is still there; the next run tries again.",
    ]
    route.unlink()
    engine.remove_container("mt-b.site", force=True)
    engine.remove_network("mt-b")
    assert run_module(platform_status_info, config=config)["findings"] == []


def test_one_client_can_be_looked_at_alone(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], platform: list[dict[str, Any]]
) -> None:
    engine.stop("mt-a.site")
    result = run_module(platform_status_info, config=config, client_ids=["b"])
    assert ([client["client_id"] for client in result["clients"]], result["findings"]) == (["b"], [])
    unknown = run_module(platform_status_info, config=config, client_ids=["x"])
    assert (unknown["failed"], unknown["msg"]) == (True, "There is no client 'x'; there are a, b.")


def test_a_firewall_that_cannot_be_read_is_told(
    run_module: Run, config: dict[str, Any], platform: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_table: str, _text: str) -> str:
        raise TenancyError("nft is not installed.")

    monkeypatch.setattr(platform_status_info, "table_state", broken)
    result = run_module(platform_status_info, config=config)
    assert result["platform"]["firewall"] == "unknown (nft is not installed.)"
    assert len(result["findings"]) == 1


# ---------------------------------------------------------------- levels


@pytest.fixture
def levels(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], firewall: dict[str, str]
) -> dict[str, Any]:
    """A platform with a client of each level on which all is well."""
    edit = [
        {"client_id": name, "isolation_level": level} for name, level in (("h", "hard"), ("m", "medium"), ("s", "soft"))
    ]
    found = run_module(client_registry, config=config, clients=edit)
    args: dict[str, Any] = {"config": config, "clients": found["clients"], "shared": found["shared"]}
    run_module(edge_stack, config=config)
    run_module(client_network, **args)
    args["backends"] = run_module(client_stack, **args)["backends"]
    (tmp_path / "root" / "clients" / "h" / "traefik" / "dynamic").mkdir(parents=True)
    result = run_module(traefik_dynamic_config, **args, confirm_timeout=0)
    assert not result.get("failed"), result
    engine.settle()
    engine.calls.clear()
    return args


def test_clients_of_every_level_are_well(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], levels: dict[str, Any]
) -> None:
    before = tree(tmp_path), engine.snapshot()
    result = run_module(platform_status_info, config=config)
    assert result["findings"] == []
    assert result["platform"]["shared"] == "site healthy"
    services = {client["client_id"]: [row["container"] for row in client["services"]] for client in result["clients"]}
    assert services == {"h": ["mt-h.traefik", "mt-h.site"], "m": ["mt-m.site"], "s": []}
    assert sorted(call[0] for call in engine.calls) == ["containers", "info", "info", "networks", "volumes"]
    assert (tree(tmp_path), engine.snapshot()) == before


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


LEVEL_PROBLEMS: dict[str, tuple[Callable[[FakeEngine, Path], object], str]] = {
    "shared instance stopped": (
        lambda engine, _root: engine.stop("mt-shared.site"),
        "shared.site: container mt-shared.site is exited",
    ),
    "shared instance gone": (
        lambda engine, _root: engine.remove_container("mt-shared.site", force=True),
        "shared.site: container mt-shared.site is missing",
    ),
    "soft client's route gone": (
        lambda _engine, root: (root / "multi_tenancy/traefik/dynamic/s.yml").unlink(),
        "s: the edge has no route to it",
    ),
    "soft client's route to an address that nobody has": (
        lambda _engine, root: replace_in(root / "multi_tenancy/traefik/dynamic/s.yml", "10.217.0.66:", "10.217.0.67:"),
        "s: the edge leads 'site' to 10.217.0.67 instead of 10.217.0.66",
    ),
    "own Traefik stopped": (
        lambda engine, _root: engine.stop("mt-h.traefik"),
        "h: container mt-h.traefik is exited",
    ),
    "own route gone": (
        lambda _engine, root: (root / "clients/h/traefik/dynamic/routes.yml").unlink(),
        "h: the edge has no route to it",
    ),
    "passthrough gone": (
        lambda _engine, root: (root / "multi_tenancy/traefik/dynamic/h.yml").unlink(),
        "h: the edge has no route to it",
    ),
    "own route to an address that nobody has": (
        lambda _engine, root: replace_in(root / "clients/h/traefik/dynamic/routes.yml", "10.217.0.51:", "10.217.0.60:"),
        "h: the edge leads 'site' to 10.217.0.60 instead of 10.217.0.51",
    ),
    "passthrough to an address that nobody has": (
        lambda _engine, root: replace_in(root / "multi_tenancy/traefik/dynamic/h.yml", "10.217.0.2:", "10.217.0.9:"),
        "h: the edge leads 'traefik' to 10.217.0.9 instead of 10.217.0.2",
    ),
}


@pytest.mark.parametrize(("harm", "finding"), LEVEL_PROBLEMS.values(), ids=LEVEL_PROBLEMS)
def test_one_problem_of_a_level_is_one_finding(
    run_module: Run,
    tmp_path: Path,
    engine: FakeEngine,
    config: dict[str, Any],
    levels: dict[str, Any],
    harm: Callable[[FakeEngine, Path], object],
    finding: str,
) -> None:
    harm(engine, tmp_path / "root")
    [told] = run_module(platform_status_info, config=config)["findings"]
    assert told.startswith(finding)


def test_a_shared_instance_that_nobody_needs_is_told(
    run_module: Run, tmp_path: Path, engine: FakeEngine, config: dict[str, Any], levels: dict[str, Any]
) -> None:
    run_module(client_registry, config=config, clients=[{"client_id": "s", "state": "absent"}])
    (tmp_path / "root" / "multi_tenancy" / "traefik" / "dynamic" / "s.yml").unlink()
    assert run_module(platform_status_info, config=config)["findings"] == [
        "shared.site: container mt-shared.site is in no plan; a converge removes it."
    ]
    engine.remove_container("mt-shared.site", force=True)
    assert run_module(platform_status_info, config=config)["findings"] == []
