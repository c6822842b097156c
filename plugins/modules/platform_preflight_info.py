#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_preflight_info
short_description: Check settings, host and clients before anything is made
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Reads the settings, the host and the registry in one task, and checks an edit of the clients against them.
  - Fails with everything that is wrong with the host or the edit at once. Touches nothing.
  - Returns what the modules that follow need. When no client is named, the default client is the one that must exist.
extends_documentation_fragment:
  - agency_stack.multi_tenancy.attributes
  - agency_stack.multi_tenancy.platform
  - agency_stack.multi_tenancy.registry_edit
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
  set:
    description:
      - As for M(agency_stack.multi_tenancy.platform_config).
    type: dict
    default: {}
  overrides:
    description:
      - As for M(agency_stack.multi_tenancy.platform_config).
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: See whether a client can be added
  agency_stack.multi_tenancy.platform_preflight_info:
    clients:
      - client_id: acme
        domain: acme.example.com
  register: preflight

- name: Add it
  agency_stack.multi_tenancy.client_registry:
    config: "{{ preflight.config }}"
    clients: "{{ preflight.edit }}"
    occupied: "{{ preflight.host.occupied }}"
"""

RETURN = r"""
config:
  description: The effective settings.
  returned: success
  type: dict
  sample: {"root_domain": "localhost"}
host:
  description: What M(agency_stack.multi_tenancy.host_info) returns.
  returned: success
  type: dict
  sample: {"engine": "28.5.2", "packages": []}
edit:
  description: The clients to add or change, the default client included when none was named.
  returned: success
  type: list
  elements: dict
  sample: [{"client_id": "acme", "domain": "acme.example.com"}]
clients:
  description: All clients of the registry, as they will be.
  returned: success
  type: list
  elements: dict
  sample: []
bridges:
  description: Name of the bridge of every client, as they will be.
  returned: success
  type: list
  elements: str
  sample: ["mt-1"]
settings_differ:
  description: Whether the settings have to be written.
  returned: success
  type: bool
clients_differ:
  description: Whether the registry has to be written.
  returned: success
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import (
    EDIT_OPTION,
    ENGINE_SPEC,
    PLATFORM_SPEC,
    layout_of,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._preflight import read_host
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import plan_registry
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import load
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import guarded
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._settings import plan_settings
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._tenant import bridge_names


def run(module: AnsibleModule) -> None:
    """Read, judge, return."""
    params = module.params
    layout = layout_of(params)
    config, settings_changes = plan_settings(layout, params["set"], params["overrides"])
    host, faults = read_host(params["docker_host"], config, layout)
    edit = [{key: value for key, value in item.items() if value is not None} for item in params["clients"]]
    edit = edit or [{"client_id": config["default_client_id"]}]
    occupied = [(item["subnet"], item["what"]) for item in host["occupied"]]
    try:
        document, client_changes = plan_registry(load(layout.registry), edit, config, occupied)
    except InvalidInput as exc:
        raise InvalidInput([*faults, *exc.faults]) from exc
    if faults:
        raise InvalidInput(faults)
    module.exit_json(
        changed=False,
        config=config,
        host=host,
        edit=edit,
        clients=document["clients"],
        bridges=bridge_names(document["clients"], config),
        settings_differ=bool(settings_changes),
        clients_differ=bool(client_changes),
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **PLATFORM_SPEC,
            **ENGINE_SPEC,
            "set": {"type": "dict", "default": {}},
            "overrides": {"type": "dict", "default": {}},
            "clients": EDIT_OPTION,
        },
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
