#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: client_network
short_description: Make the networks of clients
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Gives each client a bridge network of its own, with the subnet of its registry entry and a bridge name that the
    platform's firewall table knows.
  - A network that differs from what is wanted is made anew. The client's containers run on and are connected to the new
    one at their addresses; those for which this cannot be done are made anew by
    M(agency_stack.multi_tenancy.client_stack), as it does with all that are cut off. Containers of others are
    disconnected.
extends_documentation_fragment:
  - agency_stack.multi_tenancy.attributes
  - agency_stack.multi_tenancy.platform
  - agency_stack.multi_tenancy.clients
  - agency_stack.multi_tenancy.shared
  - agency_stack.multi_tenancy.engine
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: O(force=true) makes anew each time.
options:
  state:
    description:
      - V(present) gives each of O(clients) its network.
      - V(absent) removes the networks of O(clients), with the platform's containers that hang on them.
    type: str
    choices:
      - present
      - absent
    default: present
  superseded:
    description:
      - With O(state=present), what happens to networks of O(clients) that their level does not need any more.
      - V(remove) removes them, with what hangs on them.
      - V(keep) leaves them, so that routes can be moved first; RV(superseded) says how many there are.
    type: str
    choices:
      - keep
      - remove
    default: remove
  force:
    description:
      - With O(state=present), whether networks that are as wanted are made anew as well.
      - A client's containers are out of reach meanwhile, for a second or two, and their open connections end. The
        networks of clients that O(clients) does not name are not touched.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Make the networks of all clients
  agency_stack.multi_tenancy.client_network:
    config: "{{ platform.config }}"
    clients: "{{ registry.clients }}"

- name: Make those of the medium clients, and go on when one fails
  agency_stack.multi_tenancy.client_network:
    config: "{{ platform.config }}"
    clients: "{{ registry.clients | selectattr('isolation_level', 'eq', 'medium') }}"
    defer_failures: true
"""

RETURN = r"""
superseded:
  description: How many networks wait for removal.
  returned: success
  type: int
  sample: 0
changes:
  description: What was done, or would be done in check mode; C(action), C(kind), C(name) and C(client_id) of each.
  returned: success
  type: list
  elements: dict
  sample: [{"action": "create", "kind": "network", "name": "mt-acme", "client_id": "acme"}]
failures:
  description: Clients for which something failed, with C(client_id) and C(msg); the others were done.
  returned: success
  type: list
  elements: dict
  sample: []
"""

import contextlib
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import (
    CLIENTS_SPEC,
    ENGINE_SPEC,
    SHARED_OPTION,
    STATE_SPEC,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._engine import connect_for, engine_errors
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import (
    LABEL_CLIENT,
    LABEL_COMPONENT,
    LABEL_PLATFORM,
    LABEL_SERVICE,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._network import (
    NetworkSpec,
    plan_network_removal,
    plan_networks,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import converge, finish, guarded
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack import ContainerState, read_container
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._tenant import (
    networks,
    shared_network,
)

# Docker makes networks one after the other under a lock of its own; more threads gain nothing.
WORKERS = 2


def apply_network(client: Any, change: Change, platform: str) -> None:
    """Make a network, make it anew under the client's containers, or remove it with what hangs on it."""
    spec: NetworkSpec = change.payload
    if change.action == "create" and change.before is not None:
        raise TenancyError(f"A network named {spec.name} exists and is not of this platform; remove or rename it.")
    moved: list[ContainerState] = []
    try:
        with engine_errors(f"Removing what hangs on network {spec.name}"):
            # Also those that are stopped: they know the earlier network by its id and could never start again.
            owner = {
                key: spec.labels[key] for key in (LABEL_CLIENT, LABEL_COMPONENT, LABEL_SERVICE) if key in spec.labels
            }
            labels = [f"{key}={value}" for key, value in {LABEL_PLATFORM: platform, **owner}.items()]
            for container in client.containers(all=True, filters={"label": labels}):
                if spec.name not in container["NetworkSettings"]["Networks"]:
                    continue
                if change.action == "recreate" and disconnect(client, container["Id"], spec.name):
                    moved.append(read_container(container))
                else:
                    client.remove_container(container["Id"], v=True, force=True)
            if change.action in ("recreate", "delete"):
                for container_id in client.inspect_network(spec.name).get("Containers") or {}:
                    client.disconnect_container_from_network(container_id, spec.name, force=True)
                client.remove_network(spec.name)
        if change.action != "delete":
            with engine_errors(f"Creating network {spec.name}"):
                pool = {"Subnet": spec.subnet, "Gateway": spec.gateway}
                client.create_network(**spec.request(), ipam={"Driver": "default", "Config": [pool]})
    finally:
        # Also to the earlier network, when it could not be removed.
        for state in moved:
            connect(client, state, spec.name)


def disconnect(client: Any, container_id: str, network_name: str) -> bool:
    """Take a container off a network; False when the engine refuses, as for one that is about to start again."""
    try:
        with engine_errors("Disconnecting"):
            client.disconnect_container_from_network(container_id, network_name, force=True)
    except TenancyError:
        return False
    return True


def connect(client: Any, state: ContainerState, network_name: str) -> None:
    """Put a container on a network at the address that it had; one that the engine refuses stays without."""
    with contextlib.suppress(TenancyError), engine_errors("Connecting"):
        client.connect_container_to_network(
            state.id, network_name, ipv4_address=state.addresses.get(network_name), aliases=[state.service]
        )


def run(module: AnsibleModule) -> None:
    """Plan and apply."""
    params = module.params
    platform = params["config"]["name_prefix"]
    engine = connect_for(module, params["docker_host"])
    with engine_errors("Listing the networks"):
        actual = engine.networks() if engine else []
    client_ids = [client["client_id"] for client in params["clients"]]
    superseded: list[Change] = []
    if params["state"] == "present":
        config = params["config"]
        wanted = [spec for client in params["clients"] for spec in networks(client, config)]
        wanted += [shared_network(item, config) for item in params["shared"] if item["state"] == "present"]
        changes = plan_networks(wanted, actual, platform, params["force"])
        superseded = plan_network_removal(client_ids, actual, platform, {spec.name for spec in wanted})
        # In check mode the whole plan is told, although a run does it in two steps.
        if params["superseded"] == "remove" or module.check_mode:
            changes, superseded = changes + superseded, []
    else:
        changes = plan_network_removal(client_ids, actual, platform)
    result = converge(
        module, changes, lambda change: apply_network(engine, change, platform), params["log_dir"], WORKERS
    )
    finish(module, result | {"superseded": len(superseded)})


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CLIENTS_SPEC,
            **ENGINE_SPEC,
            **STATE_SPEC,
            "shared": SHARED_OPTION,
            "superseded": {"type": "str", "choices": ["keep", "remove"], "default": "remove"},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
