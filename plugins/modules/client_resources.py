#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: client_resources
short_description: Give hard clients dedicated resources, and keep them to these
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Gives each client of the level V(hard) a volume of the size of its C(resources.disk), whose blocks are allocated on
    the host's disk and which is mounted at C(<root>/clients/<client_id>/data). A client that fills it gets C(ENOSPC),
    the others do not. What the client's data folder held before is moved into it.
  - Makes a cgroup that is the parent of all containers of the client, and caps their memory, CPU time and number of
    processes together. Give its name, RV(cgroup_parents), to the containers.
  - Lets a systemd unit or an init script mount all volumes, and make the cgroups that the kernel forgets, before the
    engine starts at boot.
  - Clients of other levels get their data back into an ordinary folder, when they have a volume.
  - Limits change while containers run. The memory cannot be limited to less than is in use, and a volume cannot be
    made smaller.
  - Data moves while containers go on serving it; those that may write into it are stopped meanwhile. What they serve is
    erased by a run with O(settle), which belongs after the routes were moved and the containers removed.
  - A run that was killed at any moment is finished or taken back by the next one; no data is lost.
  - Run it before M(agency_stack.multi_tenancy.client_storage), so that folders are made inside the volume.
requirements:
  - mkfs.ext4, e2fsck and resize2fs (Debian package C(e2fsprogs)), mount and losetup (C(mount)), and loop devices
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
    support: full
options:
  state:
    description:
      - V(present) gives the hard ones of O(clients) what they are to have, and takes it from the others. Entries that
        are to be removed are left alone.
      - V(absent) takes it from all of O(clients), whose containers must be gone. The volume is put into the client's
        folder as C(data.img), or deleted when the registry entry says so.
    type: str
    choices:
      - present
      - absent
    default: present
  restore:
    description:
      - As of M(agency_stack.multi_tenancy.client_storage). Of clients that are hard, or whose kept folder holds a
        volume, it is this module that gets the folder back.
    type: dict
    default: {}
  settle:
    description:
      - Whether data that counts no more is erased although containers of an earlier level, or an instance that clients
        share, may still serve it.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Give the hard clients their resources
  agency_stack.multi_tenancy.client_resources:
    config: "{{ platform.config }}"
    clients: "{{ registry.clients }}"
  register: resources

- name: Say what would be done, and for whom containers would be stopped
  agency_stack.multi_tenancy.client_resources:
    config: "{{ platform.config }}"
    clients: "{{ registry.clients }}"
  check_mode: true
  diff: true

- name: Put the volumes of removed clients away
  agency_stack.multi_tenancy.client_resources:
    config: "{{ platform.config }}"
    clients: "{{ registry.clients | selectattr('state', 'eq', 'absent') }}"
    state: absent
"""

RETURN = r"""
cgroup_parents:
  description: What the engine takes as C(cgroup_parent) of the containers of each hard client, by client id.
  returned: success
  type: dict
  sample: {"acme": "/agency_stack/mt-acme"}
interrupted:
  description: Clients whose running containers were, or in check mode would be, stopped while their data was moved or
    their volume enlarged, and started again.
  returned: success
  type: list
  elements: str
  sample: []
pending:
  description: Clients whose containers of an earlier level may still need something, a cgroup or data. It goes with the
    next run after those containers, with O(settle).
  returned: success
  type: list
  elements: str
  sample: []
changes:
  description: What was done, or would be done in check mode; C(action), C(kind), C(name) and C(client_id) of each.
  returned: success
  type: list
  elements: dict
  sample: [{"action": "create", "kind": "cgroup", "name": "/agency_stack/mt-acme", "client_id": "acme"}]
