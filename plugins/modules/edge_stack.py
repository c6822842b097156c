#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: edge_stack
short_description: Run the shared edge
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Makes the platform's directories and Traefik's static configuration, and runs Traefik in the host's network with a
    read-only root, no capability that it does not need, and without access to the engine.
  - Where the host lets every user bind the edge's ports, it runs as uid 65532 without any capability, otherwise as root
    with C(NET_BIND_SERVICE) alone.
  - Starts the edge anew only when its image, its static configuration or its container's specification differs. When
    the new one does not become healthy, the old one is started again.
extends_documentation_fragment:
  - agency_stack.multi_tenancy.attributes
  - agency_stack.multi_tenancy.platform
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
  config:
    description:
      - The platform's effective settings, as M(agency_stack.multi_tenancy.platform_config) returns them.
    type: dict
    required: true
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
      - Whether Traefik's static configuration and the container are made anew although they are as wanted. The
        container is not with O(state=restarted).
      - The edge, and with it every client, is away until the new one serves, for a second or two.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Run the edge
  agency_stack.multi_tenancy.edge_stack:
    config: "{{ platform.config }}"

- name: Say whether the edge would be started anew
  agency_stack.multi_tenancy.edge_stack:
    config: "{{ platform.config }}"
  check_mode: true
  diff: true
"""

RETURN = r"""
user:
  description: With which user and capabilities the edge binds its ports.
  returned: success
  type: str
  sample: "65532:65532"
changes:
  description: What was done, or would be done in check mode; C(action), C(kind), C(name) of each.
  returned: success
  type: list
  elements: dict
  sample: [{"action": "create", "kind": "container", "name": "mt-edge", "client_id": null}]
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import (
    ENGINE_SPEC,
    PLATFORM_SPEC,
    layout_of,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._edge import (
    EDGE_ID,
    container,
    directories,
    static_config,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._engine import connect_for
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import atomic_write, read_text
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._host import read_port_start
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import LABEL_COMPONENT, LABEL_PLATFORM
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import converge, finish, guarded
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack import plan_stacks
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack_apply import (
    StackApplier,
    list_containers,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._storage import (
    Directory,
    apply_directory,
    plan_directories,
    read_directory,
)


def run(module: AnsibleModule) -> None:
    """Plan and apply."""
    params = module.params
    config, layout = params["config"], layout_of(params)
    folders = directories(layout)
    changes = plan_directories(
        [(None, folder) for folder in folders], {folder.path: read_directory(folder) for folder in folders}
    )
    path = layout.base("traefik", "traefik.yml")
    before, after = read_text(path), static_config(config)
    if params["force"] or before != after:
        changes.append(
            Change("create" if before is None else "update", "edge configuration", path, before, after, payload=after)
        )
    spec = container(config, layout, read_port_start())
    engine = connect_for(module, params["docker_host"])
    labels = {LABEL_PLATFORM: config["name_prefix"], LABEL_COMPONENT: "edge"}
    actual = list_containers(engine, labels) if engine else []
    plan = plan_stacks([spec], actual, [None], params["state"] == "restarted", params["force"])

    def restore_configuration() -> None:
        # Traefik reads it when it starts: the earlier edge needs the earlier one.
        if before not in (None, after):
            atomic_write(path, before.encode(), 0o640, 0, EDGE_ID)

    applier = StackApplier(engine, config["health_timeout"], restore_configuration)

    def apply(change: Change) -> None:
        if isinstance(change.payload, Directory):
            os.makedirs(os.path.dirname(change.name), mode=0o755, exist_ok=True)
            apply_directory(change.payload)
        elif isinstance(change.payload, str):
            atomic_write(change.name, change.payload.encode(), 0o640, 0, EDGE_ID)
        else:
            applier.apply(change)

    changes += [*plan.starts, *plan.removals]
    finish(module, converge(module, changes, apply, params["log_dir"], user=spec.user))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **PLATFORM_SPEC,
            **ENGINE_SPEC,
            "config": {"type": "dict", "required": True},
            "state": {"type": "str", "choices": ["present", "restarted"], "default": "present"},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
