# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hard client's own Traefik: its files, its container, and its passthrough in the shared edge."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._client_edge import (
    HTTPS_PORT,
    container,
    directories,
    faults_of_passthrough,
    front_routes,
    passthrough,
    platform_config,
    static_config,
    transition,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._traefik import (
    HEADER,
    ClientRoutes,
    Route,
    check_routes,
    render,
)

LAYOUT = Layout("/srv/root", "/srv/log")

# Two names, of which one is a wildcard.
FRONT = ClientRoutes(
    "acme", "10.217.0.0/28", [Route("acme", "traefik", ["*.acme.example", "acme.example"], "10.217.0.2", HTTPS_PORT)]
)


@pytest.fixture
def client(client: dict[str, Any]) -> dict[str, Any]:
    return client | {"isolation_level": "hard", "internal_subnet": "10.217.0.96/28"}


# ---------------------------------------------------------------- the own Traefik


def test_only_the_hosts_address_is_trusted(client: dict[str, Any], config: dict[str, Any]) -> None:
    points = yaml.safe_load(static_config(client, config))["entryPoints"]
    assert client["subnet"] == "10.217.0.0/28"
    assert points["websecure"]["proxyProtocol"] == {"trustedIPs": ["10.217.0.1"]}
    assert [name for name, point in points.items() if "proxyProtocol" in point] == ["websecure"]
    assert not any("forwardedHeaders" in point for point in points.values())
    assert {point["http"]["aliasHeadersStrategy"] for point in points.values()} == {"delete"}
    [router] = yaml.safe_load(platform_config(client, config))["http"]["routers"].values()
    assert router == {"entryPoints": ["api"], "rule": "ClientIP(`10.217.0.1`)", "service": "api@internal"}


def test_it_needs_no_capability_and_reads_files_alone(client: dict[str, Any], config: dict[str, Any]) -> None:
    document = yaml.safe_load(static_config(client, config))
    ports = {name: point["address"].rpartition(":") for name, point in document["entryPoints"].items()}
    assert all(int(port) > 1024 for dummy, dummy_colon, port in ports.values())
    assert {name for name, (address, dummy, dummy_port) in ports.items() if address} == {"ping"}
    assert document["ping"] == {"entryPoint": "ping"}
    assert document["api"] == {"dashboard": False}
    assert set(document["providers"]) == {"file"}


def test_tls_is_no_older_than_1_2(client: dict[str, Any], config: dict[str, Any]) -> None:
    options = yaml.safe_load(platform_config(client, config))["tls"]["options"]
    assert options == {"default": {"minVersion": "VersionTLS12"}}


def test_the_container_is_closed_and_in_both_networks(client: dict[str, Any], config: dict[str, Any]) -> None:
    spec = container(client, config, LAYOUT)
    assert (spec.name, spec.service, spec.image) == ("mt-acme.traefik", "traefik", config["edge"]["image"])
    assert (spec.network, spec.subnet) == ("mt-acme", client["subnet"])
    assert spec.networks == [("mt-acme.internal", "10.217.0.96/28")]
    assert spec.user == f"{client['uid']}:{client['gid']}"
    assert (spec.read_only, spec.cap_add, spec.start_first) == (True, (), True)
    assert spec.binds == [{"source": "/srv/root/clients/acme/traefik", "target": "/etc/traefik", "read_only": True}]
    assert 0 < int(spec.environment["GOMEMLIMIT"]) < spec.mem_limit
    assert spec.labels["agency_stack.client_id"] == "acme"
    assert spec.labels["agency_stack.service"] == "traefik"


def test_a_suspended_client_keeps_the_same_container(client: dict[str, Any], config: dict[str, Any]) -> None:
    assert container(client | {"state": "suspended"}, config, LAYOUT).hash == container(client, config, LAYOUT).hash


def test_a_change_of_the_static_configuration_is_one_of_the_container(
    client: dict[str, Any], config: dict[str, Any]
) -> None:
    # The addresses of the network stand in the file alone.
    moved = container(client | {"subnet": "10.217.0.32/28"}, config, LAYOUT)
    same = replace(moved, subnet=client["subnet"])
    assert same.hash != container(client, config, LAYOUT).hash


def test_nobody_but_the_client_reads_its_directory(client: dict[str, Any]) -> None:
    wanted = directories(client, LAYOUT)
    assert [directory.path for directory in wanted] == [
        "/srv/root/clients/acme/traefik",
        "/srv/root/clients/acme/traefik/dynamic",
    ]
    assert {(directory.mode, directory.uid, directory.gid) for directory in wanted} == {(0o750, 0, client["gid"])}


