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
          - V(soft) and V(hard) are refused until their contracts are complete.
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
      services:
        description:
          - Names of services of the catalog, each with the keys in which the client's differs from it.
          - The default for a new client is C(client_services) of the settings.
        type: dict
"""
