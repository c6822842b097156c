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
  request:
    description:
      - What an operator typed, as make and the scripts hand it over, each a text. It is added to O(clients) and O(set).
      - C(client_id) with C(domain), C(aliases), C(isolation_level), C(services), C(protected), C(state), C(purge),
        C(restore_data), C(egress), C(egress_allow), C(rate_limit), C(memory), C(cpus), C(pids) and C(disk) add or
        change one client; of C(aliases) and C(egress_allow) a comma alone takes all away.
      - C(clients) names clients, separated by commas, that are added with the defaults.
      - C(default_client_id), C(root_domain) and, without a C(client_id), C(isolation_level) are settings to write.
    type: dict
    default: {}
    suboptions:
      client_id:
        description: Id of one client.
        type: str
      domain:
        description: Its main host name.
        type: str
      aliases:
        description: Its further host names, separated by commas.
        type: str
      isolation_level:
        description: Its level, or that of new clients.
        type: str
      services:
        description: Names of its services, separated by commas.
        type: str
      protected:
        description: Whether its removal is refused.
        type: str
      state:
        description: V(present), V(suspended) or V(absent).
        type: str
      purge:
        description: Whether its data is deleted with it.
        type: str
      restore_data:
        description: The kept folder that it gets back, V(latest) or a name below C(removed/).
        type: str
      egress:
        description: V(allow) or V(deny).
        type: str
      egress_allow:
        description: What stays open with V(deny), separated by commas.
        type: str
      rate_limit:
        description: Requests per second that the edge lets through, and at once, such as V(50:100).
        type: str
      memory:
        description: Of a hard client's containers together.
        type: str
      cpus:
        description: Of a hard client's containers together.
        type: str
      pids:
        description: Processes of a hard client's containers together.
        type: str
      disk:
        description: Size of a hard client's volume.
        type: str
      clients:
        description: Ids of clients to add, separated by commas.
        type: str
      default_client_id:
        description: The setting of the same name.
        type: str
      root_domain:
        description: The setting of the same name.
        type: str
  must_exist:
    description:
      - Whether the clients that are named must be in the registry already.
    type: bool
    default: false
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
  custom:
    description:
      - A text of YAML with settings to merge into C(config.yaml), as an operator's file holds it.
    type: str
    default: ""
  custom_source:
    description:
      - As for M(agency_stack.multi_tenancy.platform_config).
    type: str
    default: custom settings
  force:
    description:
      - As for M(agency_stack.multi_tenancy.platform_config).
    type: bool
    default: false
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
dedicated:
  description: Whether any client is, or was before this run, V(hard).
  returned: success
  type: bool
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
selected:
  description: Ids of the clients that this run touches; V(null) for all, when none was named.
  returned: success
  type: list
  elements: str
  sample: ["acme"]
set:
  description: Top-level settings to write.
  returned: success
  type: dict
  sample: {"root_domain": "example.com"}
custom:
  description: The settings in O(custom).
  returned: success
  type: dict
  sample: {}
restore:
  description: Kept folders to bring back, by client id.
  returned: success
  type: dict
  sample: {"acme": "latest"}
clients:
  description: All clients of the registry, as they will be.
  returned: success
  type: list
  elements: dict
  sample: []
shared:
  description: What the services were given that soft clients share, as they will be.
  returned: success
  type: list
  elements: dict
  sample: []
networks:
  description: The networks of clients as they will be, in the form that
    M(agency_stack.multi_tenancy.host_firewall) takes.
  returned: success
  type: list
  elements: dict
  sample: [{"bridge": "mt-1", "subnet": "10.217.0.0/28", "egress": "allow", "egress_allow": []}]
settings_differ:
  description: Whether the settings have to be written.
  returned: success
  type: bool
clients_differ:
  description: Whether the registry has to be written.
  returned: success
  type: bool
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import (
    EDIT_OPTION,
    ENGINE_SPEC,
    PLATFORM_SPEC,
    layout_of,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._bridges import firewall_networks, level_of
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import names_in
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._preflight import read_host
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    plan_registry,
    select_clients,
    shared_allocations,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import load_for_edit
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._request import REQUEST_SPEC, read_request
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._resources import (
    admission_faults,
    capacity_of,
    wanted_resources,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._resources import (
    read_host as read_size,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import guarded
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._settings import parse, plan_settings


def dedicated(clients: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those clients for whom resources are reserved."""
    return [client for client in clients if client["state"] != "absent" and level_of(client).dedicated]


def faults_of_admission(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], config: Mapping[str, Any], volumes: str
) -> list[str]:
    """Which clients ask for more than the host has left; those that ask for no more than before are not judged."""
    wanted = {client["client_id"]: wanted_resources(client, config) for client in dedicated(after)}
    held = {client["client_id"]: wanted_resources(client, config) for client in dedicated(before)}
    touched = [client_id for client_id, resources in wanted.items() if held.get(client_id) != resources]
    if not touched:
        return []
    return admission_faults(wanted, capacity_of(read_size(volumes), config["capacity"]), touched, held)


def run(module: AnsibleModule) -> None:
    """Read, judge, return."""
    params = module.params
    layout = layout_of(params)
    request = read_request(params["request"])
    settings = params["set"] | request.settings
    custom = parse(params["custom"], params["custom_source"])
    config, settings_changes = plan_settings(
        layout, settings, params["overrides"], custom, params["custom_source"], params["force"]
    )
    host, faults = read_host(params["docker_host"], config, layout)
    named = [{key: value for key, value in item.items() if value is not None} for item in params["clients"]]
    named += request.edit
    edit = named or [{"client_id": config["default_client_id"]}]
    occupied = [(item["subnet"], item["what"]) for item in host["occupied"]]
    try:
        present, upgrade = load_for_edit(layout, config, occupied, edit=edit)
        if params["must_exist"] and not named:
            raise InvalidInput(["client_id is missing: name the client."])
        if params["must_exist"]:
            select_clients(present, [item["client_id"] for item in named])
        document, client_changes = plan_registry(present, edit, config, occupied)
    except InvalidInput as exc:
        raise InvalidInput([*faults, *exc.faults]) from exc
    volumes = layout.base("volumes")
    faults += faults_of_admission(present["clients"], document["clients"], config, volumes)
    if faults:
        raise InvalidInput(faults)
    module.exit_json(
        changed=False,
        config=config,
        host=host,
        edit=edit,
        selected=[item["client_id"] for item in named] if named else None,
        set=settings,
        restore=request.restore,
        custom=custom,
        clients=document["clients"],
        shared=shared_allocations(document),
        networks=firewall_networks(document, config),
        dedicated=bool(dedicated(document["clients"])) or bool(names_in(volumes)),
        settings_differ=bool(settings_changes),
        clients_differ=bool(upgrade or client_changes),
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **PLATFORM_SPEC,
            **ENGINE_SPEC,
            "set": {"type": "dict", "default": {}},
            "overrides": {"type": "dict", "default": {}},
            "custom": {"type": "str", "default": ""},
            "custom_source": {"type": "str", "default": "custom settings"},
            "force": {"type": "bool", "default": False},
            "clients": EDIT_OPTION,
            "request": REQUEST_SPEC,
            "must_exist": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
