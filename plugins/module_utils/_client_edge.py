# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hard client's own Traefik: its configuration, its container, and what the shared edge holds in its place.

The shared edge reads the name in a visitor's TLS greeting and hands the connection on unopened, with the visitor's
address in front of it (PROXY protocol). Certificate, key and routes are in the own Traefik alone; its file of routes is
the one that _traefik.render() makes of the client's internal network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._bridges import internal_network, network
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._catalog import parse_size
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._edge import EDGE_HOME
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import (
    LABEL_CLIENT,
    LABEL_LEVEL,
    LABEL_PLATFORM,
    LABEL_SERVICE,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import spec_hash
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import hostnames
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack import ContainerSpec
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._storage import Directory
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._traefik import HEADER, ClientRoutes, Route

# The name of the service, which no service of the catalog may have.
SERVICE = "traefik"

# Ports in the container, all of them such that a user without any capability can bind them.
HTTPS_PORT = 8443
HTTP_PORT = 8080
API_PORT = 8081
PING_PORT = 8082

# 64m are enough at rest (about 15 MiB), but 200 connections at once would end it; with these it bears 1000.
MEM_LIMIT = "128m"

_HOST = re.compile(r"\bHost\(`([^`]*)`\)")


def static_config(client: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """traefik.yml of a client's own Traefik: JSON, which is YAML."""
    # What a visitor sends as X_Forwarded_For must not reach backends that read it as X-Forwarded-For.
    aliases = {"aliasHeadersStrategy": "delete"}
    document = {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "log": {"level": "WARN", "noColor": True, "format": "common"},
        "accessLog": {"format": "json"},
        "api": {"dashboard": False},
        "ping": {"entryPoint": "ping"},
        "entryPoints": {
            "ping": {"address": f"127.0.0.1:{PING_PORT}", "http": aliases},
            "api": {"address": f":{API_PORT}", "http": aliases},
            "web": {"address": f":{HTTP_PORT}", "http": aliases},
            "websecure": {
                "address": f":{HTTPS_PORT}",
                "http": aliases,
                # The shared edge is in the host's network, so it comes from the host's address on the client's bridge.
                # Whoever else says PROXY is taken for what he is. Other clients' packets, which Docker would
                # masquerade with this very address, are kept away by the firewall.
                "proxyProtocol": {"trustedIPs": [network(client, config).gateway]},
            },
        },
        "providers": {"file": {"directory": f"{EDGE_HOME}/dynamic", "watch": True}},
    }
    return HEADER + json.dumps(document, indent=2) + "\n"


def platform_config(client: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The file beside the client's routes: how the platform asks what is served, and the TLS of all names.

    Only the API says which rule leads to which address; a handshake shows the certificate alone, and a request tells a
    wrong route from a broken service only where the platform put a mark into every answer. The API on the loopback
    interface could be asked from inside the container alone, where nothing is that asks. So it listens beside the
    routes and answers the host's address on the front network only. No container can have that address: it has neither
    the capability to set one nor a route from elsewhere. It never shows a key.
    """
    name = f"{client['client_id']}.{SERVICE}"
    rule = f"ClientIP(`{network(client, config).gateway}`)"
    document = {
        "http": {"routers": {name: {"entryPoints": ["api"], "rule": rule, "service": "api@internal"}}},
        "tls": {"options": {"default": {"minVersion": "VersionTLS12"}}},
    }
    return HEADER + json.dumps(document, indent=2) + "\n"


def container(client: Mapping[str, Any], config: Mapping[str, Any], layout: Layout) -> ContainerSpec:
    """The container of a client's own Traefik, also of a suspended client: it is what answers 503."""
    front, inner = network(client, config), internal_network(client, config)
    mem_limit = parse_size(MEM_LIMIT)
    probe = ["/usr/local/bin/traefik", "healthcheck", f"--configFile={EDGE_HOME}/traefik.yml"]
    return ContainerSpec(
        name=f"{front.name}.{SERVICE}",
        client_id=client["client_id"],
        service=SERVICE,
        image=config["edge"]["image"],
        network=front.name,
        subnet=front.subnet,
        networks=[(inner.name, inner.subnet)],
        labels={
            LABEL_PLATFORM: config["name_prefix"],
            LABEL_CLIENT: client["client_id"],
            LABEL_LEVEL: client["isolation_level"],
            LABEL_SERVICE: SERVICE,
            # Traefik reads this file only when it starts, so a change of it is a change of the container.
            "agency_stack.static_config": spec_hash(static_config(client, config)),
        },
        user=f"{client['uid']}:{client['gid']}",
        command=[f"--configFile={EDGE_HOME}/traefik.yml"],
        # Go lets its garbage double the memory unless it is told how much there is; some of it is not Go's.
        environment={"GOMEMLIMIT": str(mem_limit * 13 // 16)},
        binds=[{"source": layout.client(client["client_id"], SERVICE), "target": EDGE_HOME, "read_only": True}],
        mem_limit=mem_limit,
        pids_limit=64,
        healthcheck={
            "test": ["CMD", *probe],
            "interval": 30 * 10**9,
            "timeout": 5 * 10**9,
            "retries": 3,
            "start_period": 30 * 10**9,
        },
        # Two of them can serve at once: the shared edge moves from the one to the other.
        start_first=True,
    )


def directories(client: Mapping[str, Any], layout: Layout) -> list[Directory]:
    """The directories of a client's own Traefik, parents first; it reads them by its group and cannot write."""
    home = layout.client(client["client_id"], SERVICE)
    return [Directory(path, 0o750, 0, client["gid"]) for path in (home, f"{home}/dynamic")]


def front_routes(
    client: Mapping[str, Any], config: Mapping[str, Any], address: str, fingerprint: str = ""
) -> ClientRoutes:
    """What the shared edge holds for a hard client: all its names, which lead to its own Traefik.

    Args:
        client: Its registry entry.
        config: The platform's settings.
        address: The address of its Traefik on its front network.
        fingerprint: Of the certificate that its Traefik serves.
    """
    client_id = client["client_id"]
    route = Route(client_id, SERVICE, hostnames(client, config), address, HTTPS_PORT)
    return ClientRoutes(client_id, client["subnet"], [route], fingerprint=fingerprint)


def passthrough(client: ClientRoutes, http_01: bool = False) -> str:
    """The shared edge's file of a hard client, out of its front_routes(); it never holds a certificate or a key.

    Args:
        client: What the shared edge holds for it.
        http_01: Whether ACME's http-01 challenges are handed to the client's own Traefik as well. The shared edge's
            redirection to HTTPS needs a priority below that of the route then.
    """
    [route] = client.routes
    name = route.name
    balancer = {"servers": [{"address": server} for server in _servers(route)], "serversTransport": name}
    router = {"entryPoints": ["websecure"], "rule": _sni_rule(route), "service": name, "tls": {"passthrough": True}}
    document: dict[str, Any] = {
        "tcp": {
            "routers": {name: router},
            "services": {name: {"loadBalancer": balancer}},
            "serversTransports": {name: {"proxyProtocol": {"version": 2}}},
        },
        "http": {
            "routers": _http_routers(route, http_01),
            # A service without servers is answered with 503 by Traefik itself.
            "services": {name: {"loadBalancer": {"servers": []}}},
            "middlewares": {name: {"errors": {"status": ["503"], "statusRewrites": {"503": 421}, "service": name}}},
        },
    }
    if http_01:
        urls = [{"url": f"http://{route.address}:{HTTP_PORT}"}]
        document["http"]["services"][f"{name}.http-01"] = {"loadBalancer": {"servers": urls}}
    return HEADER + json.dumps(document, indent=2, sort_keys=True) + "\n"


def transition(before: str, after: str) -> str | None:
    """The shared edge's file between a client's routes of its own and the passthrough.

    New connections are passed through already, while what comes on those that the edge has just opened itself still
    goes where it went: with the passthrough alone, a request whose greeting came before it would be sent away.

    Args:
        before: The present file.
        after: What passthrough() says.

    Returns:
        The text; None when the present file has no such routes.
    """
    try:
        document = json.loads(before.removeprefix(HEADER))
        for router in [] if "tcp" in document else document["http"]["routers"].values():
            # See _http_routers(): a router that names hosts would go before the passthrough.
            router["rule"] = _HOST.sub(lambda match: f"HostRegexp(`{_pattern(match[1])}`)", router["rule"])
        if "tcp" in document:
            return None
        document["tcp"] = json.loads(after.removeprefix(HEADER))["tcp"]
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return HEADER + json.dumps(document, indent=2, sort_keys=True) + "\n"


def faults_of_passthrough(
    client: ClientRoutes,
    routers: Mapping[str, Mapping[str, Any]],
    services: Mapping[str, Mapping[str, Any]],
    http_routers: Mapping[str, Mapping[str, Any]],
    http_01: bool = False,
) -> list[str]:
    """How what the shared edge serves for a hard client differs from what is wanted; empty when it is exactly that.

    Args:
        client: What is wanted.
        routers: The edge's TCP routers by name (`x@file`), as its API gives them.
        services: Likewise its TCP services.
        http_routers: Likewise its HTTP routers. One that is left of an earlier level goes before the passthrough.
        http_01: As for passthrough().
    """
    [route] = client.routes
    name = route.name
    router, service = routers.get(f"{name}@file"), services.get(f"{name}@file")
    if router is None or service is None:
        return [f"the passthrough {name} is not there yet"]
    faults = []
    if router.get("rule") != _sni_rule(route) or router.get("service") != name:
        faults.append(f"the passthrough {name} still has the rule {router.get('rule')}")
    if (router.get("tls") or {}).get("passthrough") is not True:
        faults.append(f"the passthrough {name} ends TLS at the shared edge")
    if router.get("status") != "enabled":
        faults.append(f"the passthrough {name} is {router.get('status')}: {'; '.join(router.get('error', []))}")
    balancer = service.get("loadBalancer") or {}
    servers = [server.get("address") for server in balancer.get("servers", [])]
    if servers != _servers(route):
        faults.append(f"the passthrough {name} still leads to {', '.join(map(str, servers)) or 'nothing'}")
    if balancer.get("serversTransport") != f"{name}@file":
        faults.append(f"the passthrough {name} does not tell who the visitor is")
    wanted = {f"{key}@file": value for key, value in _http_routers(route, http_01).items()}
    present = {key: value for key, value in http_routers.items() if key.startswith(f"{client.client_id}.")}
    for key in sorted(wanted.keys() | present.keys()):
        if key not in wanted:
            faults.append(f"the route {key} of an earlier level is still there")
        elif key not in present:
            faults.append(f"the route {key} is not there yet")
        elif (present[key].get("rule"), present[key].get("status")) != (wanted[key]["rule"], "enabled"):
            faults.append(f"the route {key} is {present[key].get('status')} with the rule {present[key].get('rule')}")
    return faults


def _servers(route: Route) -> list[str]:
    return [] if route.address is None else [f"{route.address}:{route.port}"]


def _sni_rule(route: Route) -> str:
    """The route's rule for the name in the TLS greeting; host names are lower case, so this is the matchers' alone."""
    return route.rule.replace("Host", "HostSNI")


def _http_routers(route: Route, http_01: bool) -> dict[str, dict[str, Any]]:
    """The HTTP routers beside a passthrough, by name.

    A request for the client may come on a connection that the edge has opened itself: one that a visitor keeps from
    before the client became hard, or one to another client. It is answered with 421, at which browsers ask again on a
    new connection.
    """
    name = route.name
    routers: dict[str, dict[str, Any]] = {
        name: {
            "entryPoints": ["websecure"],
            # Not with Host(): Traefik lets a router that names hosts go before every passthrough of these names.
            "rule": " || ".join(f"HostRegexp(`{_pattern(hostname)}`)" for hostname in route.hostnames),
            "service": name,
            "middlewares": [name],
            "tls": {},
        }
    }
    if http_01:
        routers[f"{name}.http-01"] = {
            "entryPoints": ["web"],
            "rule": f"({route.rule}) && PathPrefix(`/.well-known/acme-challenge/`)",
            "service": f"{name}.http-01",
        }
    return routers


def _pattern(hostname: str) -> str:
    labels = hostname.replace(".", r"\.")
    return "^" + labels.replace("*", "[a-z0-9-]+", 1) + "$"
