#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: traefik_dynamic_config
short_description: Keep the routes of clients in the shared edge
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Writes one file for each client into the directory that the edge's Traefik watches, with the client's routers,
    services and certificate, and waits until Traefik serves exactly that, as its API and a TLS handshake show.
  - A backend outside the client's own network and a host name that is not canonical are refused.
  - A suspended client's visitors get status 503 with C(Retry-After); an absent client's routes are removed.
extends_documentation_fragment:
  - agency_stack.multi_tenancy.attributes
  - agency_stack.multi_tenancy.platform
  - agency_stack.multi_tenancy.clients
attributes:
  check_mode:
    support: partial
    details: The plan has the certificates that are there; one that the same run would issue is not in it.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: O(force=true) writes each time.
options:
  backends:
    description:
      - Address of each service by client, as M(agency_stack.multi_tenancy.client_stack) returns them.
      - The route of a client without any address is left as it is.
    type: dict
    required: true
  force:
    description:
      - Whether files that are as wanted are written and confirmed as well. No request fails meanwhile.
    type: bool
    default: false
  confirm_timeout:
    description:
      - Seconds until the edge must serve a change; V(0) does not ask.
    type: int
    default: 15
"""

EXAMPLES = r"""
- name: Route all clients
  agency_stack.multi_tenancy.traefik_dynamic_config:
    config: "{{ platform.config }}"
    clients: "{{ registry.clients }}"
    backends: "{{ stack.backends }}"

- name: Show what would be routed
  agency_stack.multi_tenancy.traefik_dynamic_config:
    config: "{{ platform.config }}"
    clients: "{{ registry.clients }}"
    backends: "{{ stack.backends }}"
  check_mode: true
  diff: true
"""

RETURN = r"""
urls:
  description: The address of each client's main site.
  returned: success
  type: dict
  sample: {"acme": "https://acme.example.com/"}
changes:
  description: What was done, or would be done in check mode; C(action), C(kind), C(name) and C(client_id) of each.
  returned: success
  type: list
  elements: dict
  sample: [{"action": "create", "kind": "route", "name": "acme", "client_id": "acme"}]
failures:
  description: Clients for which something failed, with C(client_id) and C(msg); the others were done.
  returned: success
  type: list
  elements: dict
  sample: []
