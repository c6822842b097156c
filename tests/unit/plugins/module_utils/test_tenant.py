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
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._bridges import (
    bridge_name,
    firewall_networks,
    internal_network,
    network,
    networks,
    shared_network,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import empty_document, plan_registry
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._tenant import (
    client_secrets,
    containers,
    directories,
    effective_text,
    rate_limit,
    routes,
    shared_container,
    shared_directories,
    shared_folders,
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
        "cgroup_parent": None,
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
    specs = [network(client, config) for client in clients]
    for key in ("name", "bridge", "subnet", "gateway"):
        assert len({getattr(spec, key) for spec in specs}) == len(clients)
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
        ("deny", ["203.0.113.7/32:443/tcp"]),
    ),
    ("by another level", {"hard": {"egress": "deny"}}, {}, ("allow", [])),
    ("by the client", {}, {"egress": "deny", "egress_allow": ["203.0.113.7:25"]}, ("deny", ["203.0.113.7/32:25/tcp"])),
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
    document = {"clients": [client | own, client | {"state": "absent"}]}
    (found,) = firewall_networks(document, config | settings)
    assert (found["bridge"], found["subnet"]) == (bridge_name(client, config), client["subnet"])
    assert (found["egress"], found["egress_allow"]) == expected


# ---------------------------------------------------------------- levels

LEVEL_CONFIG = effective_config(
    [
        (
            "config.yaml",
            {
                "services": {
                    "db": {"image": "db:1", "secrets": ["db.pw"], "mem_limit": "2g", "cpus": 4.0},
                    "web": {"image": "web:1", "depends_on": ["db"], "secrets": ["db.pw", "api"], "port": 80},
                    "file": {
                        "image": "file:1",
                        "volumes": ["one:/one", "two:/two:ro"],
                        "shared": {"volumes": ["files:/all:ro"], "command": ["--all"], "mem_limit": "512m"},
                    },
                    "plain": {"image": "plain:1", "shared": {}},
                }
            },
        )
    ]
)
HARD = {"client_id": "h", "isolation_level": "hard", "services": {"web": {}, "db": {}}}
SOFT = {"client_id": "s", "isolation_level": "soft", "services": {"site": {}, "file": {}, "plain": {}}}
MEDIUM = {"client_id": "m", "services": {"site": {}, "file": {}}}


@pytest.fixture
def document() -> dict[str, Any]:
    """A registry with a client of each level."""
    made: dict[str, Any] = plan_registry(empty_document(), [HARD, MEDIUM, SOFT], LEVEL_CONFIG)[0]
    return made


@pytest.fixture
def hard(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["clients"][0]
    return found


@pytest.fixture
def soft(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["clients"][2]
    return found


# Settings and entry of a hard client -> whether its services are on the bridge that leads out.
WAYS_OUT: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "by default none": ({}, {}, False),
    "denied with exceptions": ({}, {"egress_allow": ["203.0.113.7/32:443/tcp"]}, True),
    "exceptions of the level": ({"hard": {"egress_allow": ["203.0.113.7/32:443/tcp"]}}, {}, True),
    "its own lack of exceptions": ({"hard": {"egress_allow": ["203.0.113.7/32:443/tcp"]}}, {"egress_allow": []}, False),
    "allowed": ({}, {"egress": "allow"}, True),
}


@pytest.mark.parametrize(("settings", "own", "leads_out"), WAYS_OUT.values(), ids=WAYS_OUT)
def test_a_hard_clients_services_are_inside_behind_its_own_traefik(
    hard: dict[str, Any], settings: dict[str, Any], own: dict[str, Any], leads_out: bool
) -> None:
    config = LEVEL_CONFIG | {key: LEVEL_CONFIG[key] | value for key, value in settings.items()}
    specs = containers(hard | own, config, LAYOUT, "/agency_stack/mt-h")
    # Its own Traefik first, then each service after those that it needs.
    assert [spec.name for spec in specs] == ["mt-h.traefik", "mt-h.db", "mt-h.web"]
    front, inner = ("mt-h", hard["subnet"]), ("mt-h.internal", hard["internal_subnet"])
    assert ((specs[0].network, specs[0].subnet), list(specs[0].networks)) == (front, [inner])
    for spec in specs[1:]:
        assert ((spec.network, spec.subnet), list(spec.networks)) == (inner, [front] if leads_out else [])
    assert {spec.cgroup_parent for spec in specs} == {"/agency_stack/mt-h"}
    assert {spec.labels["agency_stack.isolation_level"] for spec in specs} == {"hard"}


def test_no_limit_of_a_hard_client_is_above_its_total(hard: dict[str, Any]) -> None:
    total = {"resources": {"memory": "300m", "cpus": 0.75}}
    limits = {
        spec.service: (spec.mem_limit // 1024**2, spec.nano_cpus)
        for spec in containers(hard | total, LEVEL_CONFIG, LAYOUT)
    }
    # The database asks for more, and its own Traefik has no limit of CPUs.
    assert limits == {"traefik": (128, 75 * 10**7), "db": (300, 75 * 10**7), "web": (256, 75 * 10**7)}


# Level, state -> containers.
RUNNING = [
    ("hard", "present", ["mt-h.traefik", "mt-h.db", "mt-h.web"]),
    ("hard", "suspended", ["mt-h.traefik"]),
    ("hard", "absent", []),
    ("medium", "present", ["mt-h.db", "mt-h.web"]),
    ("medium", "suspended", []),
]


@pytest.mark.parametrize(("level", "state", "names"), RUNNING)
def test_level_and_state_say_which_containers_there_are(
    hard: dict[str, Any], level: str, state: str, names: list[str]
) -> None:
    client = hard | {"isolation_level": level, "state": state}
    assert [spec.name for spec in containers(client, LEVEL_CONFIG, LAYOUT, "parent")] == names


@pytest.mark.parametrize("state", ["present", "suspended", "absent"])
def test_a_soft_client_has_neither_containers_nor_networks_nor_secrets(soft: dict[str, Any], state: str) -> None:
    client = soft | {"state": state}
    assert containers(client, LEVEL_CONFIG, LAYOUT) == []
    assert networks(client, LEVEL_CONFIG) == []
    assert client_secrets(client, LEVEL_CONFIG, LAYOUT) == []
    assert [route["service"] for route in routes(client, LEVEL_CONFIG)] == ([] if state == "absent" else ["site"])
    data = [directory.path for directory in directories(client, LEVEL_CONFIG, LAYOUT) if "/data/" in directory.path]
    assert data == []


def test_one_container_serves_all_soft_clients(document: dict[str, Any]) -> None:
    specs = {item["service"]: shared_container(item, LEVEL_CONFIG, LAYOUT) for item in document["shared"]}
    items = {item["service"]: item for item in document["shared"]}
    assert set(specs) == {"site", "file", "plain"}
    spec, item = specs["file"], items["file"]
    assert (spec.name, spec.client_id, spec.network) == ("mt-shared.file", "shared.file", "mt-shared.file")
    assert (spec.subnet, spec.user) == (item["subnet"], f"{item['uid']}:{item['gid']}")
    assert (spec.command, spec.mem_limit) == (["--all"], 512 * 1024**2)
    assert spec.binds == [{"source": "/srv/root/multi_tenancy/shared/file", "target": "/all", "read_only": True}]
    assert spec.labels == {
        "agency_stack.platform": "mt",
        "agency_stack.component": "shared",
        "agency_stack.service": "file",
    }
    assert specs["plain"].binds == []
    assert specs["site"].command == ["-c", "/etc/nginx/shared.conf"]
    inside = shared_network(item, LEVEL_CONFIG)
    assert (inside.name, inside.bridge, inside.internal) == ("mt-shared.file", f"mt-{item['index']}", False)


def test_the_shared_container_does_not_depend_on_its_clients(document: dict[str, Any]) -> None:
    more = plan_registry(document, [SOFT | {"client_id": "t"}], LEVEL_CONFIG)[0]
    for one, other in zip(document["shared"], more["shared"], strict=True):
        assert shared_container(one, LEVEL_CONFIG, LAYOUT).hash == shared_container(other, LEVEL_CONFIG, LAYOUT).hash


# Level, state -> folder of the client by service: where it lies with the client, and whether it is to be shared.
FOLDERS: list[tuple[str, str, dict[str, tuple[str, bool]]]] = [
    ("soft", "present", {"file": ("files", True), "site": ("site", True)}),
    ("soft", "suspended", {"file": ("files", True), "site": ("site", True)}),
    ("soft", "absent", {"file": ("files", False), "site": ("site", False), "plain": ("plain", False)}),
    ("medium", "present", {"file": ("files", False), "site": ("site", False), "plain": ("plain", False)}),
    ("hard", "present", {"file": ("files", False), "site": ("site", False), "plain": ("plain", False)}),
]


@pytest.mark.parametrize(("level", "state", "expected"), FOLDERS)
def test_folders_lie_with_the_instance_that_serves_them(
    document: dict[str, Any],
    soft: dict[str, Any],
    level: str,
    state: str,
    expected: dict[str, tuple[str, bool]],
) -> None:
    client = soft | {"isolation_level": level, "state": state, "internal_subnet": "10.217.9.0/28"}
    gids = {item["service"]: item["gid"] for item in document["shared"]}
    found = {}
    for folder in shared_folders(client, LEVEL_CONFIG, LAYOUT, document["shared"]):
        service = folder.shared.split("/")[-2]
        assert folder.shared == f"/srv/root/multi_tenancy/shared/{service}/s"
        assert (folder.uid, folder.own_gid, folder.shared_gid) == (soft["uid"], soft["gid"], gids[service])
        found[service] = (folder.own.removeprefix("/srv/root/clients/s/data/"), folder.to_shared)
    assert found == expected


def test_a_folder_of_what_the_catalog_has_lost_comes_back(document: dict[str, Any], soft: dict[str, Any]) -> None:
    client = soft | {"isolation_level": "medium", "services": {}}
    found = shared_folders(client, LEVEL_CONFIG | {"services": {}}, LAYOUT, document["shared"])
    assert sorted(folder.own.rpartition("/")[2] for folder in found) == ["file", "plain", "site"]


def test_nobody_may_list_what_a_shared_instance_serves(document: dict[str, Any]) -> None:
    wanted = shared_directories(document["shared"], LAYOUT)
    base = "/srv/root/multi_tenancy/shared"
    assert wanted[0].path == base
    assert {directory.path for directory in wanted[1:]} == {f"{base}/{name}" for name in ("site", "file", "plain")}
    assert {(directory.mode, directory.uid, directory.gid) for directory in wanted} == {(0o711, 0, 0)}
    assert shared_directories([], LAYOUT) == []


def test_a_clients_secrets_are_mounted_where_they_are_read_and_nowhere_else(hard: dict[str, Any]) -> None:
    secrets = client_secrets(hard, LEVEL_CONFIG, LAYOUT)
    assert [(secret.path, secret.gid) for secret in secrets] == [
        ("/srv/root/clients/h/secrets/api", hard["gid"]),
        ("/srv/root/clients/h/secrets/db.pw", hard["gid"]),
    ]
    binds = {
        spec.service: [
            (bind["source"], bind["target"], bind["read_only"]) for bind in spec.binds if "secrets" in bind["source"]
        ]
        for spec in containers(hard, LEVEL_CONFIG, LAYOUT)
    }
    password = ("/srv/root/clients/h/secrets/db.pw", "/run/secrets/db.pw", True)
    assert binds == {
        "traefik": [],
        "db": [password],
        "web": [password, ("/srv/root/clients/h/secrets/api", "/run/secrets/api", True)],
    }


def test_the_firewall_knows_the_networks_of_every_level(
    document: dict[str, Any], hard: dict[str, Any], soft: dict[str, Any]
) -> None:
    hard |= {"egress_allow": ["203.0.113.7:443"]}
    found = {item["bridge"]: item for item in firewall_networks(document, LEVEL_CONFIG)}
    [medium] = [client for client in document["clients"] if client["client_id"] == "m"]
    deny = {"egress": "deny", "egress_allow": []}
    expected = {
        bridge_name(hard, LEVEL_CONFIG): deny | {"subnet": hard["subnet"], "egress_allow": ["203.0.113.7/32:443/tcp"]},
        # Nothing that is allowed leads out of the second network.
        f"{bridge_name(hard, LEVEL_CONFIG)}i": deny | {"subnet": hard["internal_subnet"]},
        bridge_name(medium, LEVEL_CONFIG): {"subnet": medium["subnet"], "egress": "allow", "egress_allow": []},
        # What it may have had before it was soft serves it until the routes are moved.
        bridge_name(soft, LEVEL_CONFIG): deny | {"subnet": soft["subnet"]},
        **{
            bridge_name(item, LEVEL_CONFIG): {"subnet": item["subnet"], "egress": "allow", "egress_allow": []}
            for item in document["shared"]
        },
    }
    assert found == {bridge: item | {"bridge": bridge} for bridge, item in expected.items()}
    hard["isolation_level"] = "medium"
    inner = expected[f"{bridge_name(hard, LEVEL_CONFIG)}i"]
    assert inner | {"bridge": f"{bridge_name(hard, LEVEL_CONFIG)}i"} in firewall_networks(document, LEVEL_CONFIG)
    gone = {**document, "clients": [client | {"state": "absent"} for client in document["clients"]]}
    assert len(firewall_networks(gone, LEVEL_CONFIG)) == len(document["shared"])


def test_only_the_second_network_of_a_hard_client_is_internal(hard: dict[str, Any]) -> None:
    front, inner = networks(hard, LEVEL_CONFIG)
    assert (front, inner) == (network(hard, LEVEL_CONFIG), internal_network(hard, LEVEL_CONFIG))
    assert (front.internal, inner.internal) == (False, True)
    longest = hard | {"index": 2**21}
    assert len(networks(longest, LEVEL_CONFIG | {"name_prefix": "abcdef"})[1].bridge) <= 15


RATES = [
    ("soft", {}, (100, 200)),
    ("soft", {"rate_limit": {"average": 0, "burst": 0}}, (0, 0)),
    ("soft", {"rate_limit": {"average": 5, "burst": 9}}, (5, 9)),
    ("medium", {}, (0, 0)),
    ("medium", {"rate_limit": {"average": 5, "burst": 9}}, (5, 9)),
    ("hard", {}, (0, 0)),
]


@pytest.mark.parametrize(("level", "own", "expected"), RATES)
def test_requests_are_limited_by_the_client_or_its_level(
    client: dict[str, Any], config: dict[str, Any], level: str, own: dict[str, Any], expected: tuple[int, int]
) -> None:
    entry = client | own | {"isolation_level": level, "internal_subnet": "10.217.9.0/28"}
    assert rate_limit(entry, config) == expected
    shown = yaml.safe_load(effective_text(entry, config, LAYOUT))
    assert shown.get("rate_limit") == ({"average": expected[0], "burst": expected[1]} if expected[0] else None)
    assert ("egress" in shown) == (level != "soft")
    assert ("resources" in shown) == (level == "hard")


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
    assert (document["hostnames"], document["networks"][0]["subnet"]) == (["acme.example.com"], "10.217.0.0/28")
    assert "make update_client CLIENT_ID=acme" in text
    assert "scripts/update_client.sh --client-id acme" in text
    assert effective_text(json.loads(json.dumps(client)), config, LAYOUT) == text


def test_the_welcome_page_names_client_and_domain(client: dict[str, Any]) -> None:
    page = welcome_page(client)
    assert "<h1>acme.example.com is ready</h1>" in page
    assert "clients/acme/data/site/" in page
    assert "@" not in page
