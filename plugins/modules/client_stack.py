#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: client_stack
short_description: Run the containers of clients
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Runs each client's own containers, hardened, limited, each at a pinned address of the client's network, and waits
    until their health checks succeed.
  - The SHA-256 of a container's whole specification is a label on it; an equal label means nothing to do.
  - A container that differs is replaced. With C(deploy.update_config.order) V(start-first) the new one comes up beside
    the old one. With V(stop-first) it takes the old one's place and address. When the new one does not become healthy,
    the old one goes on serving.
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
    details: O(state=restarted) restarts each time, O(force=true) makes anew each time.
options:
  superseded:
    description:
      - What happens to containers that the wanted ones replace, and to those that nothing wants any more.
      - V(remove) removes them as soon as the new ones are healthy.
      - V(keep) leaves them, so that routes can be moved first; RV(superseded) says how many there are. A second task
        with V(remove), with O(backends) and without O(force), removes them then.
    type: str
    choices:
      - keep
      - remove
    default: remove
  state:
    description:
      - V(present) runs what is wanted.
      - V(restarted) moreover starts anew what runs already, and waits until it is healthy.
    type: str
    choices:
      - present
      - restarted
    default: present
  force:
    description:
      - Whether containers that are as wanted are made anew as well, by the same rules as those that differ. It does
        nothing with O(state=restarted).
      - A service that starts first is not away for a moment; one that stops first is away for as long as it takes to
        stop, to start and to become healthy, some seconds. Containers of clients that O(clients) does not name are not
        touched.
    type: bool
    default: false
  backends:
    description:
      - Address of each service by client to which routes lead now, as this module returned them. Of two containers that
        are as wanted, the one there stays.
    type: dict
    default: {}
  health_timeout:
    description:
      - Seconds that a container has to become healthy; the default is that of O(config).
    type: int
"""

EXAMPLES = r"""
- name: Run the containers of all clients
  agency_stack.multi_tenancy.client_stack:
    config: "{{ platform.config }}"
    clients: "{{ registry.clients }}"
  register: stack

- name: Bring the new containers up and keep the old ones until the routes are moved
  agency_stack.multi_tenancy.client_stack:
    config: "{{ platform.config }}"
    clients: "{{ registry.clients }}"
    superseded: keep
  register: stack

- name: Remove the old containers after the routes were moved
  agency_stack.multi_tenancy.client_stack:
    config: "{{ platform.config }}"
    clients: "{{ registry.clients }}"
    backends: "{{ stack.backends }}"
"""

RETURN = r"""
backends:
  description: Address of each service that can be reached, by client; of the plan in check mode.
  returned: success
  type: dict
  sample: {"acme": {"site": "10.217.0.2"}}
superseded:
  description: How many containers wait for removal.
  returned: success
  type: int
  sample: 0
changes:
  description: What was done, or would be done in check mode; C(action), C(kind), C(name) and C(client_id) of each.
  returned: success
  type: list
  elements: dict
  sample: [{"action": "create", "kind": "container", "name": "mt-acme.site", "client_id": "acme"}]
failures:
  description: Clients for which something failed, with C(client_id) and C(msg); the others were done.
  returned: success
  type: list
  elements: dict
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import (
    CLIENTS_SPEC,
    ENGINE_SPEC,
    SHARED_OPTION,
    layout_of,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._cgroup import cgroup_parents
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._client_edge import SERVICE
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._engine import connect_for
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import LABEL_PLATFORM, shared_id
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import converge, finish, guarded
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack import plan_stacks, serving_backends
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack_apply import (
    StackApplier,
    list_containers,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._tenant import containers, shared_container

# Containers of different clients come up side by side; most of that time is the engine's.
WORKERS = 4


def run(module: AnsibleModule) -> None:
    """Plan and apply."""
    params = module.params
    config, clients, layout = params["config"], params["clients"], layout_of(params)
    engine = connect_for(module, params["docker_host"])
    labels = {LABEL_PLATFORM: config["name_prefix"]}
    actual = list_containers(engine, labels) if engine else []
    parents = cgroup_parents(clients, config, engine)
    wanted = [
        spec for client in clients for spec in containers(client, config, layout, parents.get(client["client_id"]))
    ]
    shared = params["shared"]
    wanted += [shared_container(item, config, layout) for item in shared if item["state"] == "present"]
    plan = plan_stacks(
        wanted,
        actual,
        [*(client["client_id"] for client in clients), *(shared_id(item["service"]) for item in shared)],
        params["state"] == "restarted",
        params["force"],
        params["backends"],
    )
    # In check mode the whole plan is told, although a run does it in two steps.
    removals = plan.removals if params["superseded"] == "remove" or module.check_mode else []
    # What visitors still have open to a client's own edge is closed before it could lead to nothing.
    removals = sorted(removals, key=lambda change: getattr(change.payload, "service", None) != SERVICE)
    applier = StackApplier(engine, params["health_timeout"] or config["health_timeout"])
    result = converge(module, [*plan.starts, *removals], applier.apply, params["log_dir"], WORKERS)
    backends = plan.backends
    failed = {failure["client_id"] for failure in result["failures"]}
    if failed:
        # What runs has changed since it was listed.
        serving = serving_backends(list_containers(engine, labels), wanted)
        backends = {name: serving.get(name, {}) if name in failed else found for name, found in backends.items()}
    finish(module, result | {"backends": backends, "superseded": len(plan.removals) - len(removals)})


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CLIENTS_SPEC,
            **ENGINE_SPEC,
            "shared": SHARED_OPTION,
            "superseded": {"type": "str", "choices": ["keep", "remove"], "default": "remove"},
            "state": {"type": "str", "choices": ["present", "restarted"], "default": "present"},
            "force": {"type": "bool", "default": False},
            "backends": {"type": "dict", "default": {}},
            "health_timeout": {"type": "int"},
        },
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
