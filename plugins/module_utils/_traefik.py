# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Traefik's dynamic configuration of one client: typed in, one file out, compared and confirmed."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import canonical_domain, check_client_id
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError, spec_hash

HEADER = "# Made by agency_stack.multi_tenancy from the client registry; edits are lost at the next run.\n"

# The request header that tells a backend whose request it is.
IDENTITY = "X-Client-Id"

# Seconds after which visitors of a suspended client are asked to come again.
RETRY_AFTER = 3600


@dataclass(frozen=True)
class Route:
    """One service of a client, as the edge reaches it.

    Args:
        client_id: Whose it is.
        service: Name of the service.
        hostnames: Canonical host names, wildcards included.
        address: IPv4 address of the container; None for a suspended client, whose visitors are asked to come again.
        port: Its TCP port.
        subnet: The network that the address must lie in; None for the client's own.
    """

    client_id: str
    service: str
    hostnames: Sequence[str]
    address: str | None
    port: int
    subnet: str | None = None

    @property
    def name(self) -> str:
        """The name of router and service in Traefik; '.' is in no client id, so it is this client's alone."""
        return f"{self.client_id}.{self.service}"

    @property
    def rule(self) -> str:
        """Traefik's rule for exactly these host names."""
        return " || ".join(_matcher(hostname) for hostname in self.hostnames)

    @property
    def urls(self) -> list[str]:
        """The URL of the container; none for a suspended client, which Traefik answers with 503."""
        return [] if self.address is None else [f"http://{self.address}:{self.port}"]


@dataclass(frozen=True)
class ClientRoutes:
    """All that the edge holds for one client.

    Args:
        client_id: Whose it is.
        subnet: The client's own network; a backend outside is refused.
        routes: The services.
        certificate: PEM chain, or '' without.
        key: PEM, never shown.
        fingerprint: SHA-256 of the leaf certificate, hexadecimal.
        rate_average: Requests per second that the edge lets through; 0 for no limit.
        rate_burst: Requests that it lets through at once.
    """

    client_id: str
    subnet: str
    routes: Sequence[Route]
    certificate: str = ""
    key: str = ""
    fingerprint: str = ""
    rate_average: int = 0
    rate_burst: int = 0

    @property
    def middlewares(self) -> dict[str, Any]:
        """What every request passes, by name, in this order."""
        # Backends learn from the edge alone whose request it is; what a visitor sent under this name is overwritten.
        chain: dict[str, Any] = {"identity": {"headers": {"customRequestHeaders": {IDENTITY: self.client_id}}}}
        if self.rate_average:
            # The header that the one before has just set: all visitors of the client count together.
            source = {"requestHeaderName": IDENTITY}
            limit = {"average": self.rate_average, "burst": self.rate_burst, "sourceCriterion": source}
            chain["rate"] = {"rateLimit": limit}
        return {f"{self.client_id}.{name}": middleware for name, middleware in chain.items()}


def check_routes(client: ClientRoutes) -> None:
    """Refuse what must never reach Traefik, whoever made it.

    Raises:
        TenancyError: A name is not canonical, or a backend lies outside the client's own network.
    """
    check_client_id(client.client_id)
    for route in client.routes:
        network = ipaddress.IPv4Network(route.subnet or client.subnet)
        for hostname in route.hostnames:
            if canonical_domain(hostname) != hostname:
                raise TenancyError(f"The host name {hostname!a} is not in its canonical form.")
        if route.address is None:
            continue
        try:
            # The first address is the host's own.
            inside = network[1] < ipaddress.IPv4Address(route.address) < network.broadcast_address
        except ValueError:
            inside = False
        if not inside:
            raise TenancyError(f"The backend {route.address} of '{route.name}' lies outside its network {network}.")


def render(client: ClientRoutes) -> str:
    """The client's file: JSON, which is YAML, so that no value can ever be read as syntax.

    The certificate stands in it, so that route, certificate and key change in one rename, and Traefik reads a renewed
    certificate at once.
    """
    # A service without servers is answered with 503 by Traefik itself.
    paused = f"{client.client_id}.suspended"
    headers = {"Retry-After": str(RETRY_AFTER), "Cache-Control": "no-store"}
    document: dict[str, Any] = {
        "http": {
            "routers": {
                route.name: {
                    "entryPoints": ["websecure"],
                    "rule": route.rule,
                    "service": route.name,
                    "tls": {},
                    "middlewares": [paused] if route.address is None else list(client.middlewares),
                    # Traefik takes the longer rule first; a name of its own must win over the client's wildcard.
                    **({"priority": 1} if any(name.startswith("*.") for name in route.hostnames) else {}),
                }
                for route in client.routes
            },
            "services": {
                route.name: {"loadBalancer": {"servers": [{"url": url} for url in route.urls], "passHostHeader": True}}
                for route in client.routes
            },
        }
    }
    if any(route.address is None for route in client.routes):
        document["http"]["middlewares"] = {paused: {"headers": {"customResponseHeaders": headers}}}
    else:
        document["http"]["middlewares"] = client.middlewares
    if client.certificate:
        document["tls"] = {"certificates": [{"certFile": client.certificate, "keyFile": client.key}]}
    text = json.dumps(document, indent=2, sort_keys=True)
    if "{{" in text:
        # Traefik runs Go templates in these files.
        raise TenancyError(
            f"The routes of client '{client.client_id}' hold '{{{{', which Traefik would run as a template."
        )
    return HEADER + text + "\n"