failures:
  description: Clients for which something failed, with C(client_id) and C(msg); the others were done.
  returned: success
  type: list
  elements: dict
  sample: []
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _client_edge
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import (
    CLIENTS_SPEC,
    ENGINE_SPEC,
    SHARED_OPTION,
    STATE_SPEC,
    layout_of,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._boot import (
    IMAGE,
    LIMITS,
    BootHost,
    BootState,
    limits_text,
    plan_boot,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._cgroup import (
    EngineCgroups,
    Limits,
    Parent,
    cgroup_host,
    engine_cgroups,
    engine_to_come,
    limits_of,
    parent_name,
    parents_of,
    plan_parents,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._engine import connect_for, engine_errors
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import (
    atomic_write,
    names_in,
    read_text,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import LABEL_CLIENT, LABEL_PLATFORM
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import check_client_id
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._resources import (
    Resources,
    capacity_of,
    free_disk,
    read_host,
    wanted_resources,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import converge, finish, guarded
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._shared_folder import (
    SharedFolder,
    plan_shared_folders,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack_apply import list_containers
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._storage import (
    Adopt,
    kept_folders,
    plan_adoption,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._tenant import shared_folders
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._volume import (
    Fate,
    Step,
    Task,
    Volume,
    image_size,
    leaves,
    plan_volumes,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._volume_apply import (
    VolumeHost,
    can_grow_mounted,
)

RUNNING = ("running", "restarting", "paused")


@contextlib.contextmanager
def stopped(engine: Any, platform: str, client_id: str, writers: bool = False) -> Iterator[None]:
    """Stop containers of a client that run, and start these again on leaving, whatever happened.

    Args:
        engine: A docker.APIClient.
        platform: The platform's name prefix.
        client_id: The client.
        writers: Whether those that cannot write into the client's data are left running.
    """
    states = [
        state
        for state in list_containers(engine, {LABEL_PLATFORM: platform, LABEL_CLIENT: client_id})
        if state.state in RUNNING and (state.writes or not writers)
    ]
    # Its own Traefik before the others and after them, so that no visitor's request waits for a service that is away.
    states.sort(key=lambda state: state.service != _client_edge.SERVICE)
    done: list[Any] = []

    def start_again() -> None:
        faults = []
        for state in reversed(done):
            try:
                with engine_errors(f"Starting container {state.name} again"):
                    engine.start(state.id)
            except TenancyError as exc:
                faults.append(str(exc))
        if faults:
            raise TenancyError(" ".join(faults))

    try:
        for state in states:
            done.append(state)
            with engine_errors(f"Stopping container {state.name}"):
                engine.stop(state.id)
        yield
    except BaseException as exc:
        try:
            start_again()
        except TenancyError as later:
            raise TenancyError(f"{exc} {later}") from exc
        raise
    start_again()


class Plan:
    """What is to be done for the clients in question.

    Args:
        module: The module that runs.
        layout: Where everything lies.
        engine: How the engine keeps cgroups.
        volumes: The host's volumes.
    """

    def __init__(self, module: AnsibleModule, layout: Layout, engine: EngineCgroups, volumes: VolumeHost) -> None:
        params = module.params
        self.config: Mapping[str, Any] = params["config"]
        self.layout, self.engine, self.volumes = layout, engine, volumes
        self.removing = params["state"] == "absent"
        # In check mode the whole plan is told, although a run does it in two steps.
        self.settle: bool = params["settle"] or module.check_mode
        self.failures: list[dict[str, Any]] = []
        self.pending: list[str] = []
        self.left: list[str] = []
        # Of the hard clients; one whose resources cannot be understood is not touched.
        self.wanted: dict[str, Resources] = {}
        self.clients = []
        for client in params["clients"]:
            if not self.removing and client["state"] == "absent":
                continue
            try:
                if not self.removing and client["isolation_level"] == "hard":
                    self.wanted[client["client_id"]] = wanted_resources(client, self.config)
                self.clients.append(client)
            except TenancyError as exc:
                self.fail(client["client_id"], str(exc))
        self.host = cgroup_host(engine)
        self.folders: dict[str, str] = {}
        adoptions = self.adoptions(params["restore"])
        self.shared = {
            client["client_id"]: shared_folders(client, self.config, layout, params["shared"])
            for client in self.clients
        }
        # What a shared instance serves is copied into the volume with the rest of the client's data.
        adoptions += plan_shared_folders(
            (folder, folder.waits() or folder.settled())
            for client_id in self.shared.keys() & self.wanted.keys()
            for folder in self.shared[client_id]
        )
        groups = [*self.parents(), *self.limits()]
        data = self.data()
        # Whether containers still run is seen by their cgroup, before anything of a removed client is touched.
        self.changes = [*groups, *data] if self.removing else [*adoptions, *data, *groups]

    def fail(self, client_id: str, fault: str) -> None:
        """Note what cannot be done for a client."""
        self.failures.append({"client_id": client_id, "msg": f"Client {client_id}: {fault}"})

    def adoptions(self, restore: Mapping[str, str]) -> list[Change]:
        """The kept folders that clients get back."""
        changes = []
        kept = kept_folders(self.layout) if restore and not self.removing else {}
        for client in list(self.clients):
            client_id = client["client_id"]
            if self.removing or client_id not in restore or os.path.lexists(self.layout.client(client_id)):
                continue
            try:
                change = plan_adoption(client, restore[client_id], kept, self.layout)
            except TenancyError as exc:
                if client_id in self.wanted:
                    self.fail(client_id, str(exc))
                    del self.wanted[client_id]
                self.clients.remove(client)
                continue
            source = change.payload.source
            if client_id in self.wanted or os.path.lexists(os.path.join(source, "data.img")):
                self.folders[client_id] = source
                changes.append(change)
        return changes

    def data(self) -> list[Change]:
        """The volumes."""
        place = self.layout.base("volumes")
        volumes: list[tuple[Volume, Fate | None]] = []
        for client in self.clients:
            client_id = client["client_id"]
            resources = self.wanted.get(client_id)
            fate: Fate | None = None
            if self.removing:
                fate = "purge" if client.get("removal") == "purge" else "keep"
            size = None if resources is None else image_size(resources.disk)
            label = f"{self.config['name_prefix']}-{client['index']}"
            volumes.append((Volume(client_id, client["uid"], label, size, self.shared[client_id]), fate))
        names = [volume.client_id for volume, dummy in volumes]
        reserved = capacity_of(read_host(place), self.config["capacity"]).reserved_disk
        states = self.volumes.read(names, self.folders)
        changes, faults = plan_volumes(
            volumes,
            states,
            {client_id: self.volumes.image(client_id) for client_id in names},
            free_disk(place) - reserved,
            can_grow_mounted(),
            self.settle,
        )
        if not self.settle:
            steps: dict[str, list[Step]] = {client_id: [] for client_id in names}
            for change in changes:
                steps[change.payload.volume.client_id].append(change.payload.step)
            self.left = [client_id for client_id in names if leaves(states[client_id], steps[client_id])]
        for client_id, fault in faults:
            self.fail(client_id, fault)
        return changes

    def parents(self) -> list[Change]:
        """The cgroups."""
        parents = []
        for client in self.clients:
            resources = self.wanted.get(client["client_id"])
            name = parent_name(client, self.config, self.engine)
            parents.append(Parent(name, client["client_id"], None if resources is None else limits_of(resources)))
        actual = self.host.read([parent.name for parent in parents])
        changes, self.pending = plan_parents(parents, actual, self.engine, wait=not self.removing)
        return changes

    def limits(self) -> list[Change]:
        """The files from which cgroups are made again at boot."""
        changes = []
        for client in self.clients:
            client_id = client["client_id"]
            path = self.layout.base("volumes", f"{client_id}{LIMITS}")
            before, after = read_text(path), None
            if client_id in self.wanted and self.engine.driver == "cgroupfs":
                wanted: Limits = limits_of(self.wanted[client_id])
                after = limits_text(wanted.memory or 0, wanted.cpu_quota or 0, wanted.pids or 0)
            if before != after:
                action: Any = "create" if before is None else "delete" if after is None else "update"
                changes.append(Change(action, "boot limits", path, before, after, client_id))
        return changes

    def boot(self, host: BootHost) -> list[Change]:
        """What gives hard clients their resources at boot; it stays as long as there is any."""
        in_question = {client["client_id"] for client in self.clients}
        names = [os.path.splitext(name) for name in names_in(self.layout.base("volumes"))]
        others = {stem for stem, ending in names if ending in (IMAGE, LIMITS)} - in_question
        is_needed = bool(self.wanted or others or self.failures)
        actual = host.state()
        if not is_needed or (not self.wanted and actual == BootState()):
            return plan_boot(BootState(), actual, host.names)
        return plan_boot(host.wanted(), actual, host.names)

    def parent_names(self) -> dict[str, str]:
        """What the engine takes as cgroup_parent, by client id."""
        return {
            client["client_id"]: parent_name(client, self.config, self.engine)
            for client in self.clients
            if client["client_id"] in self.wanted
        }


def write_limits(change: Change) -> None:
    """Write or remove the file from which a cgroup is made again at boot."""
    if change.after is None:
        os.unlink(change.name)
    else:
        atomic_write(change.name, change.after.encode(), 0o600)


def run(module: AnsibleModule) -> None:
    """Plan and apply."""
    params = module.params
    layout, platform = layout_of(params), params["config"]["name_prefix"]
    for client in params["clients"]:
        # It becomes a part of paths in which root moves and deletes.
        check_client_id(client.get("client_id"))
    engine = connect_for(module, params["docker_host"])
    with engine_errors("Asking the engine"):
        kept_by = engine_cgroups(engine.info()) if engine else engine_to_come()
    volumes = VolumeHost(layout, functools.partial(stopped, engine, platform))
    plan = Plan(module, layout, kept_by, volumes)
    boot = BootHost(volumes.layout, platform, parents_of(params["config"]))
    changes = [*plan.changes, *plan.boot(boot)]
    tasks = [change.payload for change in changes if isinstance(change.payload, Task) and change.payload.stops]
    stopping = {task.volume.client_id for task in tasks}
    stopping_all = {task.volume.client_id for task in tasks if task.step == "grow"}
    running = list_containers(engine, {LABEL_PLATFORM: platform}) if engine and stopping else []

    def apply(change: Change) -> None:
        if isinstance(change.payload, (Adopt, SharedFolder)):
            change.payload.apply()
        elif isinstance(change.payload, Task):
            volumes.apply(change)
        elif change.kind == "cgroup":
            plan.host.apply(change)
        elif change.kind == "boot limits":
            write_limits(change)
        else:
            boot.apply(change)

    # One after the other: what is done at boot comes last, and the last client's removal before it.
    result = converge(module, changes, apply, params["log_dir"])
    result["failures"] += plan.failures
    result["cgroup_parents"] = plan.parent_names()
    result["interrupted"] = sorted(
        {
            str(s.client_id)
            for s in running
            if s.state in RUNNING and s.client_id in (stopping if s.writes else stopping_all)
        }
    )
    result["pending"] = sorted({*plan.pending, *plan.left})
    finish(module, result)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CLIENTS_SPEC,
            **ENGINE_SPEC,
            **STATE_SPEC,
            "shared": SHARED_OPTION,
            "restore": {"type": "dict", "default": {}},
            "settle": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
