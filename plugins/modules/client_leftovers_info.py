#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: client_leftovers_info
short_description: Find what is still there of clients that are gone
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Lists containers, networks, volumes, routes and folders that belong to no client of the registry, or to one that is
    on its way out (C(state=absent)).
  - Objects of the engine are found by the labels that the platform gives them, whatever their names are. A folder
    counts when it holds a configuration that the platform made, or is the open log folder of a client that is known or
    has left something else.
  - Folders below C(<root>/multi_tenancy/removed/), and closed log folders of clients whose data is kept, are where they
    belong.
  - Removes nothing.
extends_documentation_fragment:
  - agency_stack.multi_tenancy.attributes
  - agency_stack.multi_tenancy.platform
  - agency_stack.multi_tenancy.engine
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    description: Changes nothing.
  idempotent:
    support: full
options:
  clients:
    description:
      - The clients of the registry, as M(agency_stack.multi_tenancy.client_registry_info) returns them.
    type: list
    elements: dict
    required: true
  config:
    description:
      - The platform's effective settings, as M(agency_stack.multi_tenancy.platform_config) returns them.
    type: dict
    required: true
  client_ids:
    description:
      - Whose leftovers are in question. Without it everybody's are.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Find what belongs to no client
  agency_stack.multi_tenancy.client_leftovers_info:
    config: "{{ platform.config }}"
    clients: "{{ registry.clients }}"
  register: found

- name: Find what is left of one client
  agency_stack.multi_tenancy.client_leftovers_info:
    config: "{{ platform.config }}"
    clients: "{{ registry.clients }}"
    client_ids:
      - acme
"""

RETURN = r"""
leftovers:
  description: What was found, sorted by client; C(msg) says in one sentence what it is and what removes it.
  returned: success
  type: list
  elements: dict
  sample:
    - client_id: acme
      kind: container
      name: mt-acme.site
      msg: >-
        Container mt-acme.site belongs to client acme, who is not in the registry;
        'docker rm -f mt-acme.site' removes it.
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import (
    ENGINE_SPEC,
    PLATFORM_SPEC,
    layout_of,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._engine import connect_for
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import LABEL_PLATFORM
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._leftovers import find_leftovers
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._leftovers_read import look
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import guarded
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack_apply import list_containers


def run(module: AnsibleModule) -> None:
    """Look, compare, return."""
    params = module.params
    layout, platform = layout_of(params), params["config"]["name_prefix"]
    engine = connect_for(module, params["docker_host"])
    containers = [] if engine is None else list_containers(engine, {LABEL_PLATFORM: platform})
    seen = look(engine, containers, platform, layout)
    found = find_leftovers(seen, params["clients"], layout, params["client_ids"])
    module.exit_json(changed=False, leftovers=[left.shown() for left in found])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **PLATFORM_SPEC,
            **ENGINE_SPEC,
            "clients": {"type": "list", "elements": "dict", "required": True},
            "config": {"type": "dict", "required": True},
            "client_ids": {"type": "list", "elements": "str"},
        },
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