# ---------------------------------------------------------------- the passthrough


def test_all_names_of_the_client_lead_to_its_own_traefik(client: dict[str, Any], config: dict[str, Any]) -> None:
    client["aliases"] = ["*.acme.example.org"]
    client["services"] = {"site": {}, "shop": {}}
    config["services"]["shop"] = config["services"]["site"] | {"subdomain": "shop"}
    front = front_routes(client, config, "10.217.0.2", "f1")
    check_routes(front)
    [route] = front.routes
    assert route.hostnames == ["*.acme.example.org", "acme.example.com", "shop.acme.example.com"]
    assert (route.address, route.port, front.fingerprint) == ("10.217.0.2", HTTPS_PORT, "f1")
    with pytest.raises(TenancyError, match=r"outside its network 10\.217\.0\.0/28"):
        check_routes(front_routes(client, config, "10.217.0.98"))


def test_the_passthrough_names_exactly_the_clients_hosts() -> None:
    tcp = yaml.safe_load(passthrough(FRONT))["tcp"]
    assert tcp["routers"] == {
        "acme.traefik": {
            "entryPoints": ["websecure"],
            "rule": r"HostSNIRegexp(`^[a-z0-9-]+\.acme\.example$`) || HostSNI(`acme.example`)",
            "service": "acme.traefik",
            "tls": {"passthrough": True},
        }
    }
    balancer = {"servers": [{"address": "10.217.0.2:8443"}], "serversTransport": "acme.traefik"}
    assert tcp["services"] == {"acme.traefik": {"loadBalancer": balancer}}
    assert tcp["serversTransports"] == {"acme.traefik": {"proxyProtocol": {"version": 2}}}


def test_requests_that_the_edge_opens_itself_are_sent_away() -> None:
    http = yaml.safe_load(passthrough(FRONT))["http"]
    [router] = http["routers"].values()
    assert router["rule"] == r"HostRegexp(`^[a-z0-9-]+\.acme\.example$`) || HostRegexp(`^acme\.example$`)"
    # The same pattern as in the routes of other levels.
    assert FRONT.routes[0].rule.split(" || ")[0] == router["rule"].split(" || ")[0]
    # A router that names hosts would go before the passthrough.
    assert "Host(" not in passthrough(FRONT)
    assert http["services"] == {"acme.traefik": {"loadBalancer": {"servers": []}}}
    [middleware] = http["middlewares"].values()
    assert middleware["errors"]["statusRewrites"] == {"503": 421}


def test_between_the_levels_new_connections_are_passed_through_and_present_ones_served() -> None:
    routes = [Route("acme", "site", ["acme.example", "*.acme.example"], "10.217.0.2", 8080)]
    before = render(ClientRoutes("acme", "10.217.0.0/28", routes, certificate="the certificate", key="the key"))
    front = ClientRoutes("acme", "10.217.0.0/28", [Route("acme", "traefik", ["acme.example"], "10.217.0.3", 8443)])
    after = passthrough(front)
    text = transition(before, after)
    assert text is not None
    old, new, between = (json.loads(each.removeprefix(HEADER)) for each in (before, after, text))
    assert between["tcp"] == new["tcp"]
    assert (between["tls"], between["http"]["services"]) == (old["tls"], old["http"]["services"])
    rule = between["http"]["routers"]["acme.site"].pop("rule")
    assert rule == r"HostRegexp(`^acme\.example$`) || HostRegexp(`^[a-z0-9-]+\.acme\.example$`)"
    old["http"]["routers"]["acme.site"].pop("rule")
    assert between["http"] == old["http"]
    # Done once; what a killed run left goes on to the passthrough.
    assert [transition(each, after) for each in (text, after, "", "{}", "[]", "x")] == [None] * 6


def test_challenges_of_acme_are_handed_on_only_when_they_are_wanted() -> None:
    assert "acme-challenge" not in passthrough(FRONT)
    http = yaml.safe_load(passthrough(FRONT, http_01=True))["http"]
    router = http["routers"]["acme.traefik.http-01"]
    assert router["entryPoints"] == ["web"]
    assert router["rule"] == f"({FRONT.routes[0].rule}) && PathPrefix(`/.well-known/acme-challenge/`)"
    assert http["services"][router["service"]]["loadBalancer"]["servers"] == [{"url": "http://10.217.0.2:8080"}]


