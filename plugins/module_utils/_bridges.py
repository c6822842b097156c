# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bridges that a client's level gives it, and what the firewall must know of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._contract import LEVELS, Level
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._egress import Egress, parse_rule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import (
    LABEL_CLIENT,
    LABEL_COMPONENT,
    LABEL_LEVEL,
    LABEL_PLATFORM,
    LABEL_SERVICE,
    SHARED,
    shared_id,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._network import NetworkSpec


def level_of(client: Mapping[str, Any]) -> Level:
    """The contract that a client has."""
    return LEVELS[client["isolation_level"]]


def egress(client: Mapping[str, Any], config: Mapping[str, Any]) -> Egress | None:
    """What a client's bridge may send out of the host; None for a client without one."""
    if not level_of(client).own_instances:
        return None
    default = config[client["isolation_level"]]
    rules = client.get("egress_allow", default["egress_allow"])
    return Egress(bridge_name(client, config), client.get("egress", default["egress"]), tuple(map(parse_rule, rules)))


def network_name(client: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The name of a client's network."""
    return f"{config['name_prefix']}-{client['client_id']}"


def internal_network_name(client: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The name of a client's second network, which has no way out; '.' is in no client id."""
    return f"{network_name(client, config)}.internal"


def bridge_name(client: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The name of a client's bridge on the host: short, and with the prefix that the firewall knows."""
    return f"{config['name_prefix']}-{client['index']}"


def networks(client: Mapping[str, Any], config: Mapping[str, Any]) -> list[NetworkSpec]:
    """The client's own bridge networks."""
    level = level_of(client)
    if not level.own_instances:
        return []
    return [network(client, config), *([internal_network(client, config)] if level.own_edge else [])]


def _allocated_networks(client: Mapping[str, Any], config: Mapping[str, Any]) -> list[NetworkSpec]:
    """The networks that a client has or had: the registry keeps what they were given."""
    makers = {"subnet": network, "internal_subnet": internal_network}
    return [make(client, config) for key, make in makers.items() if key in client]


def network(client: Mapping[str, Any], config: Mapping[str, Any]) -> NetworkSpec:
    """The client's own bridge network, through which the edge reaches it."""
    name, bridge = network_name(client, config), bridge_name(client, config)
    return _network(client["client_id"], name, bridge, client["subnet"], owner_labels(client, config))


def internal_network(client: Mapping[str, Any], config: Mapping[str, Any]) -> NetworkSpec:
    """The second bridge network of a client with an edge of its own, which has no way out."""
    name, bridge = internal_network_name(client, config), f"{bridge_name(client, config)}i"
    labels = owner_labels(client, config)
    return _network(client["client_id"], name, bridge, client["internal_subnet"], labels, internal=True)


def shared_network(shared: Mapping[str, Any], config: Mapping[str, Any]) -> NetworkSpec:
    """The network of a service that clients share, from its allocation in the registry."""
    identity = shared_id(shared["service"])
    name, bridge = f"{config['name_prefix']}-{identity}", bridge_name(shared, config)
    return _network(identity, name, bridge, shared["subnet"], shared_labels(shared, config))


def _network(
    client_id: str, name: str, bridge: str, subnet: str, labels: Mapping[str, str], internal: bool = False
) -> NetworkSpec:
    return NetworkSpec(
        name=name,
        client_id=client_id,
        bridge=bridge,
        subnet=subnet,
        gateway=str(ipaddress.IPv4Network(subnet)[1]),
        internal=internal,
        labels=labels,
    )


def firewall_networks(document: Mapping[str, Any], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The networks that the firewall must know: of all clients but those on their way out, and of shared services.

    Also those that a client's level does not give it and that it was given before: while a level changes, visitors are
    served over them to the end. They have no way out.

    Returns:
        `bridge`, `subnet`, `egress` (allow or deny) and `egress_allow` (destinations that deny leaves open) of each.
    """
    found = []
    for client in document["clients"]:
        way_out = egress(client, config)
        for spec in _allocated_networks(client, config) if client["state"] != "absent" else ():
            closed = spec.internal or way_out is None
            policy = "deny" if closed or way_out is None else way_out.policy
            rules = [] if closed or way_out is None else [str(rule) for rule in way_out.rules]
            found.append({"bridge": spec.bridge, "subnet": spec.subnet, "egress": policy, "egress_allow": rules})
    # The contract of the level leaves a shared service its way out.
    found += [
        {"bridge": bridge_name(item, config), "subnet": item["subnet"], "egress": "allow", "egress_allow": []}
        for item in document.get("shared", [])
    ]
    return found


def shared_labels(shared: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """What everything in the engine carries that belongs to a shared service."""
    return {
        LABEL_PLATFORM: config["name_prefix"],
        LABEL_COMPONENT: SHARED,
        LABEL_SERVICE: shared["service"],
    }


def owner_labels(client: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """What everything in the engine carries that belongs to a client."""
    return {LABEL_PLATFORM: config["name_prefix"], LABEL_CLIENT: client["client_id"]}


def client_labels(client: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """What a client's containers carry; their network stays when the level changes, and so has no level."""
    return owner_labels(client, config) | {LABEL_LEVEL: client["isolation_level"]}
