# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the modules that take an edit of the registry."""

from __future__ import annotations


class ModuleDocFragment:
    """Clients to add, change or remove."""

    DOCUMENTATION = r"""
options:
  clients:
    description:
      - Clients to add or change.
    type: list
    elements: dict
    default: []
    suboptions:
      client_id:
        description:
          - The client's id; 1 to 32 of C(a-z), C(0-9), C(_) and C(-), beginning and ending with a letter or digit.
        type: str
        required: true
      domain:
        description:
          - The client's main host name, optionally beginning with C(*.). International names are stored as A-labels.
          - The default for a new client is its id, C(_) written as C(-), below the C(root_domain) of the settings.
        type: str
      aliases:
        description:
          - Further host names.
        type: list
        elements: str
      isolation_level:
        description:
          - How the client is separated from the others. The default for a new client is that of the settings.
          - What only some levels know (O(clients[].egress), O(clients[].egress_allow), O(clients[].rate_limit),
            O(clients[].resources)) is dropped when the client's new level does not know it.
        type: str
      state:
        description:
          - V(present) clients are served.
          - V(suspended) clients keep everything, but their services do not run and visitors get status 503.
          - V(absent) marks a client for removal; the entry itself is dropped at its end, when nothing else is left.
          - A new client is V(present) unless named otherwise.
        type: str
        choices:
          - present
          - suspended
          - absent
      data:
        description:
          - With O(clients[].state=absent), whether the client's folder is kept below
            C(<root>/multi_tenancy/removed/) or deleted. The default is V(keep).
        type: str
        choices:
          - keep
          - purge
      protected:
        description:
          - Whether the client's removal is refused.
        type: bool
      egress:
        description:
          - Whether containers of a V(medium) or V(hard) client may reach addresses outside the host.
          - The default is that of the settings.
        type: str
        choices:
          - allow
          - deny
      egress_allow:
        description:
          - With V(deny), what stays open as C(CIDR:port[/protocol]), such as V(203.0.113.0/24:443).
        type: list
        elements: str
      rate_limit:
        description:
          - Requests that the edge lets through for a V(soft) or V(medium) client; the others get status 429.
        type: dict
        suboptions:
          average:
            description: Requests per second; V(0) for no limit.
            type: int
            required: true
          burst:
            description: Requests at once.
            type: int
            required: true
      resources:
        description:
          - What is reserved for a V(hard) client. The default is that of the settings.
          - What is left out stays as it is.
        type: dict
        suboptions:
          memory:
            description: Of all its containers together, such as V(1g).
            type: str
          cpus:
            description: Of all its containers together.
            type: float
          pids:
            description: Processes of all its containers together.
            type: int
          disk:
            description: Size of its data volume, such as V(10g). It can grow and not shrink.
            type: str
      services:
        description:
          - Names of services of the catalog, each with the keys in which the client's differs from it.
          - The default for a new client is C(client_services) of the settings.
        type: dict
"""