def test_the_shared_edge_never_gets_the_key() -> None:
    told = passthrough(replace(FRONT, certificate="PUBLIC", key="TOPSECRET"), http_01=True)
    assert "TOPSECRET" not in told
    assert "PUBLIC" not in told
    assert told.startswith(HEADER)


# ---------------------------------------------------------------- what is served

WANTED = json.loads(passthrough(FRONT).removeprefix(HEADER))
ROUTER = WANTED["tcp"]["routers"]["acme.traefik"] | {"status": "enabled"}
BALANCER = WANTED["tcp"]["services"]["acme.traefik"]["loadBalancer"] | {"serversTransport": "acme.traefik@file"}
SERVICE = {"loadBalancer": BALANCER, "status": "enabled"}
AWAY = WANTED["http"]["routers"]["acme.traefik"] | {"status": "enabled"}
NAME = "acme.traefik@file"

LIVE: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None, dict[str, Any], str | None]] = {
    "as wanted": (ROUTER, SERVICE, {NAME: AWAY}, None),
    "others beside it": (ROUTER, SERVICE, {NAME: AWAY, "acme-2.site@file": {}, "b.site@file": {}}, None),
    "no router": (None, SERVICE, {NAME: AWAY}, "is not there yet"),
    "no service": (ROUTER, None, {NAME: AWAY}, "is not there yet"),
    "another rule": (ROUTER | {"rule": "HostSNI(`old`)"}, SERVICE, {NAME: AWAY}, "still has the rule HostSNI(`old`)"),
    "another service": (ROUTER | {"service": "b.traefik"}, SERVICE, {NAME: AWAY}, "still has the rule"),
    "TLS ends here": (ROUTER | {"tls": {"passthrough": False}}, SERVICE, {NAME: AWAY}, "ends TLS at the shared edge"),
    "no TLS": (ROUTER | {"tls": None}, SERVICE, {NAME: AWAY}, "ends TLS at the shared edge"),
    "disabled": (ROUTER | {"status": "disabled", "error": ["x", "y"]}, SERVICE, {NAME: AWAY}, "is disabled: x; y"),
    "another address": (
        ROUTER,
        {"loadBalancer": BALANCER | {"servers": [{"address": "10.217.0.3:8443"}]}},
        {NAME: AWAY},
        "still leads to 10.217.0.3:8443",
    ),
    "no address": (ROUTER, {"loadBalancer": BALANCER | {"servers": []}}, {NAME: AWAY}, "still leads to nothing"),
    "no visitor's address": (
        ROUTER,
        {"loadBalancer": {key: value for key, value in BALANCER.items() if key == "servers"}},
        {NAME: AWAY},
        "does not tell who the visitor is",
    ),
    "left of an earlier level": (
        ROUTER,
        SERVICE,
        {NAME: AWAY, "acme.site@file": {}},
        "the route acme.site@file of an earlier level is still there",
    ),
    "nothing sends away": (ROUTER, SERVICE, {}, "the route acme.traefik@file is not there yet"),
    "another is sent away": (ROUTER, SERVICE, {NAME: AWAY | {"rule": "x"}}, "is enabled with the rule x"),
    "sending away is disabled": (ROUTER, SERVICE, {NAME: AWAY | {"status": "disabled"}}, "is disabled with the rule"),
}


@pytest.mark.parametrize(("router", "service", "http", "fault"), LIVE.values(), ids=LIVE)
def test_what_is_served_is_compared(
    router: dict[str, Any] | None, service: dict[str, Any] | None, http: dict[str, Any], fault: str | None
) -> None:
    routers = {"b.traefik@file": ROUTER} | ({} if router is None else {NAME: router})
    services = {} if service is None else {NAME: service}
    faults = faults_of_passthrough(FRONT, routers, services, http)
    if fault is None:
        assert faults == []
    else:
        [told] = faults
        assert fault in told


def test_a_challenge_route_is_a_fault_only_where_it_is_not_wanted() -> None:
    routers = json.loads(passthrough(FRONT, http_01=True).removeprefix(HEADER))["http"]["routers"]
    http = {f"{name}@file": router | {"status": "enabled"} for name, router in routers.items()}
    assert faults_of_passthrough(FRONT, {NAME: ROUTER}, {NAME: SERVICE}, http, http_01=True) == []
    [fault] = faults_of_passthrough(FRONT, {NAME: ROUTER}, {NAME: SERVICE}, http)
    assert "acme.traefik.http-01@file" in fault
