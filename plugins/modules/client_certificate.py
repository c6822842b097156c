#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: client_certificate
short_description: Give clients certificates of the internal certificate authority
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Keeps one certificate authority for the host, C(<root>/multi_tenancy/ca/ca.crt), which an operator trusts once, and
    gives each client a certificate for exactly its host names, C(certs/tls.crt) and C(certs/tls.key) in its folder.
  - A certificate is issued when there is none that fits its key, when the host names change, and 30 days before it
    expires.
  - A client that becomes V(hard) gets a new key, since the shared edge had the one before, and so does one that was.
    Certificates for a client's own edge are told by the unit C(own edge) in their subject.
  - Keys never leave the host. They are readable by root, and in C(traefik/dynamic/) by the edge's group.
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
requirements:
  - cryptography (Python library, 38 or newer)
"""

EXAMPLES = r"""
- name: Give all clients certificates
  agency_stack.multi_tenancy.client_certificate:
    config: "{{ platform.config }}"
    clients: "{{ registry.clients }}"

- name: Say which certificates would be issued
  agency_stack.multi_tenancy.client_certificate:
    config: "{{ platform.config }}"
    clients: "{{ registry.clients }}"
  check_mode: true
"""

RETURN = r"""
authority:
  description: Path of the certificate authority's certificate.
  returned: success
  type: str
  sample: /opt/agency_stack/multi_tenancy/ca/ca.crt
changes:
  description: What was done, or would be done in check mode; C(action), C(kind), C(name) and C(client_id) of each.
  returned: success
  type: list
  elements: dict
  sample: [{"action": "create", "kind": "certificate", "name": "acme", "client_id": "acme"}]
failures:
  description: Clients for which something failed, with C(client_id) and C(msg); the others were done.
  returned: success
  type: list
  elements: dict
  sample: []
"""

import os
import socket
from datetime import UTC, datetime

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import CLIENTS_SPEC, layout_of
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._bridges import level_of
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._certificates import (
    HAS_CRYPTOGRAPHY,
    Facts,
    Pair,
    authority_identifier,
    fits,
    issue,
    make_authority,
    read_certificate,
    why_renew,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import atomic_write, read_text
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import hostnames
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import converge, finish, guarded


def read_pair(certificate: str, key: str) -> Pair | None:
    """A certificate and its key from two files; None when one is missing."""
    texts = read_text(certificate), read_text(key)
    return None if texts[0] is None or texts[1] is None else Pair(texts[0], texts[1])


def read_facts(certificate: str, key: str) -> Facts | None:
    """What a client's certificate says; None when it is no use."""
    try:
        pair = read_pair(certificate, key)
        return read_certificate(pair.certificate) if pair is not None and fits(pair) else None
    except (TenancyError, ValueError):
        # Not even text, or with extensions that make no sense: it is issued anew.
        return None


def write_pair(certificate: str, key: str, pair: Pair, certificate_mode: int) -> None:
    """Write the key first: a certificate without its key is issued anew by the next run, a key alone is no harm."""
    atomic_write(key, pair.key.encode(), mode=0o600)
    atomic_write(certificate, pair.certificate.encode(), mode=certificate_mode)


class Authority:
    """The host's certificate authority, made when the first certificate needs it.

    Args:
        layout: Where it lies.
    """

    def __init__(self, layout: Layout) -> None:
        self.paths = layout.base("ca", "ca.crt"), layout.base("ca", "ca.key")
        self.pair = read_pair(*self.paths)
        # A key alone is what an interrupted first run leaves; the authority is then made for that key.
        if self.pair is None and os.path.exists(self.paths[0]):
            raise TenancyError(
                f"Of the certificate authority only {self.paths[0]} is there; restore {self.paths[1]} from a copy, "
                "or move the rest away to begin a new authority, which everybody must trust again."
            )
        if self.pair is not None and not fits(self.pair):
            raise TenancyError(
                f"{' and '.join(self.paths)} are damaged or do not belong together; restore both from a copy."
            )

    def identifier(self) -> str:
        """The key identifier, '' before there is an authority."""
        return "" if self.pair is None else authority_identifier(self.pair.certificate)


def run(module: AnsibleModule) -> None:
    """Plan and apply."""
    params = module.params
    layout = layout_of(params)
    now = datetime.now(UTC)
    authority = Authority(layout)
    changes = []
    if authority.pair is None:
        after = {"path": authority.paths[0]}
        changes.append(Change("create", "certificate authority", "ca", None, after))
    identifier = authority.identifier()
    for client in params["clients"]:
        client_id, names = client["client_id"], hostnames(client, params["config"])
        paths = layout.client(client_id, "certs", "tls.crt"), layout.client(client_id, "certs", "tls.key")
        facts = read_facts(*paths)
        own_edge = level_of(client).own_edge
        why = why_renew(facts, names, identifier, now, own_edge)
        if why is not None:
            before = None if facts is None else facts.shown()
            wanted = {"names": names, "why": why}
            action = "create" if facts is None else "update"
            changes.append(
                Change(action, "certificate", client_id, before, wanted, client_id, (paths, names, own_edge))
            )

    def apply(change: Change) -> None:
        if change.client_id is None:
            name = f"AgencyStack on {socket.gethostname()}"[:64]
            made = make_authority(name, now, read_text(authority.paths[1]))
            write_pair(*authority.paths, made, 0o644)
            # Only now: nobody gets a certificate of an authority that could not be kept.
            authority.pair = made
            return
        paths, names, own_edge = change.payload
        if authority.pair is None:
            raise TenancyError("There is no certificate authority that could issue its certificate.")
        write_pair(*paths, issue(authority.pair, names, now, own_edge), 0o600)

    # One after the other: the authority, which is the first change, must be there before the rest.
    finish(module, converge(module, changes, apply, params["log_dir"], authority=authority.paths[0]))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=dict(CLIENTS_SPEC), supports_check_mode=True)
    if not HAS_CRYPTOGRAPHY:
        module.fail_json(msg=missing_required_lib("cryptography"))
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