"""

import os
import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import CLIENTS_SPEC, layout_of
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._certificates import (
    HAS_CRYPTOGRAPHY,
    Pair,
    fits,
    read_certificate,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._edge import EDGE_ID
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import (
    atomic_write,
    read_text,
    sync_directory,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import converge, finish, guarded
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._tenant import routes
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._traefik import (
    ClientRoutes,
    Route,
    check_routes,
    faults_of_live,
    plan_routes,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._traefik_api import by_name, served_fingerprint


def client_routes(
    client: dict[str, Any], config: dict[str, Any], layout: Layout, backends: Mapping[str, str | None]
) -> ClientRoutes:
    """What the edge must hold for a client: the services whose address is known, and its certificate, if there is one.

    Raises:
        TenancyError: Certificate and key do not belong together, or a route is none that may reach Traefik.
    """
    client_id = client["client_id"]
    certificate = read_text(layout.client(client_id, "certs", "tls.crt")) or ""
    key = read_text(layout.client(client_id, "certs", "tls.key")) or ""
    fingerprint = ""
    if certificate or key:
        # In place of a broken certificate Traefik would silently serve its own.
        if not fits(Pair(certificate, key)):
            raise TenancyError(
                f"tls.crt and tls.key in {layout.client(client_id, 'certs')} are damaged or do not belong together; "
                "its route was left as it is: run make multi_tenancy to issue them anew."
            )
        fingerprint = read_certificate(certificate).fingerprint
    result = ClientRoutes(
        client_id=client_id,
        subnet=client["subnet"],
        routes=[
            Route(client_id, r["service"], r["hostnames"], backends[r["service"]], r["port"])
            for r in routes(client, config)
            if r["service"] in backends
        ],
        certificate=certificate,
        key=key,
        fingerprint=fingerprint,
    )
    check_routes(result)
    return result


class Applier:
    """Writes the files and asks the edge whether it serves them.

    Args:
        layout: Where the files lie.
        config: The platform's settings.
        timeout: Seconds until a change must be served.
    """

    def __init__(self, layout: Layout, config: dict[str, Any], timeout: int) -> None:
        self.layout = layout
        self.ports = config["edge"]
        self.timeout = timeout
        self.written: list[ClientRoutes] = []

    def path(self, client_id: str) -> str:
        """The file of one client."""
        return self.layout.base("traefik", "dynamic", f"{client_id}.yml")

    def apply(self, change: Change) -> None:
        """Write or remove one client's file."""
        if change.action == "delete":
            os.unlink(self.path(change.name))
            sync_directory(self.layout.base("traefik", "dynamic"))
            return
        client, text = change.payload
        staging = self.layout.base("traefik", "staging")
        atomic_write(self.path(client.client_id), text.encode(), 0o640, 0, EDGE_ID, staging_dir=staging)
        self.written.append(client)

    def confirm(self, wanted: list[ClientRoutes]) -> list[dict[str, Any]]:
        """Wait until the edge serves every client as intended; the failures of those that it does not.

        The API is asked once for all, a TLS handshake is made for the clients that changed.
        """
        open_faults: dict[str, list[str]] = {}
        changed = {client.client_id for client in self.written}
        waiting = list(wanted)
        deadline = time.monotonic() + self.timeout
        while waiting and self.timeout:
            try:
                routers, services = (by_name(self.ports["api_port"], kind) for kind in ("routers", "services"))
                for client in waiting:
                    faults = faults_of_live(client, routers, services)
                    if not faults and client.client_id in changed:
                        faults = self._tls_faults(client)
                    open_faults[client.client_id] = faults
            except TenancyError as exc:
                open_faults = {client.client_id: [str(exc)] for client in waiting}
            waiting = [client for client in waiting if open_faults[client.client_id]]
            if time.monotonic() >= deadline:
                break
            time.sleep(0.05 if waiting else 0)
        return [
            {
                "client_id": client.client_id,
                "msg": f"Client {client.client_id}: the edge does not serve its routes after {self.timeout} s: "
                f"{'; '.join(open_faults[client.client_id])}.",
            }
            for client in waiting
            if self.timeout
        ]

    def _tls_faults(self, client: ClientRoutes) -> list[str]:
        """How the served certificate differs, asked once for each client by its first plain host name."""
        names = [name for route in client.routes for name in route.hostnames]
        if not client.fingerprint or not names:
            return []
        # A wildcard is asked for by a name below it.
        name = names[0].replace("*", "probe", 1)
        try:
            served = served_fingerprint(self.ports["https_port"], name)
        except TenancyError as exc:
            return [str(exc)]
        return [] if served == client.fingerprint else [f"{name} is served with another certificate"]


def run(module: AnsibleModule) -> None:
    """Plan, apply, and confirm what the edge serves."""
    params = module.params
    layout, config = layout_of(params), params["config"]
    applier = Applier(layout, config, params["confirm_timeout"])
    wanted = []
    actual = {}
    gone = []
    refused = []
    for client in params["clients"]:
        client_id = client["client_id"]
        try:
            text = read_text(applier.path(client_id))
        except TenancyError:
            # Not even text: it is written anew.
            text = ""
        if text is not None:
            actual[client_id] = text
        services = {route["service"] for route in routes(client, config)}
        backends = params["backends"].get(client_id) or {}
        if client["state"] == "suspended":
            backends = dict.fromkeys(services)
        if not services:
            # A file without routers is an error to Traefik, for which it would refuse those of all clients.
            gone.append(client_id)
        elif services & backends.keys():
            try:
                wanted.append(client_routes(client, config, layout, backends))
            except TenancyError as exc:
                refused.append({"client_id": client_id, "msg": f"Client {client_id}: {exc}"})
    changes = plan_routes(wanted, actual, gone, params["force"])
    result = converge(module, changes, applier.apply, params["log_dir"])
    result["failures"] += refused
    if not module.check_mode:
        unwritten = {failure["client_id"] for failure in result["failures"]}
        result["failures"] += applier.confirm([client for client in wanted if client.client_id not in unwritten])
    port = config["edge"]["https_port"]
    suffix = "" if port == 443 else f":{port}"
    # Of a wildcard, some name below it.
    names = {client["client_id"]: client["domain"].replace("*.", "any.", 1) for client in params["clients"]}
    urls = {client_id: f"https://{name}{suffix}/" for client_id, name in names.items()}
    finish(module, result | {"urls": urls})


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CLIENTS_SPEC,
            "backends": {"type": "dict", "required": True},
            "force": {"type": "bool", "default": False},
            "confirm_timeout": {"type": "int", "default": 15},
        },
        supports_check_mode=True,
    )
    if not HAS_CRYPTOGRAPHY:
        module.fail_json(msg=missing_required_lib("cryptography"))
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
