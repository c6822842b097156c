# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module host_firewall on a host of its own making."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import locked
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._firewall import OWNER, State
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import empty_document
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import save
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import host_firewall
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import registered, tree

PATH = "/opt/agency_stack/multi_tenancy/firewall.nft"


class FakeHost:
    """Keeps the parts of the firewall as texts; a table is listed as its file in capitals."""

    def __init__(self) -> None:
        self.nft: str | None = "/usr/sbin/nft"
        self.init = "systemd"
        self.unit = "agency-stack-firewall"
        self.unit_path = "/etc/systemd/system/agency-stack-firewall.service"
        self.hook_path = "/etc/systemd/system/nftables.service.d/agency-stack-firewall.conf"
        self.routes = ["eth0"]
        self.bridges: set[str] = set()
        self.now = State()
        self.applied: list[str] = []
        self.before_apply: Callable[[], None] = lambda: None
        self.broken: str | None = None

    def __call__(self, table: str, path: str) -> FakeHost:
        self.table, self.path = table, path
        return self

    def default_routes(self) -> list[str]:
        return self.routes

    def is_bridge(self, interface: str) -> bool:
        return interface in self.bridges

    def canonical(self, text: str) -> str:
        return text.upper()

    def state(self) -> State:
        return self.now

    def apply(self, change: Change) -> None:
        self.before_apply()
        if change.payload == self.broken:
            raise TenancyError(f"The {change.kind} is broken.")
        self.applied.append(f"{change.action} {change.payload}")
        self.now = replace(self.now, **{change.payload: change.after})


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    fake = FakeHost()
    monkeypatch.setattr(host_firewall, "Host", fake)
    return fake


