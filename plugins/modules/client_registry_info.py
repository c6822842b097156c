#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: client_registry_info
short_description: Read the registry of clients
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Returns the clients of C(<root>/multi_tenancy/clients.json).
extends_documentation_fragment:
  - agency_stack.multi_tenancy.attributes
  - agency_stack.multi_tenancy.platform
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    description: Changes nothing.
  idempotent:
    support: full
options:
  client_ids:
    description:
      - Return these clients alone; one that is not in the registry is an error.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Read all clients
  agency_stack.multi_tenancy.client_registry_info:
  register: registry

- name: Read one client of another root
  agency_stack.multi_tenancy.client_registry_info:
    root: /srv/agency_stack
    client_ids:
      - acme
"""

RETURN = r"""
clients:
  description: The clients, sorted by C(client_id).
  returned: success
  type: list
  elements: dict
  sample: [{"client_id": "acme", "domain": "acme.example.com", "isolation_level": "medium", "state": "present"}]
report:
  description: The clients as a table for people.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import PLATFORM_SPEC, layout_of
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import select_clients
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import load
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import guarded
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._status import client_table


def run(module: AnsibleModule) -> None:
    """Read."""
    document = load(layout_of(module.params).registry)
    clients = select_clients(document, module.params["client_ids"])
    module.exit_json(changed=False, clients=clients, report=client_table(clients))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={**PLATFORM_SPEC, "client_ids": {"type": "list", "elements": "str"}},
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
