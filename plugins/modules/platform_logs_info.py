#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_logs_info
short_description: Read the logs of the platform and of clients
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Returns the newest lines of the component log, of the edge, and of clients' containers.
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
      - Read the logs of these clients alone, and of the edge what concerns them.
    type: list
    elements: str
  service:
    description:
      - Read the logs of this service alone; V(edge) stands for the edge, V(component) for the component log.
    type: str
  lines:
    description:
      - How many lines of each log.
    type: int
    default: 20
"""

EXAMPLES = r"""
- name: Read everything
  agency_stack.multi_tenancy.platform_logs_info:
    config: "{{ platform.config }}"
  register: logs

- name: Read what one client's site logged
  agency_stack.multi_tenancy.platform_logs_info:
    config: "{{ platform.config }}"
    client_ids:
      - acme
    service: site
    lines: 100
"""

RETURN = r"""
logs:
  description: The lines of each log, the oldest first.
  returned: success
  type: list
  elements: dict
  sample: [{"source": "mt-acme.site", "lines": ["GET / 200"]}]
report:
  description: All this as text for people.
  returned: success
  type: str
"""

import collections
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import (
    ENGINE_SPEC,
    PLATFORM_SPEC,
    layout_of,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._engine import connect_for, engine_errors
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import LABEL_PLATFORM
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import printable
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import select_clients
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import load
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import COMPONENT_LOG, guarded
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack_apply import list_containers

# Of a busy edge this many lines are searched for those of one client.
SEARCHED = 10000


def component_lines(layout: Layout, lines: int, client_ids: list[str] | None) -> list[str]:
    """The newest lines of the component log that concern these clients."""
    path = f"{layout.log_dir}/{COMPONENT_LOG}"
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            kept = (line.rstrip("\n") for line in handle if concerns(line, client_ids, '"client_id": "{}"'))
            return list(collections.deque(kept, maxlen=lines))
    except FileNotFoundError:
        return []


def concerns(line: str, client_ids: list[str] | None, pattern: str) -> bool:
    """Whether a line is about one of these clients; any line is, when none is named."""
    return client_ids is None or any(pattern.format(client_id) in line for client_id in client_ids)


def run(module: AnsibleModule) -> None:
    """Read and return."""
    params = module.params
    layout, service, client_ids = layout_of(params), params["service"], params["client_ids"]
    chosen = {client["client_id"] for client in select_clients(load(layout.registry), client_ids)}
    engine: Any = connect_for(module, params["docker_host"])
    logs = []
    if service in (None, "component"):
        logs.append({"source": "component", "lines": component_lines(layout, params["lines"], client_ids)})
    states = list_containers(engine, {LABEL_PLATFORM: params["config"]["name_prefix"]}) if engine else []
    for state in sorted(states, key=lambda state: (state.client_id or "", state.name)):
        if (state.client_id is not None and state.client_id not in chosen) or service not in (None, state.service):
            continue
        searched = SEARCHED if state.client_id is None and client_ids else params["lines"]
        with engine_errors(f"Reading the log of container {state.name}"):
            text = engine.logs(state.id, tail=searched).decode(errors="replace")
        lines = text.splitlines()
        if state.client_id is None:
            # A router's name begins with its client's id; '.' is in no id.
            lines = [line for line in lines if concerns(line, client_ids, '"RouterName":"{}.')]
        logs.append({"source": state.name, "lines": lines[-params["lines"] :]})
    report = printable("\n".join("\n".join([f"==> {log['source']} <==", *log["lines"], ""]) for log in logs))
    module.exit_json(changed=False, logs=logs, report=report)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **PLATFORM_SPEC,
            **ENGINE_SPEC,
            "config": {"type": "dict", "required": True},
            "client_ids": {"type": "list", "elements": "str"},
            "service": {"type": "str"},
            "lines": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
