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
  - agency_stack.multi_tenancy.shared
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
  settle:
    description:
      - Whether a folder that a shared instance served is moved to its client, when the client has instances of its own.
      - V(false) leaves it while the client's own instance reaches it through a link, so that the routes can be moved
        first; RV(unsettled) names the clients for whom a second task with V(true) is due then.
    type: bool
    default: true
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
unsettled:
  description: Clients whose folders still lie with a shared instance that does not serve them any more.
  returned: success
  type: list
  elements: str
  sample: []
failures:
  description: Clients for which something failed, with C(client_id) and C(msg); the others were done.
  returned: success
  type: list
  elements: dict
  sample: []
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _client_edge
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import (
    CLIENTS_SPEC,
    SHARED_OPTION,
    STATE_SPEC,
    layout_of,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._bridges import level_of
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
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._secrets import (
    Secret,
    plan_secrets,
    read_secret,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._shared_folder import (
    SharedFolder,
    plan_shared_folders,
)
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
    client_secrets,
    directories,
    effective_text,
    shared_directories,
    shared_folders,
    welcome_page,
)


@dataclass(frozen=True)
class Text:
    """A file of ours.

    Args:
        text: All of it.
        uid: Its owner.
        gid: Its group, which may read it.
        make_parent: Whether the folder that it is in may have to be made.
        staging_dir: As for atomic_write().
    """

    text: str
    uid: int
    gid: int
    make_parent: bool = False
    staging_dir: str | None = None


def read_derived(path: str) -> str | None:
    """A file of ours that can be made anew: one that is not even text counts as different."""
    try:
        return read_text(path)
    except TenancyError:
        return ""


def has_files(path: str) -> bool:
    """Whether there is anything in a folder but what a killed writer left."""
    return not all(map(is_half_written, names_in(path)))


def plan_restore(client: dict[str, Any], wanted: str, kept: Mapping[str, int], layout: Layout) -> list[Change]:
    """How a client gets its kept folder back, when it has none yet.

    Raises:
        TenancyError: There is none to give back, or a run that did not know of it has begun a new one meanwhile.
    """
    folder = layout.client(client["client_id"])
    if not os.path.lexists(folder):
        return [plan_adoption(client, wanted, kept, layout)]
    data = layout.client(client["client_id"], "data")
    files = {
        path: name
        for service in names_in(data)
        for name in names_in(os.path.join(data, service))
        if not is_half_written(name)
        for path in [os.path.join(data, service, name)]
    }
    if any(name != "index.html" or read_derived(path) != welcome_page(client) for path, name in files.items()):
        # It was given back before, or the client has begun anew on purpose.
        return []
    try:
        source = plan_adoption(client, wanted, kept, layout).payload.source
    except TenancyError:
        return []
    raise TenancyError(
        f"{source} was not brought back, because {folder} is there already and holds nothing but a first page; "
        "remove the client and add it again with this data."
    )


def plan_present(module: AnsibleModule, layout: Layout, failures: list[dict[str, Any]]) -> list[Change]:
    """The directories, configuration files, first pages and restored folders that are missing or differ."""
    config, restore = module.params["config"], module.params["restore"]
    changes: list[Change] = []
    clients = []
    kept = kept_folders(layout) if restore else {}
    for client in module.params["clients"]:
        client_id = client["client_id"]
        if client_id in restore:
            try:
                changes += plan_restore(client, restore[client_id], kept, layout)
            except TenancyError as exc:
                failures.append({"client_id": client_id, "msg": f"Client {client_id}: {exc}"})
                continue
        clients.append(client)
    restored = {change.client_id for change in changes}
    shared, settle = module.params["shared"], module.params["settle"]
    wanted: list[tuple[str | None, Directory]] = [(None, directory) for directory in shared_directories(shared, layout)]
    folders: list[tuple[SharedFolder, bool]] = []
    for client in clients:
        own = shared_folders(client, config, layout, shared)
        # What the shared instance still serves is left where it is until the routes lead to the client's own one.
        waiting = {folder.own for folder in own if folder.waits()} if not settle else set()
        folders += [
            (folder, folder.own in waiting or (folder.settled() and client["client_id"] not in restored))
            for folder in own
        ]
        wanted += [(client["client_id"], d) for d in directories(client, config, layout) if d.path not in waiting]
        wanted += [(client["client_id"], folder.directory()) for folder in own if folder.to_shared]
    planned = plan_directories(wanted, {directory.path: read_directory(directory) for _id, directory in wanted})
    # A folder is moved when the directories above it are there, and gets its owner and mode afterwards.
    moved = {path for folder, _settled in folders for path in (folder.own, folder.shared)}
    changes += [change for change in planned if change.name not in moved]
    changes += plan_shared_folders(folders)
    changes += [change for change in planned if change.name in moved]
    secrets = [secret for client in clients for secret in client_secrets(client, config, layout)]
    changes += plan_secrets(secrets, {secret.path: read_secret(secret.path) for secret in secrets})
    unfinished = {
        change.name: change
        for change in changes
        if isinstance(change.payload, Directory) and change.client_id not in restored
    }
    for client in clients:
        path = layout.client(client["client_id"], "multi_tenancy", "config.yaml")
        before, after = read_derived(path), effective_text(client, config, layout)
        if before != after:
            action = "create" if before is None else "update"
            payload = Text(after, 0, 0)
            changes.append(Change(action, "client configuration", path, before, after, client["client_id"], payload))
        changes += plan_own_edge(client, config, layout, settle)
        own = layout.client(client["client_id"], "data", "site")
        for site in (own, layout.base("shared", "site", client["client_id"])):
            if site in unfinished and not has_files(site) and not has_files(own):
                # Before the folder gets its owner, so that a run that was killed here is seen to be unfinished.
                page, folder = welcome_page(client), unfinished[site].payload
                name, text = os.path.join(site, "index.html"), Text(page, folder.uid, folder.gid, make_parent=True)
                change = Change("create", "welcome page", name, None, page, client["client_id"], text)
                changes.insert(changes.index(unfinished[site]), change)
    return changes


def own_edge_home(client: dict[str, Any], layout: Layout) -> str:
    """The folder that a client's own Traefik reads."""
    return layout.client(client["client_id"], _client_edge.SERVICE)


def plan_own_edge(client: dict[str, Any], config: dict[str, Any], layout: Layout, settle: bool) -> list[Change]:
    """What a client's own Traefik reads when it starts, and nothing of it for a client that has none."""
    client_id = client["client_id"]
    home = own_edge_home(client, layout)
    if not level_of(client).own_edge:
        erased = Change("delete", "own edge", home, {"path": home}, None, client_id, Erase(home))
        return [erased] if settle and os.path.lexists(home) else []
    changes: list[Change] = []
    for name, after, staging in (
        ("traefik.yml", _client_edge.static_config(client, config), None),
        # A temporary file in the folder that Traefik watches would delay what it reads.
        ("dynamic/platform.yml", _client_edge.platform_config(client, config), home),
    ):
        path = os.path.join(home, name)
        before = read_derived(path)
        if before != after:
            action: Any = "create" if before is None else "update"
            payload = Text(after, 0, client["gid"], staging_dir=staging)
            changes.append(Change(action, "own edge", path, before, after, client_id, payload))
    return changes


def apply_change(change: Change) -> None:
    """Do one change."""
    if isinstance(change.payload, Directory):
        apply_directory(change.payload)
    elif isinstance(change.payload, (Move, Erase, Adopt, SharedFolder, Secret)):
        change.payload.apply()
    else:
        text: Text = change.payload
        if text.make_parent:
            ensure_directory(os.path.dirname(change.name), 0o700)
        atomic_write(change.name, text.text.encode(), 0o640, text.uid, text.gid, staging_dir=text.staging_dir)


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
        folders = [
            folder
            for client in params["clients"]
            for folder in shared_folders(client, params["config"], layout, params["shared"])
        ]
        # What lies with a shared instance goes with the rest of the client's folder.
        changes = plan_shared_folders((folder, folder.settled()) for folder in folders)
        changes += plan_removal(params["clients"], actual, layout)
    else:
        changes = plan_present(module, layout, failures)
    result = converge(module, changes, apply_change, params["log_dir"])
    result["failures"] += failures
    unsettled = {
        client["client_id"]
        for client in params["clients"]
        if (
            # A key lies in there, which no other edge than the client's own may have.
            (not level_of(client).own_edge and os.path.lexists(own_edge_home(client, layout)))
            or any(folder.waits() for folder in shared_folders(client, params["config"], layout, params["shared"]))
        )
    }
    finish(module, result | {"unsettled": sorted(unsettled)})


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CLIENTS_SPEC,
            **STATE_SPEC,
            "restore": {"type": "dict", "default": {}},
            "shared": SHARED_OPTION,
            "settle": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
