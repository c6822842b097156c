# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client's registry entry means on the host."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest
import yaml
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._tenant import (
    bridge_name,
    containers,
    directories,
    effective_text,
    firewall_networks,
    network,
    routes,
    welcome_page,
)
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import registered

LAYOUT = Layout("/srv/root", "/srv/log")
FULL = {
    "image": "shop:1",
    "command": ["serve", "--all"],
    "entrypoint": ["/bin/shop"],
    "environment": {"PORT": 80, "NAME": "x"},
    "user": "33:33",
    "read_only": False,
    "tmpfs": ["/tmp:size=16m,mode=1777", "/run"],
    "volumes": ["files:/files", "conf:/conf:ro"],
    "cap_add": ["SETUID", "CHOWN"],
    "mem_limit": "1g",
    "cpus": 0.5,
    "pids_limit": 9,
    "stop_signal": "SIGINT",
    "stop_grace_period": "90s",
    "healthcheck": {"test": ["CMD", "true"], "interval": "1s", "timeout": "2s", "retries": 4, "start_period": "5s"},
    "deploy": {"update_config": {"order": "start-first"}},
    "port": 8080,
    "subdomain": "shop",
}


@pytest.fixture
def shop_config() -> dict[str, Any]:
    return effective_config([("config.yaml", {"services": {"shop": FULL, "bare": {"image": "bare:1"}}})])


def test_every_key_of_a_service_reaches_its_container(shop_config: dict[str, Any]) -> None:
    [client] = registered(shop_config, {"client_id": "acme", "services": {"shop": {}}})
    [spec] = containers(client, shop_config, LAYOUT)
    assert spec.labels == {
        "agency_stack.platform": "mt",
        "agency_stack.client_id": "acme",
        "agency_stack.isolation_level": "medium",
        "agency_stack.service": "shop",
    }
    shown = {key: value for key, value in vars(spec).items() if key != "labels"}
    assert shown == {
        "name": "mt-acme.shop",
        "client_id": "acme",
        "service": "shop",
        "image": "shop:1",
        "network": "mt-acme",
        "subnet": "10.217.0.0/28",
        "user": "33:33",
        "command": ["serve", "--all"],
        "entrypoint": ["/bin/shop"],
        "environment": {"PORT": "80", "NAME": "x"},
        "binds": [
            {"source": "/srv/root/clients/acme/data/files", "target": "/files", "read_only": False},
            {"source": "/srv/root/clients/acme/data/conf", "target": "/conf", "read_only": True},
        ],
        "tmpfs": {"/tmp": "size=16m,mode=1777,uid=33,gid=33", "/run": "uid=33,gid=33"},
        "cap_add": ["CHOWN", "SETUID"],
        "read_only": False,
        "mem_limit": 1024**3,
        "nano_cpus": 5 * 10**8,
        "pids_limit": 9,
        "stop_signal": "SIGINT",
        "stop_timeout": 90,
        "healthcheck": {
            "test": ["CMD", "true"],
            "interval": 10**9,
            "timeout": 2 * 10**9,
            "retries": 4,
            "start_period": 5 * 10**9,
        },
        "start_first": True,
        "networks": (),
    }


def test_a_service_that_names_nothing_is_hardened_and_limited(shop_config: dict[str, Any]) -> None:
    [client] = registered(shop_config, {"client_id": "acme", "services": {"bare": {}}})
    [spec] = containers(client, shop_config, LAYOUT)
    assert (spec.read_only, spec.cap_add, spec.user) == (True, [], "1900000001:1900000001")
    assert (spec.mem_limit, spec.nano_cpus, spec.pids_limit) == (256 * 1024**2, 10**9, 256)
    assert (spec.healthcheck, spec.start_first) == (None, False)


@pytest.mark.parametrize(("state", "routed"), [("suspended", ["site"]), ("absent", [])])
def test_a_client_that_is_not_present_has_no_container(config: dict[str, Any], state: str, routed: list[str]) -> None:
    [client] = registered(config, {"client_id": "acme"})
    client["state"] = state
    assert containers(client, config, LAYOUT) == []
    assert [route["service"] for route in routes(client, config)] == routed


def test_no_two_clients_share_a_name_a_bridge_a_subnet_or_a_folder(config: dict[str, Any]) -> None:
    clients = registered(
        config, *({"client_id": name, "domain": f"{n}.example"} for n, name in enumerate(["a", "a-b", "a_b", "b"]))
    )
    networks = [network(client, config) for client in clients]
    for key in ("name", "bridge", "subnet", "gateway"):
        assert len({getattr(spec, key) for spec in networks}) == len(clients)
    names = [spec.name for client in clients for spec in containers(client, config, LAYOUT)]
    folders = [directory.path for client in clients for directory in directories(client, config, LAYOUT)]
    assert len(set(names)) == len(names)
    assert len(set(folders)) == len(folders)


