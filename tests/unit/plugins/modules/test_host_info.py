# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module host_info on this host, with an engine in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _engine, _preflight
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import host_info
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine

Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A good host: Debian 12, root, nothing listens."""
    monkeypatch.setattr(_preflight, "read_system", lambda: ("debian", "12"))
    monkeypatch.setattr(_preflight, "read_listeners", lambda _ports, _own: [])
    monkeypatch.setattr(_preflight, "read_routes", lambda _prefix: [("192.168.1.0/24", "a route on eth0")])
    monkeypatch.setattr(_preflight, "missing_packages", lambda answers: [] if answers else ["docker.io"])
    monkeypatch.setattr(_preflight, "read_port_start", lambda: 80)
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def network(engine: FakeEngine, name: str, subnet: str, **labels: str) -> None:
    pool = {"Subnet": subnet, "Gateway": subnet}
    engine.create_network(
        name=name, driver="bridge", internal=False, options={}, labels=labels, ipam={"Config": [pool]}
    )


@pytest.mark.parametrize("check", [True, False])
def test_the_host_is_told_and_nothing_is_touched(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], check: bool
) -> None:
    network(engine, "bridge", "172.17.0.0/16")
    network(engine, "mt-a", "10.217.0.0/28", **{"agency_stack.platform": "mt"})
    before = engine.snapshot()
    result = run_module(host_info, check=check, config=config)
    assert not result["changed"]
    assert (result["engine"], result["engine_managed"], result["packages"]) == ("20.10.24", True, [])
    assert (result["port_start"], result["architecture"], result["missing_images"]) == (80, os.uname().machine, [])
    assert result["rotation"]["path"] == "/etc/logrotate.d/agency-stack"
    assert result["occupied"] == [
        {"subnet": "172.17.0.0/16", "what": "the Docker network 'bridge'"},
        {"subnet": "192.168.1.0/24", "what": "a route on eth0"},
    ]
    assert engine.snapshot() == before


def test_a_network_that_is_also_a_route_is_told_once(
    run_module: Run, engine: FakeEngine, config: dict[str, Any]
) -> None:
    network(engine, "lan", "192.168.1.0/24")
    result = run_module(host_info, config=config)
    assert result["occupied"] == [{"subnet": "192.168.1.0/24", "what": "the Docker network 'lan'"}]


def test_missing_built_in_images_are_told(run_module: Run, engine: FakeEngine, config: dict[str, Any]) -> None:
    engine.local_images.remove(config["services"]["site"]["image"])
    assert run_module(host_info, config=config)["missing_images"] == [config["services"]["site"]["image"]]


def test_without_settings_the_engine_is_asked_for_its_version_alone(run_module: Run, engine: FakeEngine) -> None:
    result = run_module(host_info)
    assert (result["engine"], result["occupied"], result["missing_images"]) == ("20.10.24", [], [])
    assert result["rotation"] == {}
    assert [call[0] for call in engine.calls] == ["info"]


def test_a_host_without_an_engine_is_told_as_such(
    run_module: Run, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> None:
    result = run_module(host_info, config=config, docker_host="unix:///nowhere/docker.sock")
    assert (result["engine"], result["engine_managed"], result["packages"]) == ("", False, ["docker.io"])
    monkeypatch.setattr(_preflight, "HAS_DOCKER", False)
    monkeypatch.setattr(_engine, "HAS_DOCKER", False)
    assert run_module(host_info, config=config)["engine"] == ""


def test_all_reasons_against_the_host_are_told_at_once(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_preflight, "read_system", lambda: ("ubuntu", "24.04"))
    monkeypatch.setattr(_preflight, "read_listeners", lambda _ports, _own: [(443, 7, "nginx")])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = run_module(host_info, config=config)
    assert result["failed"]
    assert [fault.split()[0] for fault in result["faults"]] == ["Root", "The", "Port"]


def test_our_own_edge_does_not_take_its_ports_from_itself(
    run_module: Run, engine: FakeEngine, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {"agency_stack.platform": "mt", "agency_stack.component": "edge"}
    made = engine.create_container_config(
        config["edge"]["image"], None, labels=labels, host_config=engine.create_host_config(network_mode="host")
    )
    edge = engine.create_container_from_config(made, "mt-edge")["Id"]
    engine.start("mt-edge")
    asked: list[Any] = []
    monkeypatch.setattr(_preflight, "read_listeners", lambda ports, own: asked.append((ports, own)) or [])
    run_module(host_info, config=config)
    assert asked == [([80, 443, 8079], [edge])]
