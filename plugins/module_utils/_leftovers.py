# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is still there of clients that are gone: found by labels and names, never remembered."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import LABEL_CLIENT
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import (
    CLIENT_ID,
    RESERVED_CLIENT_IDS,
    printable,
    shown,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack import ContainerState
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._storage import closed_log

# In the order in which they can be removed.
_KINDS = ("container", "network", "volume", "route", "folder", "log folder")


@dataclass(frozen=True)
class Seen:
    """What there is on the host.

    Args:
        containers: The platform's containers.
        networks: Its networks, as the engine's API lists them.
        volumes: Its volumes, as the engine's API lists them.
        routes: Names of the files that the edge reads.
        folders: Names of the folders of clients that hold a configuration of ours; others are an operator's own.
        logs: What read_directory() saw of the folders of clients' logs, by name.
    """

    containers: Sequence[ContainerState] = ()
    networks: Sequence[Mapping[str, Any]] = ()
    volumes: Sequence[Mapping[str, Any]] = ()
    routes: Sequence[str] = ()
    folders: Sequence[str] = ()
    logs: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Leftover:
    """One thing that belongs to no client of the registry, or to one that is on its way out.

    Args:
        client_id: Whose it is; what a label says may be no client id.
        kind: container, network, volume, route, folder or log folder.
        name: The engine's name, or the path.
        command: What an operator types to be rid of it.
        known: Whether the registry knows the client.
    """

    client_id: str
    kind: str
    name: str
    command: str
    known: bool

    @property
    def sentence(self) -> str:
        """What is there, and what removes it."""
        legal = CLIENT_ID.fullmatch(self.client_id) is not None
        client_id, name = self.client_id if legal else shown(self.client_id), _one_line(self.name)
        cure = f"'{_one_line(self.command)}' {'puts it away' if self.kind == 'folder' else 'removes it'}"
        if not self.known:
            return f"{self.kind.capitalize()} {name} belongs to client {client_id}, who is not in the registry; {cure}."
        if self.kind == "volume":
            cure = f"no run deletes what it holds; {cure}"
        elif self.kind in ("container", "network"):
            cure = f"the next run tries again, or {cure}"
        else:
            cure = "the next run tries again"
        return f"Client {client_id}: {self.kind} {name} is still there; {cure}."

    def shown(self) -> dict[str, str]:
        """As the module returns it."""
        return {"client_id": self.client_id, "kind": self.kind, "name": self.name, "msg": self.sentence}


def find_leftovers(
    seen: Seen, clients: Iterable[Mapping[str, Any]], layout: Layout, client_ids: Iterable[str] | None = None
) -> list[Leftover]:
    """What belongs to no client of the registry, or to one in the state absent, sorted by client.

    Args:
        seen: What there is.
        clients: The registry's clients.
        layout: Where everything lies.
        client_ids: Whose leftovers are in question; None: everybody's.
    """
    registry = {client["client_id"]: client for client in clients}
    asked = None if client_ids is None else set(client_ids)
    found = [
        Leftover(client_id, kind, name, _command(client_id, kind, name, layout), client_id in registry)
        for client_id, kind, name in _belongings(seen, registry, layout)
        if (client_id not in registry or registry[client_id]["state"] == "absent")
        and (asked is None or client_id in asked)
    ]
    return sorted(found, key=lambda left: (left.client_id, _KINDS.index(left.kind), left.name))


def _belongings(
    seen: Seen, registry: Mapping[str, Mapping[str, Any]], layout: Layout
) -> Iterator[tuple[str, str, str]]:
    """(client id, kind, name) of everything that belongs to some client."""
    engine = [
        *((state.client_id, "container", state.name) for state in seen.containers),
        *((_owner(network), "network", network["Name"]) for network in seen.networks),
        *((_owner(volume), "volume", volume["Name"]) for volume in seen.volumes),
    ]
    owned = [(client_id, kind, name) for client_id, kind, name in engine if client_id is not None]
    for name in seen.routes:
        client_id = name.removesuffix(".yml")
        if client_id != name and _may_be_client(client_id):
            owned.append((client_id, "route", layout.base("traefik", "dynamic", name)))
    owned += [(name, "folder", layout.client(name)) for name in seen.folders if _may_be_client(name)]
    yield from owned
    # Others write logs there as well, so that a folder alone does not make a client.
    owners = registry.keys() | {client_id for client_id, _kind, _name in owned}
    for name, log in seen.logs.items():
        closed = log == closed_log("").shown()
        purged = registry.get(name, {}).get("removal") == "purge"
        if log is not None and name in owners and (purged or not closed):
            yield name, "log folder", layout.client_log(name)


def _one_line(text: str) -> str:
    """A text for the operator's terminal, on one line."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def _owner(thing: Mapping[str, Any]) -> str | None:
    """The client whose label a network or a volume carries."""
    owner: str | None = (thing.get("Labels") or {}).get(LABEL_CLIENT)
    return owner


def _may_be_client(name: str) -> bool:
    """Whether a file of this name can be a client's."""
    return CLIENT_ID.fullmatch(name) is not None and name not in RESERVED_CLIENT_IDS


def _command(client_id: str, kind: str, name: str, layout: Layout) -> str:
    """What an operator types to be rid of something."""
    name, removed = shlex.quote(name), shlex.quote(layout.base("removed"))
    if kind == "folder":
        # Its data may be all that is left of a client: it becomes a kept folder, which can be brought back.
        return f"mkdir -p -m 700 {removed} && mv -nT {name} {removed}/{client_id}-$(date -u +%Y%m%dT%H%M%S)"
    return {
        "container": f"docker rm -f {name}",
        "network": f"docker network rm {name}",
        "volume": f"docker volume rm {name}",
        "route": f"rm {name}",
        "log folder": f"rm -r {name}",
    }[kind]
