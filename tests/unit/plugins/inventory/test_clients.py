# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients as hosts: read by Ansible's own inventory classes from real configuration files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible import constants
from ansible.errors import AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.doc_fragments import constructed, inventory_cache
from ansible.template import Templar
from ansible_collections.agency_stack.multi_tenancy.plugins.inventory import clients
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import save
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import registered

NAME = "agency_stack.multi_tenancy.clients"
Read = Callable[..., InventoryData]
TEMPLATE = "{{ 'rendered' | upper }}"


@pytest.fixture(autouse=True)
def definitions() -> None:
    """What Ansible's loader does with a plugin's documentation."""
    options: dict[str, Any] = {}
    for text in (
        constructed.ModuleDocFragment.DOCUMENTATION,
        inventory_cache.ModuleDocFragment.DOCUMENTATION,
        clients.DOCUMENTATION,
    ):
        options |= yaml.safe_load(text)["options"]
    constants.config.initialize_plugin_configuration_definitions("inventory", NAME, options)


@pytest.fixture
def registry(tmp_path: Path, config: dict[str, Any]) -> Path:
    """Three clients: one plain, one suspended with many services, one being removed."""
    entries = registered(
        config,
        {"client_id": "acme", "domain": "acme.example.com", "aliases": ["www.acme.example.com"]},
        {"client_id": "b-2", "state": "suspended", "services": {"site": {}}},
        {"client_id": "gone"},
    )
    entries[1]["services"] = {"web-shop": {"environment": {"PASSWORD": "hunter2"}}, "site": {}}
    entries[2] |= {"state": "absent", "removal": "keep"}
    path = tmp_path / "registry" / "clients.json"
    save(str(path), {"version": 1, "clients": entries})
    return path


@pytest.fixture
def read(tmp_path: Path, registry: Path) -> Read:
    """Read an inventory that is configured as told."""

    def run(into: InventoryData | None = None, refresh: bool = False, **options: Any) -> InventoryData:
        path = tmp_path / "clients.yml"
        path.write_text(yaml.safe_dump({"plugin": NAME, "registry": str(registry), **options}), encoding="utf-8")
        plugin = clients.InventoryModule()
        plugin._load_name, plugin._redirected_names = NAME, [NAME]
        assert plugin.verify_file(str(path))
        inventory = InventoryData() if into is None else into
        plugin.parse(inventory, DataLoader(), str(path), cache=not refresh)
        if options.get("cache"):
            plugin.update_cache_if_changed()
        return inventory

    return run


def members(inventory: InventoryData) -> dict[str, list[str]]:
    return {
        name: sorted(host.name for host in group.hosts)
        for name, group in inventory.groups.items()
        if name not in ("all", "ungrouped")
    }


def edit(registry: Path, **changes: Any) -> None:
    """Change the first client behind the platform's back."""
    document = json.loads(registry.read_text(encoding="utf-8"))
    document["clients"][0] |= changes
    registry.write_text(json.dumps(document), encoding="utf-8")


def test_clients_are_grouped_by_level_state_and_service(read: Read) -> None:
    assert members(read()) == {
        "clients": ["acme", "b-2", "gone"],
        "level_medium": ["acme", "b-2", "gone"],
        "state_present": ["acme"],
        "state_suspended": ["b-2"],
        "state_absent": ["gone"],
        "service_site": ["acme", "b-2", "gone"],
        "service_web_shop": ["b-2"],
    }


def test_a_host_tells_of_its_client_and_runs_here(read: Read) -> None:
    told = read().get_host("acme").vars
    assert {key: value for key, value in told.items() if not key.startswith("inventory_")} == {
        "client_id": "acme",
        "domain": "acme.example.com",
        "aliases": ["www.acme.example.com"],
        "isolation_level": "medium",
        "state": "present",
        "subnet": "10.217.0.0/28",
        "uid": 1900000001,
        "gid": 1900000001,
        "services": ["site"],
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
    }


def test_overrides_of_services_stay_in_the_registry(read: Read, tmp_path: Path) -> None:
    inventory = read(cache=True, cache_plugin="jsonfile", cache_connection=str(tmp_path / "cache"))
    assert inventory.get_host("b-2").vars["services"] == ["site", "web-shop"]
    cached = [path.read_text(encoding="utf-8") for path in (tmp_path / "cache").iterdir()]
    assert len(cached) == 1
    assert "web-shop" in cached[0]
    assert "hunter2" not in cached[0] + str(inventory.get_host("b-2").vars)


def test_a_connection_host_is_where_tasks_run(read: Read) -> None:
    told = read(connection_host="host1.example.com").get_host("acme").vars
    assert told["ansible_host"] == "host1.example.com"
    assert "ansible_connection" not in told
    assert "ansible_python_interpreter" not in told


def test_prefixes_of_groups_and_hosts(read: Read) -> None:
    groups = members(read(prefix="host-1 ", host_prefix="client_"))
    assert groups["host_1_state_present"] == ["client_acme"]
    assert all(name.startswith("host_1_") for name in groups)


