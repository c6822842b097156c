#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: client_registry
short_description: Add clients to the registry, change them, or mark them for removal
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Keeps the registry C(<root>/multi_tenancy/clients.json), the desired state of all clients of a host.
  - An existing client changes only in what is named here. What is allocated to a client (index, subnet, uid, gid) never
    changes.
  - All faults of the input are reported at once, and nothing is written then.
extends_documentation_fragment:
  - agency_stack.multi_tenancy.attributes
  - agency_stack.multi_tenancy.platform
  - agency_stack.multi_tenancy.registry_edit
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  config:
    description:
      - The platform's effective settings, as M(agency_stack.multi_tenancy.platform_config) returns them.
    type: dict
    required: true
  occupied:
    description:
      - Networks that a new client's subnet must not overlap, each with what it is (C(subnet), C(what)), as
        M(agency_stack.multi_tenancy.host_info) returns them.
    type: list
    elements: dict
    default: []
  purge:
    description:
      - Mark every client for removal that O(clients) does not name. Their data is kept.
    type: bool
    default: false
  forget:
    description:
      - Ids of clients whose entries are dropped. Those that are not marked V(absent) are left alone.
    type: list
    elements: str
    default: []
  lock_timeout:
    description:
      - Seconds to wait for another run that writes the registry.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Add two clients
  agency_stack.multi_tenancy.client_registry:
    config: "{{ platform.config }}"
    clients:
      - client_id: acme
        domain: acme.example.com
      - client_id: globex
        isolation_level: medium
  register: registry

- name: Give a client a second name, and leave everything else as it is
  agency_stack.multi_tenancy.client_registry:
    config: "{{ platform.config }}"
    clients:
      - client_id: acme
        aliases:
          - www.acme.example.com
"""

RETURN = r"""
clients:
  description: All clients of the registry, sorted by C(client_id).
  returned: success
  type: list
  elements: dict
  sample:
    - client_id: acme
      domain: acme.example.com
      aliases: []
      isolation_level: medium
      state: present
      services: {"site": {}}
      index: 1
      subnet: 10.217.0.0/28
      uid: 1900000001
      gid: 1900000001
      created_at: "2026-01-31T12:00:00+00:00"
shared:
  description: What the services were given that soft clients share; V(present) while any client is served by it.
  returned: success
  type: list
  elements: dict
  sample:
    - service: site
      state: present
      index: 2
      subnet: 10.217.0.16/28
      uid: 1900000002
      gid: 1900000002
networks:
  description: The network of every client that is not on its way out, in the form that
    M(agency_stack.multi_tenancy.host_firewall) takes.
  returned: success
  type: list
  elements: dict
  sample: [{"bridge": "mt-1", "subnet": "10.217.0.0/28", "egress": "allow", "egress_allow": []}]
changes:
  description: What was done, or would be done in check mode; C(action), C(kind), C(name) and C(client_id) of each.
  returned: success
  type: list
  elements: dict
  sample: [{"action": "create", "kind": "registry entry", "name": "acme", "client_id": "acme"}]
"""

import os
from datetime import UTC, datetime

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import (
    EDIT_OPTION,
    PLATFORM_SPEC,
    layout_of,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._bridges import firewall_networks
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import locked
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    plan_registry,
    shared_allocations,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import load_for_edit, save
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import converge, finish, guarded

ARGUMENT_SPEC = {
    **PLATFORM_SPEC,
    "clients": EDIT_OPTION,
    "purge": {"type": "bool", "default": False},
    "forget": {"type": "list", "elements": "str", "default": []},
    "config": {"type": "dict", "required": True},
    "occupied": {"type": "list", "elements": "dict", "default": []},
    "lock_timeout": {"type": "int", "default": 60},
}


def run(module: AnsibleModule) -> None:
    """Plan, and apply under the lock."""
    params = module.params
    path = layout_of(params).registry
    if module.check_mode:
        edit(module, path)
        return
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    with locked(path + ".lock", params["lock_timeout"]):
        edit(module, path)


def edit(module: AnsibleModule, path: str) -> None:
    """Read, merge and write the registry; one write for all changes."""
    params = module.params
    now = datetime.now(UTC).isoformat(timespec="seconds")
    occupied = [(item["subnet"], item["what"]) for item in params["occupied"]]
    start, upgrade = load_for_edit(layout_of(params), params["config"], occupied, now, params["clients"])
    document, changes = plan_registry(
        start, params["clients"], params["config"], occupied, now, params["purge"], params["forget"]
    )
    changes = [*upgrade, *changes]
    if changes and not module.check_mode:
        save(path, document)
    result = converge(
        module,
        changes,
        lambda change: None,
        params["log_dir"],
        clients=document["clients"],
        shared=shared_allocations(document),
        networks=firewall_networks(document, params["config"]),
    )
    finish(module, result)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