@pytest.fixture
def run(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(**options: Any) -> dict[str, Any]:
        with patch_module_args({"path": PATH, **options}), pytest.raises(SystemExit):
            host_firewall.main()
        return json.loads(capsys.readouterr().out)

    return call


def networks(*numbers: int) -> list[dict[str, Any]]:
    return [{"bridge": f"mt-{number}", "subnet": f"10.217.0.{16 * (number - 1)}/28"} for number in numbers]


@pytest.fixture
def registry(config: dict[str, Any], tmp_path: Path) -> Path:
    """A registry of two clients, of which one is on its way out."""
    entries = registered(config, {"client_id": "alpha"}, {"client_id": "beta"})
    entries[1]["state"] = "absent"
    path = tmp_path / "clients.json"
    save(str(path), empty_document() | {"clients": entries})
    return path


def pairs(host: FakeHost) -> list[str]:
    """The bridges that the rules file knows."""
    return re.findall(r'"([^"]+)" \. "\1"', host.now.file or "")


def test_networks_are_those_of_the_registry(host: FakeHost, run: Any, registry: Path, config: dict[str, Any]) -> None:
    run(registry=str(registry), config=config, networks=networks(9))
    assert pairs(host) == ["mt-1"]
    assert run(registry=str(registry), config=config, networks=networks(9))["changed"] is False


def test_check_mode_takes_the_networks_that_the_run_would_find(
    host: FakeHost, run: Any, registry: Path, config: dict[str, Any]
) -> None:
    host.now = State()
    before = tree(registry.parent)
    options = {"registry": str(registry), "config": config, "networks": networks(1, 3)}
    result = run(**options, _ansible_check_mode=True, _ansible_diff=True)
    assert re.findall(r'"([^"]+)" \. "\1"', result["diff"][0]["after"]) == ["mt-1", "mt-3"]
    assert tree(registry.parent) == before


def test_without_a_registry_yet_there_is_no_network(
    host: FakeHost, run: Any, tmp_path: Path, config: dict[str, Any]
) -> None:
    run(registry=str(tmp_path / "clients.json"), config=config, networks=networks(9))
    assert (host.now.table is not None, pairs(host)) == (True, [])


def test_another_prefix_names_other_bridges(host: FakeHost, run: Any, registry: Path, config: dict[str, Any]) -> None:
    run(registry=str(registry), config=config | {"name_prefix": "it"}, bridge_prefix="it-")
    assert pairs(host) == ["it-1"]


def test_the_settings_say_what_is_open_outside(
    host: FakeHost, run: Any, registry: Path, config: dict[str, Any]
) -> None:
    run(registry=str(registry), config=config)
    assert host.now.file is not None
    assert host.now.file.count('            "mt-1"\n') == 1
    denied = config | {"medium": {"egress": "deny", "egress_allow": ["203.0.113.0/24:443"]}}
    assert run(registry=str(registry), config=denied)["changed"] is True
    assert host.now.file.count('            "mt-1"\n') == 0
    assert '"mt-1" . 203.0.113.0/24 . tcp . 443\n' in host.now.file


def test_a_registry_without_settings_is_refused(host: FakeHost, run: Any, registry: Path) -> None:
    result = run(registry=str(registry))
    assert result["failed"] is True
    assert "config" in result["msg"]
    assert host.now == State()


def test_the_registry_is_locked_until_everything_is_replaced(
    host: FakeHost, run: Any, registry: Path, config: dict[str, Any]
) -> None:
    refused = []

    def look() -> None:
        with pytest.raises(TenancyError, match="is held by process"), locked(f"{registry}.lock", 0):
            pass
        refused.append(len(host.applied))

    host.before_apply = look
    run(registry=str(registry), config=config)
    assert refused == [0, 1, 2, 3, 4]
    with locked(f"{registry}.lock", 0):
        pass


@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_registry_that_another_run_holds_is_waited_for_and_told(
    host: FakeHost, run: Any, registry: Path, config: dict[str, Any], state: str
) -> None:
    host.now = replace(State(), file="earlier rules")
    with locked(f"{registry}.lock", 0):
        result = run(registry=str(registry), config=config, lock_timeout=0, state=state)
    # A removal asks for no networks.
    assert result.get("failed", False) == (state == "present")
    assert host.now.file == ("earlier rules" if state == "present" else None)


def test_a_damaged_registry_leaves_the_firewall_as_it_is(
    host: FakeHost, run: Any, registry: Path, config: dict[str, Any]
) -> None:
    registry.write_text('{"clients": [', encoding="utf-8")
    result = run(registry=str(registry), config=config)
    assert result["failed"]
    assert f"{registry} is damaged" in result["msg"]
    assert host.applied == []


def test_first_run_second_run_removal(host: FakeHost, run: Any, tmp_path: Path) -> None:
    first = run(networks=networks(1), log_dir=str(tmp_path))
    assert host.applied == ["create file", "create table", "create unit", "create hook", "create start"]
    assert [change["kind"] for change in first["changes"]] == [
        "firewall file",
        "firewall table",
        "firewall boot unit",
        "firewall reload hook",
        "firewall start at boot",
    ]
    assert (first["changed"], first["table_state"], first["uplinks"]) == (True, "missing", [])
    log = (tmp_path / "components" / "multi_tenancy.log").read_text(encoding="utf-8")
    assert [json.loads(line)["kind"] for line in log.splitlines()] == [change["kind"] for change in first["changes"]]

    second = run(networks=networks(1))
    assert (second["changed"], second["table_state"], second["changes"]) == (False, "ok", [])

    removed = run(state="absent")
    assert [change["action"] for change in removed["changes"]] == ["delete"] * 5
    assert host.now == State()
    assert run(state="absent")["changed"] is False


def test_one_more_network_changes_file_and_table(host: FakeHost, run: Any) -> None:
    run(networks=networks(1))
    host.applied.clear()
    result = run(networks=networks(2, 1), _ansible_diff=True)
    assert host.applied == ["update file", "update table"]
    assert '"mt-2" . "mt-2"' in result["diff"][0]["after"]
    assert '"mt-2" . "mt-2"' not in result["diff"][0]["before"]


@pytest.mark.parametrize(("listing", "state"), [(None, "missing"), ("table inet x {\n}\n", "altered")])
def test_what_happened_to_the_table_is_mended(host: FakeHost, run: Any, listing: str | None, state: str) -> None:
    run()
    host.now = replace(host.now, table=listing)
    host.applied.clear()
    assert run(_ansible_check_mode=True)["table_state"] == state
    assert host.applied == []
    assert run()["changed"] is True
    assert host.applied == ["create table" if listing is None else "update table"]


def test_check_mode_on_a_bare_host(host: FakeHost, run: Any) -> None:
    host.nft = None
    result = run(_ansible_check_mode=True)
    assert (result["changed"], len(result["changes"]), result["table_state"]) == (True, 5, "missing")
    assert host.now == State()


def test_without_nft_nothing_is_done(host: FakeHost, run: Any) -> None:
    host.nft = None
    result = run()
    assert result["failed"] is True
    assert result["msg"] == "nft is not installed, so no client can be isolated; install the package nftables."
    assert host.now == State()


@pytest.mark.parametrize(
    ("options", "uplinks"),
    [({}, ["br0"]), ({"uplinks": []}, []), ({"uplinks": ["br1"]}, ["br1"])],
    ids=["found", "none", "named"],
)
def test_uplinks(host: FakeHost, run: Any, options: dict[str, Any], uplinks: list[str]) -> None:
    host.routes, host.bridges = ["br0", "eth0"], {"br0"}
    assert run(**options)["uplinks"] == uplinks


def test_edge_ports_count_only_when_clients_reach_the_edge(host: FakeHost, run: Any) -> None:
    run()
    assert host.now.file is not None
    assert "443" not in host.now.file
    run(clients_reach_edge=True, edge_ports=[8443])
    assert "8443" in host.now.file


def test_without_boot_the_unit_goes(host: FakeHost, run: Any) -> None:
    run()
    host.applied.clear()
    run(boot=False)
    assert host.applied == ["delete start", "delete hook", "delete unit"]


def test_prefix_that_would_cut_the_host_off(host: FakeHost, run: Any) -> None:
    host.routes = ["mt-uplink"]
    result = run()
    assert result["failed"] is True
    assert "would cut the host off" in result["faults"][0]
    assert host.now == State()


def test_init_scripts_need_no_hook(host: FakeHost, run: Any) -> None:
    host.init, host.unit_path = "sysv", "/etc/init.d/agency-stack-firewall"
    run()
    assert host.applied == ["create file", "create table", "create unit", "create start"]
    assert host.now.unit is not None
    assert host.now.unit.startswith("#!/bin/sh\n")


@pytest.mark.parametrize("state", ["present", "absent"])
def test_table_of_somebody_else(host: FakeHost, run: Any, state: str) -> None:
    host.now = State(table="table inet filter {\n\tchain input {\n\t}\n}\n")
    result = run(table="filter", state=state)
    assert result["failed"] is True
    assert OWNER not in result["msg"]
    assert host.applied == []


def test_a_failure_is_told_with_what_was_done(host: FakeHost, run: Any) -> None:
    host.broken = "table"
    result = run()
    assert result["failed"] is True
    assert result["msg"] == "The firewall table is broken."
    assert [change["kind"] for change in result["changes"]] == ["firewall file"]