def test_groups_and_variables_of_the_operator(read: Read) -> None:
    inventory = read(
        strict=True,
        compose={"url": "'https://' ~ domain ~ '/'"},
        groups={"has-aliases": "aliases | length > 0"},
        keyed_groups=[{"key": "client_id", "prefix": "id"}, {"key": "url.split(':')[0]", "prefix": "scheme"}],
    )
    groups = members(inventory)
    assert inventory.get_host("acme").vars["url"] == "https://acme.example.com/"
    assert groups["has_aliases"] == ["acme"]
    assert groups["id_b_2"] == ["b-2"]
    assert groups["scheme_https"] == ["acme", "b-2", "gone"]


def test_a_group_named_like_a_client_does_not_take_its_variables(read: Read) -> None:
    inventory = read(keyed_groups=[{"key": "client_id", "separator": ""}])
    assert members(inventory)["acme"] == ["acme"]
    assert inventory.get_host("acme").vars["domain"] == "acme.example.com"
    assert inventory.groups["acme"].vars == {}


def test_a_wrong_expression_is_told_when_strict(read: Read) -> None:
    options = {"groups": {"wrong": "nothing_of_that_name > 1"}}
    assert "wrong" not in members(read(**options))
    with pytest.raises(AnsibleParserError, match="wrong"):
        read(strict=True, **options)


def test_templates_in_the_registry_stay_text(read: Read, registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(registry, domain=TEMPLATE, aliases=[TEMPLATE], services={TEMPLATE: {}})
    # A registry like that is refused when it is read; this one has got past the check.
    monkeypatch.setattr(clients, "load", lambda path: json.loads(Path(path).read_text(encoding="utf-8")))
    inventory = read(
        strict=True, compose={"copy": "domain", "first": "aliases | join"}, keyed_groups=[{"key": "domain"}]
    )
    told = inventory.get_host("acme").vars
    templar = Templar(loader=DataLoader(), variables=told)
    for value in (told["domain"], told["aliases"][0], told["services"][0], told["copy"], told["first"]):
        assert value == TEMPLATE
        assert templar.template(value) == TEMPLATE
    assert not [name for name in members(inventory) if "RENDERED" in name or "{" in name]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"version": 1,\n "clients": [,]}', "is damaged at line 2, column 14"),
        ('{"version": 99, "clients": []}', "has version 99 and this collection knows version 1"),
        ('{"a": 1}', "is no client registry"),
    ],
)
def test_a_registry_that_cannot_be_used_is_named(read: Read, registry: Path, text: str, sentence: str) -> None:
    registry.write_text(text, encoding="utf-8")
    with pytest.raises(AnsibleParserError) as refused:
        read()
    assert str(registry) in str(refused.value)
    assert sentence in str(refused.value)
    assert registry.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("place", ["missing.json", "registry", "registry/clients.json/clients.json"])
def test_a_path_without_a_registry_is_refused(read: Read, tmp_path: Path, place: str) -> None:
    with pytest.raises(AnsibleParserError, match=r"cannot be read \(.*\): set `registry`"):
        read(registry=str(tmp_path / place))


def test_a_relative_path_starts_at_the_configuration_file(read: Read) -> None:
    assert "acme" in read(registry="registry/clients.json").hosts


@pytest.mark.parametrize("kind", ["host", "group"])
def test_a_machine_of_the_same_name_is_not_touched(read: Read, kind: str) -> None:
    inventory = InventoryData()
    (inventory.add_host if kind == "host" else inventory.add_group)("acme")
    with pytest.raises(AnsibleParserError, match="host or group named acme beside the client"):
        read(into=inventory)
    assert list(inventory.hosts) == (["acme"] if kind == "host" else [])
    assert "client_acme" in read(into=inventory, host_prefix="client_").hosts


@pytest.mark.parametrize("name", ["clients", "level_medium", "chosen_ones"])
def test_no_client_becomes_the_control_machine_or_a_group(read: Read, registry: Path, name: str) -> None:
    edit(registry, client_id=name)
    options = {"groups": {"chosen-ones": "true"}, "strict": True}
    with pytest.raises(AnsibleParserError, match=f"group named {name} beside the client"):
        read(**options)
    inventory = read(host_prefix="client-", **options)
    assert members(inventory)["chosen_ones"] == sorted(inventory.hosts)


def test_the_cache_answers_until_it_is_refreshed_or_the_registry_is_another(
    read: Read, registry: Path, tmp_path: Path
) -> None:
    options = {"cache": True, "cache_plugin": "jsonfile", "cache_connection": str(tmp_path / "cache")}

    def domain(**more: Any) -> Any:
        return read(**options, **more).get_host("acme").vars["domain"]

    assert domain() == "acme.example.com"
    edit(registry, domain="new.example.com")
    assert domain() == "acme.example.com"
    other = tmp_path / "other.json"
    other.write_bytes(registry.read_bytes())
    assert domain(registry=str(other)) == "new.example.com"
    assert domain(refresh=True) == "new.example.com"
    assert domain() == "new.example.com"


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("clients.yml", True),
        ("clients.yaml", True),
        ("host1.clients.yml", True),
        ("host1.clients.yaml", True),
        ("myclients.yml", False),
        ("clients.json", False),
        ("hosts.yml", False),
    ],
)
def test_files_that_the_plugin_takes(tmp_path: Path, name: str, taken: bool) -> None:
    path = tmp_path / name
    assert not clients.InventoryModule().verify_file(str(path))
    path.touch()
    assert clients.InventoryModule().verify_file(str(path)) is taken
