# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of each isolation level, declared once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """What one isolation level means.

    Args:
        name: As in isolation_level.
        summary: One line for people.
        own_instances: Each client has its own container of every service, on a bridge of its own. Otherwise one
            instance of a service serves all clients of the level.
        own_edge: The client's own Traefik holds its certificate; the shared edge passes TLS through by SNI. Its other
            services are on a second, internal bridge.
        dedicated: The client's total of memory, CPUs and processes is capped, its data lies in a volume of a fixed
            size, and both are reserved.
        accepts: Settings of a client that this level knows; others are refused by name.
        mem_limit: Default memory limit of a service that names none, as Compose writes it.
        cpus: Default CPU limit of a service that names none, in CPUs.
        pids_limit: Default limit of processes of a service that names none.
    """

    name: str
    summary: str
    own_instances: bool
    own_edge: bool
    dedicated: bool
    accepts: tuple[str, ...]
    mem_limit: str = "256m"
    cpus: float = 1.0
    pids_limit: int = 256


# The settings of a client that not every level knows.
LEVEL_SETTINGS = ("egress", "egress_allow", "rate_limit", "resources")

LEVELS: dict[str, Level] = {
    level.name: level
    for level in (
        Level(
            "soft",
            "shared services, client-specific data directories",
            own_instances=False,
            own_edge=False,
            dedicated=False,
            accepts=("rate_limit",),
        ),
        Level(
            "medium",
            "shared infrastructure, separate service instances",
            own_instances=True,
            own_edge=False,
            dedicated=False,
            accepts=("egress", "egress_allow", "rate_limit"),
        ),
        Level(
            "hard",
            "a fully isolated stack with dedicated resources",
            own_instances=True,
            own_edge=True,
            dedicated=True,
            accepts=("egress", "egress_allow", "resources"),
        ),
    )
}


@dataclass(frozen=True)
class Guarantee:
    """One line of the contract.

    Args:
        what: What it is about.
        soft: What the level soft promises.
        medium: Likewise.
        hard: Likewise.
        enforced: What makes it so.
        tested: What the tests do to break it; each probe stands beside one that must succeed.
    """

    what: str
    soft: str
    medium: str
    hard: str
    enforced: str
    tested: str


GUARANTEES: tuple[Guarantee, ...] = (
    Guarantee(
        "services",
        "one shared instance of each service, which the catalog must allow (`shared`)",
        "an own instance of each",
        "an own stack with an own Traefik",
        "one container for each client and service; of soft one for each service",
        "containers and their ids while clients come, change and go",
    ),
    Guarantee(
        "whose request it is",
        "the edge alone says so (`X-Client-Id`); what a visitor sends is overwritten or removed",
        "the same",
        "own Traefik, reached by the name in the TLS greeting",
        "a middleware of the client's router; `aliasHeadersStrategy: delete`; the server takes one whole valid id only",
        "forged and doubled headers under every spelling, SNI and Host that disagree",
    ),
    Guarantee(
        "network",
        "the service's bridge, no container of the client's own",
        "own bridge",
        "own front bridge for its Traefik, own internal bridge for all else",
        "Docker networks; the nftables table `inet agency_stack` drops what passes from one bridge to another",
        "connections from a container's network namespace to neighbours, beside one to itself and one from the host",
    ),
    Guarantee(
        "reaches the host, ports that others published, cloud metadata",
        "no",
        "no",
        "no",
        "the same table, IPv4 and IPv6, whichever gateway is asked; packets for a bridge that is away go nowhere",
        "real listeners on gateway and host addresses, real published ports, a listener on 169.254.169.254",
    ),
    Guarantee(
        "way out to the internet",
        "the shared service's",
        "open, or closed but for a list (`egress`, `egress_allow`)",
        "closed, or closed but for a list",
        "sets of the same table",
        "an address outside, open and closed, beside another client's",
    ),
    Guarantee(
        "TLS",
        "at the edge, own certificate",
        "at the edge, own certificate",
        "in the client's own Traefik; the edge passes TLS through and never holds the key",
        "one generated file for each client; PROXY protocol from the host's address alone",
        "handshakes, keys searched in all files, a PROXY header from a neighbour",
    ),
    Guarantee(
        "files",
        "own folder of the client's own uid, served by one server that follows no link",
        "own folder, mounted into own containers only",
        "the same, in a volume of a fixed size",
        "modes and owners; `disable_symlinks`; an ext4 image whose blocks are allocated",
        "reads as another client's uid, links, `..` and races; a full disk beside a neighbour's write",
    ),
    Guarantee(
        "resources",
        "the shared instance's limits; requests per second of one client at the edge",
        "memory, CPUs and processes of each service; disk is not limited",
        "memory, CPUs and processes of all containers together, disk size; all of it reserved",
        "container limits; a rate limit; a cgroup parent; admission against what the host has",
        "429 beside another client's 200; the sum of two containers against its cap; refusals with numbers",
    ),
    Guarantee(
        "every container",
        "no capability that it does not declare, no new privileges, read-only root, process limit, log rotation",
        "the same, as the client's uid",
        "the same, as the client's uid",
        "the engine",
        "read from the engine and from /proc of the process",
    ),
)


def contract_table() -> str:
    """The contract as a table in Markdown, which docs/isolation.md holds."""
    head = ("", *LEVELS, "enforced by", "tested with")
    rows = [(row.what, row.soft, row.medium, row.hard, row.enforced, row.tested) for row in GUARANTEES]
    lines = [head, tuple("---" for dummy in head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n".replace("|  |", "| |", 1) for cells in lines)


def fault_of_level(name: object) -> str | None:
    """Why a level cannot be used, as one sentence; None when it can."""
    if isinstance(name, str) and name in LEVELS:
        return None
    return f"isolation_level {ascii(name)[:80]} is not allowed: use one of {', '.join(LEVELS)}."