def shown(text: str | None) -> Any:
    """A client's file as the diff shows it: the key left out, the certificate as a fingerprint."""
    if text is None:
        return None
    try:
        document = json.loads(text.removeprefix(HEADER))
        # Nothing is shown that is not known to be free of keys.
        seen: dict[str, Any] = {key: document[key] for key in ("http", "tcp") if key in document}
        if "tls" in document:
            seen["tls"] = [
                {"certFile": "sha256:" + spec_hash(certificate["certFile"]), "keyFile": "(not shown)"}
                for certificate in document["tls"]["certificates"]
            ]
    except (ValueError, TypeError, KeyError):
        return "(not a file of ours)\n"
    return seen


def routed_addresses(text: str | None) -> dict[str, list[str]]:
    """The addresses that a client's file leads to, by service; nothing of a file that is not ours."""
    try:
        document = json.loads((text or "").removeprefix(HEADER))
        # Beside a passthrough there are HTTP services that lead nowhere.
        services = document["tcp" if "tcp" in document else "http"]["services"]
        return {
            name.partition(".")[2]: [
                (server.get("url") or server["address"]).removeprefix("http://").rpartition(":")[0]
                for server in service["loadBalancer"]["servers"]
            ]
            for name, service in services.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def plan_routes(
    wanted: Sequence[ClientRoutes],
    actual: Mapping[str, str],
    gone: Sequence[str] = (),
    force: bool = False,
    kind: str = "route",
    as_file: Callable[[ClientRoutes], str] = render,
) -> list[Change]:
    """Compare the wanted files with those that are there.

    Args:
        wanted: Clients with routes.
        actual: Text of the present files by client id.
        gone: Clients that must have no file.
        force: Whether files that are as wanted are written again.
        kind: Which file it is, for the report.
        as_file: What makes the text of the file.
    """
    changes = []
    for client in wanted:
        text = as_file(client)
        before = actual.get(client.client_id)
        if force or text != before:
            changes.append(
                Change(
                    action="create" if before is None else "update",
                    kind=kind,
                    name=client.client_id,
                    before=shown(before),
                    after=shown(text),
                    client_id=client.client_id,
                    payload=(client, text),
                )
            )
    changes += [
        Change(action="delete", kind=kind, name=name, before=shown(actual[name]), client_id=name)
        for name in gone
        if name in actual
    ]
    return changes


def faults_of_live(
    client: ClientRoutes, routers: Mapping[str, Mapping[str, Any]], services: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """How what Traefik serves differs from what is wanted; empty when it is exactly that.

    Args:
        client: What is wanted.
        routers: Traefik's HTTP routers by name (`x@file`), as its API gives them.
        services: Likewise its HTTP services.
    """
    faults = []
    for route in client.routes:
        router = routers.get(f"{route.name}@file")
        service = services.get(f"{route.name}@file")
        if router is None or service is None:
            faults.append(f"the route {route.name} is not there yet")
            continue
        if router.get("rule") != route.rule or router.get("service") != route.name:
            faults.append(f"the route {route.name} still has the rule {router.get('rule')}")
        if route.address is not None:
            # Traefik tells where each is from: x@file.
            passed = [name.partition("@")[0] for name in router.get("middlewares", [])]
            if passed != list(client.middlewares):
                faults.append(f"the route {route.name} still passes {', '.join(passed) or 'no middleware'}")
        if router.get("status") != "enabled":
            faults.append(f"the route {route.name} is {router.get('status')}: {'; '.join(router.get('error', []))}")
        urls = [server.get("url") for server in service.get("loadBalancer", {}).get("servers", [])]
        if urls != route.urls:
            faults.append(f"the route {route.name} still leads to {', '.join(map(str, urls)) or 'nothing'}")
    return faults


def _matcher(hostname: str) -> str:
    if hostname.startswith("*."):
        return "HostRegexp(`^[a-z0-9-]+" + ("." + hostname[2:]).replace(".", r"\.") + "$`)"
    return f"Host(`{hostname}`)"