def test_a_bridge_has_a_short_name_and_the_host_the_first_address(
    config: dict[str, Any], client: dict[str, Any]
) -> None:
    last = client | {"index": 2**21, "client_id": "x" * 32}
    assert len(bridge_name(last, config | {"name_prefix": "abcdef"})) <= 15
    spec = network(client, config)
    assert ipaddress.IPv4Address(spec.gateway) == ipaddress.IPv4Network(spec.subnet)[1]
    assert not spec.internal


EGRESS: list[tuple[str, dict[str, Any], dict[str, Any], tuple[str, list[str]]]] = [
    ("nothing said", {}, {}, ("allow", [])),
    (
        "by the level",
        {"medium": {"egress": "deny", "egress_allow": ["203.0.113.7:443"]}},
        {},
        ("deny", ["203.0.113.7:443"]),
    ),
    ("by another level", {"hard": {"egress": "deny"}}, {}, ("allow", [])),
    ("by the client", {}, {"egress": "deny", "egress_allow": ["203.0.113.7:25"]}, ("deny", ["203.0.113.7:25"])),
    (
        "by the client before the level",
        {"medium": {"egress": "deny", "egress_allow": ["203.0.113.7:443"]}},
        {"egress": "allow", "egress_allow": []},
        ("allow", []),
    ),
]


@pytest.mark.parametrize(("settings", "own", "expected"), [row[1:] for row in EGRESS], ids=[row[0] for row in EGRESS])
def test_the_firewall_knows_what_a_client_may_reach(
    config: dict[str, Any],
    client: dict[str, Any],
    settings: dict[str, Any],
    own: dict[str, Any],
    expected: tuple[str, list[str]],
) -> None:
    (found,) = firewall_networks([client | own, client | {"state": "absent"}], config | settings)
    assert (found["bridge"], found["subnet"]) == (bridge_name(client, config), client["subnet"])
    assert (found["egress"], found["egress_allow"]) == expected


def test_directories_come_parents_first_and_keep_strangers_out(shop_config: dict[str, Any]) -> None:
    [client] = registered(shop_config, {"client_id": "acme", "services": {"shop": {}, "site": {}}})
    wanted = directories(client, shop_config, LAYOUT)
    paths = [directory.path for directory in wanted]
    home = "/srv/root/clients/acme"
    assert paths[0] == home
    for number, path in enumerate(paths):
        parent = path.rpartition("/")[0]
        assert parent in paths[:number] or parent in ("/srv/root/clients", "/srv/log/clients")
    below = {
        directory.path.removeprefix(f"{home}/data/"): directory for directory in wanted if "/data/" in directory.path
    }
    assert set(below) == {"files", "conf", "site"}
    for directory in below.values():
        assert (directory.uid, directory.gid, directory.reader) == (1900000001, 1900000001, 1900000001)
    for directory in wanted:
        assert directory.mode & 0o007 == 0
        if directory.path not in (f"{home}/data/{name}" for name in below):
            assert directory.uid == 0
            assert directory.mode & 0o022 == 0
    private = {directory.path.rpartition("/")[2] for directory in wanted if directory.mode & 0o077 == 0}
    assert private == {"secrets", "certs", "backups"}


def test_routes_are_those_of_services_with_a_port(shop_config: dict[str, Any]) -> None:
    edit = {"client_id": "acme", "domain": "acme.example", "services": {"site": {}, "shop": {}, "bare": {}}}
    [client] = registered(shop_config, edit)
    assert routes(client, shop_config) == [
        {"client_id": "acme", "service": "shop", "hostnames": ["shop.acme.example"], "port": 8080},
        {"client_id": "acme", "service": "site", "hostnames": ["acme.example"], "port": 8080},
    ]


def test_a_lost_service_is_one_clear_fault(client: dict[str, Any], config: dict[str, Any]) -> None:
    lost = client | {"services": {"gone": {}}}
    for derive in (containers, directories):
        with pytest.raises(InvalidInput, match="Client 'acme': services: 'gone' is not in the catalog"):
            derive(lost, config, LAYOUT)


def test_the_clients_file_is_yaml_and_names_the_command_that_changes_it(
    client: dict[str, Any], config: dict[str, Any]
) -> None:
    text = effective_text(client, config, LAYOUT)
    document = yaml.safe_load(text)
    assert document == json.loads("".join(line for line in text.splitlines(True) if not line.startswith("#")))
    assert (document["hostnames"], document["network"]["subnet"]) == (["acme.example.com"], "10.217.0.0/28")
    assert "make update_client CLIENT_ID=acme" in text
    assert "scripts/update_client.sh --client-id acme" in text
    assert effective_text(json.loads(json.dumps(client)), config, LAYOUT) == text


def test_the_welcome_page_names_client_and_domain(client: dict[str, Any]) -> None:
    page = welcome_page(client)
    assert "<h1>acme.example.com is ready</h1>" in page
    assert "clients/acme/data/site/" in page
    assert "@" not in page
