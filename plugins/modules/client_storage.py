#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: client_storage
short_description: Make the directories of clients, or put those of removed clients away
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Makes each client's directories below C(<root>/clients/<client_id>/), with owners and modes that keep them from the
    other clients, and C(multi_tenancy/config.yaml) in it, which shows the client's effective configuration.
  - A folder of data that is made for the C(site) service gets a welcome page. Data is never changed afterwards.
  - With O(state=absent) each client's folder is moved to C(<root>/multi_tenancy/removed/), or deleted when its registry
    entry says so.
  - No symbolic link that a client may have planted is followed.
extends_documentation_fragment:
  - agency_stack.multi_tenancy.attributes
  - agency_stack.multi_tenancy.platform
  - agency_stack.multi_tenancy.clients
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - V(present) makes the directories of O(clients).
      - V(absent) puts the folders of O(clients) away.
    type: str
    choices:
      - present
      - absent
    default: present
  restore:
    description:
      - For clients that have no folder yet, the kept folder that they get back, V(latest) or its name below
        C(<root>/multi_tenancy/removed/), by client id. Its files are handed over to the client's present uid.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Make the directories of all clients
  agency_stack.multi_tenancy.client_storage:
    config: "{{ platform.config }}"
    clients: "{{ registry.clients }}"

- name: Say what differs, and touch nothing
  agency_stack.multi_tenancy.client_storage:
    config: "{{ platform.config }}"
    clients: "{{ registry.clients }}"
  check_mode: true
  diff: true
"""

RETURN = r"""
changes:
  description: What was done, or would be done in check mode; C(action), C(kind), C(name) and C(client_id) of each.
  returned: success
  type: list
  elements: dict
  sample: [{"action": "create", "kind": "directory", "name": "/opt/agency_stack/clients/acme", "client_id": "acme"}]
failures:
  description: Clients for which something failed, with C(client_id) and C(msg); the others were done.
  returned: success
  type: list
  elements: dict
  sample: []
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import (
    CLIENTS_SPEC,
    STATE_SPEC,
    layout_of,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import (
    atomic_write,
    ensure_directory,
    is_half_written,
    names_in,
    read_text,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import check_client_id
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import converge, finish, guarded
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._storage import (
    Adopt,
    Directory,
    Erase,
    Move,
    apply_directory,
    kept_folders,
    places,
    plan_adoption,
    plan_directories,
    plan_removal,
    read_directory,
    read_places,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._tenant import (
    directories,
    effective_text,
    welcome_page,
)


def read_derived(path: str) -> str | None:
    """A file of ours that can be made anew: one that is not even text counts as different."""
    try:
        return read_text(path)
    except TenancyError:
        return ""


def has_files(path: str) -> bool:
    """Whether there is anything in a folder but what a killed writer left."""
    return not all(map(is_half_written, names_in(path)))


def plan_present(module: AnsibleModule, layout: Layout, failures: list[dict[str, Any]]) -> list[Change]:
    """The directories, configuration files, first pages and restored folders that are missing or differ."""
    config, restore = module.params["config"], module.params["restore"]
    changes: list[Change] = []
    clients = []
    kept = kept_folders(layout) if restore else {}
    for client in module.params["clients"]:
        client_id = client["client_id"]
        if client_id in restore and not os.path.lexists(layout.client(client_id)):
            try:
                changes.append(plan_adoption(client, restore[client_id], kept, layout))
            except TenancyError as exc:
                failures.append({"client_id": client_id, "msg": f"Client {client_id}: {exc}"})
                continue
        clients.append(client)
    restored = {change.client_id for change in changes}
    wanted = [(c["client_id"], directory) for c in clients for directory in directories(c, config, layout)]
    changes += plan_directories(wanted, {directory.path: read_directory(directory) for _id, directory in wanted})
    unfinished = {change.name: change for change in changes if change.client_id not in restored}
    for client in clients:
        path = layout.client(client["client_id"], "multi_tenancy", "config.yaml")
        before, after = read_derived(path), effective_text(client, config, layout)
        if before != after:
            action = "create" if before is None else "update"
            changes.append(Change(action, "client configuration", path, before, after, client["client_id"], after))
        site = layout.client(client["client_id"], "data", "site")
        if site in unfinished and not has_files(site):
            # Before the folder gets its owner and mode, so that a run that was killed here is seen to be unfinished.
            page = welcome_page(client)
            name = os.path.join(site, "index.html")
            change = Change("create", "welcome page", name, None, page, client["client_id"], (client, page))
            changes.insert(changes.index(unfinished[site]), change)
    return changes


def apply_change(change: Change) -> None:
    """Do one change."""
    if isinstance(change.payload, Directory):
        apply_directory(change.payload)
    elif isinstance(change.payload, (Move, Erase, Adopt)):
        change.payload.apply()
    elif isinstance(change.payload, str):
        atomic_write(change.name, change.payload.encode(), mode=0o640)
    else:
        owner, page = change.payload
        ensure_directory(os.path.dirname(change.name), 0o700)
        atomic_write(change.name, page.encode(), mode=0o640, uid=owner["uid"], gid=owner["gid"])


def run(module: AnsibleModule) -> None:
    """Plan and apply."""
    params = module.params
    layout = layout_of(params)
    failures: list[dict[str, Any]] = []
    for client in params["clients"]:
        # It becomes a part of paths in which root moves and deletes.
        check_client_id(client.get("client_id"))
    if params["state"] == "absent":
        actual = read_places(path for client in params["clients"] for path in places(client, layout))
        changes = plan_removal(params["clients"], actual, layout)
    else:
        changes = plan_present(module, layout, failures)
    result = converge(module, changes, apply_change, params["log_dir"])
    result["failures"] += failures
    finish(module, result)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={**CLIENTS_SPEC, **STATE_SPEC, "restore": {"type": "dict", "default": {}}},
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
