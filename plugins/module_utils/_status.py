# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the platform looks like now, judged against its registry, and as a table for people."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack import (
    ContainerSpec,
    ContainerState,
    as_wanted,
)


@dataclass
class ClientStatus:
    """One client as it is.

    Args:
        client_id: The client's id.
        isolation_level: From the registry.
        domain: From the registry.
        state: From the registry.
        services: One entry for each wanted or running service: service, container, state, health.
        findings: What is wrong, each one sentence.
    """

    client_id: str
    isolation_level: str
    domain: str
    state: str
    services: list[dict[str, str]] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def client_status(
    client: Mapping[str, Any],
    wanted: Sequence[ContainerSpec],
    actual: Iterable[ContainerState],
    routed: Collection[str],
    addresses: Mapping[str, Sequence[str]],
) -> ClientStatus:
    """Compare one client with what runs.

    Args:
        client: Its registry entry.
        wanted: Its wanted containers.
        actual: Its containers, as the engine lists them.
        routed: Names of its services that the edge must route to.
        addresses: Where the edge leads to, by service.
    """
    status = ClientStatus(client["client_id"], client["isolation_level"], client["domain"], client["state"])
    by_service: dict[str, list[ContainerState]] = {}
    for state in actual:
        by_service.setdefault(state.service, []).append(state)
    for spec in wanted:
        states = by_service.pop(spec.service, [])
        fitting = as_wanted(spec, states)
        shown = next(iter(fitting or states), None)
        status.services.append(_row(spec.service, spec.name, shown))
        status.findings += _service_findings(spec, states, fitting)
        if fitting and spec.service in routed:
            status.findings += route_findings(spec, fitting[0], addresses)
    for service, states in sorted(by_service.items()):
        status.services += [_row(service, state.name, state) for state in states]
        status.findings += [f"container {state.name} is in no plan; a converge removes it" for state in states]
    if not set(routed) <= addresses.keys():
        status.findings.append("the edge has no route to it; a converge makes it")
    return status


def route_findings(spec: ContainerSpec, serving: ContainerState, addresses: Mapping[str, Sequence[str]]) -> list[str]:
    """What is wrong with the route to a container, if there is one.

    Args:
        spec: What is wanted.
        serving: The container that is as wanted.
        addresses: Where the edge leads to, by service.
    """
    own = serving.addresses.get(spec.network)
    if addresses.get(spec.service, [own]) == [own]:
        return []
    led = ", ".join(addresses[spec.service]) or "nothing"
    return [f"the edge leads '{spec.service}' to {led} instead of {own}; a converge mends it"]


def _row(service: str, name: str, state: ContainerState | None) -> dict[str, str]:
    return {
        "service": service,
        "container": name if state is None else state.name,
        "state": "missing" if state is None else state.state,
        "health": "" if state is None else state.health,
    }


def _service_findings(
    spec: ContainerSpec, states: Sequence[ContainerState], fitting: Sequence[ContainerState]
) -> list[str]:
    if not states:
        return [f"container {spec.name} is missing; a converge makes it"]
    if not fitting:
        return [f"container {states[0].name} is not as the registry wants it; a converge replaces it"]
    findings = []
    best = fitting[0]
    if best.state != "running":
        findings.append(f"container {best.name} is {best.state}; a converge starts it")
    elif best.health == "unhealthy":
        findings.append(f"container {best.name} is unhealthy; see its log, then restart it")
    findings += [f"container {s.name} is left over; a converge removes it" for s in states if s is not best]
    return findings


def health_word(services: Sequence[Mapping[str, str]]) -> str:
    """The health of all services of a client in one word: the worst."""
    words = [service["health"] or service["state"] for service in services]
    order = (
        "missing",
        "dead",
        "exited",
        "created",
        "paused",
        "restarting",
        "unhealthy",
        "starting",
        "running",
        "healthy",
    )
    return min(words, key=lambda word: order.index(word) if word in order else 0, default="-")


def as_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows in aligned columns."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def client_table(clients: Sequence[Mapping[str, Any]]) -> str:
    """The registry's clients in aligned columns."""
    if not clients:
        return "There are no clients.\n"
    rows = [
        (
            client["client_id"],
            client["isolation_level"],
            client["state"] + (" (protected)" if client.get("protected") else ""),
            client["subnet"],
            ",".join([client["domain"], *client["aliases"]]),
        )
        for client in clients
    ]
    return as_table(("CLIENT", "LEVEL", "STATE", "SUBNET", "DOMAIN"), rows) + "\n"


def report(platform: Mapping[str, str], clients: Sequence[ClientStatus], findings: Sequence[str]) -> str:
    """One screen: the platform, the clients, and what is wrong."""
    text = "".join(f"{key + ':':<10} {value}\n" for key, value in platform.items()) + "\n"
    if clients:
        text += as_table(
            ("CLIENT", "LEVEL", "STATE", "HEALTH", "SERVICES", "DOMAIN"),
            [
                (
                    client.client_id,
                    client.isolation_level,
                    client.state,
                    health_word(client.services),
                    ",".join(service["service"] for service in client.services) or "-",
                    client.domain,
                )
                for client in clients
            ],
        )
    else:
        text += "There are no clients."
    if findings:
        text += "\n\n" + "\n".join(f"! {finding}" for finding in findings)
    return text + "\n"
