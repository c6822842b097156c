#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_status_info
short_description: See how the platform and its clients are
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Compares the registry with what the engine, the firewall and the edge really have, in a constant number of calls.
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
  config:
    description:
      - The platform's effective settings, as M(agency_stack.multi_tenancy.platform_config) returns them.
    type: dict
    required: true
  client_ids:
    description:
      - Look at these clients alone; one that is not in the registry is an error.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Look at everything
  agency_stack.multi_tenancy.platform_status_info:
    config: "{{ platform.config }}"
  register: status

- name: Look at one client
  agency_stack.multi_tenancy.platform_status_info:
    config: "{{ platform.config }}"
    client_ids:
      - acme
"""

RETURN = r"""
platform:
  description: Engine, edge and firewall, each in a few words.
  returned: success
  type: dict
  sample: {"engine": "28.5.2", "edge": "running, healthy", "firewall": "ok"}
clients:
  description: Each client with its services and what is wrong with it.
  returned: success
  type: list
  elements: dict
  sample:
    - client_id: acme
      isolation_level: medium
      domain: acme.example.com
      state: present
      services: [{"service": "site", "container": "mt-acme.site", "state": "running", "health": "healthy"}]
      findings: []
findings:
  description: Everything that is wrong, each one sentence.
  returned: success
  type: list
  elements: str
  sample: []
report:
  description: All this as text for people.
  returned: success
  type: str
"""

from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _client_edge
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import (
    ENGINE_SPEC,
    PLATFORM_SPEC,
    layout_of,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._bridges import firewall_networks, level_of
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._cgroup import cgroup_parents
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._engine import connect_for, engine_errors
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import read_text
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._firewall import render
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._host import engine_is_managed
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import LABEL_PLATFORM, shared_id
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._leftovers import find_leftovers
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._leftovers_read import look
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._nft import Host, table_state, wanted_firewall
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    select_clients,
    shared_allocations,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import load
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import guarded
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack import as_wanted
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack_apply import list_containers
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._status import (
    ClientStatus,
    client_status,
    health_word,
    report,
    route_findings,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._tenant import (
    containers,
    routes,
    shared_container,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._traefik import routed_addresses


def wanted_rules(config: dict[str, Any], path: str, document: dict[str, Any]) -> str:
    """What the rules file must say."""
    edge = config["edge"]
    ports = [edge["http_port"], edge["https_port"]] if config["firewall"]["clients_reach_edge"] else []
    host = Host(config["firewall"]["table"], path)
    return render(wanted_firewall(host, f"{config['name_prefix']}-", firewall_networks(document, config), ports))


def firewall_words(layout: Layout, config: dict[str, Any], document: dict[str, Any]) -> str:
    """The state of the firewall table in a few words."""
    path = layout.base("firewall.nft")
    try:
        text = read_text(path)
        if text is None:
            return "missing"
        if text != wanted_rules(config, path, document):
            return "altered"
        return table_state(config["firewall"]["table"], text)
    except TenancyError as exc:
        return f"unknown ({exc})"


def shared_status(
    item: dict[str, Any], config: dict[str, Any], layout: Layout, by_client: dict[str | None, list[Any]]
) -> ClientStatus:
    """A service that clients share, compared with what runs."""
    identity = shared_id(item["service"])
    wanted = [shared_container(item, config, layout)] if item["state"] == "present" else []
    entry = {"client_id": identity, "isolation_level": "soft", "domain": "", "state": item["state"]}
    return client_status(entry, wanted, by_client.get(identity, []), (), {})


def words(status: ClientStatus) -> str:
    """A shared service in a few words."""
    return f"{status.services[0]['service']} {health_word(status.services)}"


def run(module: AnsibleModule) -> None:
    """Read, compare, return."""
    params = module.params
    config, layout = params["config"], layout_of(params)
    document = load(layout.registry)
    clients = select_clients(document, params["client_ids"])
    engine = connect_for(module, params["docker_host"])
    prefix = config["name_prefix"]
    by_client: dict[str | None, list[Any]] = {}
    info: dict[str, Any] = {}
    if engine is not None:
        with engine_errors("Asking the engine"):
            info = engine.info()
        for state in list_containers(engine, {LABEL_PLATFORM: prefix}):
            by_client.setdefault(state.client_id, []).append(state)
    parents = cgroup_parents(clients, config, engine)
    allocations = shared_allocations(document)
    shared_specs = [
        (spec, as_wanted(spec, by_client.get(spec.client_id, [])))
        for spec in (shared_container(item, config, layout) for item in allocations if item["state"] == "present")
    ]
    statuses = []
    for client in clients:
        client_id = client["client_id"]
        routed = {route["service"] for route in routes(client, config)}
        addresses = routed_addresses(read_text(layout.base("traefik", "dynamic", f"{client_id}.yml")))
        if level_of(client).own_edge:
            own = read_text(layout.client(client_id, _client_edge.SERVICE, "dynamic", "routes.yml"))
            routed, addresses = routed | {_client_edge.SERVICE}, routed_addresses(own) | addresses
        wanted = containers(client, config, layout, parents.get(client_id))
        statuses.append(client_status(client, wanted, by_client.get(client_id, []), routed, addresses))
        if client["state"] == "present" and not level_of(client).own_instances:
            for spec, states in shared_specs:
                if spec.service in routed and states:
                    statuses[-1].findings += route_findings(spec, states[0], addresses)
    shared = [shared_status(item, config, layout, by_client) for item in allocations]
    edges = by_client.get(None, [])
    firewall = firewall_words(layout, config, document)
    whose = "installed by us" if engine_is_managed(info) else "not installed by us"
    platform = {
        "engine": f"{info.get('ServerVersion')}, {whose}" if info else "none answers",
        "edge": f"{edges[0].state}, {edges[0].health or 'health unknown'}" if edges else "missing",
        "firewall": firewall,
        **({"shared": ", ".join(words(status) for status in shared if status.services)} if shared else {}),
        "clients": str(len(document["clients"])),
    }
    findings = [f"{status.client_id}: {finding}." for status in (*shared, *statuses) for finding in status.findings]
    if firewall != "ok":
        findings.insert(0, f"The firewall table is {firewall}: clients may reach each other; run make multi_tenancy.")
    if not edges or not edges[0].serves:
        findings.insert(0, "The edge does not run, so no site can be reached; run make multi_tenancy.")
    seen = look(engine, [state for states in by_client.values() for state in states], prefix, layout)
    # Containers of clients on their way out are told with their client.
    findings += [
        left.sentence
        for left in find_leftovers(seen, document["clients"], layout)
        if not (left.known and left.kind == "container")
    ]
    module.exit_json(
        changed=False,
        platform=platform,
        clients=[asdict(status) for status in statuses],
        findings=findings,
        report=report(platform, statuses, findings),
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **PLATFORM_SPEC,
            **ENGINE_SPEC,
            "config": {"type": "dict", "required": True},
            "client_ids": {"type": "list", "elements": "str"},
        },
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
