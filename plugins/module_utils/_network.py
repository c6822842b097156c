# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The networks of clients: what is wanted, what the engine has, and the difference."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._contract import LEVELS
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import (
    LABEL_CLIENT,
    LABEL_LEVEL,
    LABEL_PLATFORM,
    LABEL_SPEC,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, spec_hash

_BRIDGE_NAME = "com.docker.network.bridge.name"


@dataclass(frozen=True)
class NetworkSpec:
    """One bridge network.

    Args:
        name: The engine's name of it.
        client_id: Whose it is.
        bridge: Name of the bridge on the host, at most 15 characters.
        subnet: IPv4 network.
        gateway: The host's address on it.
        internal: Whether it has no way out.
        labels: Without the hash, which is added.
    """

    name: str
    client_id: str
    bridge: str
    subnet: str
    gateway: str
    internal: bool
    labels: Mapping[str, str]

    def shown(self) -> dict[str, Any]:
        """As the diff shows it."""
        return {"bridge": self.bridge, "subnet": self.subnet, "gateway": self.gateway, "internal": self.internal}

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical specification."""
        return spec_hash(asdict(self))

    def earlier_hashes(self) -> set[str]:
        """Those of the same network from when networks carried the level; making it anew would cut its client off."""
        return {spec_hash(asdict(replace(self, labels={**self.labels, LABEL_LEVEL: level}))) for level in LEVELS}

    def request(self) -> dict[str, Any]:
        """The arguments of docker.APIClient.create_network, but for the IPAM configuration."""
        return {
            "name": self.name,
            "driver": "bridge",
            "internal": self.internal,
            "check_duplicate": True,
            "options": {_BRIDGE_NAME: self.bridge},
            "labels": {**self.labels, LABEL_SPEC: self.hash},
        }


def plan_networks(
    wanted: Sequence[NetworkSpec], actual: Iterable[Mapping[str, Any]], platform: str, force: bool = False
) -> list[Change]:
    """Compare wanted networks with the engine's list.

    Args:
        wanted: Networks that must exist.
        actual: The engine's list of networks, as its API gives it.
        platform: The platform's name prefix; a network that carries another one's label, or none, is foreign.
        force: Whether networks that are as wanted are made anew as well.
    """
    by_name = {network["Name"]: network for network in actual}
    changes = []
    for spec in wanted:
        network = by_name.get(spec.name)
        if network is None:
            changes.append(_change("create", spec, None))
            continue
        labels = network.get("Labels") or {}
        if labels.get(LABEL_PLATFORM) != platform:
            # Not ours to remove: the applier refuses, for this client alone.
            changes.append(_change("create", spec, read_network(network)))
        elif (
            force
            or labels.get(LABEL_SPEC) not in {spec.hash, *spec.earlier_hashes()}
            or read_network(network) != spec.shown()
        ):
            changes.append(_change("recreate", spec, read_network(network) | {"id": network["Id"]}))
    return changes


def plan_network_removal(
    client_ids: Collection[str], actual: Iterable[Mapping[str, Any]], platform: str, keep: Collection[str] = ()
) -> list[Change]:
    """The networks of the platform that carry the label of one of these clients; foreign ones stay.

    Args:
        client_ids: Whose networks are in question.
        actual: The engine's list of networks, as its API gives it.
        platform: The platform's name prefix.
        keep: Names of networks that stay.
    """
    changes = []
    for network in sorted(actual, key=lambda network: str(network["Name"])):
        labels = network.get("Labels") or {}
        client_id = str(labels.get(LABEL_CLIENT, ""))
        if labels.get(LABEL_PLATFORM) == platform and client_id in client_ids and network["Name"] not in keep:
            before = read_network(network)
            found = NetworkSpec(name=network["Name"], client_id=client_id, labels=labels, **before)
            changes.append(Change("delete", "network", found.name, before, client_id=client_id, payload=found))
    return changes


def read_network(network: Mapping[str, Any]) -> dict[str, Any]:
    """A network of the engine's list in the form of NetworkSpec.shown()."""
    ipam = ((network.get("IPAM") or {}).get("Config") or [{}])[0]
    return {
        "bridge": (network.get("Options") or {}).get(_BRIDGE_NAME),
        "subnet": ipam.get("Subnet"),
        "gateway": ipam.get("Gateway"),
        "internal": network.get("Internal", False),
    }


def foreign_subnets(networks: Iterable[Mapping[str, Any]], platform: str) -> list[tuple[str, str]]:
    """(IPv4 subnet, what it is) of every network of the engine that is not this platform's."""
    return [
        (config["Subnet"], f"the Docker network '{network['Name']}'")
        for network in networks
        if (network.get("Labels") or {}).get(LABEL_PLATFORM) != platform
        for config in (network.get("IPAM") or {}).get("Config") or []
        if _is_ipv4(config.get("Subnet"))
    ]


def _is_ipv4(subnet: Any) -> bool:
    try:
        return isinstance(ipaddress.ip_network(subnet), ipaddress.IPv4Network)
    except ValueError:
        return False


def _change(action: Any, spec: NetworkSpec, before: Mapping[str, Any] | None) -> Change:
    return Change(
        action=action,
        kind="network",
        name=spec.name,
        before=before,
        after=spec.shown(),
        client_id=spec.client_id,
        payload=spec,
    )
