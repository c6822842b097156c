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
  - agency_stack.multi_tenancy.shared
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

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _client_edge
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import (
    CLIENTS_SPEC,
    SHARED_OPTION,
    layout_of,
)
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
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import shared_id
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import converge, finish, guarded
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._tenant import (
    level_of,
    rate_limit,
    routes,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._traefik import (
    ClientRoutes,
    Route,
    check_routes,
    faults_of_live,
    plan_routes,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._traefik_api import by_name, served_fingerprint

# The kind of change to the file of a client's own Traefik.
OWN_ROUTE = "own route"
# Seconds from the greeting of a connection until its first request, at most.
DRAIN = 1.0


def client_routes(
    client: dict[str, Any],
    config: dict[str, Any],
    layout: Layout,
    backends: Mapping[str, str | None],
    subnets: Mapping[str, str],
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
    rate_average, rate_burst = rate_limit(client, config)
    result = ClientRoutes(
        client_id=client_id,
        subnet=client["subnet"],
        routes=[
            Route(client_id, r["service"], r["hostnames"], backends[r["service"]], r["port"], subnets.get(r["service"]))
            for r in routes(client, config)
            if r["service"] in backends
        ],
        certificate=certificate,
        key=key,
        fingerprint=fingerprint,
        rate_average=rate_average,
        rate_burst=rate_burst,
    )
    check_routes(result)
    return result


@dataclass
class Wanted:
    """What edges must hold for one client.

    Args:
        shared: What the shared edge holds.
        own: What the client's own Traefik holds, of a client that has one.
        gid: The client's group, which its own Traefik reads by.
    """

    shared: ClientRoutes
    own: ClientRoutes | None = None
    gid: int = 0

    @property
    def client_id(self) -> str:
        """Whose it is."""
        return self.shared.client_id

    @property
    def own_host(self) -> str:
        """Where the client's own Traefik is reached."""
        return self.shared.routes[0].address or ""


class Applier:
    """Writes the files and asks the edges whether they serve them.

    Args:
        layout: Where the files lie.
        config: The platform's settings.
        timeout: Seconds until a change must be served.
    """

    def __init__(self, layout: Layout, config: dict[str, Any], timeout: int) -> None:
        self.layout = layout
        self.ports = config["edge"]
        self.timeout = timeout
        self.wanted: dict[str, Wanted] = {}
        self.written: set[str] = set()

    def path(self, kind: str, client_id: str) -> str:
        """The file of one client."""
        if kind == OWN_ROUTE:
            return self.layout.client(client_id, _client_edge.SERVICE, "dynamic", "routes.yml")
        return self.layout.base("traefik", "dynamic", f"{client_id}.yml")

    def read(self, kind: str, client_id: str) -> dict[str, str]:
        """The text of one client's file by its id; nothing when there is none."""
        try:
            text = read_text(self.path(kind, client_id))
        except TenancyError:
            # Not even text: it is written anew.
            text = ""
        return {} if text is None else {client_id: text}

    def apply(self, change: Change) -> None:
        """Write or remove one client's file."""
        path = self.path(change.kind, change.name)
        if change.action == "delete":
            os.unlink(path)
            sync_directory(os.path.dirname(path))
            return
        dummy, text = change.payload
        wanted = self.wanted[change.name]
        if change.kind != OWN_ROUTE and wanted.own is not None:
            # Visitors are led there only when they will be served.
            self.await_own(wanted)
            self.lead_over(wanted, path, text)
        gid = wanted.gid if change.kind == OWN_ROUTE else EDGE_ID
        atomic_write(path, text.encode(), 0o640, 0, gid, staging_dir=self.layout.base("traefik", "staging"))
        self.written.add(change.name)

    def lead_over(self, wanted: Wanted, path: str, text: str) -> None:
        """Let the shared edge pass connections through before it stops to answer on those that it opened itself."""
        between = _client_edge.transition(self.read("route", wanted.client_id).get(wanted.client_id, ""), text)
        if between is None or not self.timeout:
            return
        atomic_write(path, between.encode(), 0o640, 0, EDGE_ID, staging_dir=self.layout.base("traefik", "staging"))
        name = f"{wanted.shared.routes[0].name}@file"
        deadline = time.monotonic() + self.timeout
        while time.monotonic() < deadline:
            with contextlib.suppress(TenancyError):
                if name in by_name(self.ports["api_port"], "tcp/routers"):
                    # Nothing tells when the last connection from before was asked on.
                    time.sleep(DRAIN)
                    return
            time.sleep(0.05)

    def own_faults(self, wanted: Wanted) -> list[str]:
        """How a client's own Traefik differs from what it must hold; a client without one has none."""
        if wanted.own is None:
            return []
        try:
            routers, services = (
                by_name(_client_edge.API_PORT, kind, wanted.own_host) for kind in ("http/routers", "http/services")
            )
        except TenancyError as exc:
            return [str(exc)]
        return faults_of_live(wanted.own, routers, services)

    def await_own(self, wanted: Wanted) -> None:
        """Wait until a client's own Traefik serves its routes.

        Raises:
            TenancyError: It does not within the time.
        """
        deadline = time.monotonic() + self.timeout
        while self.timeout and (faults := self.own_faults(wanted)):
            if time.monotonic() >= deadline:
                raise TenancyError(
                    f"its own Traefik does not serve its routes after {self.timeout} s: {'; '.join(faults)}."
                )
            time.sleep(0.05)

    def confirm(self, waiting: list[Wanted]) -> list[dict[str, Any]]:
        """Wait until the edges serve every client as intended; the failures of those that they do not.

        The shared edge's API is asked once for all, a TLS handshake is made for the clients that changed.
        """
        open_faults: dict[str, list[str]] = {}
        deadline = time.monotonic() + self.timeout
        while waiting and self.timeout:
            try:
                has_own = any(wanted.own is not None for wanted in waiting)
                kinds = ("http/routers", "http/services", *(("tcp/routers", "tcp/services") if has_own else ()))
                live = {kind: by_name(self.ports["api_port"], kind) for kind in kinds}
                open_faults |= {wanted.client_id: self._faults(wanted, live) for wanted in waiting}
            except TenancyError as exc:
                open_faults = {wanted.client_id: [str(exc)] for wanted in waiting}
            waiting = [wanted for wanted in waiting if open_faults[wanted.client_id]]
            if time.monotonic() >= deadline:
                break
            time.sleep(0.05 if waiting else 0)
        return [
            {
                "client_id": wanted.client_id,
                "msg": f"Client {wanted.client_id}: the edge does not serve its routes after {self.timeout} s: "
                f"{'; '.join(open_faults[wanted.client_id])}.",
            }
            for wanted in waiting
            if self.timeout
        ]

    def _faults(self, wanted: Wanted, live: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
        if wanted.own is None:
            faults = faults_of_live(wanted.shared, live["http/routers"], live["http/services"])
        else:
            faults = self.own_faults(wanted) + _client_edge.faults_of_passthrough(
                wanted.shared, live["tcp/routers"], live["tcp/services"], live["http/routers"]
            )
        return faults or (self._tls_faults(wanted.shared) if wanted.client_id in self.written else [])

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


def wanted_routes(
    client: dict[str, Any], config: dict[str, Any], layout: Layout, params: Mapping[str, Any]
) -> Wanted | None:
    """What the edges must hold for a client; None while nothing of it can be reached.

    Raises:
        TenancyError: As of client_routes().
    """
    client_id, level = client["client_id"], level_of(client)
    services = {route["service"] for route in routes(client, config)}
    given: dict[str, str] = params["backends"].get(client_id) or {}
    backends: dict[str, str | None] = dict(given)
    subnets: dict[str, str] = {}
    if not level.own_instances:
        subnets = {item["service"]: item["subnet"] for item in params["shared"]}
        found = {name: params["backends"].get(shared_id(name), {}).get(name) for name in services & subnets.keys()}
        backends = {name: address for name, address in found.items() if address is not None}
    if client["state"] == "suspended":
        backends = dict.fromkeys(services)
    if not services & backends.keys():
        return None
    if not level.own_edge:
        return Wanted(client_routes(client, config, layout, backends, subnets))
    address = given.get(_client_edge.SERVICE)
    if address is None:
        return None
    own = client_routes(client | {"subnet": client["internal_subnet"]}, config, layout, backends, subnets)
    front = _client_edge.front_routes(client, config, address, own.fingerprint)
    check_routes(front)
    return Wanted(front, own, client["gid"])


def run(module: AnsibleModule) -> None:
    """Plan, apply, and confirm what the edges serve."""
    params = module.params
    layout, config = layout_of(params), params["config"]
    applier = Applier(layout, config, params["confirm_timeout"])
    actual: dict[str, str] = {}
    own_actual: dict[str, str] = {}
    gone = []
    refused = []
    for client in params["clients"]:
        client_id = client["client_id"]
        actual |= applier.read("route", client_id)
        own_actual |= applier.read(OWN_ROUTE, client_id)
        if not routes(client, config):
            # A file without routers is an error to Traefik, for which it would refuse those of all clients.
            gone.append(client_id)
            continue
        try:
            wanted = wanted_routes(client, config, layout, params)
        except TenancyError as exc:
            refused.append({"client_id": client_id, "msg": f"Client {client_id}: {exc}"})
            continue
        if wanted is not None:
            applier.wanted[client_id] = wanted
    force, wants = params["force"], applier.wanted.values()
    owners = [wanted.own for wanted in wants if wanted.own is not None]
    passed = [wanted.shared for wanted in wants if wanted.own is not None]
    changes = [
        *plan_routes(owners, own_actual, (), force, OWN_ROUTE),
        *plan_routes([wanted.shared for wanted in wants if wanted.own is None], actual, gone, force),
        *plan_routes(passed, actual, (), force, "route", _client_edge.passthrough),
    ]
    result = converge(module, changes, applier.apply, params["log_dir"])
    result["failures"] += refused
    if not module.check_mode:
        unwritten = {failure["client_id"] for failure in result["failures"]}
        result["failures"] += applier.confirm([wanted for wanted in wants if wanted.client_id not in unwritten])
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
            "shared": SHARED_OPTION,
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
